"""Benchmark of training examples: how long a step waits for data, and our loader beside a loop of MONAI's transforms.

    python -m tests.benchmarks.bench_loader DATA [--workers 1] [--steps 60]

Both loops read the same cases at 2.5 mm, prepared beforehand, and make patches of 64^3 voxels: placed on a structure,
turned, scaled, warped, with noise, blur, bias, contrast and gamma of the same probabilities. MONAI's is
``PersistentDataset`` with ``RandCropByPosNegLabeld`` and its own random transforms. They run in turn, several times;
the figure is the ratio of their medians in one run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cardiacldm_training.cases import prepare
from cardiacldm_training.cases.workers import usual_workers
from cardiacldm_training.stages import loop, presets
from cardiacldm_training.stages.config import DataFacts, NetworkConfig
from cardiacldm_training.stages.segmenter import SegmentationStage
from CardiacLDMLib.networks.build import build_network

ROUNDS = 3


def our_batches(stage: SegmentationStage, batch: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of training patches, as training does."""
    indices = ([n * batch + m for m in range(batch)] for n in range(10**6))
    return iter(loop._loader(stage, indices, workers, False))


def monai_batches(
    cases: list[dict[str, str]], settings: NetworkConfig, workers: int, cache: Path
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of a usual MONAI training: deterministic transforms cached on the disk, random ones on the fly."""
    from monai import transforms as t
    from monai.data import DataLoader, PersistentDataset

    keys, config, low_high = ["image", "labels"], settings.augment, settings.window_hu
    largest = tuple(round(1.5 * side) for side in settings.patch)  # room to turn and warp
    angle, scale = config.rotation_deg * torch.pi / 180, config.scale
    transform = t.Compose([
        t.LoadImaged(keys, ensure_channel_first=True), t.Orientationd(keys, "RAS"),
        t.Spacingd(keys, [settings.spacing_mm] * 3, mode=("bilinear", "nearest")),
        t.ScaleIntensityRanged("image", *low_high, 0.0, 1.0, clip=True), t.SpatialPadd(keys, largest),
        t.RandCropByPosNegLabeld(keys, "labels", largest, pos=0.9, neg=0.1, num_samples=1),
        t.Rand3DElasticd(keys, (4, 6), (0, 1), prob=1.0, rotate_range=[angle] * 3,
                         scale_range=[(scale[0] - 1, scale[1] - 1)] * 3, mode=("bilinear", "nearest")),
        t.CenterSpatialCropd(keys, settings.patch), t.RandFlipd(keys, config.flip, 0),
        t.RandBiasFieldd("image", prob=config.bias), t.RandGaussianSmoothd("image", prob=config.blur),
        t.RandGaussianNoised("image", config.noise), t.RandScaleIntensityd("image", 0.1, 1.0),
        t.RandShiftIntensityd("image", 0.1, prob=config.contrast), t.RandAdjustContrastd("image", config.gamma),
        t.RandSimulateLowResolutiond("image", config.thick_slices),
    ])  # fmt: skip
    dataset = PersistentDataset(cases, transform, cache_dir=cache)
    for case in range(len(dataset)):  # as our cases are prepared before
        dataset[case]
    while True:
        yield from DataLoader(dataset, batch_size=settings.batch, shuffle=True, num_workers=workers, drop_last=True)


def seconds(batches: Iterable[dict[str, torch.Tensor]], count: int) -> float:
    """Return the seconds for each of ``count`` batches, without a step."""
    stream = iter(batches)
    next(stream)
    began = time.perf_counter()
    for _ in islice(stream, count):
        pass
    return (time.perf_counter() - began) / count


def seconds_with_steps(
    batches: Iterable[dict[str, torch.Tensor]], count: int, stage: SegmentationStage, network: torch.nn.Module
) -> tuple[float, float]:
    """Return the seconds for each of ``count`` training steps, and those of them that it waited for data."""
    optimizer, stream, waited = torch.optim.AdamW(network.parameters()), iter(batches), 0.0
    next(stream)
    began = time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        batch: Any = next(stream)
        waited += time.perf_counter() - asked
        stage.loss(network, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - began) / count, waited / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of cases")
    parser.add_argument("--workers", type=int, default=usual_workers())
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = presets.segmenter_config("demo", DataFacts(cases=1, digest="")).segmenter.segmenter
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare.prepare_cases([options.data], Path(folder, "ours"), settings.spacing_mm, 1, print)
        stage = SegmentationStage("segmenter", settings, seed=0, train=prepared.cases, held_out=prepared.cases[:1])
        files = [
            {"image": str(options.data / name / "ct.nii.gz"), "labels": str(options.data / name / "labels.nii.gz")}
            for name in (case.name.rpartition("/")[2] for case in prepared.cases)
        ]
        network = build_network(settings.architecture, settings.arguments)
        times: dict[str, list[float]] = {"ours": [], "MONAI": [], "ours, step": [], "MONAI, step": [], "waits": []}
        for number in range(ROUNDS):
            ours = our_batches(stage, settings.batch, options.workers)
            theirs = monai_batches(files, settings, options.workers, Path(folder, f"monai{number}"))
            times["ours"].append(seconds(ours, options.steps))
            times["MONAI"].append(seconds(theirs, options.steps))
            step, waits = seconds_with_steps(ours, options.steps, stage, network)
            times["ours, step"].append(step)
            times["waits"].append(waits)
            times["MONAI, step"].append(seconds_with_steps(theirs, options.steps, stage, network)[0])
    middle = {name: statistics.median(values) for name, values in times.items()}
    print("| seconds a batch | ours | MONAI | ratio |\n|---|--:|--:|--:|")
    for name, key in (("examples alone", ""), ("examples and step", ", step")):
        ours_s, theirs_s = middle[f"ours{key}"], middle[f"MONAI{key}"]
        print(f"| {name} | {ours_s:.3f} | {theirs_s:.3f} | {theirs_s / ours_s:.1f} |")
    print(
        f"\nA step waits {middle['waits'] / middle['ours, step']:.0%} of its time for data ({options.workers} workers)."
    )


if __name__ == "__main__":
    main()

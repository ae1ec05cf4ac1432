"""A whole job beside nnU-Net's: label a CT of 512 x 512 x 224 voxels on the CPU, ours and theirs in turn.

    python -m venv VENV
    VENV/bin/pip install torch==2.13.0 nnunetv2==2.8.1 pydantic safetensors
    python tests/benchmarks/bench_nnunet.py VENV/bin/python [--runs 3] [--write]

nnU-Net's predictor is given the package's own network, its window, spacing and patch, half overlapping tiles, no
mirrored ones, and one process (``predict_from_files_sequential``). Both jobs begin with the start of Python and end
with the labels on the disk. Another load makes seconds vary; CPU seconds and memory hardly.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench_segment import SLICES, make_scan
from figures import processor, write_figures

BEGIN = "<!-- figures: bench_nnunet.py -->"
ROOT = Path(__file__).resolve().parents[2]
NNUNET = "2.8.1"

# --- theirs: runs in the Python that has nnU-Net -------------------------------------------------------------------


def plans(patch: tuple[int, ...], spacing: float, window_hu: tuple[float, float]) -> dict[str, Any]:
    """Return nnU-Net's plans for a network of the package: clipped HU mapped to 0..1, its usual ways to resample."""
    low, high = window_hu
    intensities = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "plans", "preprocessor_name": "DefaultPreprocessor", "batch_size": 1, "patch_size": [*patch],
        "spacing": [spacing] * 3, "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
    }  # fmt: skip
    return {
        "dataset_name": "Dataset001", "plans_name": "plans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities}, "configurations": {"3d": configuration},
    }  # fmt: skip


def label_with_nnunet(scan: Path, out: Path, package: str | None) -> None:
    """Label ``scan``, whose rows run from front to back, with nnU-Net's predictor."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # type: ignore[import-not-found]

    from CardiacLDMLib import anatomy
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.packages.weights import load_networks

    model = find_package(package)
    spec = model.manifest.networks["segmenter"]

    class InTheirOrder(torch.nn.Module):
        """The network on arrays (N, 1, k, j, i) as ITK reads them: k to the head, j to the back, i to the left."""

        def __init__(self) -> None:
            super().__init__()
            self.network = load_networks(model)["segmenter"]

        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            ours = windows.permute(0, 1, 4, 3, 2).flip(2, 3)
            return self.network(ours).flip(2, 3).permute(0, 1, 4, 3, 2)  # type: ignore[no-any-return]

    network = InTheirOrder()
    manager = PlansManager(plans(spec.patch, spec.spacing_mm, spec.window_hu))
    data_set = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, **anatomy.VALUE}, "file_ending": ".nii.gz",
        "numTraining": 1,
    }  # fmt: skip
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, manager.get_configuration("3d"), [network.state_dict()], data_set, "none", None
    )
    predictor.predict_from_files_sequential([[str(scan)]], [str(out / "labels")])


# --- both ----------------------------------------------------------------------------------------------------------


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; return its seconds, its CPU seconds, and the peak of its memory and its children's in GB."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("CardiacLDM", "training"))}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{complaint.decode(errors='replace')[-2000:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return {"seconds": seconds, "CPU seconds": usage.ru_utime + usage.ru_stime, "peak memory": peak}


def agreement(scan: Path, first: Path, second: Path) -> float:
    """Return the mean Dice over structures of two label maps: whether both jobs did the same work."""
    import numpy as np

    from CardiacLDMLib import anatomy
    from CardiacLDMLib.image.files import read_volume

    a, b = (read_volume(path).array for path in (first, second))
    each = [2 * np.sum((a == v) & (b == v)) / max(np.sum(a == v) + np.sum(b == v), 1) for v in anatomy.BY_VALUE]
    return float(np.mean(each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help=f"the Python that has nnunetv2 {NNUNET}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--package", help="model package (name or folder); without it the one shipped")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/results/performance.md")
    parser.add_argument("--theirs", type=Path, nargs=2, metavar=("SCAN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        label_with_nnunet(*options.theirs, options.package)
        return
    chosen = ["--package", options.package] if options.package else []
    with tempfile.TemporaryDirectory() as name:
        scan, ours, theirs = (Path(name) / part for part in ("scan.nii.gz", "ours", "theirs"))
        theirs.mkdir()
        with ProcessPoolExecutor(1, get_context("spawn")) as helper:
            helper.submit(make_scan, scan, SLICES[0]).result()
        command = [sys.executable, "-m", "cardiacldm_training.cli", "segment", str(scan), "--out", str(ours)]
        commands = {
            "ours": [*command, "--overwrite", "--device", "cpu", *chosen],
            f"nnU-Net {NNUNET}": [
                options.python,
                __file__,
                options.python,
                "--theirs",
                str(scan),
                str(theirs),
                *chosen,
            ],
        }
        runs: dict[str, list[dict[str, float]]] = {who: [] for who in commands}
        for _ in range(options.runs):
            for who, each in commands.items():
                runs[who].append(measure(each))
                print(who, runs[who][-1], flush=True)
        with ProcessPoolExecutor(1, get_context("spawn")) as helper:
            files = ours / "scan.labels.nii.gz", theirs / "labels.nii.gz"
            dice = helper.submit(agreement, scan, *files).result()
    figures = f"Measured {datetime.date.today()} on {processor()}, without a GPU.\n\n{table(runs, dice)}"
    print(f"\n{figures}")
    if options.write:
        write_figures(BEGIN, figures)


def table(runs: dict[str, list[dict[str, float]]], dice: float) -> str:
    """Return the Markdown table of medians, with the ratios of theirs to ours, and a sentence on the labels."""
    names = list(next(iter(runs.values()))[0])
    rows = {who: {name: statistics.median(run[name] for run in each) for name in names} for who, each in runs.items()}
    ours, theirs = rows.values()
    lines = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for who, row in rows.items():
        cells = (f"{row[name]:.2f} GB" if "memory" in name else f"{row[name]:.1f} s" for name in names)
        lines.append(f"| {who} | {' | '.join(cells)} |")
    lines.append(f"| ratio | {' | '.join(f'{theirs[name] / ours[name]:.1f}' for name in names)} |")
    count = len(next(iter(runs.values())))
    how = "One run each" if count == 1 else f"Medians of {count} runs in turn"
    return "\n".join([*lines, "", f"{how}. Mean Dice between both labels: {dice:.3f}."])


if __name__ == "__main__":
    main()

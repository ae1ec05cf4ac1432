"""Small labelled cases and a run configuration that trains in seconds; also a program to train, which a test kills."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from cardiacldm_training.cases import store
from cardiacldm_training.stages import config, segmenter
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Grid
from tests.support.phantom import phantom

TINY = {"channels": [4, 8], "strides": [2], "num_res_units": 0, "norm": "instance"}


def equal(one: object, other: object) -> bool:
    """Return whether two checkpoints hold the same bits, apart from the time that they took."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        same_keys = isinstance(other, dict) and one.keys() == other.keys()
        return same_keys and all(equal(one[k], other[k]) for k in one if k != "core_seconds")
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


def write_case(folder: Path, seed: int = 0, shape: tuple[int, int, int] = (36, 34, 32), spacing: float = 4.0) -> Path:
    """Write a case in the virtual cohort's layout: the phantom on a left-handed grid, shifted at random by ``seed``."""
    rng = np.random.default_rng(seed)
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    image, labels = phantom(Grid(shape, affine), heart=tuple(rng.uniform(-8.0, 8.0, 3)))
    folder.mkdir(parents=True)
    write_volume(image, folder / "ct.nii.gz")
    write_volume(labels, folder / "labels.nii.gz")
    return folder


def write_cases(folder: Path, count: int) -> Path:
    for seed in range(count):
        write_case(folder / f"case_{seed:04d}", seed)
    return folder


def tiny_network(**changes: object) -> config.NetworkConfig:
    values = {
        "architecture": "unet", "arguments": TINY, "spacing_mm": 6.0, "patch": (16, 16, 16), "steps": 40,
        "validate_every": 10, "patience": 10, "save_every": 4, "warmup_steps": 5, "validation_cases": 1,
    }  # fmt: skip
    return config.NetworkConfig.model_validate({**values, **changes})


def tiny_run(prepared: store.Prepared, **changes: object) -> config.RunConfig:
    """Return the configuration of a segmenter's run; ``segmenter`` among the ``changes`` replaces that network."""
    model = config.SegmenterModel(locator=tiny_network(), segmenter=changes.pop("segmenter", tiny_network()))
    return config.RunConfig.model_validate(
        {"preset": "test", "seed": 3, "data": facts(prepared), "model": model, **changes}
    )


def facts(prepared: store.Prepared) -> config.DataFacts:
    return config.DataFacts(cases=len(prepared.cases), digest=prepared.digest)


def prepare(data: Path) -> store.Prepared:
    return store.prepare(store.gather([data], None), 6.0)


def train(data: Path, run: Path, *, resume: bool = False, workers: int = 0, devices: int = 1, steps: int = 40) -> None:
    """Train the segmenter of the tiny run."""
    torch.set_num_threads(1)
    prepared = prepare(data)
    settings = tiny_run(prepared, devices=devices, segmenter=tiny_network(steps=steps))
    segmenter.train_segmenter(
        run, settings, {"segmenter": prepared}, ["segmenter"], resume=resume, workers=workers, say=lambda line: None
    )


if __name__ == "__main__":
    workers, devices, steps = map(int, sys.argv[3:6])
    train(Path(sys.argv[1]), Path(sys.argv[2]), workers=workers, devices=devices, steps=steps)

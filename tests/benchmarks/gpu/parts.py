"""What all parts of the GPU check share: options, records of what was measured, the virtual case, peak memory."""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cardiacldm_training.cases.store import PreparedCase
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import first_line
from CardiacLDMLib.image.grid import Volume, ras_grid
from CardiacLDMLib.image.resample import resample, resample_labels

Figures = dict[str, Any]


@dataclass
class Part:
    """A part of the check that runs: its device, its folder, and the time until which it may begin something new.

    ``tiny``: everything small, to try the check itself on a CPU. Each result is written at once, so that a part that is
    ended, or crashes, leaves those it has.
    """

    name: str
    device: str
    folder: Path
    tiny: bool
    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def is_over(self) -> bool:
        """Whether the time of the part is over."""
        return time.monotonic() - self.began > self.seconds

    def record(self, row: str, **figures: Any) -> None:
        """Write what was measured."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": row, **figures}) + "\n")

    def measure(self, row: str, job: Callable[[], Figures]) -> None:
        """Record what ``job`` returns. A failure is recorded too, and so is a row that time has not sufficed for."""
        if self.is_over:
            self.record(row, problem="no time was left")
            return
        began = time.monotonic()
        try:
            self.record(row, **job(), took=round(time.monotonic() - began, 2))
        except Exception as error:  # whatever fails, the other rows say something
            traceback.print_exc()
            self.record(row, problem=f"{type(error).__name__}: {first_line(error)}")


@contextmanager
def peak_memory(device: str, figures: Figures) -> Iterator[None]:
    """Put the most memory in GB that torch held during the block into ``figures``; on a CPU that of the process so far.

    A CUDA context takes some 0.5 GB more.
    """
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures["peak_gb"] = (torch.cuda.max_memory_reserved(device) if on_gpu else process) / 1e9


def wait_for(device: str) -> None:
    """Wait until the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize(device)


# --- data ------------------------------------------------------------------------------------------------------------


def virtual_case(part: Part) -> tuple[Volume, Volume]:
    """Return CT and labels of a virtual case; the first part makes it, the others read it."""
    path = part.folder / "case.npz"
    if not path.is_file():
        image, labels = _make_case(part.tiny)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, image=image.array, labels=labels.array, affine=image.affine)
        unfinished.rename(path)
    with np.load(path) as arrays:
        affine = arrays["affine"]
        return Volume(arrays["image"], affine), Volume(arrays["labels"], affine)


def _make_case(tiny: bool) -> tuple[Volume, Volume]:
    from cardiacldm_training.virtual.cohort import CohortSettings, make_case

    case = make_case(CohortSettings(seed=2024, spacing_mm=3.0 if tiny else 1.5), 0)
    return case.image, case.labels


def prepared_cases(part: Part, spacing_mm: float, count: int = 4) -> list[PreparedCase]:
    """Return a training case on its working grid under ``count`` names. Training reads it as it reads any case."""
    folder = part.folder / f"case-{spacing_mm:g}mm"
    if not folder.is_dir():
        image, labels = virtual_case(part)
        grid = ras_grid(image.grid.bounds_ras(), spacing_mm)
        unfinished = folder.with_suffix(".part")
        unfinished.mkdir(exist_ok=True)
        small = resample_labels(labels, grid).array
        np.save(unfinished / "image.npy", resample(image, grid).array.round().astype(np.int16))
        np.save(unfinished / "labels.npy", small)
        np.save(unfinished / "points.npy", _points(small))
        unfinished.rename(folder)
    return [PreparedCase(f"case {n}", folder, f"{n:064x}", spacing_mm) for n in range(count)]


def _points(labels: np.ndarray, count: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = np.full((len(anatomy.STRUCTURES), count, 3), -1, dtype=np.int16)
    for row, structure in enumerate(anatomy.STRUCTURES):
        places = np.argwhere(labels == structure.value)
        if len(places):
            points[row] = places[rng.integers(len(places), size=count)]
    return points


# --- tiny networks ---------------------------------------------------------------------------------------------------


def shrink(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network with the same layers and an eighth of their width."""
    least = max(arguments.get("norm_num_groups", 1), arguments.get("num_head_channels", 1))
    changes: dict[str, Any] = {
        name: tuple(max(width // 8, least) for width in arguments[name])
        for name in ("channels", "filters") if name in arguments
    }  # fmt: skip
    return {**arguments, **changes}


def version_facts(device: str) -> Figures:
    """Return the versions and the device, for the report."""
    facts: Figures = {"python": sys.version.split()[0], "torch": torch.__version__}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name, "capability": f"{properties.major}.{properties.minor}",
            "gpu_gb": round(properties.total_memory / 1e9, 1), "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "architectures": " ".join(torch.cuda.get_arch_list()),
        }  # fmt: skip
    return facts

"""Prepared cases on disk: each scan once per spacing, on an axis-aligned RAS grid, as memory-mapped arrays.

An entry is a folder named after the content of its sources (so a changed file makes a new entry), written aside and
renamed whole (so a killed preparation is simply continued) and checked against its hashes when it is opened (so a
damaged one is made again).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError, VolumeError
from CardiacLDMLib.files import replace_folder, sha256
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume, ras_grid
from CardiacLDMLib.image.resample import resample, resample_labels
from CardiacLDMLib.progress import Say

from .readers.folders import CaseFiles, find_cases
from .workers import pool

#: Raise when the content of an entry changes: entries of another version are not found and made anew.
FORMAT = 1
RECORD = "entry.json"
#: Random voxels kept per structure, to centre training patches on.
POINTS = 1024
#: What CT can say in 12 bits, and what a table of metal may say beyond.
_HU_RANGE = (-1024, 3071)
#: Entries whose grid has more voxels than this do not come from a chest scan.
_MAX_VOXELS = 1_000_000_000


@dataclass(frozen=True)
class PreparedCase:
    """One case on its working grid. Arrays are opened on demand, memory-mapped, read-only."""

    name: str
    folder: Path
    key: str
    spacing_mm: float

    @property
    def image(self) -> np.ndarray:
        """(I, J, K) int16, HU; axes point right, anterior, superior."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """(I, J, K) uint8, values of :mod:`CardiacLDMLib.anatomy`."""
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    @property
    def points(self) -> np.ndarray:
        """(8, POINTS, 3) int16: random voxels of each structure (IJK); -1 where the case lacks the structure."""
        return np.load(self.folder / "points.npy", mmap_mode="r")


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation: the usable cases in the order asked for, and ``(name, why)`` of the others."""

    cases: list[PreparedCase]
    skipped: list[tuple[str, str]]

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents of all cases."""
        return hashlib.sha256("\n".join(f"{case.name} {case.key}" for case in self.cases).encode()).hexdigest()


def prepare(
    cases: Sequence[tuple[CaseFiles, Path]], spacing_mm: float, *, workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:  # fmt: skip
    """Prepare ``cases`` (each with its cache folder) at ``spacing_mm`` in ``workers`` processes.

    A case that cannot be used is skipped and listed. ``progress`` is told how many of how many are done.
    """
    job = partial(_prepare_safely, spacing_mm=spacing_mm)
    results: dict[int, PreparedCase | str] = {}
    if workers <= 1:
        for index, (files, cache) in enumerate(cases):
            results[index] = job(files, cache)
            progress(len(results), len(cases))
    else:
        with pool(workers) as processes:
            futures = {processes.submit(job, files, cache): index for index, (files, cache) in enumerate(cases)}
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                progress(len(results), len(cases))
    usable, skipped = [], []
    for index, (files, _) in enumerate(cases):
        result = results[index]
        if isinstance(result, str):
            skipped.append((files.name, result))
        else:
            usable.append(result)
    return Prepared(usable, skipped)


def _prepare_safely(files: CaseFiles, cache: Path, *, spacing_mm: float) -> PreparedCase | str:
    try:
        return prepare_case(files, cache, spacing_mm)
    except (VolumeError, OutputError) as error:
        return str(error)
    except MemoryError:
        return "There is not enough memory to prepare it."
    except OSError as error:
        return f"It cannot be read: {error.strerror or error}."


def prepare_case(files: CaseFiles, cache: Path, spacing_mm: float) -> PreparedCase:
    """The entry of one case, made if it is missing or damaged. Raises :class:`VolumeError` or :class:`OutputError`."""
    key = _key(files, spacing_mm)
    case = PreparedCase(files.name, cache / f"{spacing_mm:g}mm-{key[:20]}", key, spacing_mm)
    if not is_whole(case.folder):
        _write_entry(case.folder, _arrays(files, spacing_mm, key))
    return case


def is_whole(folder: Path) -> bool:
    """Whether an entry is there and every file of it has the content it was written with."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return record["format"] == FORMAT and all(
            sha256(folder / name) == digest for name, digest in record["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _key(files: CaseFiles, spacing_mm: float) -> str:
    parts = [str(FORMAT), f"{spacing_mm:g}", sha256(files.image), sha256(files.labels)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _arrays(files: CaseFiles, spacing_mm: float, key: str) -> dict[str, np.ndarray]:
    image, labels = read_volume(files.image), read_volume(files.labels)
    if not labels.grid.same_as(image.grid, tolerance_mm=0.01):
        raise VolumeError("Its labels lie on another grid than its scan: resample them first.")
    values = np.unique(labels.array)
    if values.min() < 0 or values.max() >= anatomy.NUM_CLASSES or not (values == values.astype(int)).all():
        raise VolumeError(f"Its labels hold the value {values.max():g}: 0 to {anatomy.NUM_CLASSES - 1} are known.")
    if values.max() == 0:
        raise VolumeError("Its labels are empty.")
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise VolumeError("Its scan holds values that are not numbers.")
    grid = ras_grid(image.grid.bounds_ras(), spacing_mm)
    if np.prod([float(n) for n in grid.shape]) > _MAX_VOXELS:
        raise VolumeError(f"Its scan is too large for a grid of {spacing_mm:g} mm.")
    hu = resample(image, grid).array.round().clip(*_HU_RANGE).astype(np.int16)
    small = resample_labels(Volume(labels.array.astype(np.uint8), labels.affine), grid).array
    return {"image.npy": hu, "labels.npy": small, "points.npy": _points(small, int(key[:8], 16))}


def _points(labels: np.ndarray, seed: int) -> np.ndarray:
    """Random voxels of each structure, drawn with the entry's own seed: the same for the same content."""
    rng = np.random.default_rng(seed)
    points = np.full((len(anatomy.STRUCTURES), POINTS, 3), -1, dtype=np.int16)
    for row, structure in enumerate(anatomy.STRUCTURES):
        places = np.flatnonzero(labels == structure.value)
        if len(places):
            points[row] = np.stack(np.unravel_index(rng.choice(places, POINTS), labels.shape), axis=1)
    return points


def _write_entry(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an entry whole, in the place of a damaged one. Raises :class:`OutputError`."""
    try:
        with replace_folder(folder, replace=True) as part:
            record: dict[str, Any] = {"format": FORMAT, "files": {}}
            for name, array in arrays.items():
                np.save(part / name, array)
                record["files"][name] = sha256(part / name)
            (part / RECORD).write_text(json.dumps(record))
    except OutputError:
        if not is_whole(folder):  # otherwise another process made the same entry first
            raise


def gather(folders: Sequence[Path], cache: Path | None) -> list[tuple[CaseFiles, Path]]:
    """The cases of all folders, with where each is to be prepared; names are made unique by their folder's name."""
    found: list[tuple[CaseFiles, Path]] = []
    for folder in folders:
        found += [
            (CaseFiles(f"{folder.resolve().name}/{case.name}", case.image, case.labels), cache or folder / ".prepared")
            for case in find_cases(folder)
        ]
    return found


def tenths(say: Say, what: str = "cases prepared") -> Callable[[int, int], None]:
    """Return a progress function that reports every tenth of a long job; ``what`` names what is done."""

    def progress(done: int, total: int) -> None:
        if total >= 20 and done % max(total // 10, 1) == 0:
            say(f"  {done} of {total} {what}")

    return progress

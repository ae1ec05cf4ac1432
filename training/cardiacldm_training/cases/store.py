"""Prepared cases on disk: each scan once per spacing, on an axis-aligned RAS grid, as memory-mapped arrays.

An entry is a folder. Its name is a hash of the source files, so a changed file makes a new entry. It is written under a
temporary name and renamed, so a killed preparation can be continued. It is checked against its hashes when it is
opened, so a damaged entry is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError, VolumeError, explain
from CardiacLDMLib.files import replace_folder, sha256, sweep
from CardiacLDMLib.image.grid import Grid, Volume, ras_grid
from CardiacLDMLib.image.resample import resample, resample_labels
from CardiacLDMLib.progress import Say
from CardiacLDMLib.segmentation.scan import check_values
from CardiacLDMLib.text import folder_name

from .readers.cases import check_files, has_structures, read_case, source_files
from .readers.files import ImageFiles
from .readers.label_map import IGNORED, OWN
from .readers.layouts import Reading, find_cases, find_images
from .workers import run_unordered

#: Increase when the content of an entry changes: entries of other versions are made again.
FORMAT = 2
RECORD = "entry.json"
#: Random voxels stored for each structure, as centres of training patches.
POINTS = 1024
#: Range of a 12-bit CT; HU beyond it are clipped.
_HU_RANGE = (-1024, 3071)
#: Most voxels of an entry; more do not come from a chest scan.
_MAX_VOXELS = 1_000_000_000


@dataclass(frozen=True)
class PreparedCase:
    """One case on its working grid. Arrays are opened on demand, memory-mapped, read-only.

    ``unknown``: structures that may lie in the background too, since the data set does not label all of them.
    ``ignores``: whether some voxels teach nothing.
    """

    name: str
    folder: Path
    key: str
    spacing_mm: float
    unknown: frozenset[str] = frozenset()
    ignores: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every voxel has its label."""
        return not self.unknown and not self.ignores

    @property
    def image(self) -> np.ndarray:
        """(I, J, K) int16, HU; axes point right, anterior, superior."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """(I, J, K) uint8, values of :mod:`CardiacLDMLib.anatomy`, and 255 for voxels that teach nothing."""
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    @property
    def points(self) -> np.ndarray:
        """(8, POINTS, 3) int16: random voxels of each structure (IJK); -1 where the case lacks the structure."""
        return np.load(self.folder / "points.npy", mmap_mode="r")

    @property
    def notes(self) -> list[str]:
        """Sentences for the user on a scan that can be used, but is in doubt."""
        return list(json.loads((self.folder / RECORD).read_text())["notes"])


@dataclass(frozen=True)
class Prepared:
    """The usable cases in the given order, and ``(name, reason)`` of the others.

    ``held_out``: the names of the cases to validate on, if a stored split tells.
    """

    cases: list[PreparedCase]
    skipped: list[tuple[str, str]]
    held_out: frozenset[str] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents of all cases, and the stored split of them."""
        lines = [f"{case.name} {case.key}" for case in self.cases]
        if self.held_out is not None:
            lines += ["held out", *sorted(self.held_out)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def prepare(
    cases: Sequence[tuple[ImageFiles, Path]], spacing_mm: float, *, workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:  # fmt: skip
    """Prepare ``cases`` (each with its cache folder) at ``spacing_mm`` in ``workers`` processes.

    A case that cannot be used is skipped and listed. ``progress`` receives the number of finished cases and of all.
    """
    for folder in {cache for _, cache in cases}:
        sweep(folder)
    job = partial(_prepare_safely, spacing_mm=spacing_mm)
    results: dict[int, PreparedCase | str] = {}
    for index, result in run_unordered(job, cases, workers):
        results[index] = result
        progress(len(results), len(cases))
    usable, skipped = [], []
    for index, (files, _) in enumerate(cases):
        outcome = results[index]
        if isinstance(outcome, str):
            skipped.append((files.name, outcome))
        else:
            usable.append(outcome)
    return Prepared(usable, skipped)


def _prepare_safely(files: ImageFiles, cache: Path, *, spacing_mm: float) -> PreparedCase | str:
    """Prepare a case; return the reason if it cannot be used."""
    try:
        return prepare_case(files, cache, spacing_mm)
    except OSError as error:
        return f"It cannot be read: {error.strerror or error}."
    except Exception as error:
        explanation = explain(error)
        if explanation.kind == "internal":
            raise
        return explanation.message


def prepare_case(files: ImageFiles, cache: Path, spacing_mm: float) -> PreparedCase:
    """Return the entry of one case; make it if it is missing or damaged.

    Raises :class:`VolumeError`, :class:`SegmenterError` or :class:`OutputError`.
    """
    check_files(files)
    key = _key(files, spacing_mm)
    folder = cache / f"{spacing_mm:g}mm-{key[:20]}"
    if not is_complete(folder):
        arrays, facts = _arrays(files, spacing_mm, key)
        _write_entry(folder, arrays, facts)
    facts = json.loads((folder / RECORD).read_text())
    return PreparedCase(
        files.name, folder, key, spacing_mm, frozenset(facts.get("unknown", ())), bool(facts.get("ignores", False))
    )


def is_complete(folder: Path) -> bool:
    """Return whether an entry exists and every file has the hash it was written with."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return record["format"] == FORMAT and all(
            sha256(folder / name) == digest for name, digest in record["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _key(files: ImageFiles, spacing_mm: float) -> str:
    """Return the hash of format, spacing, source files and what their labels mean."""
    parts = [str(FORMAT), f"{spacing_mm:g}", *map(sha256, source_files(files))]
    if files.labels is None:
        parts.append("no labels")
    if files.series:
        parts.append(files.series)
    if files.label_map != OWN:
        parts.append(files.label_map.record)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _arrays(files: ImageFiles, spacing_mm: float, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read and resample a case; return its arrays by file name, and the facts for its record.

    Raises :class:`VolumeError`, or :class:`SegmenterError` for a scan that is no CT in Hounsfield units.
    """
    image, labels, notes, unknown = read_case(files)
    if files.labels and not has_structures(labels.array):
        raise VolumeError("Its labels are empty.")
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise VolumeError("Its scan contains values that are not finite.")
    floor = check_values(image.array)
    if floor is not None:
        notes = (*notes, f"The scan is clipped at {floor:g} HU: lung and air are missing.")
    grid = ras_grid(image.grid.bounds_ras(), spacing_mm)
    if np.prod([float(n) for n in grid.shape]) > _MAX_VOXELS:
        raise VolumeError(f"Its scan is too large for a grid of {spacing_mm:g} mm.")
    hu = resample(image, grid).array.round().clip(*_HU_RANGE).astype(np.int16)
    small = _resample_labels(labels, grid)
    arrays = {"image.npy": hu, "labels.npy": small, "points.npy": _points(small, int(key[:8], 16))}
    facts: dict[str, Any] = {"notes": list(notes)}
    if unknown:
        facts["unknown"] = sorted(unknown)
    if (small == IGNORED).any():
        facts["ignores"] = True
    return arrays, facts


def _resample_labels(labels: Volume, grid: Grid) -> np.ndarray:
    """Return labels on ``grid``; a voxel teaches nothing if half of it does not."""
    ignored = labels.array == IGNORED
    if not ignored.any():
        return resample_labels(labels, grid).array
    out = resample_labels(Volume(np.where(ignored, np.uint8(0), labels.array), labels.affine), grid).array
    out[resample(Volume(ignored.view(np.uint8), labels.affine), grid, fill=0.0).array >= 0.5] = IGNORED
    return out


def _points(labels: np.ndarray, seed: int) -> np.ndarray:
    """Choose random voxels (8, POINTS, 3) of each structure with the entry's own seed."""
    rng = np.random.default_rng(seed)
    points = np.full((len(anatomy.STRUCTURES), POINTS, 3), -1, dtype=np.int16)
    for row, structure in enumerate(anatomy.STRUCTURES):
        places = np.flatnonzero(labels == structure.value)
        if len(places):
            points[row] = np.stack(np.unravel_index(rng.choice(places, POINTS), labels.shape), axis=1)
    return points


def _write_entry(folder: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write an entry as a whole, in place of a damaged one. Raises :class:`OutputError`."""
    try:
        with replace_folder(folder, replace=True) as part:
            record: dict[str, Any] = {"format": FORMAT, "files": {}, **facts}
            for name, array in arrays.items():
                np.save(part / name, array)
                record["files"][name] = sha256(part / name)
            (part / RECORD).write_text(json.dumps(record))
    except OutputError:
        if not is_complete(folder):  # otherwise another process made the same entry first
            raise


def gather(
    folders: Sequence[Path], cache: Path | None, *, images_alone: bool = False, reading: Reading | None = None
) -> list[tuple[ImageFiles, Path]]:
    """Return the cases of all folders, each with the folder of its entry; names include the name of their folder.

    ``images_alone``: images without labels are cases too. The test cases of a data set are left out. Entries are in
    ``cache``, or in ``.prepared`` of each folder without it. Raises DatasetError.
    """
    cases: list[tuple[ImageFiles, Path]] = []
    for folder in folders:
        found = find_images(folder, reading) if images_alone else find_cases(folder, reading)
        place = prepared_folder(folder, cache)
        cases += [(replace(case, name=full_name(folder, case.name)), place) for case in found if case.part != "test"]
    return cases


def prepared_folder(folder: Path, cache: Path | None) -> Path:
    """Return where the prepared cases of ``folder`` go: ``cache``, or without it ``.prepared`` beside them."""
    return cache or (folder.parent if folder.is_file() else folder) / ".prepared"


def full_name(folder: Path, case: str) -> str:
    """Return the name of a case of ``folder`` among those of several folders."""
    return f"{folder_name(folder)}/{case}"


def report_tenths(say: Say, items: str = "cases prepared") -> Callable[[int, int], None]:
    """Return a progress function that reports every tenth of ``items``, if there are 20 or more."""

    def progress(done: int, total: int) -> None:
        if total >= 20 and done % max(total // 10, 1) == 0:
            say(f"  {done} of {total} {items}")

    return progress

"""Read a case: its scan, its labels on the scan's grid, and what they leave unknown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Refused, read_case_with_notes
from CardiacLDMLib.image.cases import find_cases as find_scans
from CardiacLDMLib.image.files import read_volume, read_with_notes
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.text import join_words

from .files import ImageFiles
from .label_map import IGNORED, OWN
from .labels import has_segments, mask_files, read_labels


class ReadCase(NamedTuple):
    """A case as read.

    ``labels``: uint8 on the scan's grid, 0 to 8, and 255 for voxels that teach nothing; all 0 without a file.
    ``notes``: sentences for the user on what is in doubt. ``unknown``: structures that may lie in the background.
    """

    image: Volume
    labels: Volume
    notes: tuple[str, ...]
    unknown: frozenset[str]


def read_case(files: ImageFiles) -> ReadCase:
    """Read scan and labels of a case. Raises :class:`VolumeError` for files that cannot be used."""
    check_files(files)
    image, notes = _read_scan(files)
    labels = read_labels(files, image.grid)
    return ReadCase(image, Volume(labels.array, image.affine), (*notes, *labels.notes), labels.unknown)


def read_whole_labels(files: ImageFiles) -> Volume:
    """Read the labels of a case, 0 to 8, if possible without its scan.

    Raises :class:`VolumeError`, also for labels that leave something unknown.
    """
    check_files(files)
    path = files.labels
    if path is not None and path.is_file() and files.label_map == OWN and not has_segments(path):
        return read_volume(path)
    case = read_case(files)
    if case.unknown or (case.labels.array == IGNORED).any():
        raise VolumeError(f"Its labels leave {join_words(sorted(case.unknown)) if case.unknown else 'voxels'} unknown.")
    return case.labels


def _read_scan(files: ImageFiles) -> tuple[Volume, tuple[str, ...]]:
    if not files.image.is_dir():
        return read_with_notes(files.image)
    scans = find_scans([files.image], files.series or None)
    if len(scans) != 1:
        raise VolumeError(f"{files.image.name} holds {len(scans)} scans, and one is needed.")
    scan = scans[0]
    if isinstance(scan, Refused):
        raise VolumeError(scan.reason)
    volume, notes = read_case_with_notes(scan)
    return volume, (*scan.notes, *notes)


def check_files(files: ImageFiles) -> None:
    """Raise :class:`VolumeError` for a case whose files are known to be unusable, or are not there."""
    if files.problem:
        raise VolumeError(files.problem)
    for path in (files.image, files.labels):
        if path is not None and not path.exists():
            raise VolumeError(f"There is no file {path.name}.")


def has_structures(labels: np.ndarray) -> bool:
    """Return whether a label map with values that teach nothing holds any structure."""
    return bool(((labels > 0) & (labels < anatomy.NUM_CLASSES)).any())


def scan_files(files: ImageFiles) -> list[Path]:
    """Return the files of a case's scan: one, or the DICOM slices of a folder, in the order of their names."""
    if not files.image.is_dir():
        return [files.image]
    return sorted(path for path in files.image.rglob("*") if path.is_file() and path != files.labels)


def source_files(files: ImageFiles) -> Iterator[Path]:
    """Yield the files that a case is read from, the scan's first."""
    yield from scan_files(files)
    if files.labels is not None:
        if files.labels.is_dir():
            yield from (path for path, _ in mask_files(files.labels, files.label_map))
        else:
            yield files.labels

"""Segmentations of 3D Slicer (``.seg.nrrd``) beside their scans, in one folder or in a folder for each patient.

A segmentation belongs to the scan in its folder: the only one, or the one whose name its own name begins with; without
a volume file, the DICOM series in the folder or below.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from CardiacLDMLib.image.dicom.headers import is_dicom
from CardiacLDMLib.image.tree import LABEL_ENDINGS

from .files import ENDINGS, SEGMENTATION, ImageFiles, stem, sub_folders
from .label_map import shipped

NAME = "slicer"
ABOUT = "scan.nrrd (or .nii.gz, .mha) beside scan.seg.nrrd, also in sub-folders"
#: Levels of sub-folders that are searched.
_DEPTH = 3


def recognises(folder: Path) -> bool:
    """Return whether a segmentation lies in ``folder`` or its sub-folders."""
    return any(_segmentations(place) for place, _ in _places(folder))


def find(folder: Path) -> list[ImageFiles]:
    """Return the cases; those in one sub-folder are of one patient."""
    cases = []
    for place, name in _places(folder):
        cases += _cases(place, name)
    return cases


def _places(folder: Path, name: str = "", depth: int = _DEPTH) -> Iterator[tuple[Path, str]]:
    """Yield a folder and its sub-folders, each with its name below the first."""
    yield folder, name
    if depth:
        for path in sub_folders(folder):
            yield from _places(path, f"{name}_{path.name}" if name else path.name, depth - 1)


def _segmentations(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if stem(path, (SEGMENTATION,))]


def _others(folder: Path) -> Iterator[Path]:
    """Yield the files of ``folder`` and below that may be DICOM slices."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not stem(path, (SEGMENTATION, *ENDINGS)))


def _cases(folder: Path, name: str) -> list[ImageFiles]:
    files = sorted(folder.iterdir())
    scans = {stem(path): path for path in files if stem(path) and not path.name.lower().endswith(LABEL_ENDINGS)}
    owners: dict[str, list[Path]] = {scan: [] for scan in scans}
    cases = []
    for path in _segmentations(folder):
        own = stem(path, (SEGMENTATION,))
        fitting = list(scans) if len(scans) == 1 else [scan for scan in scans if own.startswith(scan)]
        if fitting:
            owners[max(fitting, key=len)].append(path)
        elif not scans and any(map(is_dicom, _others(folder))):
            several = len(_segmentations(folder)) > 1
            problem = f"Several segmentations lie beside its series, {path.name} for one: keep one." if several else ""
            cases.append(ImageFiles(name or own, folder, path, shipped(NAME), patient=name, problem=problem))
        else:
            why = f"{path.name} has no scan beside it: name one {own}.nrrd." if scans else f"{path.name} has no scan."
            cases.append(ImageFiles(f"{name}_{own}" if name else own, path, path, shipped(NAME), problem=why))
    for scan, labels in owners.items():
        case = (name if len(scans) == 1 else f"{name}_{scan}") if name else scan
        problem = ""
        if len(labels) > 1:
            problem = f"It has two segmentations, {labels[0].name} and {labels[1].name}: keep one."
        found = labels[0] if labels else None
        cases.append(ImageFiles(case, scans[scan], found, shipped(NAME), patient=name, problem=problem))
    return cases

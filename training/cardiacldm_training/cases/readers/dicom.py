"""DICOM segmentations (SEG) with the series that they refer to, anywhere in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from CardiacLDMLib.image.dicom.encoding import read_head
from CardiacLDMLib.image.dicom.headers import is_dicom
from CardiacLDMLib.image.tree import common_folder

from .files import ImageFiles
from .label_map import shipped

NAME = "dicom"
ABOUT = "DICOM segmentations (SEG) and the series that they refer to"
_SEG = "1.2.840.10008.5.1.4.1.1.66.4"
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "PatientID", "ReferencedSeriesSequence"]


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` or a sub-folder holds a DICOM segmentation."""
    return any(_SEG.encode() in read_head(path) for path in _files(folder))


def find(folder: Path) -> list[ImageFiles]:
    """Return a case for each series that a segmentation refers to. No name shows who the patient is."""
    series: dict[str, list[Path]] = {}
    segmentations: list[tuple[Path, Any]] = []
    cases = []
    for path in _files(folder):
        header = _header(path)
        if header is None:
            if _SEG.encode() in read_head(path):
                cases.append(ImageFiles(_name(path), path, path, problem=f"{path.name} cannot be read: it is damaged."))
        elif header.get("SOPClassUID") == _SEG:
            segmentations.append((path, header))
        else:
            series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(path)
    counts: dict[str, list[Path]] = {}
    for path, header in segmentations:
        counts.setdefault(_referenced(header), []).append(path)
    for path, header in segmentations:
        same = counts[_referenced(header)]
        if same[0] == path or not _referenced(header):
            cases.append(_case(folder, path, header, series, same))
    return cases


def _name(path: Path) -> str:
    return path.name.lower().removesuffix(".dcm").removesuffix(".seg")


def _files(folder: Path) -> Iterator[Path]:
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if path.is_file() and is_dicom(path):
                yield path


def _header(path: Path) -> Any:
    """Return the header of a DICOM file; None for one that cannot be read."""
    from pydicom import dcmread

    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception:  # pydicom raises errors of many kinds for damaged files
        return None


def _referenced(header: Any) -> str:
    """Return the UID of the series that a segmentation refers to; empty if it names none."""
    references = header.get("ReferencedSeriesSequence") or []
    return str(references[0].get("SeriesInstanceUID", "")) if references else ""


def _case(
    folder: Path, path: Path, header: Any, series: dict[str, list[Path]], segmentations: list[Path]
) -> ImageFiles:
    uid = _referenced(header)
    slices = series.get(uid, [])
    problem = ""
    if not uid or not slices:
        problem = f"{path.name} belongs to a series that is not in the folder."
    elif len(segmentations) > 1:
        problem = f"Its series has two segmentations, {segmentations[0].name} and {segmentations[1].name}: keep one."
    image = common_folder(file.parent for file in slices) if slices else path
    place = common_folder([image if slices else path.parent, path.parent]).relative_to(folder)
    name = "_".join(place.parts) or _name(path)
    patient = str(header.get("PatientID") or "")
    digest = hashlib.sha256(patient.encode()).hexdigest()[:12] if patient else ""
    return ImageFiles(
        name, image, path, shipped(NAME), series=uid, patient=digest, problem=problem
    )  # fmt: skip

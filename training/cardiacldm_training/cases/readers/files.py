"""The files of a case, and what all readers share: names without endings, pairs of scans and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.case_names import case_name
from CardiacLDMLib.text import unique_name

from .label_map import OWN, LabelMap

#: Endings of volumes, the longest first. A segmentation of Slicer's is a label file, never a scan.
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
SEGMENTATION = ".seg.nrrd"
#: Folders of an earlier preparation and of systems.
_HIDDEN = (".", "__MACOSX")


@dataclass(frozen=True)
class ImageFiles:
    """The files of an image, with labels or without. ``name`` is unique within its folder and identifies no patient.

    ``image``: a file, or the folder of a DICOM ``series`` (its UID). ``labels``: a label map, a segmentation of
    Slicer's, a DICOM SEG, or a folder of masks, whose meaning ``label_map`` tells. ``patient``: cases of one patient
    share it; empty if the layout does not tell. ``part``: "test" for a data set's own test cases. ``columns``: further
    columns of a table. ``problem``: why the case cannot be used, if that is known from the names of its files.
    """

    name: str
    image: Path
    labels: Path | None
    label_map: LabelMap = field(default=OWN, repr=False)
    series: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)
    sex: anatomy.Sex | None = None
    part: Literal["", "test"] = ""
    columns: Mapping[str, str] = field(default_factory=dict, repr=False)
    problem: str = ""


@dataclass(frozen=True)
class CaseFiles(ImageFiles):
    """The files of a case: an image and its labels."""

    labels: Path


def named(cases: Iterable[ImageFiles]) -> list[ImageFiles]:
    """Return ``cases`` with printable names that differ."""
    taken: set[str] = set()
    return [replace(case, name=unique_name(case_name(case.name), taken)) for case in cases]


def stem(path: Path, endings: Sequence[str] = ENDINGS) -> str:
    """Return the file's name without its ending; empty for hidden files and other endings."""
    ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
    return path.name[: -len(ending)] if ending and not path.name.startswith(".") else ""


def file_in(folder: Path, name: str) -> Path | None:
    """Return the file of ``folder`` with this name, whatever its case; None if there is none."""
    if (folder / name).is_file():
        return folder / name
    if not folder.is_dir():
        return None
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name and path.is_file()), None)


def sub_folders(folder: Path) -> list[Path]:
    """Return the folders in ``folder``, ordered by name, without hidden ones."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(_HIDDEN)]


def volumes(folder: Path, endings: Sequence[str] = ENDINGS, depth: int = 0) -> dict[str, list[Path]]:
    """Return the volume files of ``folder`` and ``depth`` levels of sub-folders, by their names without ending."""
    found: dict[str, list[Path]] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if path.is_dir() and depth and not path.name.startswith(_HIDDEN):
            for name, paths in volumes(path, endings, depth - 1).items():
                found.setdefault(name, []).extend(paths)
        elif name := stem(path, endings):
            found.setdefault(name, []).append(path)
    return found


def paired(
    images: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]], label_map: LabelMap = OWN,
    *, part: Literal["", "test"] = "",
) -> list[ImageFiles]:  # fmt: skip
    """Return a case for each name of ``images`` and ``labels``; a name with other than one file each is a problem.

    A name of an image without labels has ``labels`` None.
    """
    cases = []
    for name in sorted({*images, *labels}):
        scans, maps = images.get(name, ()), labels.get(name, ())
        problem = ""
        if not scans:
            problem = f"{maps[0].name} has no scan."
        elif len(scans) > 1:
            problem = f"It has two scans, {scans[0].name} and {scans[1].name}: keep one."
        elif len(maps) > 1:
            problem = f"It has two label files, {maps[0].name} and {maps[1].name}: keep one."
        cases.append(
            ImageFiles(
                name, scans[0] if scans else maps[0], maps[0] if maps else None, label_map, part=part, problem=problem
            )
        )
    return cases

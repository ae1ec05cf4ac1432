"""Find cases in plain folders, and read them: the virtual cohort's layout, or ``images/`` beside ``labels/``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.case_names import case_name
from CardiacLDMLib.image.files import read_volume, read_with_notes
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.image.labels import check_labels
from CardiacLDMLib.image.tree import LABEL_ENDINGS
from CardiacLDMLib.results.pairs import IMAGE, LABELS
from CardiacLDMLib.text import unique_name

from ...errors import DatasetError

#: Tolerance within which a scan and its labels have the same grid.
SAME_GRID_MM = 0.01
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class ImageFiles:
    """The files of an image, with labels or without. ``name`` is unique within its folder and identifies no patient."""

    name: str
    image: Path
    labels: Path | None


@dataclass(frozen=True)
class CaseFiles(ImageFiles):
    """The files of a case: an image and its labels."""

    labels: Path


def find_cases(folder: Path) -> list[CaseFiles]:
    """Return the cases of ``folder``, ordered by name.

    The layout is ``NAME/{ct,labels}.nii.gz``, as of ``cardiacldm cohort``, or ``{images,labels}/NAME.nii.gz`` (also
    .nii, .nrrd, .mha; in capitals too). Raises :class:`DatasetError` if there are no cases or an image has no labels.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}.")
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        cases = _paired_folders(folder)
    else:
        cases = [
            CaseFiles(case.name, image, _named(case, LABELS) or case / LABELS)
            for case in sorted(folder.iterdir())
            if not case.name.startswith(".") and (image := _named(case, IMAGE))
        ]
    taken: set[str] = set()
    cases = [replace(case, name=unique_name(case_name(case.name), taken)) for case in cases]
    if not cases:
        raise DatasetError(
            f"{folder} holds no cases: it needs NAME/ct.nii.gz with NAME/labels.nii.gz, or images/ and labels/ folders."
        )
    unlabelled = [case.name for case in cases if not case.labels.is_file()]
    if unlabelled:
        more = f" and {len(unlabelled) - 3} more" if len(unlabelled) > 3 else ""
        raise DatasetError(f"These cases of {folder} have no labels: {', '.join(unlabelled[:3])}{more}.")
    return cases


def find_images(folder: Path) -> list[ImageFiles]:
    """Return the images of ``folder``, with their labels where these exist, ordered by name.

    The layouts are those of :func:`find_cases`, with or without labels, and image files side by side. Raises
    :class:`DatasetError` if there are no images.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}.")
    images = folder / "images" if (folder / "images").is_dir() else folder
    cases = [
        (case.name, image, _named(case, LABELS)) for case in _sub_folders(images) if (image := _named(case, IMAGE))
    ]
    labels = {_stem(path): path for path in (folder / "labels").iterdir()} if (folder / "labels").is_dir() else {}
    for path in sorted(images.iterdir()):
        if _stem(path) and not path.name.lower().endswith(LABEL_ENDINGS):
            cases.append((_stem(path), path, labels.get(_stem(path))))
    if not cases:
        raise DatasetError(f"{folder} holds no images: it needs NAME/ct.nii.gz, or .nii.gz, .nii, .nrrd or .mha files.")
    taken: set[str] = set()
    return [ImageFiles(unique_name(case_name(name), taken), image, found) for name, image, found in cases]


def _sub_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def read_case(files: ImageFiles) -> tuple[Volume, Volume, tuple[str, ...]]:
    """Read scan and labels of a case. Labels are on the scan's grid, whole numbers from 0 to 8; all 0 without a file.

    Returns sentences too, if the scan's file leaves the place of the voxels in doubt. Raises :class:`VolumeError` for
    files that cannot be read and for other labels.
    """
    image, notes = read_with_notes(files.image)
    if files.labels is None:
        return image, Volume(np.zeros(image.array.shape, dtype=np.uint8), image.affine), notes
    labels = read_volume(files.labels)
    if not labels.grid.same_as(image.grid, tolerance_mm=SAME_GRID_MM):
        raise VolumeError("Its labels have another grid than its scan: resample them first.")
    check_labels(labels.array)
    return image, labels, notes


def _named(folder: Path, name: str) -> Path | None:
    """Return the file of ``folder`` with this name, whatever its case; None if there is none."""
    if (folder / name).is_file():
        return folder / name
    if not folder.is_dir():
        return None
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name and path.is_file()), None)


def _paired_folders(folder: Path) -> list[CaseFiles]:
    """Return the cases of the layout ``images/`` and ``labels/``."""
    labels = {_stem(path): path for path in (folder / "labels").iterdir() if _stem(path)}
    images = {_stem(path): path for path in sorted((folder / "images").iterdir()) if _stem(path)}
    return [CaseFiles(name, image, labels.get(name, folder / "labels" / name)) for name, image in images.items()]


def _stem(path: Path) -> str:
    """Return the file's name without its ending; empty for hidden files and other endings."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    return path.name[: -len(ending)] if ending and not path.name.startswith(".") else ""

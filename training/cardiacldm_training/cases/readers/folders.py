"""This project's layouts: ``NAME/{ct,labels}.nii.gz``, as the virtual cohort's, or ``images/`` beside ``labels/``."""

from __future__ import annotations

from pathlib import Path

from CardiacLDMLib.image.tree import LABEL_ENDINGS
from CardiacLDMLib.results.pairs import IMAGE, LABELS

from .files import ENDINGS, SEGMENTATION, ImageFiles, file_in, paired, sub_folders, volumes

NAME = "cardiacldm"
ABOUT = "NAME/ct.nii.gz with NAME/labels.nii.gz, or images/ and labels/ folders"


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` has one of the two layouts, with labels."""
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return True
    return any(file_in(case, IMAGE) and file_in(case, LABELS) for case in sub_folders(folder))


def find(folder: Path) -> list[ImageFiles]:
    """Return the cases of ``folder``, and images that lie in it side by side.

    Image files are .nii.gz, .nii, .nrrd or .mha, in capitals too; labels may also be .seg.nrrd.
    """
    images = folder / "images" if (folder / "images").is_dir() else folder
    cases = [
        ImageFiles(case.name, file_in(case, IMAGE) or case / IMAGE, file_in(case, LABELS))
        for case in sub_folders(images)
        if file_in(case, IMAGE) or file_in(case, LABELS)
    ]
    scans = volumes(images)
    scans = {name: [path for path in paths if not path.name.lower().endswith(LABEL_ENDINGS)]
             for name, paths in scans.items()}  # fmt: skip
    labels = volumes(folder / "labels", (SEGMENTATION, *ENDINGS))
    return cases + paired({name: paths for name, paths in scans.items() if paths}, labels)

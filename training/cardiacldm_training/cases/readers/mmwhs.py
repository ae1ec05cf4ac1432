"""MM-WHS 2017 and its successors: ``ct_train_1001_image.nii.gz`` beside ``ct_train_1001_label.nii.gz``.

The left atrial appendage is not labelled; of aorta and pulmonary artery only the parts near the heart are. One scan has
the value 421 where 420 is meant. Test cases have no labels, and MR scans are left out.
https://zmiclab.github.io/zxh/0/mmwhs/
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .files import ENDINGS, ImageFiles, paired, volumes
from .label_map import shipped

NAME = "mmwhs"
ABOUT = "ct_train_1001_image.nii.gz and ct_train_1001_label.nii.gz, also in sub-folders"
_IMAGES = tuple(f"_image{ending}" for ending in ENDINGS)
_LABELS = tuple(f"_label{ending}" for ending in ENDINGS)
#: Levels of sub-folders that are searched.
_DEPTH = 2


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` has the layout."""
    return bool(volumes(folder, _IMAGES, _DEPTH)) and bool(volumes(folder, _LABELS, _DEPTH))


def find(folder: Path) -> list[ImageFiles]:
    """Return training and test cases."""
    cases = paired(volumes(folder, _IMAGES, _DEPTH), volumes(folder, _LABELS, _DEPTH), shipped(NAME))
    return [_with_part(case) for case in cases]


def _with_part(case: ImageFiles) -> ImageFiles:
    if case.name.lower().startswith("mr_"):
        return replace(case, problem=f"{case.image.name} is an MR scan, and CT is needed.")
    return replace(case, part="test") if "_test_" in case.name.lower() else case

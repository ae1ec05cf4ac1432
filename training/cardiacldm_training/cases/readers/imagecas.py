"""ImageCAS with whole-heart labels: ``1.img.nii.gz`` with ``segmentations/1.nii.gz``, or beside ``1.label.nii.gz``.

The labels are those of Hansen et al. 2025, https://github.com/Bjonze/Public-Cardiac-CT-Dataset; coronary arteries and
pulmonary veins are background here. ImageCAS's own labels hold the coronary arteries alone and are refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .files import ENDINGS, ImageFiles, paired, volumes
from .label_map import shipped

NAME = "imagecas"
ABOUT = "1.img.nii.gz with segmentations/1.nii.gz or 1.label.nii.gz, also in sub-folders"
_IMAGES = tuple(f".img{ending}" for ending in ENDINGS)
_LABELS = tuple(f".label{ending}" for ending in ENDINGS)
_SEGMENTATIONS = "segmentations"
_CORONARY = "holds one value beside 0, as ImageCAS's own labels of coronary arteries do: whole-heart labels are needed."
#: Levels of sub-folders that are searched.
_DEPTH = 2


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` has the layout."""
    return bool(_scans(folder))


def find(folder: Path) -> list[ImageFiles]:
    """Return the cases; labels in ``segmentations`` come before those beside the scans."""
    label_map = replace(shipped(NAME), only_one=_CORONARY)
    found = volumes(folder / _SEGMENTATIONS, (*_IMAGES, *_LABELS, *ENDINGS), 1)
    return paired(_scans(folder), found or volumes(folder, _LABELS, _DEPTH), label_map)


def _scans(folder: Path) -> dict[str, list[Path]]:
    found = volumes(folder, _IMAGES, _DEPTH)
    outside = {name: [p for p in paths if p.parent.name != _SEGMENTATIONS] for name, paths in found.items()}
    return {name: paths for name, paths in outside.items() if paths}

"""TotalSegmentator's data set: ``s0001/ct.nii.gz`` with a mask for each structure in ``s0001/segmentations/``.

Which masks there are depends on its version: what has none is unknown. The mask of the whole heart says only where
something is not known, unless the chambers have masks too. ``meta.csv`` tells sex and test cases.
https://github.com/wasserth/TotalSegmentator
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from CardiacLDMLib import anatomy
from CardiacLDMLib.results.pairs import IMAGE

from .files import ImageFiles, file_in, sub_folders
from .label_map import read_table, shipped

NAME = "totalsegmentator"
ABOUT = "s0001/ct.nii.gz with s0001/segmentations/heart_atrium_left.nii.gz and others"
_MASKS, _META = "segmentations", "meta.csv"
_SEXES: dict[str, anatomy.Sex] = {"m": "male", "male": "male", "f": "female", "female": "female"}


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` has the layout."""
    return any((case / _MASKS).is_dir() and file_in(case, IMAGE) for case in sub_folders(folder))


def find(folder: Path) -> list[ImageFiles]:
    """Return the cases. Raises :class:`DatasetError` for a ``meta.csv`` that cannot be read."""
    meta = folder / _META
    facts = {row["image_id"]: row for row in read_table(meta, ("image_id",))} if meta.is_file() else {}
    return [_case(path, facts.get(path.name, {}))
            for path in sub_folders(folder) if file_in(path, IMAGE) or (path / _MASKS).is_dir()]  # fmt: skip


def _case(folder: Path, facts: dict[str, str]) -> ImageFiles:
    image, masks = file_in(folder, IMAGE), folder / _MASKS
    part: Literal["", "test"] = "test" if facts.get("split", "").casefold() == "test" else ""
    return ImageFiles(
        folder.name, image or folder / IMAGE, masks if masks.is_dir() else None, shipped(NAME), part=part,
        sex=_SEXES.get(facts.get("gender", "").casefold()), columns=facts,
    )  # fmt: skip

"""nnU-Net's raw data: ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``.

``imagesTs`` holds test cases, with labels in ``labelsTs`` if these are known. Of several channels the first is read. In
``dataset.json`` a region is a list of values: a value stands for the smallest region with a familiar name that has it.
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from CardiacLDMLib.text import folder_name, printable_line

from ...errors import DatasetError
from .files import ImageFiles, paired, volumes
from .label_map import LabelMap, by_names

NAME = "nnunet"
ABOUT = "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json"
ABOUT_FILE = "dataset.json"
_CHANNEL = "_0000"


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` has the layout."""
    return (folder / "imagesTr").is_dir()


def find(folder: Path) -> list[ImageFiles]:
    """Return training and test cases. Raises :class:`DatasetError` for a ``dataset.json`` that cannot be read."""
    label_map = _label_map(folder / ABOUT_FILE)
    cases = paired(_scans(folder / "imagesTr"), volumes(folder / "labelsTr"), label_map)
    return cases + paired(_scans(folder / "imagesTs"), volumes(folder / "labelsTs"), label_map, part="test")


def _scans(folder: Path) -> dict[str, list[Path]]:
    return {
        name.removesuffix(_CHANNEL): paths for name, paths in volumes(folder).items() if name.endswith(_CHANNEL)
    }  # fmt: skip


def _label_map(path: Path) -> LabelMap:
    if not path.is_file():
        return by_names(f"the missing {ABOUT_FILE}", {})
    try:
        labels: Any = json.loads(path.read_text(encoding="utf-8"))["labels"]
        named = _names_of_values(labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        name = printable_line(f"{folder_name(path.parent)}/{path.name}")
        raise DatasetError(f"{name} cannot be read: its labels must be names with values.") from error
    return by_names(ABOUT_FILE, named)


def _names_of_values(labels: dict[str, Any]) -> dict[int, str]:
    """Return the name of each value; of several regions with a value the smallest one's."""
    if all(key.isdigit() for key in labels):  # version 1: values with names
        return {int(value): str(name) for value, name in labels.items()}
    named: dict[int, str] = {}
    regions = {name: values if isinstance(values, list) else [values] for name, values in labels.items()}
    for name, values in sorted(regions.items(), key=lambda item: -len(item[1])):
        named.update({int(value): name for value in values})
    return named

"""A synthetic pair as files, under the names that ``cardiacldm generate`` gives them and training looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import anatomy
from ..files import replace_folder, write_json
from ..image.files import write_volume
from ..image.grid import Volume

IMAGE, LABELS, PROVENANCE = "ct.nii.gz", "labels.nii.gz", "provenance.json"


def pair_name(index: int) -> str:
    """The name of the folder of pair ``index``."""
    return f"pair_{index:04d}"


def write_pair(folder: Path, aside: Path, image: Volume, labels: Volume, provenance: dict[str, Any]) -> None:
    """Make ``folder`` with CT (int16 HU), labels (uint8) and provenance, whole or not at all.

    ``aside``: where it is made, a name beside it that nothing has. Labels whose volumes are not those in ``provenance``
    were edited since they were generated, and the file says so. Raises :class:`OutputError`, also when ``folder`` is
    there already.
    """
    with replace_folder(folder, temporary=aside) as part:
        write_volume(Volume(_int16(image.array), image.affine), part / IMAGE)
        write_volume(labels, part / LABELS)
        write_json(part / PROVENANCE, {**provenance, "edited": True} if _edited(labels, provenance) else provenance)


def _int16(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.int16:
        return array
    limits = np.iinfo(np.int16)
    return np.rint(np.clip(array, limits.min, limits.max)).astype(np.int16)


def _edited(labels: Volume, provenance: dict[str, Any]) -> bool:
    count = np.bincount(labels.array.ravel(order="K"), minlength=anatomy.NUM_CLASSES)
    was = provenance.get("volumes_ml", {})
    return any(
        abs(float(count[s.value]) * labels.grid.voxel_ml - was.get(s.name, 0.0)) > 0.01 for s in anatomy.STRUCTURES
    )

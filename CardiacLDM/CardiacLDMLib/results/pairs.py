"""A synthetic pair as files, under the names that training looks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import anatomy
from ..files import replace_folder, write_json
from ..image.files import write_volume
from ..image.grid import Volume

IMAGE, LABELS, PROVENANCE = "ct.nii.gz", "labels.nii.gz", "provenance.json"
#: Difference in volume, in millilitres, above which labels count as edited: provenance rounds to two digits.
EDIT_ML = 0.01


def pair_name(index: int) -> str:
    """Return the name of the folder of pair ``index``."""
    return f"pair_{index:04d}"


def write_pair(
    folder: Path,
    aside: Path | None,
    image: Volume,
    labels: Volume,
    provenance: dict[str, Any],
    *,
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Make ``folder`` with CT (int16 HU), labels (uint8) and provenance; all of them, or none.

    ``aside`` names a new folder beside ``folder`` for the unfinished files, which a caller can remove if this process
    is killed. ``draw`` may write further files into the folder that it is given. When the structures' volumes differ
    from those in ``provenance``, a user has edited the labels, and the file records it. Raises :class:`OutputError`,
    also when ``folder`` exists.
    """
    with replace_folder(folder, temporary=aside) as part:
        write_volume(Volume(_int16(image.array), image.affine), part / IMAGE)
        write_volume(labels, part / LABELS)
        if draw is not None:
            draw(part)
        write_json(part / PROVENANCE, {**provenance, "edited": True} if _edited(labels, provenance) else provenance)


def _int16(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.int16:
        return array
    limits = np.iinfo(np.int16)
    return np.rint(np.clip(array, limits.min, limits.max)).astype(np.int16)


def _edited(labels: Volume, provenance: dict[str, Any]) -> bool:
    count = np.bincount(labels.array.ravel(order="K"), minlength=anatomy.NUM_CLASSES)
    recorded = provenance.get("volumes_ml", {})
    return any(
        abs(float(count[s.value]) * labels.grid.voxel_ml - recorded.get(s.name, 0.0)) > EDIT_ML
        for s in anatomy.STRUCTURES
    )

"""A synthetic pair as files, under the names that training looks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replace_folder, write_json
from ..image.files import write_volume
from ..image.grid import Volume
from ..image.labels import volumes_ml

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
    """Write CT (int16 HU), labels (uint8) and provenance to the new folder ``folder``; all of them, or none.

    ``aside`` names a new folder beside ``folder`` for the unfinished files, which a caller can remove if this process
    is killed. ``draw`` is called with the unfinished folder and may write further files to it. If the structures'
    volumes differ from those in ``provenance``, the labels have been edited, and the file gets ``"edited": true``.
    Raises :class:`OutputError`, also if ``folder`` exists.
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
    recorded = provenance.get("volumes_ml", {})
    volumes = volumes_ml(labels.array, labels.grid.voxel_ml)
    return any(abs(ml - recorded.get(name, 0.0)) > EDIT_ML for name, ml in volumes.items())

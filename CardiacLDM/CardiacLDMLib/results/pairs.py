"""A synthetic pair as files, under the names that ``cardiacldm generate`` gives them and training looks for."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..files import written_aside
from ..image.files import write_volume
from ..image.grid import Volume

IMAGE, LABELS, PROVENANCE = "ct.nii.gz", "labels.nii.gz", "provenance.json"


def pair_name(index: int) -> str:
    """The name of the folder of pair ``index``."""
    return f"pair_{index:04d}"


def write_pair(folder: Path, aside: Path, image: Volume, labels: Volume, provenance: dict[str, Any]) -> None:
    """Make ``folder`` with CT (int16 HU), labels (uint8) and provenance, whole or not at all.

    ``aside``: where it is made, a name beside it that nothing has. Labels whose volumes are not those in ``provenance``
    were edited since they were generated, and the file says so. Raises :class:`VolumeError`, also when ``folder`` is
    there already.
    """
    if folder.exists():
        raise VolumeError(f"{folder.name} exists already: choose another folder.")
    try:
        aside.mkdir(parents=True)
        write_volume(Volume(_int16(image.array), image.affine), aside / IMAGE)
        write_volume(labels, aside / LABELS)
        record = {**provenance, "edited": True} if _edited(labels, provenance) else provenance
        with written_aside(aside / PROVENANCE) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        aside.rename(folder)
        to_disk(folder.parent)
    except OSError as error:
        raise VolumeError(f"{folder.name} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def to_disk(folder: Path) -> None:
    """See that the folder's entries are on the disk, where systems can tell."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

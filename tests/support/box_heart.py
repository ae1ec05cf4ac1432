"""A heart of boxes that is plausible, and a pair with it: its image has the HU of the phantom package."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.image.grid import Volume
from tests.support.phantom import STRUCTURE_HU

SHAPE = (60, 66, 60)
#: Soft tissue around the heart: the phantom package takes it for no structure.
SOFT_HU = 30.0
#: Corners (first, last + 1) of each structure in voxels of 2 or 3 mm, RAS; later ones cover earlier ones.
BOXES = {
    "MYO": ((12, 26, 8), (28, 46, 28)), "LV": ((15, 28, 11), (25, 43, 25)), "LA": ((12, 14, 20), (30, 28, 34)),
    "LAA": ((8, 20, 26), (12, 26, 32)), "RA": ((36, 20, 14), (48, 34, 30)), "RV": ((32, 34, 8), (46, 56, 26)),
    "PA": ((30, 46, 26), (38, 52, 44)), "AO": ((24, 28, 25), (30, 40, 56)),
}  # fmt: skip


def box_heart() -> np.ndarray:
    """Return labels (``SHAPE``, uint8)."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for name, (low, high) in BOXES.items():
        array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = VALUE[name]
    return array


def without(name: str) -> np.ndarray:
    """Return labels of the heart without one structure."""
    array = box_heart()
    array[array == VALUE[name]] = 0
    return array


def box_volume(array: np.ndarray, spacing_mm: float = 2.0) -> Volume:
    """Return ``array`` as a volume along the RAS axes."""
    return Volume(array, np.diag([spacing_mm] * 3 + [1.0]))


def box_pair(labels: np.ndarray | None = None, spacing_mm: float = 3.0) -> Pair:
    """Return the heart in tissue between lungs. ``labels`` replace the labels of the pair, not its image."""
    heart = box_heart()
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (np.array(heart.shape) - 1) / 2
    near = ndimage.binary_dilation(heart > 0, iterations=2)
    hu = np.where(near, SOFT_HU, -900).astype(np.int16)
    for value, level in STRUCTURE_HU.items():
        hu[heart == value] = level
    return Pair(Volume(hu, affine), Volume(heart if labels is None else labels, affine), {"conditions": {}})

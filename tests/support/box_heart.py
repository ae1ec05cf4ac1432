"""A heart of boxes that keeps every rule of soundness, and a pair with it: its image in the phantom package's HU."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.image.grid import Volume
from tests.support.phantom import STRUCTURE_HU, TISSUE_HU

SHAPE = (60, 66, 60)
#: Corners (first, last + 1) of each structure in voxels, RAS; later ones lie over earlier ones. Meant for 2 or 3 mm.
BOXES = {
    "MYO": ((12, 26, 8), (28, 46, 28)), "LV": ((15, 28, 11), (25, 43, 25)), "LA": ((12, 14, 20), (30, 28, 34)),
    "LAA": ((8, 20, 26), (12, 26, 32)), "RA": ((36, 20, 14), (48, 34, 30)), "RV": ((32, 34, 8), (46, 56, 26)),
    "PA": ((30, 46, 26), (38, 52, 44)), "AO": ((24, 28, 25), (30, 40, 56)),
}  # fmt: skip


def box_heart() -> np.ndarray:
    """``SHAPE`` uint8 labels."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for name, (low, high) in BOXES.items():
        array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = VALUE[name]
    return array


def box_pair(labels: np.ndarray | None = None, spacing_mm: float = 3.0) -> Pair:
    """The heart in tissue between lungs; ``labels`` in place of its own, which the image keeps."""
    heart = box_heart()
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (np.array(heart.shape) - 1) / 2
    near = ndimage.binary_dilation(heart > 0, iterations=2)
    hu = np.where(near, TISSUE_HU, -900).astype(np.int16)
    for value, level in STRUCTURE_HU.items():
        hu[heart == value] = level
    return Pair(Volume(hu, affine), Volume(heart if labels is None else labels, affine), {"conditions": {}})

"""Finding the heart in a coarse labelling: its box, and the share of lung around it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cc3d
import numpy as np

from .. import anatomy
from ..image.grid import Grid
from ..image.resample import dilated

if TYPE_CHECKING:
    pass


#: A smaller "heart" (chambers, wall and appendage; adults have over 400 mL) is something else, or too little of one.
MIN_HEART_ML = 60.0
#: Pieces of the coarse heart nearer than this are one heart.
JOIN_MM = 10.0
#: Around what the coarse pass found: its error, and the rest of the vessels.
MARGIN_MM = 15.0
_HEART_VALUES = [anatomy.VALUE[name] for name in anatomy.HEART]


def heart_box(shares: np.ndarray, grid: Grid) -> np.ndarray | None:
    """RAS box (2, 3) around the group of pieces with most heart in ``shares`` (9, I, J, K), great vessels included.

    Pieces belong together up to ``JOIN_MM`` apart: walls between structures count as background, and coarse voxels
    lose thin parts. None when the group holds less than ``MIN_HEART_ML`` of heart.
    """
    structures = shares[0] < 0.5
    heart = structures & (shares[_HEART_VALUES].sum(axis=0) > 0.5)
    reach = math.ceil(JOIN_MM / 2 / grid.spacing[0])
    groups = np.where(structures, cc3d.connected_components(dilated(structures, reach), connectivity=26), 0)
    counts = np.bincount(groups[heart], minlength=2)
    group = int(counts.argmax())
    if counts[group] * grid.voxel_ml < MIN_HEART_ML:
        return None
    start, stop = np.array([[i.min(), i.max() + 1] for i in np.nonzero(groups == group)]).T
    return grid.crop(start, stop).bounds_ras()


def lung_share(image: np.ndarray, heart: np.ndarray, spacing_mm: float) -> float:
    """How much of the 15 mm around ``heart`` (bool, on ``image`` in HU) is lung, 0 to 1."""
    around = image[dilated(heart, round(15.0 / spacing_mm)) & ~dilated(heart, 1)]
    around = around[around > -1010.0]  # below is what lies outside the scan
    return np.count_nonzero(around < -400.0) / max(around.size, 1)


def _grown_box(box: np.ndarray, at_least_mm: np.ndarray, scan: np.ndarray) -> np.ndarray:
    """``box`` padded by the margin, no smaller than one window (better real surroundings than padding), in the scan."""
    low, high = box[0] - MARGIN_MM, box[1] + MARGIN_MM
    missing = np.maximum(at_least_mm - (high - low), 0.0) / 2.0
    return np.stack([np.maximum(low - missing, scan[0]), np.minimum(high + missing, scan[1])])

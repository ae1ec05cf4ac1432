"""Locate the heart in a coarse pass: the box around it, and the share of lung around it."""

from __future__ import annotations

import math

import cc3d
import numpy as np

from .. import anatomy
from ..image.grid import Grid
from ..image.resample import dilate

#: Least volume of a heart (chambers, wall and appendage; adults have over 400 mL). Less is another organ or a fragment.
MIN_HEART_ML = 60.0
#: Pieces of the coarse heart closer than this belong to one heart.
JOIN_MM = 10.0
#: Least probability of structures and of heart in the coarse pass; the second is tried where the first finds no heart.
#: Consolidated lungs make the coarse pass unsure.
LEAST_SHARES = (0.5, 0.3)
#: Margin around the coarse heart: covers the error of the coarse pass and the rest of the vessels.
MARGIN_MM = 15.0
#: Label values of chambers, wall and appendage.
HEART_VALUES = [anatomy.VALUE[name] for name in anatomy.HEART]


def heart_box(shares: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Return the RAS box (2, 3) around the group of pieces with most heart, great vessels included.

    ``shares``: (9, I, J, K) class probabilities on ``grid``. Pieces up to ``JOIN_MM`` apart form a group: walls between
    structures count as background, and coarse voxels lose thin parts. If no group of sure voxels holds
    ``MIN_HEART_ML`` of heart, less sure ones count too. Returns None if they are too few as well.
    """
    for least in LEAST_SHARES:
        structures = 1.0 - shares[0] > least
        heart = structures & (shares[HEART_VALUES].sum(axis=0) > least)
        box = _largest_group(structures, heart, grid)
        if box is not None:
            return box
    return None


def _largest_group(structures: np.ndarray, heart: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Return the RAS box (2, 3) around the group of ``structures`` (bool) with most ``heart``; None if too little."""
    reach = math.ceil(JOIN_MM / 2 / grid.spacing[0])
    groups = np.where(structures, cc3d.connected_components(dilate(structures, reach), connectivity=26), 0)
    counts = np.bincount(groups[heart], minlength=2)
    group = int(counts.argmax())
    if counts[group] * grid.voxel_ml < MIN_HEART_ML:
        return None
    start, stop = np.array([[i.min(), i.max() + 1] for i in np.nonzero(groups == group)]).T
    return grid.crop(start, stop).bounds_ras()


def lung_share(image: np.ndarray, heart: np.ndarray, spacing_mm: float) -> float:
    """Return the share (0 to 1) of lung in the 15 mm around ``heart`` (bool; ``image`` in HU)."""
    around = image[dilate(heart, round(15.0 / spacing_mm)) & ~dilate(heart, 1)]
    around = around[around > -1010.0]  # lower values lie outside the scan
    return np.count_nonzero(around < -400.0) / max(around.size, 1)


def grow_box(box: np.ndarray, at_least_mm: np.ndarray, scan: np.ndarray) -> np.ndarray:
    """Return ``box`` (2, 3; RAS mm) with the margin, at least ``at_least_mm`` (3,) wide, within the box ``scan``.

    A window full of real surroundings is labelled better than one with padding.
    """
    low, high = box[0] - MARGIN_MM, box[1] + MARGIN_MM
    missing = np.maximum(at_least_mm - (high - low), 0.0) / 2.0
    return np.stack([np.maximum(low - missing, scan[0]), np.minimum(high + missing, scan[1])])

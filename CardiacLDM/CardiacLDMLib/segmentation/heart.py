"""Locate the heart in a coarse pass: the box around it, and the share of lung around it."""

from __future__ import annotations

import math

import cc3d
import numpy as np

from .. import anatomy
from ..image.grid import Grid, lattice_grid
from ..image.resample import dilate

#: Least volume of a heart (chambers, wall and appendage; adults have over 400 mL). Less is another organ or a fragment.
MIN_HEART_ML = 60.0
#: Pieces of the coarse heart closer than this belong to one heart.
JOIN_MM = 10.0
#: Least probability of structures and of heart in the coarse pass; the second is tried where the first finds no heart.
#: Consolidated lungs make the coarse pass unsure.
LEAST_SHARES = (0.5, 0.3)
#: Share of the coarse heart that may lie beyond each side of its box. Its last voxels come and go with noise.
BEYOND = 0.01
#: How far the great vessels reach behind and above that box, in radii of a ball as large as the heart. The coarse pass
#: may miss them; in three patients and two virtual hearts it labelled them 0.8 to 1.1 radii behind and 1 to 1.3 above.
VESSELS_BEHIND, VESSELS_ABOVE = 0.95, 1.25
#: Mean margin around all that: covers the error of the coarse pass.
MARGIN_MM = 25.0
#: Boxes end at multiples of this many voxels of the fine grid, so that most changes of the coarse pass leave them.
BOX_STEP = 8
#: Label values of chambers, wall and appendage.
HEART_VALUES = [anatomy.VALUE[name] for name in anatomy.HEART]


def heart_box(shares: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Return the RAS box (2, 3) around the group of pieces with most heart, great vessels included.

    ``shares``: (9, I, J, K) class probabilities on ``grid``. Pieces up to ``JOIN_MM`` apart form a group: walls between
    structures count as background, and coarse voxels lose thin parts. If no group of sure voxels holds
    ``MIN_HEART_ML`` of heart, less sure ones count too. Returns None if they are too few as well.

    The box holds all but ``BEYOND`` of the heart at each side, and the place of the great vessels behind and above it:
    unlike the last voxel of a structure, such borders hardly move when probabilities change a little.
    """
    for least in LEAST_SHARES:
        structures = np.maximum(1.0 - shares[0] - least, 0.0)
        heart = np.maximum(shares[HEART_VALUES].sum(axis=0) - least, 0.0)
        box = _largest_group(structures, heart, grid)
        if box is not None:
            return box
    return None


def _largest_group(structures: np.ndarray, heart: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Return the RAS box (2, 3) of :func:`heart_box` for the group with most voxels of heart; None if too little.

    ``structures``, ``heart``: by how much each voxel's probability exceeds the least one, or 0.
    """
    reach = math.ceil(JOIN_MM / 2 / grid.spacing[0])
    groups = np.where(structures > 0, cc3d.connected_components(dilate(structures > 0, reach), connectivity=26), 0)
    counts = np.bincount(groups[heart > 0], minlength=2)
    group = int(counts.argmax())
    if counts[group] * grid.voxel_ml < MIN_HEART_ML:
        return None
    heart[groups != group] = 0.0
    faces = np.array([_span(heart, axis) for axis in range(3)]).T
    box = grid.affine[:3, 3] + (faces - 0.5) * grid.spacing
    radius = (3.0 * counts[group] * grid.voxel_ml * 1000.0 / (4.0 * math.pi)) ** (1 / 3)
    return box + radius * np.array([[0.0, -VESSELS_BEHIND, 0.0], [0.0, 0.0, VESSELS_ABOVE]])


def _span(weights: np.ndarray, axis: int) -> np.ndarray:
    """Return the places (2,) along ``axis``, in voxels from the first face, beyond which ``BEYOND`` of the sum lies."""
    profile = weights.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
    below = np.concatenate([[0.0], np.cumsum(profile)]) / profile.sum()
    return np.interp([BEYOND, 1.0 - BEYOND], below, np.arange(len(below)))


def lung_share(image: np.ndarray, heart: np.ndarray, spacing_mm: float) -> float:
    """Return the share (0 to 1) of lung in the 15 mm around ``heart`` (bool; ``image`` in HU)."""
    around = image[dilate(heart, round(15.0 / spacing_mm)) & ~dilate(heart, 1)]
    around = around[around > -1010.0]  # lower values lie outside the scan
    return np.count_nonzero(around < -400.0) / max(around.size, 1)


def grow_box(box: np.ndarray, patch: tuple[int, int, int], spacing_mm: float, scan: np.ndarray) -> np.ndarray:
    """Return ``box`` (2, 3; RAS mm) with the margin, at least a window of ``patch`` voxels wide, within ``scan``.

    It ends at multiples of ``BOX_STEP`` voxels of ``spacing_mm``. A window full of real surroundings is labelled better
    than one with padding.
    """
    step = BOX_STEP * spacing_mm
    low, high = np.rint((box + np.array([[-MARGIN_MM], [MARGIN_MM]])) / step)
    missing = np.maximum(np.ceil(np.array(patch) / BOX_STEP) - (high - low), 0.0)
    low, high = low - missing // 2, high + (missing - missing // 2)
    first, last = lattice_grid(scan, spacing_mm, BOX_STEP).bounds_ras() / step
    return np.stack([np.maximum(low, first), np.minimum(high, last)]) * step

"""Faults planted in good labels: twelve kinds that reviewers of segmentations meet.

:func:`plant` takes labels and CT on one grid along the RAS axes and returns labels with one fault, whose structure,
place and size are drawn. Lengths are in mm, volumes in mL.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, NAMES, VALUE
from CardiacLDMLib.image.grid import Volume

Rng = np.random.Generator
Fault = Callable[[np.ndarray, np.ndarray, np.ndarray, Rng], np.ndarray | None]

LV, LA, RA, RV, MYO, LAA = (VALUE[name] for name in ("LV", "LA", "RA", "RV", "MYO", "LAA"))
SHIFT_MM = 6.0
WALL_MM = 3.0
LEAK_ML = (3.0, 8.0)
ISLAND_ML = (0.3, 2.0)
HOLE_MM = (3.0, 5.0)
GAP_MM = (3.0, 6.0)
TIP_MM = (10.0, 15.0)
SPECKLE = (0.15, 0.35)
MARGIN_MM = 30.0
#: Padding around the scanner's field, where nobody labels.
OUTSIDE_HU = -1010.0


def plant(kind: str, labels: Volume, image: Volume, rng: Rng) -> Volume | None:
    """Return the labels with a fault of ``kind``; None if the case has no room for it."""
    out = labels.array.astype(np.uint8)
    box = tuple(slice(None) for _ in range(3)) if KINDS[kind] in _WHOLE else _around(out, labels.spacing)
    part = KINDS[kind](out[box], image.array[box].astype(np.float32), labels.spacing, rng)
    if part is None:
        return None
    out[box] = part
    return Volume(out, labels.affine)


def _around(array: np.ndarray, spacing: np.ndarray) -> tuple[slice, ...]:
    """Return the box around all but the aorta, which is long, with a margin."""
    places = np.argwhere(~np.isin(array, [0, VALUE["AO"]]))
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    low, high = np.maximum(places.min(0) - margin, 0), places.max(0) + margin + 1
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def _structure(array: np.ndarray, rng: Rng, names: tuple[str, ...] = NAMES) -> int:
    present = [VALUE[name] for name in names if (array == VALUE[name]).any()]
    return int(rng.choice(present))


def _away(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the distance of each voxel from ``mask``."""
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))


def _direction(rng: Rng) -> np.ndarray:
    vector = rng.normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector))


def _ball(shape: tuple[int, ...], centre: np.ndarray, radius: float, spacing: np.ndarray) -> np.ndarray:
    """Return the voxels within ``radius`` of the voxel ``centre``."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    squares = sum(((x - c) * s) ** 2 for x, c, s in zip(axes, centre, spacing, strict=True))
    return np.asarray(squares <= radius**2)


# --- whole structures ----------------------------------------------------------------------------------------------


def removed(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray:
    """One structure is absent."""
    return np.where(array == _structure(array, rng), 0, array).astype(np.uint8)


def shifted(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray:
    """One structure lies 6 mm off in any direction, over its neighbours."""
    value, step = _structure(array, rng), np.rint(SHIFT_MM * _direction(rng) / spacing).astype(int)
    out = np.where(array == value, 0, array).astype(np.uint8)
    places = np.argwhere(array == value) + step
    places = places[((places >= 0) & (places < array.shape)).all(1)]
    out[tuple(places.T)] = value
    return out


def swapped(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray:
    """Left and right are swapped: the atria, the ventricles, or both."""
    pairs = [((LA, RA),), ((LV, RV),), ((LA, RA), (LV, RV))][rng.integers(3)]
    return _exchange(array, pairs)


def appendage_swapped(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray | None:
    """Left atrium and appendage are swapped."""
    return _exchange(array, ((LA, LAA),)) if (array == LAA).any() else None


def _exchange(array: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    table = np.arange(256, dtype=np.uint8)
    for a, b in pairs:
        table[[a, b]] = b, a
    return table[array]


# --- parts too many ------------------------------------------------------------------------------------------------


def leak(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray | None:
    """A structure runs into what lies beside it: along voxels of its own HU, or as a bulge into any tissue."""
    value, ml = _structure(array, rng), rng.uniform(*LEAK_ML)
    count = int(np.ceil(ml * 1000.0 / np.prod(spacing)))
    own = array == value
    away = _away(own, spacing)
    seeds = np.argwhere((array == 0) & (away <= 1.1 * spacing.max()) & (hu > OUTSIDE_HU))
    if not len(seeds):
        return None
    free = (array == 0) & (away <= 30.0) & (hu > OUTSIDE_HU)
    if rng.random() < 0.5:
        smooth = ndimage.uniform_filter(hu, 3)
        alike = free & (np.abs(smooth - np.median(smooth[own])) < 60.0)
        parts, _ = ndimage.label(alike)
        touching = np.unique(parts[tuple(seeds.T)])
        sizes = np.bincount(parts.ravel())
        large = [n for n in touching if n and sizes[n] >= count]
        if large:
            here = parts == rng.choice(large)
            start = seeds[here[tuple(seeds.T)]]
            return _grown(array, value, here, start[rng.integers(len(start))], count, spacing)
    return _grown(array, value, free, seeds[rng.integers(len(seeds))], count, spacing)


def _grown(
    array: np.ndarray, value: int, free: np.ndarray, seed: np.ndarray, count: int, spacing: np.ndarray
) -> np.ndarray | None:
    """Return ``array`` with the ``count`` voxels of ``free`` nearest to ``seed`` as ``value``; None for too few."""
    places = np.argwhere(free)
    if len(places) < count:
        return None
    nearest = np.argsort((((places - seed) * spacing) ** 2).sum(1))[:count]
    part = np.zeros(array.shape, dtype=bool)
    part[tuple(places[nearest].T)] = True
    pieces, _ = ndimage.label(part, np.ones((3, 3, 3)))
    out = array.copy()
    out[pieces == pieces[tuple(seed)]] = value
    return out


def island(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray | None:
    """A ball of a structure lies apart from it."""
    value = _structure(array, rng)
    radius = float((rng.uniform(*ISLAND_ML) * 750.0 / np.pi) ** (1 / 3))
    room = _away(array > 0, spacing)
    places = np.argwhere((room > radius + 2.0) & (room < radius + 25.0))
    if not len(places):
        return None
    out = array.copy()
    out[_ball(array.shape, places[rng.integers(len(places))], radius, spacing)] = value
    return out


def vein_as_appendage(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray | None:
    """The appendage's label lies in the left superior pulmonary vein, which leaves the atrium behind and above it."""
    if not (array == LAA).any() or not (array == LA).any():
        return None
    out = np.where(array == LAA, 0, array).astype(np.uint8)
    atrium = np.argwhere(array == LA) * spacing
    out_of = np.array([-1.0, -0.4, 0.5])
    start = atrium[(atrium @ out_of).argmax()]  # where virtual hearts have the vein's mouth
    course = np.array([-1.0, 0.05, 0.55]) + rng.normal(scale=0.1, size=3)
    course /= np.linalg.norm(course)
    free = np.argwhere(out == 0)
    offsets = free * spacing - start
    along = offsets @ course
    beside = np.linalg.norm(offsets - along[:, None] * course, axis=1)
    radius, count = rng.uniform(4.5, 6.5), int(np.count_nonzero(array == LAA))
    tube = np.flatnonzero((beside <= radius) & (along >= -radius) & (along <= 45.0))
    nearest = tube[np.argsort(along[tube])][:count]
    out[tuple(free[nearest].T)] = LAA
    return out


# --- parts too few -------------------------------------------------------------------------------------------------


def hole(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray | None:
    """A ball within a structure is background."""
    radius = rng.uniform(*HOLE_MM)
    for value in rng.permutation([VALUE[name] for name in NAMES]):
        inner = np.argwhere(ndimage.distance_transform_edt(array == value, sampling=spacing) > radius + spacing.max())
        if len(inner):
            out = array.copy()
            out[_ball(array.shape, inner[rng.integers(len(inner))], radius, spacing)] = 0
            return out
    return None


def missing_slices(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray:
    """Some axial slices of one structure, or of all, are background."""
    value = 0 if rng.random() < 0.25 else _structure(array, rng)
    mask = np.isin(array, [VALUE[name] for name in HEART]) if value == 0 else array == value
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    count = max(1, round(rng.uniform(*GAP_MM) / spacing[2]))
    first = round(slices[0] + rng.uniform(0.25, 0.7) * (slices[-1] - slices[0]))
    out = array.copy()
    gap = out[:, :, first : first + count]
    gap[(gap == value) | (value == 0)] = 0
    return out


def wall(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray:
    """The left ventricle's wall is 3 mm too thick or too thin, at its outer surface."""
    out = array.copy()
    if rng.random() < 0.5:
        near = _away(array == MYO, spacing) <= WALL_MM
        out[near & np.isin(array, [0, RV])] = MYO
    else:
        outside = ~np.isin(array, [MYO, LV])
        out[(array == MYO) & (_away(outside, spacing) <= WALL_MM)] = 0
    return out


def cut_tip(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray | None:
    """A plane cuts off the tip of the left ventricle with its wall, of the right one, or of the appendage."""
    values = [(LV, MYO), (RV,), (LAA,)][rng.integers(3)]
    places = np.argwhere(np.isin(array, values)) * spacing
    base = np.argwhere(array == (RA if values == (RV,) else LA)) * spacing
    if not len(places) or not len(base):
        return None
    axis = places.mean(0) - base.mean(0)
    along = places @ (axis / np.linalg.norm(axis))
    depth = rng.uniform(*TIP_MM) if values != (LAA,) else rng.uniform(0.3, 0.5) * np.ptp(along)
    beyond = np.rint(places[along > along.max() - depth] / spacing).astype(int)
    out = array.copy()
    out[tuple(beyond.T)] = 0
    return out


def speckle(array: np.ndarray, hu: np.ndarray, spacing: np.ndarray, rng: Rng) -> np.ndarray:
    """Voxels along all borders take the label of a neighbour at random."""
    out, share = array.copy(), rng.uniform(*SPECKLE)
    moved = np.roll(array, tuple(rng.choice([-1, 1], size=3)), (0, 1, 2))
    border = ndimage.grey_dilation(array, (3, 3, 3)) != ndimage.grey_erosion(array, (3, 3, 3))
    flip = border & (rng.random(array.shape) < share)
    out[flip] = np.where(moved == array, 0, moved)[flip]
    return out


KINDS: dict[str, Fault] = {
    "removed": removed,
    "shifted 6 mm": shifted,
    "left and right swapped": swapped,
    "LA and LAA swapped": appendage_swapped,
    "leak of 3 mL or more": leak,
    "island": island,
    "hole": hole,
    "missing slices": missing_slices,
    "wall 3 mm thicker or thinner": wall,
    "cut tip": cut_tip,
    "boundary speckle": speckle,
    "vein taken for the appendage": vein_as_appendage,
}
_WHOLE = (removed, shifted, swapped, appendage_swapped)

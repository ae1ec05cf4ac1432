"""Remove stray parts from the labels of a scan: an aorta where none can be, and drops that hang on a thread.

Unlike :mod:`cleanup`, which looks at pieces alone, this needs the place of the labels in the patient.
"""

from __future__ import annotations

import cc3d
import numpy as np

from .. import anatomy
from ..image.grid import Grid
from ..image.labels import Box, foreground_box, values_of_pieces
from ..image.resample import dilate
from .cleanup import MIN_SECOND_PIECE_ML, clean
from .heart import HEART_VALUES, MIN_HEART_ML

#: Where the centre of a piece of aorta can lie: lowest and highest offset from the heart's centre to the right, the
#: front and the top, in radii of a ball as large as the heart. Slices of two real and nine template or virtual aortas
#: lay at -0.3 to 0.6 and -2.2 to -0.8 (descending), at 0 to 1.1, -0.6 to 0.3 and above 0 (ascending).
DESCENDING = ((-0.9, 1.3), (-3.0, -0.4), (-np.inf, np.inf))
ASCENDING = ((-0.5, 1.5), (-1.0, 0.8), (-0.2, np.inf))
#: Below this height the descending aorta runs forward with the spine, by this much a radius of depth.
FORWARD_BELOW, FORWARD = -1.5, 0.25
#: Below this height there is one aorta at a level, not two.
ONE_BELOW = -1.0
#: A piece this near to another is its false lumen: the wall between both is thin.
FLAP_MM = 5.0
#: A thread is as thin as this, a drop on it no larger than these two limits.
THREAD_MM = 4.0
MAX_DROP_ML = 5.0
MAX_DROP_SHARE = 0.05
#: A drop whose core is smaller than this is a spur on the surface.
MIN_CORE_ML = 0.02
#: Most area through which a drop hangs on its structure.
MAX_NECK_MM2 = 25.0

_AORTA = anatomy.VALUE["AO"]
_IS_HEART = np.isin(np.arange(anatomy.NUM_CLASSES), HEART_VALUES)
_MOST_POINTS = 20_000


def clean_scan(labels: np.ndarray, grid: Grid) -> np.ndarray:
    """Return a copy of ``labels`` (uint8, on ``grid``) without stray parts, clean as by :func:`cleanup.clean`."""
    out = labels.copy(order="F")
    box = foreground_box(out)
    if box is not None:
        start, stop = (np.array([getattr(s, end) for s in box]) for end in ("start", "stop"))
        _remove_drops(out[box], grid)
        _remove_false_aorta(out[box], grid.crop(start, stop))
    return clean(out, grid.voxel_ml)


# --- the aorta -----------------------------------------------------------------------------------------------------


def _remove_false_aorta(region: np.ndarray, grid: Grid) -> None:
    """Blank pieces of aorta, but the largest, that are large enough to stay and lie where no aorta can be."""
    pieces = cc3d.connected_components(region == _AORTA, connectivity=6)
    counts = np.bincount(pieces.ravel(order="K"))
    counts[0] = 0
    main = int(counts.argmax())
    others = [n for n in np.flatnonzero(counts * grid.voxel_ml >= MIN_SECOND_PIECE_ML).tolist() if n != main]
    if not others:
        return
    heart = _IS_HEART[region]
    heart_ml = np.count_nonzero(heart) * grid.voxel_ml
    if heart_ml < MIN_HEART_ML:
        return  # nothing to tell the place by
    centre = _places(heart, grid).mean(axis=0)
    radius = (3.0 * heart_ml * 1000.0 / (4.0 * np.pi)) ** (1 / 3)
    largest = (_places(pieces == main, grid) - centre) / radius
    for piece in others:
        mask = pieces == piece
        if not (
            _can_be_aorta((_places(mask, grid) - centre) / radius, largest) or _is_lumen(mask, pieces == main, grid)
        ):
            region[mask] = anatomy.BACKGROUND


def _can_be_aorta(piece: np.ndarray, main: np.ndarray) -> bool:
    """Return whether an aorta can lie at ``piece`` beside ``main`` (both N, 3; RAS offsets in radii of the heart)."""
    place = piece.mean(axis=0)
    if place[2] < ONE_BELOW and np.mean((piece[:, 2] > main[:, 2].min()) & (piece[:, 2] < main[:, 2].max())) > 0.5:
        return False
    forward = FORWARD * max(FORWARD_BELOW - place[2], 0.0)
    return _within(place - [0.0, forward, 0.0], DESCENDING) or _within(place, ASCENDING)


def _within(place: np.ndarray, limits: tuple[tuple[float, float], ...]) -> bool:
    return all(low <= x <= high for x, (low, high) in zip(place, limits, strict=True))


def _is_lumen(piece: np.ndarray, main: np.ndarray, grid: Grid) -> bool:
    """Return whether a tenth of ``piece`` or more lies within ``FLAP_MM`` of ``main`` (bool masks on ``grid``)."""
    near = dilate(main, np.maximum(np.rint(FLAP_MM / grid.spacing), 1).astype(int))
    return bool(np.count_nonzero(near & piece) >= 0.1 * np.count_nonzero(piece))


def _places(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the voxel centres (N, 3; RAS mm) of ``mask``, or of an even choice of them."""
    index = np.flatnonzero(mask)
    index = index[:: max(1, len(index) // _MOST_POINTS)]
    return np.stack(np.unravel_index(index, mask.shape), axis=-1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


# --- drops ---------------------------------------------------------------------------------------------------------


def _remove_drops(region: np.ndarray, grid: Grid) -> None:
    """Blank small parts that hang on the rest of their structure by a thread."""
    reach = np.maximum(np.rint(THREAD_MM / 2 / grid.spacing), 1).astype(int)
    cores = np.where(_is_core(region, reach), region, np.uint8(0))
    parts = cc3d.connected_components(cores, connectivity=6)
    statistics = cc3d.statistics(parts)
    counts = statistics["voxel_counts"]
    values = values_of_pieces(parts, cores, len(counts))
    for value in anatomy.BY_VALUE:
        mine = values == value
        large = mine & (counts > MAX_DROP_SHARE * counts[mine].sum())
        if (mine & ~large & (counts * grid.voxel_ml > MIN_CORE_ML)).any():
            box = _box_around([statistics["bounding_boxes"][n] for n in np.flatnonzero(mine)], reach + 2, region.shape)
            _remove_drops_of(region[box], value, parts[box], large, grid, reach)


def _box_around(boxes: list[Box], margin: np.ndarray, shape: tuple[int, ...]) -> Box:
    """Return the box around ``boxes`` with a ``margin`` (3,) in voxels, within an array of ``shape``."""
    ends = np.array([[(s.start, s.stop) for s in box] for box in boxes])
    start, stop = np.maximum(ends[..., 0].min(0) - margin, 0), np.minimum(ends[..., 1].max(0) + margin, shape)
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


def _is_core(region: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return whether all voxels up to ``reach`` (3,) away hold one label; those outside the array count as alike."""
    alike = region != anatomy.BACKGROUND
    for axis in range(3):
        border = np.zeros(region.shape, dtype=bool, order="F")
        lines, borders = np.moveaxis(region, axis, 0), np.moveaxis(border, axis, 0)
        changes = lines[1:] != lines[:-1]
        borders[1:] |= changes
        borders[:-1] |= changes
        reaches = np.zeros(3, dtype=int)
        reaches[axis] = reach[axis] - 1
        alike &= ~dilate(border, reaches)
    return alike


def _remove_drops_of(
    region: np.ndarray, value: int, parts: np.ndarray, large: np.ndarray, grid: Grid, reach: np.ndarray
) -> None:
    """Blank the drops of one structure: what lies beyond the reach of the cores in ``parts`` that are ``large``."""
    mask = region == value
    body = dilate(large[parts], reach + 1) & mask
    rest = cc3d.connected_components(mask & ~body, connectivity=6)
    sizes = np.bincount(rest.ravel(order="K")) * grid.voxel_ml
    inner = 1 + np.flatnonzero(np.bincount(rest[parts > 0], minlength=1)[1:])  # others are spurs and thin vessels
    limit = min(MAX_DROP_ML, MAX_DROP_SHARE * np.count_nonzero(mask) * grid.voxel_ml)
    for part in inner[sizes[inner] <= limit].tolist():
        drop = rest == part
        if _neck_mm2(drop, body, grid) <= MAX_NECK_MM2:
            region[drop] = anatomy.BACKGROUND


def _neck_mm2(drop: np.ndarray, body: np.ndarray, grid: Grid) -> float:
    """Return the area of the faces between ``drop`` and ``body`` (bool masks)."""
    area = 0.0
    for axis in range(3):
        a, b = np.moveaxis(drop, axis, 0), np.moveaxis(body, axis, 0)
        faces = np.count_nonzero(a[1:] & b[:-1]) + np.count_nonzero(a[:-1] & b[1:])
        area += faces * float(np.prod(grid.spacing) / grid.spacing[axis])
    return area

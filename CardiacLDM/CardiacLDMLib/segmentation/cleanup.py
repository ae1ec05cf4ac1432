"""Repair label maps: remove islands and fill holes. Only the labels are needed, not the image."""

from __future__ import annotations

import cc3d
import numpy as np

from .. import anatomy
from ..image.labels import foreground_box, values_of_pieces

#: Pieces that a structure may have. The aorta is in two pieces where the scan ends below its arch.
MAX_PIECES = {anatomy.VALUE["AO"]: 2}
#: A second piece of aorta smaller than this is stray: 2 cm of a descending aorta hold some 7 mL.
MIN_SECOND_PIECE_ML = 5.0
#: Background enclosed by several structures up to this volume is a gap and is filled; larger parts are walls.
MAX_GAP_ML = 0.1

_BACKGROUND = anatomy.NUM_CLASSES  # stands for background while components are counted: cc3d ignores 0


def clean(labels: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Return a copy of ``labels`` (uint8, 3D, values of :mod:`anatomy`) with one piece per structure and no holes.

    Voxels of a piece touch through faces. Each structure keeps its largest piece (the aorta two); an island takes the
    label that surrounds most of it. Background enclosed by a single structure takes its label; between several
    structures it is wall and stays, except for gaps up to ``MAX_GAP_ML``. The edge of the array counts as outside.
    """
    out = labels.copy(order="F")  # ties are then decided alike, whatever the memory order of the input
    box = foreground_box(labels)  # its margin keeps the background around the labels in one piece
    if box is None:
        return out
    if _clean_once(out[box], voxel_ml):
        _clean_once(out[box], voxel_ml)  # an island that became background can leave a hole behind
    return out


def _clean_once(region: np.ndarray, voxel_ml: float) -> bool:
    """Repair once, in place. Return whether an island became background."""
    solid = np.where(region == anatomy.BACKGROUND, np.uint8(_BACKGROUND), region)
    components = cc3d.connected_components(solid, connectivity=6)
    counts = np.bincount(components.ravel(order="K"))
    values = values_of_pieces(components, solid, len(counts))
    values[values == _BACKGROUND] = anatomy.BACKGROUND

    background = values == anatomy.BACKGROUND
    holes = background & (counts > 0) & ~_touches_edge(components, len(counts))
    islands = ~background & ~_pieces_to_keep(values, counts, voxel_ml)
    if not (holes | islands).any():
        return False
    around = _surroundings(components, values, holes | islands)
    filled = holes & ((np.count_nonzero(around, axis=1) == 1) | (counts * voxel_ml <= MAX_GAP_ML))
    new = np.where(islands | filled, around.argmax(axis=1).astype(np.uint8), values)
    region[...] = new[components]
    return bool((new[islands] == anatomy.BACKGROUND).any())


def _pieces_to_keep(values: np.ndarray, counts: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Return a mask of the components that stay: the largest pieces of their structures."""
    keep = np.zeros(len(values), dtype=bool)
    for value in anatomy.BY_VALUE:
        pieces = np.flatnonzero(values == value)
        pieces = pieces[np.argsort(counts[pieces], kind="stable")[::-1]]
        for rank, piece in enumerate(pieces[: MAX_PIECES.get(value, 1)]):
            keep[piece] = rank == 0 or counts[piece] * voxel_ml >= MIN_SECOND_PIECE_ML
    return keep


def _touches_edge(components: np.ndarray, count: int) -> np.ndarray:
    """Return for each of ``count`` components whether it reaches a face of the array."""
    touches = np.zeros(count, dtype=bool)
    for axis in range(3):
        for face in (0, -1):
            touches[np.moveaxis(components, axis, 0)[face]] = True
    return touches


def _surroundings(components: np.ndarray, values: np.ndarray, undecided: np.ndarray) -> np.ndarray:
    """Return the number of faces (N, 9) that each undecided component shares with each label.

    Faces between two undecided components do not count. It takes one pass per axis over all voxels, so the time does
    not depend on the number of components.
    """
    faces = np.zeros(len(values) * anatomy.NUM_CLASSES, dtype=np.int64)
    is_open = undecided[components]
    for axis in range(3):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        border = is_open[ahead] != is_open[behind]
        first, second = components[ahead][border], components[behind][border]
        swapped = undecided[second]
        open_side, fixed_side = np.where(swapped, second, first), np.where(swapped, first, second)
        pairs = open_side.astype(np.int64) * anatomy.NUM_CLASSES + values[fixed_side]
        faces += np.bincount(pairs, minlength=len(faces))
    return faces.reshape(-1, anatomy.NUM_CLASSES)

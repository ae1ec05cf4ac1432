"""Repair of label maps: stray islands and holes. Works on the label array alone; units are mL where volumes matter."""

from __future__ import annotations

import cc3d
import numpy as np

from .. import anatomy

#: Pieces a structure may have. The aorta comes in two where the scan ends below its arch.
MAX_PIECES = {anatomy.VALUE["AO"]: 2}
#: A second piece of aorta smaller than this is stray: 2 cm of a descending aorta hold some 7 mL.
MIN_SECOND_PIECE_ML = 5.0
#: Enclosed background between several structures is wall, unless it is as small as this: then it is a gap.
MAX_GAP_ML = 0.1

Box = tuple[slice, ...]

_OPEN = anatomy.NUM_CLASSES  # background while components are counted: 0 would be left out


def clean(labels: np.ndarray, voxel_ml: float) -> np.ndarray:
    """A copy of ``labels`` (uint8, 3D, values of :mod:`anatomy`) with one piece per structure and no holes inside.

    Pieces touch through faces. Of each structure the largest piece stays (two of the aorta); an island becomes what
    surrounds most of it. Background enclosed by a single structure becomes that structure; between several ones it is
    wall and stays, apart from gaps up to ``MAX_GAP_ML``. The array's edge counts as outside.
    """
    out = labels.copy(order="F")  # so that ties fall the same way whatever the order of the input
    box = _foreground_box(labels)
    if box is None:
        return out
    if _clean_once(out[box], voxel_ml):
        _clean_once(out[box], voxel_ml)  # an island that became background can leave a hole behind
    return out


def _foreground_box(labels: np.ndarray) -> Box | None:
    """The box around all labels and one voxel more, so that the background around them is one piece."""
    flat = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not flat[0].size:
        return None
    return tuple(slice(max(f[0] - 1, 0), f[-1] + 2) for f in flat)


def _clean_once(region: np.ndarray, voxel_ml: float) -> bool:
    """One round of repair, in place; whether an island became background."""
    solid = np.where(region == anatomy.BACKGROUND, np.uint8(_OPEN), region)
    components = cc3d.connected_components(solid, connectivity=6)
    statistics = cc3d.statistics(components)
    counts = statistics["voxel_counts"]
    values = np.zeros(len(counts), dtype=np.uint8)
    values[components.ravel(order="K")] = solid.ravel(order="K")
    values[values == _OPEN] = anatomy.BACKGROUND

    background = values == anatomy.BACKGROUND
    holes = background & ~_touches_edge(statistics["bounding_boxes"], region.shape)
    islands = ~background & ~_kept(values, counts, voxel_ml)
    if not (holes | islands).any():
        return False
    around = _surroundings(components, values, holes | islands)
    filled = holes & ((np.count_nonzero(around, axis=1) == 1) | (counts * voxel_ml <= MAX_GAP_ML))
    new = np.where(islands | filled, around.argmax(axis=1).astype(np.uint8), values)
    region[...] = new[components]
    return bool((new[islands] == anatomy.BACKGROUND).any())


def _kept(values: np.ndarray, counts: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Which components are the pieces to keep of their structures."""
    kept = np.zeros(len(values), dtype=bool)
    for value in anatomy.BY_VALUE:
        pieces = np.flatnonzero(values == value)
        pieces = pieces[np.argsort(counts[pieces], kind="stable")[::-1]]
        for rank, piece in enumerate(pieces[: MAX_PIECES.get(value, 1)]):
            kept[piece] = rank == 0 or counts[piece] * voxel_ml >= MIN_SECOND_PIECE_ML
    return kept


def _touches_edge(boxes: list[Box | None], shape: tuple[int, ...]) -> np.ndarray:
    """For each component whether its bounding box (None: no such component) reaches a face of the array."""
    return np.array(
        [box is None or any(s.start == 0 or s.stop == n for s, n in zip(box, shape, strict=True)) for box in boxes]
    )


def _surroundings(components: np.ndarray, values: np.ndarray, undecided: np.ndarray) -> np.ndarray:
    """(N, 9): how many faces each undecided component has to each label value; undecided neighbours do not count.

    One pass per axis over all voxels, so that speckle in any number does not make it slow.
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

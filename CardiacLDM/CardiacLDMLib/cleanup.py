"""Repair of label maps: stray islands and holes. Works on the label array alone; units are mL where volumes matter."""

from __future__ import annotations

import cc3d
import numpy as np

from . import anatomy

#: Pieces a structure may have. The aorta comes in two where the scan ends below its arch.
MAX_PIECES = {anatomy.VALUE["AO"]: 2}
#: A second piece of aorta smaller than this is stray: 2 cm of a descending aorta hold some 7 mL.
MIN_SECOND_PIECE_ML = 5.0
#: Enclosed background between several structures is wall, unless it is as small as this: then it is a gap.
MAX_GAP_ML = 0.1

Box = tuple[slice, ...]

_OPEN = anatomy.NUM_CLASSES  # background while components are counted: 0 would be left out
_UNDECIDED = 255


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
    region = out[box]
    for _ in range(2):  # an island that becomes background can leave a hole behind
        if not _clean_once(region, voxel_ml):
            break
    return out


def _foreground_box(labels: np.ndarray) -> Box | None:
    """The box around all labels and one voxel more, so that the background around them is one piece."""
    flat = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not flat[0].size:
        return None
    return tuple(slice(max(f[0] - 1, 0), f[-1] + 2) for f in flat)


def _clean_once(region: np.ndarray, voxel_ml: float) -> bool:
    """One round of repair, in place; whether anything changed."""
    solid = np.where(region == anatomy.BACKGROUND, np.uint8(_OPEN), region)
    components = cc3d.connected_components(solid, connectivity=6)
    statistics = cc3d.statistics(components)
    counts, boxes = statistics["voxel_counts"], statistics["bounding_boxes"]
    values = np.zeros(len(counts), dtype=np.uint8)
    values[components.ravel(order="K")] = solid.ravel(order="K")

    kept = _kept(values, counts, voxel_ml)
    kept &= (values != _OPEN) | _touches_edge(boxes, region.shape)  # the rest of the background is holes
    changed = False
    for component in range(1, len(counts)):  # cc3d counts from 1
        if kept[component]:
            continue
        box = _grown(boxes[component], region.shape)
        part, labels = components[box], region[box]
        around = _surroundings(part, component, labels, ~kept)
        hole = values[component] == _OPEN
        new = _filled(around, counts[component] * voxel_ml) if hole else int(around.argmax())
        if not hole or new != anatomy.BACKGROUND:
            labels[part == component] = new
            changed = True
    return changed


def _kept(values: np.ndarray, counts: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Which components stay as they are, holes not yet looked at."""
    kept = values == _OPEN
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


def _grown(box: Box, shape: tuple[int, ...]) -> Box:
    """The box and one voxel more on each side."""
    return tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, shape, strict=True))


def _surroundings(part: np.ndarray, component: int, labels: np.ndarray, undecided: np.ndarray) -> np.ndarray:
    """How many faces of the component border each label value; undecided neighbours do not count."""
    own = part == component
    neighbours = np.where(undecided[part], np.uint8(_UNDECIDED), labels)
    faces = np.zeros(256, dtype=np.int64)
    for axis in range(3):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        faces += np.bincount(neighbours[ahead][own[behind]], minlength=256)
        faces += np.bincount(neighbours[behind][own[ahead]], minlength=256)
    return faces[: anatomy.NUM_CLASSES]


def _filled(around: np.ndarray, size_ml: float) -> int:
    """What an enclosed piece of background becomes."""
    if np.count_nonzero(around) == 1 or size_ml <= MAX_GAP_ML:
        return int(around.argmax())
    return anatomy.BACKGROUND

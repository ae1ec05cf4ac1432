"""Label maps as arrays: check of the values, volumes of structures, box around them, Dice of two maps.

Label maps are integer arrays (I, J, K) with values of :mod:`anatomy`.
"""

from __future__ import annotations

import numpy as np

from .. import anatomy
from ..errors import VolumeError

Box = tuple[slice, ...]


def check_labels(array: np.ndarray) -> None:
    """Raise :class:`VolumeError`, which names a wrong value, unless ``array`` holds whole numbers from 0 to 8 only."""
    wrong = [value for value in (array.min(), array.max()) if not 0 <= value < anatomy.NUM_CLASSES]  # also NaN
    if not wrong and array.dtype.kind == "f":
        wrong = list(array[array != np.rint(array)][:1])
    if wrong:
        last = anatomy.NUM_CLASSES - 1
        raise VolumeError(f"The labels hold the value {wrong[0]:.6g}: only the whole numbers 0 to {last} are labels.")


def volumes_ml(labels: np.ndarray, voxel_ml: float) -> dict[str, float]:
    """Return the volume of each of the eight structures by name, 0 for absent ones. ``voxel_ml``: of one voxel."""
    # numpy's bincount takes five times as long, and eight bytes for each voxel.
    return {s.name: float(np.count_nonzero(labels == s.value)) * voxel_ml for s in anatomy.STRUCTURES}


def foreground_box(labels: np.ndarray) -> Box | None:
    """Return the box around all voxels that are not 0, with a margin of one voxel within the array; None if empty."""
    occupied = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not occupied[0].size:
        return None
    return tuple(slice(max(o[0] - 1, 0), min(o[-1] + 2, n)) for o, n in zip(occupied, labels.shape, strict=True))


def values_of_pieces(pieces: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the label (uint8) of each of ``count`` pieces, 0 for those without voxels.

    ``pieces`` and ``labels`` (both I, J, K) have the same memory layout; voxels of a piece have one label. Only the
    first voxel of each run in memory is looked at, which takes a sixth of the time.
    """
    piece, label = pieces.ravel(order="K"), labels.ravel(order="K")
    starts = np.flatnonzero(piece[1:] != piece[:-1]) + 1
    values = np.zeros(count, dtype=np.uint8)
    values[piece[:1]] = label[:1]
    values[piece[starts]] = label[starts]
    return values


def dice_per_structure(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the Dice (8,) of the structures, in the order of :data:`anatomy.STRUCTURES`.

    A structure that only one map has scores 0; one that neither has is NaN. Raises ValueError for maps of different
    shapes.
    """
    if labels.shape != others.shape:
        raise ValueError(f"Labels of {labels.shape} and {others.shape} voxels cannot be compared.")
    n = anatomy.NUM_CLASSES
    pairs = labels.ravel().astype(np.int64) * n + others.ravel()  # both in C order, whatever their layouts
    table = np.bincount(pairs, minlength=n * n).reshape(n, n)
    both, sizes = np.diag(table).astype(float), (table.sum(0) + table.sum(1)).astype(float)
    return np.divide(2 * both, sizes, out=np.full(n, np.nan), where=sizes > 0)[1:]


def agreement(labels: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return the Dice by name of the structures that at least one of the maps has."""
    dice = dice_per_structure(labels, others)
    return {name: float(value) for name, value in zip(anatomy.NAMES, dice, strict=True) if not np.isnan(value)}


def mean_agreement(labels: np.ndarray, others: np.ndarray) -> float:
    """Return the mean of :func:`agreement` over its structures; 0 if neither map has any."""
    values = agreement(labels, others).values()
    return sum(values) / len(values) if values else 0.0

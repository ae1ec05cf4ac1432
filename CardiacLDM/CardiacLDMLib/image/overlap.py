"""Overlap of two label maps: Dice per structure."""

from __future__ import annotations

import numpy as np

from .. import anatomy


def dice_per_structure(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (8,) Dice of the structures in the order of :data:`anatomy.STRUCTURES`; NaN where neither map has one.

    ``labels`` and ``others``: arrays of one shape with values of :mod:`anatomy`. A structure that only one of them has
    scores 0. Raises ValueError for arrays of different shapes.
    """
    if labels.shape != others.shape:
        raise ValueError(f"Labels of {labels.shape} and {others.shape} voxels cannot be compared.")
    n = anatomy.NUM_CLASSES
    pairs = labels.ravel().astype(np.int64) * n + others.ravel()  # both in C order, whatever their layouts
    table = np.bincount(pairs, minlength=n * n).reshape(n, n)
    both, sizes = np.diag(table).astype(float), (table.sum(0) + table.sum(1)).astype(float)
    return np.divide(2 * both, sizes, out=np.full(n, np.nan), where=sizes > 0)[1:]


def agreement(labels: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return :func:`dice_per_structure` by name, of the structures that at least one of the maps has."""
    dice = dice_per_structure(labels, others)
    return {name: float(value) for name, value in zip(anatomy.NAMES, dice, strict=True) if not np.isnan(value)}


def mean_agreement(labels: np.ndarray, others: np.ndarray) -> float:
    """Return the mean of :func:`agreement` over its structures; 0 if neither map has any."""
    values = agreement(labels, others).values()
    return sum(values) / len(values) if values else 0.0

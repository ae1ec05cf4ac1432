"""Overlap of two label maps: Dice per structure."""

from __future__ import annotations

import numpy as np

from .. import anatomy

# --- agreement -----------------------------------------------------------------------------------------------------


def agreement(labels: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Dice of each structure that ``labels`` or ``others`` (I, J, K; uint8, values of :mod:`anatomy`) has; 0 where
    only one of them has it.

    Raises ValueError for arrays of different shapes.
    """
    if labels.shape != others.shape:
        raise ValueError(f"Labels of {labels.shape} and {others.shape} voxels cannot be compared.")
    n = anatomy.NUM_CLASSES
    pairs = labels.ravel().astype(np.int64) * n + others.ravel()  # both in C order, whatever their layouts
    table = np.bincount(pairs, minlength=n * n).reshape(n, n)
    sizes = table.sum(0) + table.sum(1)
    return {s.name: float(2 * table[s.value, s.value] / sizes[s.value]) for s in anatomy.STRUCTURES if sizes[s.value]}


def mean_agreement(labels: np.ndarray, others: np.ndarray) -> float:
    """The mean of :func:`agreement` over its structures; 0 where there is none."""
    values = agreement(labels, others).values()
    return sum(values) / len(values) if values else 0.0

"""Distances and shares between two sets of features, one case a row: Frechet, MMD, KID, precision, recall, classifier.

Every one is biased for small sets: compare it with that of reference sets of the same size (:mod:`compare`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], float]

#: Principal components of the references for a Frechet distance: one for every eight references, within these limits.
FEWEST_COMPONENTS, MOST_COMPONENTS, CASES_PER_COMPONENT = 16, 32, 8
#: Least deviation that a feature is divided by, as a share of the mean over the features.
LEAST_SCALE = 0.2
#: Neighbours of precision and recall (Kynkaanniemi et al. 2019).
NEIGHBOURS = 3
#: Parts of the cross-validation of the classifier, and its ridge as a share of the mean squared length of a row.
PARTS, RIDGE = 5, 0.1


def standardiser(reference: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that standardises features (n, F) by mean and standard deviation of ``reference`` (n, F).

    All features have the same weight, but for those that hardly vary (``LEAST_SCALE``): otherwise a tiny change of one
    of these would outweigh all others. The total variance over the reference is about 1.
    """
    centre, scale = reference.mean(0), reference.std(0)
    scale = np.maximum(scale, LEAST_SCALE * max(float(scale.mean()), 1e-12))
    return lambda features: (features - centre) / (scale * np.sqrt(len(scale)))


# --- Frechet -------------------------------------------------------------------------------------------------------


def frechet(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the Frechet distance along the principal axes of ``reference`` (n, F), as of normal distributions.

    The axes are those of the second set alone, so that true and generated cases meet them alike. What lies off them
    counts too: the length of the rest of each row is one more component.
    """
    centre = reference.mean(0)
    count = min(max(FEWEST_COMPONENTS, min(MOST_COMPONENTS, len(reference) // CASES_PER_COMPONENT)), len(reference) - 1)
    _, _, rows = np.linalg.svd(reference - centre, full_matrices=False)
    axes = rows[:count].T

    def project(features: np.ndarray) -> np.ndarray:
        along = (features - centre) @ axes
        rest = np.linalg.norm(features - centre - along @ axes.T, axis=1)
        return np.column_stack([along, rest])

    return frechet_of_normals(project(generated), project(reference))


def frechet_of_normals(first: np.ndarray, second: np.ndarray) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of two sets (n, d).

    It equals MONAI's ``FIDMetric``, which uses an argument that SciPy 1.18 removes.
    """
    one, two = (np.atleast_2d(np.cov(points, rowvar=False)) for points in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    shift = first.mean(0) - second.mean(0)
    return float(max(shift @ shift + np.trace(one) + np.trace(two) - 2 * common, 0.0))


# --- kernels -------------------------------------------------------------------------------------------------------


def mmd(scale: float) -> Distance:
    """Return the unbiased squared maximum mean discrepancy with a Gaussian kernel of width ``scale``.

    It may be slightly negative. MONAI's ``MMDMetric`` has a linear kernel, which compares only means.
    """
    return _discrepancy(lambda a, b: np.exp(-squared_distances(a, b) / (2 * scale**2)))


def kid() -> Distance:
    """Return the unbiased squared discrepancy with the cubic kernel of Binkowski et al. 2018 (KID).

    Rows come from :func:`standardiser`, so their squared length is 1 on average and need not be divided.
    """
    return _discrepancy(lambda a, b: (a @ b.T + 1.0) ** 3)


def _discrepancy(kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Distance:
    def mean_within(a: np.ndarray) -> float:
        table = kernel(a, a)
        return float((table.sum() - np.trace(table)) / (len(a) * (len(a) - 1)))

    return lambda first, second: mean_within(first) + mean_within(second) - 2 * float(kernel(first, second).mean())


def median_distance(features: np.ndarray) -> float:
    """Return the median distance between two rows of ``features`` (n, F): the usual kernel width."""
    squared = squared_distances(features, features)[np.triu_indices(len(features), 1)]
    return float(max(np.sqrt(np.median(squared)), 1e-6))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared Euclidean distances (n, m) of rows."""
    return ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(0)


# --- shares --------------------------------------------------------------------------------------------------------


def precision(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the share of ``generated`` that lie among the references: as near to one as its third neighbour is."""
    within = squared_distances(reference, reference)
    np.fill_diagonal(within, np.inf)
    place = min(NEIGHBOURS, len(reference) - 1) - 1
    radii = np.partition(within, place, axis=1)[:, place]
    return float((squared_distances(generated, reference) <= radii).any(axis=1).mean())


def recall(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the share of references that lie among ``generated``."""
    return precision(reference, generated)


def told_apart(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of cases that a linear classifier gets right which was fitted to others: 0.5 if it cannot tell.

    A ridge regression on the side (-1 or 1) in the space of the cases, cross-validated in ``PARTS`` (Lopez-Paz and
    Oquab 2017, classifier two-sample test).
    """
    rows = np.concatenate([first, second])
    rows = np.column_stack([rows - rows.mean(0), np.full(len(rows), 1e-3)])
    side = np.repeat([-1.0, 1.0], [len(first), len(second)])
    part = np.concatenate([np.arange(len(first)), np.arange(len(second))]) % min(PARTS, len(first), len(second))
    products = rows @ rows.T
    ridge = RIDGE * np.trace(products) / len(rows)
    right = np.zeros(len(rows))
    for held in range(part.max() + 1):
        fitted, tested = part != held, part == held
        inner = products[np.ix_(fitted, fitted)]
        weights = np.linalg.solve(inner + ridge * np.eye(len(inner)), side[fitted])
        right[tested] = np.sign(products[np.ix_(tested, fitted)] @ weights) == side[tested]
    return float(right.mean())

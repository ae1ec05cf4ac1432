"""Compare figures of generated pairs with those of held-out cases (references).

A distance between two samples decreases with their size. The reference value is the distance between two halves of the
held-out cases. To be comparable, each set of generated pairs has the size of such a half, or fewer if there are not
enough pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from CardiacLDMLib.packages.fields import Record

#: Random splits of a distance.
SPLITS = 20
#: Fewest cases in a compared set.
FEWEST = 2

Distance = Callable[[np.ndarray, np.ndarray], float]


class Spread(Record):
    """Mean and standard deviation over random splits (distances) or cases (means and rates)."""

    mean: float
    sd: float


class Comparison(Record):
    """One figure of generated pairs beside that of the references.

    ``kind`` ``distance``: between sets of ``cases`` cases, over ``SPLITS`` random splits; the reference compares one
    half of the held-out cases with the other. ``mean``: over the cases of each set. ``rate``: share of the cases.
    """

    name: str
    unit: str = ""
    kind: Literal["distance", "mean", "rate"]
    generated: Spread
    reference: Spread
    cases: int
    reference_cases: int


def mean_and_sd(values: Sequence[float] | np.ndarray) -> Spread:
    """Return mean and standard deviation of one value or more."""
    array = np.asarray(values, dtype=float)
    return Spread(mean=float(array.mean()), sd=float(array.std(ddof=1)) if len(array) > 1 else 0.0)


def compare_distances(
    name: str, distance: Distance, generated: np.ndarray, reference: np.ndarray, *, unit: str = ""
) -> Comparison | None:
    """Compare the distance generated-reference with the distance reference-reference.

    ``distance`` takes two arrays with one case a row. Return None for too few cases. The same values give the same
    result.
    """
    size = min(len(generated), len(reference) // 2)
    if size < FEWEST:
        return None
    rng = np.random.default_rng(0)
    generated_distances, reference_distances = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(reference))
        first, second = reference[order[:size]], reference[order[size : 2 * size]]
        generated_distances.append(distance(generated[rng.permutation(len(generated))[:size]], first))
        reference_distances.append(distance(second, first))
    return Comparison(
        name=name, unit=unit, kind="distance", generated=mean_and_sd(generated_distances),
        reference=mean_and_sd(reference_distances), cases=size, reference_cases=size,
    )  # fmt: skip


def compare_means(
    name: str, generated: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray, *, unit: str = "",
    kind: Literal["mean", "rate"] = "mean",
) -> Comparison | None:  # fmt: skip
    """Compare means over cases, without values that are not finite; None if one side has no value."""
    ours, theirs = (np.asarray(values, dtype=float) for values in (generated, reference))
    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    if not len(ours) or not len(theirs):
        return None
    return Comparison(
        name=name, unit=unit, kind=kind, generated=mean_and_sd(ours), reference=mean_and_sd(theirs), cases=len(ours),
        reference_cases=len(theirs),
    )  # fmt: skip

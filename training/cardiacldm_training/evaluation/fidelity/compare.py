"""Compare figures of generated pairs with those of held-out cases (references).

A distance between two samples decreases with their size. The reference value is the distance between two halves of the
held-out cases. To be comparable, each set of generated pairs has the size of such a half, or fewer if there are not
enough pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from CardiacLDMLib.packages.fields import Record

from .corruptions import REPEATED, repeat_cases
from .distances import Distance

#: Random splits of a distance.
SPLITS = 20
#: Fewest cases in a compared set.
FEWEST = 2


class Spread(Record):
    """Mean and standard deviation over random splits (distances) or cases (means and rates)."""

    mean: float
    sd: float


class Comparison(Record):
    """One figure of generated pairs beside that of the references.

    ``kind`` ``distance``, or ``share`` if it is none: between sets of ``cases`` cases, over ``SPLITS`` random splits;
    the reference compares one half of the held-out cases with the other. ``mean``: over the cases of each set.
    ``rate``: share of the cases. ``corrupted``: the same figure of the other half after each known corruption.
    """

    name: str
    unit: str = ""
    kind: Literal["distance", "share", "mean", "rate"]
    generated: Spread
    reference: Spread
    cases: int
    reference_cases: int
    corrupted: dict[str, Spread] = Field(default={})

    def tells(self, name: str) -> bool:
        """Return whether the figure tells a corruption from true cases: they differ by two standard deviations."""
        shift = abs(self.corrupted[name].mean - self.reference.mean)
        return shift > 2.0 * max(self.corrupted[name].sd, self.reference.sd)


def mean_and_sd(values: Sequence[float] | np.ndarray) -> Spread:
    """Return mean and standard deviation of one value or more."""
    array = np.asarray(values, dtype=float)
    return Spread(mean=float(array.mean()), sd=float(array.std(ddof=1)) if len(array) > 1 else 0.0)


def compare_distances(
    name: str, distance: Distance, generated: np.ndarray, reference: np.ndarray, *, unit: str = "",
    kind: Literal["distance", "share"] = "distance", corrupted: Mapping[str, np.ndarray] | None = None,
) -> Comparison | None:  # fmt: skip
    """Compare the distance generated-reference with the distance reference-reference.

    ``distance`` takes two arrays with one case a row. ``corrupted``: the references after each known corruption, in
    their order; a set of a few repeated references is added. Return None for too few cases. The same values give the
    same result.
    """
    size = min(len(generated), len(reference) // 2)
    if size < FEWEST:
        return None
    rng = np.random.default_rng(0)
    generated_distances, reference_distances = [], []
    others: dict[str, list[float]] = {}
    for _ in range(SPLITS):
        order = rng.permutation(len(reference))
        half, other = order[:size], order[size : 2 * size]
        first = reference[half]
        generated_distances.append(distance(generated[rng.permutation(len(generated))[:size]], first))
        reference_distances.append(distance(reference[other], first))
        if corrupted:
            sets = {name: rows[other] for name, rows in corrupted.items()}
            sets[REPEATED] = repeat_cases(reference[other], rng)
            for key, rows in sets.items():
                others.setdefault(key, []).append(distance(rows, first))
    return Comparison(
        name=name, unit=unit, kind=kind, generated=mean_and_sd(generated_distances),
        reference=mean_and_sd(reference_distances), cases=size, reference_cases=size,
        corrupted={key: mean_and_sd(values) for key, values in others.items()},
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

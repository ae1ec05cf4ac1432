"""Figures beside their reference: what two sets of references reach against each other, in sets of the same size.

Distances between samples shrink as samples grow, so a generated set is only ever compared at the size at which
references are compared with each other: half of the held-out cases, or all generated ones if they are fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

SPLITS = 20
#: Fewest cases in a set that is compared.
FEWEST = 2

Distance = Callable[[np.ndarray, np.ndarray], float]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Record):
    """Mean and standard deviation, over random splits (distances) or cases (means and rates)."""

    mean: float
    sd: float


class Measured(Record):
    """One figure of the generated pairs and of references.

    ``distance``: between sets of ``cases`` each, mean and spread over ``SPLITS`` random splits; the reference is one
    half of the held-out cases against the other. ``mean``: over cases of each set. ``rate``: a share of the cases.
    """

    name: str
    unit: str = ""
    kind: Literal["distance", "mean", "rate"]
    generated: Spread
    reference: Spread
    cases: int
    reference_cases: int


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Mean and standard deviation of one value or more."""
    array = np.asarray(values, dtype=float)
    return Spread(mean=float(array.mean()), sd=float(array.std(ddof=1)) if len(array) > 1 else 0.0)


def distances(
    name: str, distance: Distance, generated: np.ndarray, reference: np.ndarray, *, unit: str = "", seed: int = 0
) -> Measured | None:
    """``distance`` (of two arrays with a case a row) of generated and reference cases against references.

    None where there are too few. The same for the same values.
    """
    size = min(len(generated), len(reference) // 2)
    if size < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    ours, theirs = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(reference))
        first, second = reference[order[:size]], reference[order[size : 2 * size]]
        ours.append(distance(generated[rng.permutation(len(generated))[:size]], first))
        theirs.append(distance(second, first))
    return Measured(
        name=name, unit=unit, kind="distance", generated=spread(ours), reference=spread(theirs), cases=size,
        reference_cases=size,
    )  # fmt: skip


def means(
    name: str, generated: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray, *, unit: str = "",
    kind: Literal["mean", "rate"] = "mean",
) -> Measured | None:  # fmt: skip
    """Means over cases, values that are not finite left out; None where a side has none."""
    ours, theirs = (np.asarray(values, dtype=float) for values in (generated, reference))
    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    if not len(ours) or not len(theirs):
        return None
    return Measured(
        name=name, unit=unit, kind=kind, generated=spread(ours), reference=spread(theirs), cases=len(ours),
        reference_cases=len(theirs),
    )  # fmt: skip

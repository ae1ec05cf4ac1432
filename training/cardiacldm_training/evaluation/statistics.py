"""Intervals and tests for scores of networks, trained with several seeds and tested on the same cases.

Scores are arrays (seeds, cases); NaN stands for a score that does not exist, as for a structure that neither label map
of a case has. Intervals are 95 % percentile bootstraps in which seeds and cases are resampled, as in the pigeonhole
bootstrap (Owen 2007): a case that is drawn counts with every drawn seed, as every network is tested on every case.

Few seeds or cases make an interval too narrow. Of 2,000 simulated experiments of 6 seeds and 51 cases, this part had
the true mean in the interval: 85 % if seeds alone vary, 88 % if seeds, cases and both together vary with the same
standard deviation, 94 % if seeds vary a third as much as cases. With 2 cases it was 71 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from CardiacLDMLib.packages.fields import Record

#: Bootstrap resamples of an interval.
RESAMPLES = 10_000
#: Decimals up to which differences of means are told apart, so that errors of arithmetic are no differences.
_DECIMALS = 12


class Interval(Record):
    """A mean over cases, or over seeds and cases, and its 95 % interval."""

    mean: float
    low: float
    high: float


# --- intervals -----------------------------------------------------------------------------------------------------


def bootstrap(values: np.ndarray) -> Interval:
    """Return the mean of the finite ``values`` (seeds, cases), one or more, and its interval, always the same.

    Two arms are compared by their difference, seed by seed and case by case: both then have the same draws, and a pair
    of which one score does not exist is left out. Resamples without any value are left out too.
    """
    finite = np.isfinite(values)
    seeds, cases = _draws(*values.shape)
    sums = np.einsum("sr,sr->r", np.where(finite, values, 0.0) @ cases, seeds)
    numbers = np.full(RESAMPLES, values.size) if finite.all() else np.einsum("sr,sr->r", finite @ cases, seeds)
    low, high = np.percentile(sums[numbers > 0] / numbers[numbers > 0], [2.5, 97.5])
    return Interval(mean=float(values[finite].mean()), low=float(low), high=float(high))


@lru_cache(maxsize=8)
def _draws(seeds: int, cases: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each resample draws each seed (seeds, RESAMPLES) and each case (cases, RESAMPLES)."""
    rng = np.random.default_rng(0)
    first, second = (rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).T.astype(float, "C") for n in (seeds, cases))
    return first, second


# --- tests ---------------------------------------------------------------------------------------------------------


def seed_means(values: np.ndarray) -> np.ndarray:
    """Return the mean over the cases of each seed of ``values`` (seeds, cases) that has a finite value."""
    return np.array([row[np.isfinite(row)].mean() for row in values if np.isfinite(row).any()])


def wilcoxon_p(differences: np.ndarray) -> float | None:
    """Return the exact two-sided p of Wilcoxon's signed-rank test that ``differences`` (n,) lie around zero.

    Zeros are left out, as Wilcoxon did; p is 1 if all are zero, None if there are none. Up to 13 differences with ties
    are exact too.
    """
    from scipy.stats import wilcoxon

    if not len(differences):
        return None
    rounded = np.round(differences, _DECIMALS)
    rounded = rounded[rounded != 0]
    return float(wilcoxon(rounded).pvalue) if len(rounded) else 1.0


def smallest_p(count: int) -> float:
    """Return the smallest p that :func:`wilcoxon_p` can give for ``count`` differences: 2 of their 2^n signs."""
    return min(2.0 ** (1 - count), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by the step-down method of Holm 1979."""
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]] if len(p_values) else []

"""How well readers of a review agree: Cohen's and Fleiss' kappa with bootstrap intervals, per structure.

Only verdicts that were given before any verdict of another reader could be seen are compared, on the same labels.
Cohen 1960 compares two readers, Fleiss 1971 several; statsmodels computes both. Intervals are 95 % percentile
bootstraps over cases. Few cases make them too narrow, and kappa is low where nearly all verdicts are the same, however
well readers agree: the share of equal verdicts is given beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.results.html import Table
from CardiacLDMLib.review.readers import blinded, opinions_on, readers_of
from CardiacLDMLib.review.verdicts import OPINIONS, Verdict, by_case

#: Bootstrap resamples of an interval.
RESAMPLES = 1000
#: Least number of cases for an interval.
LEAST_CASES = 3
NOTE = (
    "Verdicts given blinded, on the same labels. Cohen's kappa of two readers, Fleiss' of all, with 95 % intervals "
    "over cases. Without a kappa all verdicts are the same."
)


@dataclass(frozen=True)
class Agreement:
    """Agreement of ``readers`` on a structure, or on whole cases if it is empty, over the cases that all have judged.

    ``equal``: share of cases with one verdict. ``kappa``: Cohen's of two readers, otherwise Fleiss'; None if all
    verdicts are the same. ``low``, ``high``: its interval; None if it does not exist.
    """

    structure: str
    readers: tuple[str, ...]
    cases: int
    equal: float
    kappa: float | None
    low: float | None = None
    high: float | None = None


def agreements(verdicts: Sequence[Verdict]) -> list[Agreement]:
    """Return the agreement of each pair of readers, and of all if there are more, for whole cases and each structure.

    Readers who have judged no case in common have none.
    """
    readers = readers_of(verdicts)
    done = [blinded(of_case, case) for case, of_case in sorted(by_case(verdicts).items())]
    groups: list[tuple[str, ...]] = list(combinations(readers, 2))
    if len(readers) > 2:
        groups.append(tuple(readers))
    found = []
    for structure in ("", *NAMES):
        opinions = [opinions_on(each, structure)[0] for each in done]
        for group in groups:
            rows = [[OPINIONS.index(said[name]) for name in group] for said in opinions if set(group) <= set(said)]
            if rows:
                found.append(agreement(structure, group, np.array(rows)))
    return found


def agreement(structure: str, readers: tuple[str, ...], ratings: np.ndarray) -> Agreement:
    """Return the agreement of ``ratings`` (cases, readers): numbers of :data:`OPINIONS`."""
    equal = float((ratings == ratings[:, :1]).all(axis=1).mean())
    value = kappa(ratings)
    if value is None or len(ratings) < LEAST_CASES:
        return Agreement(structure, readers, len(ratings), equal, value)
    rng = np.random.default_rng(0)
    drawn = (kappa(ratings[rng.integers(0, len(ratings), len(ratings))]) for _ in range(RESAMPLES))
    values = [each for each in drawn if each is not None]
    low, high = np.percentile(values, [2.5, 97.5]) if values else (value, value)
    return Agreement(structure, readers, len(ratings), equal, value, float(low), float(high))


def kappa(ratings: np.ndarray) -> float | None:
    """Return Cohen's kappa of ``ratings`` (cases, readers) of two readers, Fleiss' of several.

    Ratings are numbers of :data:`OPINIONS`. None if all are the same.
    """
    from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

    if (ratings == ratings[0, 0]).all():
        return None
    kinds = len(OPINIONS)
    if ratings.shape[1] == 2:
        table = np.bincount(ratings[:, 0] * kinds + ratings[:, 1], minlength=kinds * kinds).reshape(kinds, kinds)
        return float(cohens_kappa(table, return_results=False))
    return float(fleiss_kappa((ratings[:, :, None] == np.arange(kinds)).sum(axis=1)))


def agreement_table(found: Sequence[Agreement]) -> Table:
    """Return the table of a report."""
    rows = [
        (
            each.structure or "whole case",
            ", ".join(each.readers),
            str(each.cases),
            f"{each.equal:.0%}",
            _kappa_text(each),
        )
        for each in found
    ]
    return Table("Agreement of readers", ("structure", "readers", "cases", "equal", "kappa"), rows, NOTE)


def _kappa_text(each: Agreement) -> str:
    if each.kappa is None:
        return ""
    interval = f" ({each.low:.2f} to {each.high:.2f})" if each.low is not None else ""
    return f"{each.kappa:.2f}{interval}"

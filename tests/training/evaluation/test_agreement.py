"""Agreement of readers: the published examples of both kappas, intervals, and what is compared."""

from __future__ import annotations

import numpy as np
import pytest

from cardiacldm_training.evaluation.agreement import agreement, agreement_table, agreements, kappa
from CardiacLDMLib.review.verdicts import Verdict

DIGEST = "a" * 64
#: How often 14 raters gave each of three ratings to five subjects.
COUNTS = np.array([[14, 0, 0], [0, 2, 12], [2, 12, 0], [3, 11, 0], [0, 0, 14]])


def expand(counts: np.ndarray) -> np.ndarray:
    return np.array([np.repeat(np.arange(counts.shape[1]), row) for row in counts])


def fleiss(counts: np.ndarray) -> float:
    """The formulas of Fleiss 1971, (3), (5) and (7)."""
    raters = counts.sum(1)[0]
    extent = ((counts**2).sum(1) - raters) / (raters * (raters - 1))
    by_chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((extent.mean() - by_chance) / (1 - by_chance))


def said(reader: str, case: str, kind: str, structure: str = "") -> Verdict:
    return Verdict(case, reader, kind, DIGEST, structure=structure)  # type: ignore[arg-type]


def test_cohens_kappa_is_that_of_a_known_table() -> None:
    table = {(0, 0): 20, (0, 1): 5, (1, 0): 10, (1, 1): 15}  # two readers of 50 grants: kappa .40
    ratings = np.array([pair for pair, count in table.items() for _ in range(count)])
    assert kappa(ratings) == pytest.approx(0.4)


def test_fleiss_kappa_is_that_of_the_formula() -> None:
    assert kappa(expand(COUNTS)) == pytest.approx(fleiss(COUNTS))


def test_without_differences_there_is_no_kappa() -> None:
    assert kappa(np.zeros((5, 2), dtype=int)) is None
    same = agreement("", ("Ann", "Bob"), np.zeros((5, 2), dtype=int))
    assert (same.equal, same.kappa, same.low) == (1.0, None, None)


def test_an_interval_holds_the_value_and_narrows_with_cases() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    other = np.where(rng.random(200) < 0.8, truth, rng.integers(0, 3, 200))
    few, many = (agreement("", ("Ann", "Bob"), np.stack([truth, other], 1)[:n]) for n in (20, 200))
    for each in (few, many):
        assert each.kappa is not None
        assert each.low is not None
        assert each.high is not None
        assert each.low < each.kappa < each.high
    assert many.high - many.low < few.high - few.low  # type: ignore[operator]
    assert agreement("", ("Ann", "Bob"), np.array([[0, 1], [1, 1]])).low is None


def test_readers_are_compared_by_structure_and_blinded() -> None:
    verdicts = []
    for number in range(6):
        case = f"case {number}"
        kind = "accept" if number < 3 else "reject"
        verdicts += [said("Ann", case, "fix", "LAA"), said("Ann", case, kind), said("Bob", case, kind)]
        verdicts += [said("Bob", case, "fix")]  # after seeing Ann's: not blinded any more
    verdicts += [said("Cyd", "case 0", "accept"), said("Cyd", "another", "accept")]
    found = {(each.structure, each.readers): each for each in agreements(verdicts)}
    whole = found["", ("Ann", "Bob")]
    assert (whole.cases, whole.equal, whole.kappa) == (6, 1.0, 1.0)
    appendage = found["LAA", ("Ann", "Bob")]
    assert (appendage.cases, appendage.equal) == (3, 0.0)  # of a rejected case Bob does not say which are at fault
    assert found["", ("Ann", "Bob", "Cyd")].cases == 1
    rows = {(row[0], row[1]): row for row in agreement_table(list(found.values())).rows}
    assert rows["whole case", "Ann, Bob"][2:] == ("6", "100%", "1.00 (1.00 to 1.00)")


def test_readers_of_other_cases_have_no_agreement() -> None:
    assert agreements([said("Ann", "one", "accept"), said("Bob", "two", "accept")]) == []
    assert agreements([]) == []

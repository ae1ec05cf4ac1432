"""Intervals and tests against plain loops, scipy and values worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from cardiacldm_training.evaluation.statistics import bootstrap, holm, seed_means, smallest_p, wilcoxon_p

NAN = float("nan")


def test_an_interval_over_cases_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.1, 40)
    ours = bootstrap(values[None])
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, random_state=1)
    assert ours == bootstrap(values[None])
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.003)


def test_an_interval_over_seeds_and_cases_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.02, (6, 1)) + rng.normal(0, 0.03, (1, 20)) + rng.normal(0, 0.02, (6, 20))
    values[:, 4] = values[1, 7] = NAN  # a structure that a case lacks, and a score that one seed lacks
    means = [np.nanmean(values[rng.integers(0, 6, 6)][:, rng.integers(0, 20, 20)]) for _ in range(10_000)]
    interval = bootstrap(values)
    assert interval.mean == pytest.approx(np.nanmean(values))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.001)


def test_a_comparison_is_paired() -> None:
    """Arms that differ by the same amount in each seed and case differ by it for certain, however much they scatter."""
    first = np.random.default_rng(0).normal(0.7, 0.1, (6, 30))
    interval = bootstrap(first - (first - 0.02))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.02, 0.02, 0.02))
    assert bootstrap(first).high - bootstrap(first).low > 0.03


def test_values_that_one_case_alone_has_give_its_seeds_interval() -> None:
    values = np.full((4, 9), NAN)
    values[:, 2] = 0.1, 0.2, 0.3, 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = bootstrap(values)
    assert interval.mean == pytest.approx(0.25)
    assert (interval.low, interval.high) == pytest.approx((0.15, 0.35), abs=0.011)  # the means of four draws of four


@pytest.mark.parametrize(("seed_sd", "expected"), [(0.006, 0.94), (0.02, 0.88)])
def test_intervals_contain_the_truth_as_often_as_documented(seed_sd: float, expected: float) -> None:
    """Six seeds, 51 cases; cases and the rest vary by 0.02."""
    rng, hits, runs = np.random.default_rng(5), 0, 150
    for _ in range(runs):
        noise = rng.normal(0, seed_sd, (6, 1)) + rng.normal(0, 0.02, (1, 51)) + rng.normal(0, 0.02, (6, 51))
        interval = bootstrap(0.01 + noise)
        hits += interval.low <= 0.01 <= interval.high
    assert hits / runs == pytest.approx(expected, abs=0.06)


def test_wilcoxon_is_exact_and_never_silent() -> None:
    differences = np.array([0.03, -0.01, 0.02, 0.05, 0.04, 0.06])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
        assert wilcoxon_p(differences) == pytest.approx(4 / 64)  # signed ranks that sum to 1 or less: {}, {1}
        assert wilcoxon_p(np.abs(differences)) == pytest.approx(1 / 32) == smallest_p(6)
        assert wilcoxon_p(np.array([0.01, 0.02])) == pytest.approx(0.5) == smallest_p(2)
        assert wilcoxon_p(np.array([0.01])) == 1.0 == smallest_p(1)
        assert wilcoxon_p(np.zeros(6)) == 1.0
        assert wilcoxon_p(np.array([])) is None
        # Ties: ranks 2, 2, 2, 4 of which one 2 is negative. Of 16 signs 1 + 3 have a sum of 2 or less; twice.
        assert wilcoxon_p(np.array([0.1, 0.1, -0.1, 0.4])) == pytest.approx(8 / 16)
        # 0.1 + 0.2 is not 0.3 in binary, but no difference; zeros are left out.
        assert wilcoxon_p(np.array([0.1 + 0.2 - 0.3, 0.0, 0.2, 0.3])) == pytest.approx(smallest_p(2))


def test_holm_by_hand() -> None:
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 raised to the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([1 / 32] * 8) == pytest.approx([0.25] * 8)
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_seed_means_leave_out_what_does_not_exist() -> None:
    values = np.array([[0.1, NAN, 0.3], [NAN, NAN, NAN], [0.4, 0.5, 0.6]])
    assert seed_means(values) == pytest.approx([0.2, 0.5])
    assert seed_means(np.full((2, 2), NAN)).shape == (0,)

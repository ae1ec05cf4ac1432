"""What the rows of an experiment say: figures of each arm, and its differences from the baseline of its protocol.

An arm and the baseline are compared on the seeds that both have, seed by seed and case by case. With fewer than two
such seeds they are not compared, since chance in training could not be told from an effect.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from CardiacLDMLib import __version__, anatomy
from CardiacLDMLib.packages.fields import Record

from ..metrics import METRICS
from ..statistics import RESAMPLES, Interval, bootstrap, holm, seed_means, wilcoxon_p
from .plan import Endpoint, Plan, Protocol
from .rows import Row, TestCase

Verdict = Literal["better", "worse", "no difference found", "not compared"]

#: Columns of scores: the structures, and the mean over the structures of each case.
COLUMNS = (*anatomy.NAMES, "mean")
#: Measures that are better when they are lower.
_LOWER_IS_BETTER = ("hd95_mm",)
#: Test sets of at most so many cases are reported case by case.
FEW_CASES = 4


# --- records -------------------------------------------------------------------------------------------------------


class Range(Record):
    """The mean of a number over the seeds, with its least and greatest value."""

    mean: float
    low: float
    high: float


class Training(Record):
    """How the networks of one arm were trained: numbers of cases, pairs and updates, and CPU time of each network.

    ``best_step`` is the step of the weights that were tested. ``core_seconds`` are without pre-training, which arms may
    share.
    """

    arm: str
    seeds: tuple[int, ...]
    cases: int
    pairs: int
    updates: Range
    best_step: Range
    stopped_early: int
    core_seconds: float
    pretraining_updates: float
    pretraining_core_seconds: float


class StructureResult(Record):
    """Dice of one structure, its difference from the baseline, and p of Wilcoxon's test on the means of the seeds.

    ``left_out``: pairs of scores of which only one exists, as when one arm labels a structure that the case lacks.
    """

    structure: str
    dice: Interval | None
    difference: Interval | None
    left_out: int
    p: float | None
    holm_p: float | None


class ArmResult(Record):
    """Scores of one arm on one test set: means over the structures of each case, by measure.

    ``missed`` and ``extra``: structures per network. ``differences`` are from the baseline, over ``compared_seeds``.
    ``cases``: the difference in Dice of each case, where there are few.
    """

    arm: str
    means: dict[str, Interval | None]
    missed: float
    extra: float
    compared_seeds: int
    differences: dict[str, Interval | None]
    verdict: Verdict
    structures: tuple[StructureResult, ...]
    cases: dict[str, Interval | None]


class TestResult(Record):
    """Scores of all arms of a protocol on one test set."""

    __test__ = False  # no test of pytest

    test: str
    cases: int
    arms: tuple[ArmResult, ...]


class ProtocolResult(Record):
    """Everything about one protocol."""

    protocol: str
    baseline: str
    trainings: tuple[Training, ...]
    tests: tuple[TestResult, ...]


class Finding(Record):
    """What an endpoint says about one arm. The means are over the scores that are compared."""

    endpoint: Endpoint
    arm: str
    baseline: str
    seeds: int
    cases: int
    mean: float | None
    baseline_mean: float | None
    difference: Interval | None
    verdict: Verdict


class Missing(Record):
    """The seeds that an arm lacks."""

    protocol: str
    arm: str
    seeds: tuple[int, ...]


class Report(Record):
    """All figures of an experiment."""

    title: str
    date: datetime.date
    code_version: str
    resamples: int
    runs: int
    missing: tuple[Missing, ...]
    primary: tuple[Finding, ...]
    secondary: tuple[Finding, ...]
    protocols: tuple[ProtocolResult, ...]


# --- scores --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Scores of an arm on a test set: for each measure (seeds, cases, :data:`COLUMNS`), NaN where there is none."""

    seeds: list[int]
    cases: list[str]
    values: dict[str, np.ndarray]

    def take(self, measure: str, seeds: Sequence[int]) -> np.ndarray:
        """Return the scores of ``seeds`` by a measure."""
        return self.values[measure][[self.seeds.index(seed) for seed in seeds]]


def collect_scores(rows: Sequence[Row], test: str, cases: Sequence[str]) -> Scores:
    """Return the scores of an arm's rows on the named cases of a test set."""
    values = {measure: np.full((len(rows), len(cases), len(COLUMNS)), np.nan) for measure in METRICS}
    for number, row in enumerate(rows):
        for case in row.tests.get(test, ()):
            for measure, table in values.items():
                table[number, cases.index(case.case)] = _case_scores(case, measure)
    return Scores([row.seed for row in rows], list(cases), values)


def _case_scores(case: TestCase, measure: str) -> list[float]:
    scores = {score.structure: getattr(score, measure) for score in case.structures}
    if scores:
        scores["mean"] = case.mean(measure)
    return [scores.get(column, np.nan) for column in COLUMNS]


def _interval(values: np.ndarray) -> Interval | None:
    return bootstrap(values) if np.isfinite(values).any() else None


@dataclass(frozen=True)
class _Pair:
    """Scores of an arm and of the baseline, for the seeds that both have."""

    arm: Scores
    baseline: Scores

    @property
    def seeds(self) -> list[int]:
        return [seed for seed in self.arm.seeds if seed in self.baseline.seeds]

    def scores(self, measure: str, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of both (seeds, cases)."""
        place = COLUMNS.index(column)
        first, second = (scores.take(measure, self.seeds)[..., place] for scores in (self.arm, self.baseline))
        return first, second

    def difference(self, measure: str, column: str = "mean", case: int | None = None) -> Interval | None:
        """Return the difference of the arm from the baseline, on one case or on all; None if it cannot be known."""
        first, second = self.scores(measure, column)
        difference = first - second
        if case is not None:
            difference = difference[:, [case]]
        return _interval(difference) if len(self.seeds) > 1 else None


def judge(difference: Interval | None, measure: str) -> Verdict:
    """Return whether an arm is better than the baseline: if the interval of their difference is on one side of zero."""
    if difference is None:
        return "not compared"
    if difference.low <= 0 <= difference.high:
        return "no difference found"
    return "better" if (difference.mean < 0) == (measure in _LOWER_IS_BETTER) else "worse"


def signed(interval: Interval, decimals: int) -> str:
    """Return a difference with its interval, as in "+0.012 (-0.003 to +0.027)"."""
    mean, low, high = (f"{value:+.{decimals}f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


# --- the report ----------------------------------------------------------------------------------------------------


def compare(plan: Plan, rows: Sequence[Row]) -> Report:
    """Compare the arms of each protocol of ``plan`` by the rows that there are."""
    total = sum(len(protocol.arms) for protocol in plan.protocols.values()) * len(plan.seeds)
    return Report(
        title=plan.title, date=datetime.datetime.now(datetime.UTC).date(), code_version=__version__,
        resamples=RESAMPLES, runs=total, missing=tuple(_missing(plan, rows)),
        primary=tuple(_findings(plan, rows, plan.primary)),
        secondary=tuple(finding for end in plan.secondary for finding in _findings(plan, rows, end)),
        protocols=tuple(_protocol_result(plan, name, rows) for name in plan.protocols),
    )  # fmt: skip


def arm_rows(rows: Sequence[Row], protocol: str, arm: str) -> list[Row]:
    """Return the rows of one arm of a protocol."""
    return [row for row in rows if (row.protocol, row.arm) == (protocol, arm)]


def _missing(plan: Plan, rows: Sequence[Row]) -> list[Missing]:
    missing = []
    for name, protocol in plan.protocols.items():
        for arm in protocol.arms:
            seeds = {row.seed for row in arm_rows(rows, name, arm)}
            lacking = tuple(seed for seed in plan.seeds if seed not in seeds)
            missing += [Missing(protocol=name, arm=arm, seeds=lacking)] if lacking else []
    return missing


def _scores(rows: Sequence[Row], name: str, protocol: Protocol, test: str) -> tuple[list[str], dict[str, Scores]]:
    """Return the names of a test set's cases, and the scores of each arm."""
    of_arms = {arm: arm_rows(rows, name, arm) for arm in protocol.arms}
    every = (case.case for found in of_arms.values() for row in found for case in row.tests.get(test, ()))
    cases = list(dict.fromkeys(every))
    return cases, {arm: collect_scores(found, test, cases) for arm, found in of_arms.items()}


def _findings(plan: Plan, rows: Sequence[Row], end: Endpoint) -> list[Finding]:
    """Return what an endpoint says about each arm but the baseline."""
    protocol = plan.protocols[end.protocol]
    _, scores = _scores(rows, end.protocol, protocol, end.test)
    findings = []
    for arm in protocol.arms:
        if arm == protocol.baseline:
            continue
        pair = _Pair(scores[arm], scores[protocol.baseline])
        first, second = pair.scores(end.measure, end.structure)
        both = np.isfinite(first - second)
        difference = pair.difference(end.measure, end.structure)
        means = [float(values[both].mean()) if both.any() else None for values in (first, second)]
        finding = Finding(
            endpoint=end, arm=arm, baseline=protocol.baseline, seeds=len(pair.seeds),
            cases=int(both.any(axis=0).sum()), mean=means[0], baseline_mean=means[1], difference=difference,
            verdict=judge(difference, end.measure),
        )  # fmt: skip
        findings.append(finding)
    return findings


def _protocol_result(plan: Plan, name: str, rows: Sequence[Row]) -> ProtocolResult:
    protocol = plan.protocols[name]
    of_arms = {arm: arm_rows(rows, name, arm) for arm in protocol.arms}
    return ProtocolResult(
        protocol=name,
        baseline=protocol.baseline,
        trainings=tuple(_training(arm, found) for arm, found in of_arms.items() if found),
        tests=tuple(_test_result(rows, name, protocol, test) for test in plan.tests),
    )


def _training(arm: str, rows: Sequence[Row]) -> Training:
    return Training(
        arm=arm, seeds=tuple(row.seed for row in rows), cases=rows[0].cases, pairs=rows[0].pairs,
        updates=_range([row.updates for row in rows]), best_step=_range([row.best_step for row in rows]),
        stopped_early=sum(row.stopped_early for row in rows),
        core_seconds=float(np.mean([row.core_seconds for row in rows])),
        pretraining_updates=float(np.mean([row.pretraining_updates for row in rows])),
        pretraining_core_seconds=float(np.mean([row.pretraining_core_seconds for row in rows])),
    )  # fmt: skip


def _range(values: Sequence[int]) -> Range:
    return Range(mean=float(np.mean(values)), low=min(values), high=max(values))


def _test_result(rows: Sequence[Row], name: str, protocol: Protocol, test: str) -> TestResult:
    cases, scores = _scores(rows, name, protocol, test)
    results = []
    for arm, ours in scores.items():
        if ours.seeds:
            pair = None if arm == protocol.baseline else _Pair(ours, scores[protocol.baseline])
            results.append(_arm_result(arm, ours, pair, arm_rows(rows, name, arm), test))
    return TestResult(test=test, cases=len(cases), arms=tuple(results))


def _arm_result(arm: str, scores: Scores, pair: _Pair | None, rows: Sequence[Row], test: str) -> ArmResult:
    """Return the scores of an arm; ``pair``: its scores and those of the baseline, None for the baseline itself."""
    mean = COLUMNS.index("mean")
    outcomes = [score.outcome for row in rows for case in row.tests.get(test, ()) for score in case.structures]
    differences = {measure: pair.difference(measure) if pair else None for measure in METRICS}
    few = pair is not None and len(scores.cases) <= FEW_CASES
    return ArmResult(
        arm=arm,
        means={measure: _interval(values[..., mean]) for measure, values in scores.values.items()},
        missed=outcomes.count("missed") / len(rows),
        extra=outcomes.count("extra") / len(rows),
        compared_seeds=len(pair.seeds) if pair else 0,
        differences=differences,
        verdict=judge(differences["dice"], "dice"),
        structures=_structure_results(scores, pair),
        cases={case: pair.difference("dice", case=n) for n, case in enumerate(scores.cases) if pair} if few else {},
    )


def _structure_results(scores: Scores, pair: _Pair | None) -> tuple[StructureResult, ...]:
    p_values: dict[str, float] = {}
    left_out = dict.fromkeys(anatomy.NAMES, 0)
    for name in anatomy.NAMES:
        if pair is not None and len(pair.seeds) > 1:
            first, second = pair.scores("dice", name)
            left_out[name] = int((np.isfinite(first) != np.isfinite(second)).sum())
            if (p := wilcoxon_p(seed_means(first - second))) is not None:
                p_values[name] = p
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        StructureResult(
            structure=name,
            dice=_interval(scores.values["dice"][..., column]),
            difference=pair.difference("dice", name) if pair else None,
            left_out=left_out[name],
            p=p_values.get(name),
            holm_p=adjusted.get(name),
        )
        for column, name in enumerate(anatomy.NAMES)
    )

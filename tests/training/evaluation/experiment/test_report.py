"""Reports of made-up rows with known differences: verdicts, tables, pictures, and experiments that are not finished."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.evaluation.experiment.comparison import ArmResult, Finding, Report, compare
from cardiacldm_training.evaluation.experiment.figures import draw_curves, draw_forest
from cardiacldm_training.evaluation.experiment.plan import Plan
from cardiacldm_training.evaluation.experiment.report import (
    CURVES_FILE,
    FOREST_FILE,
    JSON_FILE,
    MARKDOWN_FILE,
    describe_finding,
    markdown,
    write_report,
)
from cardiacldm_training.evaluation.experiment.rows import Row, TestCase, write_row
from cardiacldm_training.evaluation.metrics import StructureScore
from CardiacLDMLib.anatomy import NAMES

#: Keeps the differences of the seeds apart: scipy is slow with ties.
EPSILON = 1e-9
CASES = {"virtual": 12, "real": 2}


def content(seeds: Iterable[int] = range(6), **fields: Any) -> dict[str, Any]:
    plan = {
        "title": "Made up",
        "seeds": list(seeds),
        "sets": {
            "train": {"kind": "folders", "folders": ["train"]},
            "validation": {"kind": "folders", "folders": ["validation"]},
            "virtual": {"kind": "virtual", "cases": 12, "seed": 5},
            "real": {"kind": "folders", "folders": ["real"]},
        },
        "tests": ["virtual", "real"],
        "arms": {"baseline": {}, "higher": {}, "lower": {}, "same": {}},
        "protocols": {
            "steps": {"arms": ["baseline", "higher", "lower", "same"], "baseline": "baseline", "steps": 100},
            "epochs": {"arms": ["baseline", "higher"], "baseline": "baseline", "epochs": 30},
        },
        "primary": {"protocol": "steps", "test": "virtual"},
        "secondary": [
            {"protocol": "steps", "test": "virtual", "measure": "hd95_mm"},
            {"protocol": "epochs", "test": "real", "structure": "LAA"},
        ],
    }
    return {**plan, **fields}


def make_plan(seeds: Iterable[int] = range(6), **fields: Any) -> Plan:
    return Plan.model_validate(content(seeds, **fields))


def scatter(*keys: object) -> float:
    """A number between -1 and 1 that is the same for the same keys."""
    return (hash(tuple(keys)) % 2001) / 1000 - 1


def score(structure: str, dice: float, outcome: str = "found") -> StructureScore:
    return StructureScore(structure=structure, dice=dice, hd95_mm=20 * (1 - dice), nsd=dice - 0.1, outcome=outcome)  # type: ignore[arg-type]


def test_cases(test: str, seed: int, shift: float) -> tuple[TestCase, ...]:
    return tuple(
        TestCase(case=f"case_{n}", structures=tuple(
            score(name, 0.7 + 0.01 * scatter(seed) + 0.03 * scatter(n, k) + shift) for k, name in enumerate(NAMES)
        ))
        for n in range(CASES[test])
    )  # fmt: skip


test_cases.__test__ = False  # type: ignore[attr-defined]


def make_row(protocol: str, arm: str, seed: int, shift: float = 0.0, **fields: Any) -> Row:
    """Return a row whose Dice are those of the baseline and ``shift``; another seed has another level."""
    values: dict[str, Any] = {
        "protocol": protocol, "arm": arm, "seed": seed, "cases": 20, "pairs": 0, "updates": 100, "best_step": 80,
        "stopped_early": False, "core_seconds": 12.0, "test_core_seconds": 1.0,
        "curve": [(50, 0.5), (100, 0.6 + 0.01 * seed)],
        "tests": {test: test_cases(test, seed, shift) for test in CASES},
    }  # fmt: skip
    return Row(**{**values, **fields})


def wobble(seed: int) -> float:
    """A difference that is positive for one half of the seeds and negative for the other."""
    return (0.01 if seed % 2 else -0.01) + EPSILON * seed


SHIFTS: dict[str, Callable[[int], float]] = {
    "baseline": lambda seed: 0.0,
    "higher": lambda seed: 0.02 + EPSILON * seed,
    "lower": lambda seed: -0.02 - 0.001 * seed,
    "same": wobble,
}


def make_rows(plan: Plan) -> list[Row]:
    return [
        make_row(name, arm, seed, SHIFTS[arm](seed))
        for name, protocol in plan.protocols.items()
        for arm in protocol.arms
        for seed in plan.seeds
    ]


@pytest.fixture(scope="module")
def whole() -> Report:
    """The report of all runs."""
    plan = make_plan()
    return compare(plan, make_rows(plan))


def arm_of(report: Report, arm: str, protocol: int = 0, test: int = 0) -> ArmResult:
    return next(result for result in report.protocols[protocol].tests[test].arms if result.arm == arm)


def by_arm(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.arm: finding for finding in findings}


def test_differences_are_those_that_were_put_in(whole: Report) -> None:
    higher, lower, same = (arm_of(whole, arm) for arm in ("higher", "lower", "same"))
    assert [higher.verdict, lower.verdict, same.verdict] == ["better", "worse", "no difference found"]
    difference = higher.differences["dice"]
    assert difference is not None
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.02, 0.02, 0.02), rel=1e-5)
    assert lower.differences["dice"] is not None
    assert lower.differences["dice"].mean == pytest.approx(-0.0225)
    assert all(part.difference and part.difference.mean == pytest.approx(0.02) for part in higher.structures)
    assert whole.missing == ()
    assert (whole.runs, arm_of(whole, "baseline").verdict) == (36, "not compared")


def test_a_lower_hd95_is_better(whole: Report) -> None:
    findings = by_arm(f for f in whole.secondary if f.endpoint.measure == "hd95_mm")
    assert findings["higher"].difference is not None
    assert findings["higher"].difference.mean == pytest.approx(-0.4)
    assert findings["higher"].verdict == "better"
    assert findings["lower"].verdict == "worse"
    sentence = describe_finding(findings["higher"])
    assert "better" in sentence
    assert "-0.40 (-0.40 to -0.40) mm" in sentence


def test_a_finding_names_numbers_seeds_and_cases(whole: Report) -> None:
    higher = by_arm(whole.primary)["higher"]
    assert higher.mean == pytest.approx((higher.baseline_mean or 0) + 0.02)
    sentence = describe_finding(higher)
    for fact in ("higher", "baseline", "better", "+0.0200", "6 seeds", "12 cases"):
        assert fact in sentence
    assert "these" not in sentence
    few = describe_finding(by_arm(whole.secondary[-1:])["higher"])
    assert "2 cases" in few
    assert "these" in few
    assert "worse" in describe_finding(by_arm(whole.primary)["lower"])
    assert "No difference" in describe_finding(by_arm(whole.primary)["same"])


@pytest.mark.parametrize(("seeds", "least"), [(6, 0.25), (9, 8 * 2 / 2**9)])
def test_wilcoxon_after_holm_says_when_it_cannot_decide(seeds: int, least: float) -> None:
    plan = make_plan(range(seeds))
    report = compare(plan, make_rows(plan))
    for part in arm_of(report, "higher").structures:
        assert part.p == pytest.approx(2 / 2**seeds)
        assert part.holm_p == pytest.approx(least)
    assert ("no p can be below 0.25" in markdown(plan, report)) == (least > 0.05)


def test_only_seeds_that_both_have_are_compared() -> None:
    plan = make_plan()
    rows = [row for row in make_rows(plan) if row.seed < 4 or row.arm != "baseline"]  # the baseline lacks 4 and 5
    rows = [row for row in rows if row.seed > 1 or row.arm != "lower"]  # lower lacks 0 and 1
    report = compare(plan, rows)
    lower = by_arm(report.primary)["lower"]
    assert (lower.seeds, arm_of(report, "lower").compared_seeds) == (2, 2)
    assert lower.difference is not None
    assert lower.difference.mean == pytest.approx(-0.0225)  # seeds 2 and 3
    assert [missing.seeds for missing in report.missing if missing.arm == "lower"] == [(0, 1)]
    assert report.protocols[0].trainings[2].seeds == (2, 3, 4, 5)
    assert "2 seeds" in describe_finding(lower)


def test_one_common_seed_is_not_compared() -> None:
    plan = make_plan()
    rows = [row for row in make_rows(plan) if row.arm == "baseline" or row.seed == 3]
    report = compare(plan, rows)
    finding = by_arm(report.primary)["higher"]
    assert (finding.verdict, finding.difference, finding.seeds) == ("not compared", None, 1)
    assert "1 seed " in describe_finding(finding)
    assert arm_of(report, "higher").structures[0].p is None
    text = markdown(plan, report)
    assert "0, 1, 2, 4 and 5" in text
    assert f"{6 * 2 + 4} of 36 runs" in text


def test_an_extra_structure_is_left_out_of_its_pairs_and_counts_in_the_mean() -> None:
    """The case lacks LAA; one arm labels it nevertheless, so that its mean is over eight, of which one is 0."""
    plan = make_plan()
    rows = []
    for row in make_rows(plan):
        cases = [c.model_copy(update={"structures": c.structures[:-1]}) for c in row.tests["real"]]
        if row.arm == "higher":
            cases[0] = TestCase(case=cases[0].case, structures=(*cases[0].structures, score("LAA", 0.0, "extra")))
        rows.append(row.model_copy(update={"tests": {**row.tests, "real": tuple(cases)}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = compare(plan, rows)
    higher, baseline = (arm_of(report, arm, test=1) for arm in ("higher", "baseline"))
    laa = higher.structures[NAMES.index("LAA")]
    assert (laa.difference, laa.p, laa.holm_p, laa.left_out) == (None, None, None, 6)
    assert (higher.extra, baseline.extra) == (1.0, 0.0)
    assert baseline.structures[NAMES.index("LAA")].dice is None
    assert higher.differences["dice"] is not None
    assert higher.differences["dice"].mean < 0  # 0.02 better in seven structures, and a wrong one
    assert by_arm(report.secondary[-1:])["higher"].verdict == "not compared"
    assert "6 pairs" in markdown(plan, report)


def test_few_cases_are_told_case_by_case(whole: Report) -> None:
    virtual, real = arm_of(whole, "higher"), arm_of(whole, "higher", test=1)
    assert virtual.cases == {}
    assert list(real.cases) == ["case_0", "case_1"]
    assert real.cases["case_1"] is not None
    assert real.cases["case_1"].mean == pytest.approx(0.02)
    assert "2 cases" in markdown(make_plan(), whole)


def test_early_stops_updates_and_pretraining_are_told() -> None:
    plan = make_plan([0, 1])
    early = {"stopped_early": True, "pretraining_updates": 50, "pretraining_core_seconds": 7.0, "pairs": 60}
    rows = [make_row("epochs", "higher", n, updates=100 + 300 * n, best_step=60 + n, **early) for n in (0, 1)]
    report = compare(plan, rows)
    (training,) = report.protocols[1].trainings
    assert (training.updates.mean, training.updates.low, training.updates.high) == (250, 100, 400)
    assert (training.stopped_early, training.pretraining_core_seconds, training.core_seconds) == (2, 7.0, 12.0)
    (line,) = (line for line in markdown(plan, report).splitlines() if "20 + 60" in line)
    for fact in ("250 (100 to 400)", "2 of 2", "| 12 |", "| 7 |"):
        assert fact in line


@pytest.mark.parametrize("kept", [0, 1, 5, 36])
def test_the_files_of_any_number_of_rows(kept: int, tmp_path: Path) -> None:
    plan = make_plan()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = write_report(plan, make_rows(plan)[:kept], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [CURVES_FILE, FOREST_FILE, JSON_FILE, MARKDOWN_FILE]
    )
    assert Report.model_validate_json((tmp_path / JSON_FILE).read_text()) == report
    assert f"{kept} of 36 runs" in (tmp_path / MARKDOWN_FILE).read_text()
    for name in (CURVES_FILE, FOREST_FILE):
        assert imread(tmp_path / name).std() > 0.01  # not empty
        assert f"({name})" in (tmp_path / MARKDOWN_FILE).read_text()


def test_names_are_no_markup(tmp_path: Path) -> None:
    name = "a|b*c_$x$ 心"  # the font of the pictures lacks the last letter
    plan = make_plan(
        title="A|B", arms={"baseline": {}, name: {}}, secondary=[],
        protocols={"steps": {"arms": ["baseline", name], "baseline": "baseline", "steps": 100}},
    )  # fmt: skip
    rows = [make_row("steps", arm, seed, 0.01 * (arm == name)) for arm in ("baseline", name) for seed in plan.seeds]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(plan, rows, tmp_path)
    text = (tmp_path / MARKDOWN_FILE).read_text()
    assert r"a\|b\*c\_$x$" in text
    tables = [line for line in text.splitlines() if line.startswith("|") and "\\|b" in line]
    assert {line.replace(r"\|", "").count("|") for line in tables} == {5, 8, 9, 10, 3 + 1}


def test_the_forest_shows_every_arm_of_every_panel(whole: Report) -> None:
    figure = draw_forest(whole)
    panels = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert len(panels) == 4
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels == ["higher", "lower", "same"]
    marks = [line.get_xdata()[0] for line in panels[0].lines if line.get_marker() == "s"]
    assert marks == pytest.approx([0.02, -0.0225, 0.0], abs=1e-6)


def test_mean_curves_end_where_the_first_seed_stops() -> None:
    plan = make_plan([0, 1])
    curves = {0: [(10, 0.3), (20, 0.5)], 1: [(10, 0.5), (20, 0.7), (30, 0.8)]}
    rows = [make_row("epochs", "baseline", seed, curve=curve) for seed, curve in curves.items()]
    (axis,) = draw_curves(plan, rows).axes
    mean, *seeds = [line for line in axis.lines if len(line.get_xdata())]
    assert list(mean.get_xdata()) == [10, 20]
    assert list(mean.get_ydata()) == pytest.approx([0.4, 0.6])
    assert [list(line.get_xdata()) for line in seeds] == [[20], [20, 30]]


def test_the_command_reports_rows_that_are_there(tmp_path: Path) -> None:
    """Nothing is left to do, so that no set is opened: the folders of this plan do not exist."""
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    plan.write_text(json.dumps(content([0, 1])))
    for row in make_rows(make_plan([0, 1])):
        write_row(row, out)
    result = CliRunner().invoke(app, ["experiment", str(plan), "--out", str(out)])
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "+0.0200" in line]
    assert len(lines) == 1
    assert "higher" in lines[0]
    assert (out / MARKDOWN_FILE).is_file()

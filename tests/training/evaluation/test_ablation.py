"""The ablation's plan, cohorts, resuming and table; cohorts of phantoms stand in for the virtual ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation import ablation
from cardiacldm_training.evaluation.ablation import Arm, Plan
from cardiacldm_training.virtual.cohort import CohortSettings
from tests.support.training import write_case, write_cases

TINY = {"cases": 3, "held_out": 1, "spacing_mm": 4.0, "patch": 16, "channels": [4, 8], "steps": 4, "seeds": [0]}
ARMS = [{"name": "everything"}, {"name": "realistic only", "appearance": "realistic"}]


def plan(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"anatomies": str(tmp_path), **TINY, "arms": ARMS, **changes}))
    return path


@pytest.fixture
def phantoms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CohortSettings, int]]:
    """Cohorts are made of phantoms; the list tells which were asked for."""
    asked: list[tuple[CohortSettings, int]] = []

    def write_cohort(settings: CohortSettings, cases: int, out: Path) -> list[str]:
        asked.append((settings, cases))
        for index in range(cases):
            if not (out / f"case_{index:04d}").exists():
                write_case(out / f"case_{index:04d}", settings.seed % 1000 + index)
        return []

    monkeypatch.setattr(ablation, "write_cohort", write_cohort)
    return asked


def test_a_stopped_ablation_goes_on(
    tmp_path: Path, phantoms: list[tuple[CohortSettings, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cases(tmp_path / "real", 1)
    plan_ = ablation.read_plan(plan(tmp_path, real=str(tmp_path / "real")))
    whole, trained = ablation.train_arm, []

    def stops(plan: Plan, arm: Arm, seed: int, out: Path) -> ablation.Run:
        if len(trained) == 1:
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(arm.name)
        return whole(plan, arm, seed, out)

    monkeypatch.setattr(ablation, "train_arm", stops)
    with pytest.raises(KeyboardInterrupt):
        ablation.run_ablation(plan_, tmp_path / "out", say=lambda line: None)
    results = ablation.run_ablation(plan_, tmp_path / "out", say=lambda line: None)
    assert trained == ["everything", "stopped", "realistic only"]
    assert [run.cases for run in results.runs] == [3, 3]
    assert all(run.real and set(run.virtual.structures) == set(run.real.structures) for run in results.runs)
    stored = (tmp_path / "out" / ablation.RESULTS_FILE).read_text()
    assert ablation.Results.model_validate_json(stored) == results
    assert (tmp_path / "out" / ablation.MARKDOWN_FILE).read_text().count("| everything |") == 1
    asked = len(phantoms)
    assert ablation.run_ablation(plan_, tmp_path / "out") == results
    assert len(phantoms) == asked  # nothing is made again


def test_arms_share_cohorts_and_none_meets_the_held_out_one(tmp_path: Path) -> None:
    plan_ = Plan(anatomies=tmp_path, cases=5)
    cohorts = {arm.name: ablation.plan_cohorts(plan_, arm) for arm in ablation.ARMS}
    both, one = cohorts["everything"], cohorts["realistic only"]
    assert [count for _, count in both.values()] == [3, 2]
    assert set(one) < set(both)
    assert all(sum(count for _, count in parts.values()) == plan_.cases for parts in cohorts.values())
    settings = [s for parts in cohorts.values() for s, _ in parts.values()]
    assert {s.template_share for s in settings} == {0.0, 0.5, 1.0}
    assert {s.deformation for s in settings} == {0.0, 0.5, 1.0, 1.5}
    assert {s.appearance for s in settings} == {"realistic", "randomised"}
    wanted = ablation._list_cohorts(plan_, ablation.ARMS, tmp_path)
    assert len({folder for _, _, folder in wanted}) == len(wanted) == 15
    held_out = next(s for s, _, folder in wanted if folder.name == "held-out")
    assert held_out.seed not in {s.seed for s in settings}


def test_results_of_another_plan_are_left_alone(tmp_path: Path, phantoms: list[tuple[CohortSettings, int]]) -> None:
    out = tmp_path / "out"
    ablation.run_ablation(ablation.read_plan(plan(tmp_path, arms=ARMS[:1])), out, say=lambda line: None)
    more = ablation.run_ablation(ablation.read_plan(plan(tmp_path)), out, say=lambda line: None)
    assert len(more.runs) == 2  # an arm that is new
    for changes in ({"steps": 5}, {"arms": [{"name": "everything", "deformation": 2}]}):
        with pytest.raises(EvaluationError, match=str(out)):
            ablation.run_ablation(ablation.read_plan(plan(tmp_path, **changes)), out)


def test_a_cohort_with_a_failed_case_is_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "write_cohort", lambda settings, cases, out: ["case_0000: failed"])
    done = CliRunner().invoke(app, ["ablation", str(plan(tmp_path)), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "case_0000: failed" in done.output


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{}", "anatomies"),
        ("[", "plan.json"),
        ('{"anatomies": ".", "arms": [{"name": "a"}, {"name": "a"}]}', "arms"),
        ('{"anatomies": ".", "deformation": 1}', "deformation"),
        (None, "plan.json"),
    ],
)
def test_bad_plans_are_named(tmp_path: Path, text: str | None, fact: str) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    done = CliRunner().invoke(app, ["ablation", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert fact in done.output
    assert isinstance(done.exception, SystemExit)

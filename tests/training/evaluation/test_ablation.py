"""The ablation's plan, cohorts, resuming and table; cohorts of phantoms stand in for the virtual ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation import ablation
from cardiacldm_training.evaluation.ablation import Plan
from cardiacldm_training.evaluation.experiment import sets
from cardiacldm_training.evaluation.experiment.plan import Virtual
from cardiacldm_training.virtual.cohort import CohortSettings
from CardiacLDMLib import anatomy
from tests.support.training import write_case

TINY = {"cases": 3, "held_out": 1, "spacing_mm": 4.0, "patch": 16, "channels": [4, 8], "steps": 4, "seeds": [0, 1]}
ARMS = [{"name": "everything"}, {"name": "realistic only", "appearance": "realistic"}]


def plan(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "plan.json"
    (tmp_path / "hearts").mkdir(exist_ok=True)
    (tmp_path / "hearts" / "heart.nii.gz").touch()  # only its hash is asked for
    path.write_text(json.dumps({"anatomies": str(tmp_path / "hearts"), **TINY, "arms": ARMS, **changes}))
    return path


@pytest.fixture
def phantoms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CohortSettings, int]]:
    """Cohorts are made of phantoms; the list tells which were asked for."""
    asked: list[tuple[CohortSettings, int]] = []

    def write_cohort(settings: CohortSettings, cases: int, out: Path, workers: int) -> list[str]:
        asked.append((settings, cases))
        for index in range(cases):
            if not (out / f"case_{index:04d}").exists():
                write_case(out / f"case_{index:04d}", settings.seed % 1000 + index)
        return []

    monkeypatch.setattr(sets, "write_cohort", write_cohort)
    return asked


def test_cohorts_are_compared_and_a_second_call_makes_nothing(
    tmp_path: Path, phantoms: list[tuple[CohortSettings, int]]
) -> None:
    write_case(tmp_path / "real" / "case_0000", seed=50)  # none of the cohorts' phantoms
    plan_ = ablation.read_plan(plan(tmp_path, real=str(tmp_path / "real")))
    outcome = ablation.run_ablation(plan_, tmp_path / "out", say=lambda line: None)
    assert [(row.arm, row.seed, row.cases) for row in outcome.rows] == [
        (arm["name"], seed, 3) for arm in ARMS for seed in (0, 1)
    ]
    for row in outcome.rows:
        virtual, real = (ablation.structure_means(row, test) for test in ("held out", "real"))
        assert set(virtual) == set(real) == set(anatomy.NAMES)
    text = (tmp_path / "out" / ablation.MARKDOWN_FILE).read_text()
    assert text.count("| everything | 2 |") == text.count("| realistic only | 2 |") == 1
    asked = len(phantoms)
    assert ablation.run_ablation(plan_, tmp_path / "out").rows == outcome.rows
    assert len(phantoms) == asked


def test_arms_share_cohorts_and_none_meets_the_held_out_one(tmp_path: Path) -> None:
    plan_ = Plan(anatomies=tmp_path, cases=5)
    cohorts = {arm.name: plan_.cohorts(arm) for arm in ablation.ARMS}
    both, one = cohorts["everything"], cohorts["realistic only"]
    assert [cohort.cases for cohort in both.values()] == [3, 2]
    assert [cohort.cases for cohort in one.values()] == [5]
    assert all(sum(cohort.cases for cohort in parts.values()) == plan_.cases for parts in cohorts.values())
    parts = [cohort for group in cohorts.values() for cohort in group.values()]
    assert {cohort.template_share for cohort in parts} == {0.0, 0.5, 1.0}
    assert {cohort.deformation for cohort in parts} == {0.0, 0.5, 1.0, 1.5}
    assert {cohort.appearance for cohort in parts} == {"realistic", "randomised"}
    found = plan_.to_experiment()
    held_out = found.sets["held out"]
    assert isinstance(held_out, Virtual)
    assert held_out.seed not in {cohort.seed for cohort in parts}
    assert found.sets_of(found.arms["everything"]) == {*both, "held out"}


def test_equal_cohorts_are_made_once(tmp_path: Path, phantoms: list[tuple[CohortSettings, int]]) -> None:
    found = ablation.read_plan(plan(tmp_path)).to_experiment()
    prepared = sets.prepare_sets(found, list(found.sets), tmp_path / "out", 1, lambda line: None)
    assert len(list((tmp_path / "out" / sets.COHORTS).iterdir())) == 3
    realistic = [prepared.cases[name] for name in found.sets if ", realistic" in name]
    assert [len(cases) for cases in realistic] == [2, 3]
    assert realistic[0] == realistic[1][:2]


def test_results_of_another_plan_are_left_alone(tmp_path: Path, phantoms: list[tuple[CohortSettings, int]]) -> None:
    out = tmp_path / "out"
    ablation.run_ablation(ablation.read_plan(plan(tmp_path)), out, say=lambda line: None)
    for changes in ({"steps": 5}, {"arms": [{"name": "everything", "deformation": 2}]}):
        with pytest.raises(EvaluationError, match=str(out)):
            ablation.run_ablation(ablation.read_plan(plan(tmp_path, **changes)), out)


def test_a_cohort_with_a_failed_case_is_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "write_cohort", lambda *_: ["case_0000: failed"])
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
        ('{"anatomies": ".", "seeds": [0]}', "seeds"),
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

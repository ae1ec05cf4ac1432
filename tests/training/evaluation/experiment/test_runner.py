"""Experiments in real processes: rows made once, stops, kills, failures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation.experiment import runs
from cardiacldm_training.evaluation.experiment.plan import Plan, read_plan
from cardiacldm_training.evaluation.experiment.rows import ROWS, read_row, read_rows, row_path
from cardiacldm_training.evaluation.experiment.runner import Outcome, deadline, parse_duration, run_experiment
from CardiacLDMLib import files
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.training import write_case

from .conftest import MakePlan


def quietly(plan: Plan, out: Path, **options: object) -> Outcome:
    return run_experiment(plan, out, say=lambda line: None, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> tuple[Plan, Path]:
    """The whole experiment, undisturbed."""
    from .conftest import content

    plan, out = Plan.model_validate(content(phantoms)), tmp_path_factory.mktemp("whole") / "out"
    outcome = quietly(plan, out)
    assert (len(outcome.rows), outcome.missing, outcome.failed) == (6, 0, {})
    return plan, out


def without_times(out: Path) -> dict[str, dict[str, object]]:
    times = {"core_seconds", "test_core_seconds", "pretraining_core_seconds"}
    return {path.name: read_row(path).model_dump(exclude=times) for path in (out / ROWS).iterdir()}


def test_a_row_holds_what_a_table_needs(made: tuple[Plan, Path]) -> None:
    plan, out = made
    rows = {(row.arm, row.seed): row for row in read_rows(plan, out)}
    assert list(rows) == [(arm, seed) for arm in ("baseline", "ssl", "mix") for seed in (3, 4)]
    ssl, mix = rows["ssl", 3], rows["mix", 4]
    assert (ssl.cases, ssl.pairs, ssl.updates, ssl.pretraining_updates) == (4, 0, 6, 4)
    assert (mix.cases, mix.pairs, mix.pretraining_updates) == (4, 6, 0)
    assert ssl.core_seconds > 0
    assert ssl.pretraining_core_seconds > 0
    assert [step for step, _ in mix.curve] == [3, 6]
    assert mix.best_step in (3, 6)
    for case in mix.tests["test"]:
        assert case.structures
        assert all(0 <= score.dice <= 1 and 0 <= score.nsd <= 1 and score.hd95_mm >= 0 for score in case.structures)
    assert rows["baseline", 3].tests != rows["baseline", 4].tests
    assert rows["baseline", 3].tests != ssl.tests


def test_a_stopped_experiment_ends_as_the_whole_one(
    made: tuple[Plan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, whole = made
    out, asked = tmp_path / "out", iter(range(1, 10_000))
    monkeypatch.setattr(runs.Experiment, "is_over", lambda self: next(asked) % 3 == 0)
    calls = 0
    while (outcome := quietly(plan, out)).missing:
        calls += 1
        assert calls < 60
        assert not outcome.failed
    assert calls >= 2
    assert without_times(out) == without_times(whole)


def test_a_killed_experiment_ends_as_the_whole_one(
    made: tuple[Plan, Path], write_plan: MakePlan, tmp_path: Path
) -> None:
    plan, whole = made
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cardiacldm_training.cli", "experiment", str(write_plan()), "--out", str(out),
               "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list((out / ROWS).glob("equal*.json")):  # not .part-*
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(read_rows(plan, out)) < 6
    assert quietly(plan, out).missing == 0
    assert without_times(out) == without_times(whole)
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_finished_rows_are_never_made_again(made: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, whole = made
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(out / runs.RUNS)
    gone = row_path(out, "equal", "mix", 4)
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / ROWS).iterdir()}
    assert quietly(plan, out, arms=["baseline", "ssl"]).missing == 1
    assert not (out / runs.RUNS).exists()
    assert quietly(plan, out).missing == 0
    assert len(list((out / runs.RUNS).iterdir())) == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert without_times(out) == without_times(whole)


def test_a_plan_may_grow_but_not_change(made: tuple[Plan, Path], write_plan: MakePlan, tmp_path: Path) -> None:
    _, whole = made
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    grown = read_plan(write_plan(lambda p: p["protocols"].update(
        few={"arms": ["baseline"], "baseline": "baseline", "steps": 2, "validations": 1, "labels": 2}
    ), title="Another title"))  # fmt: skip
    outcome = quietly(grown, out)
    assert outcome.missing == 0
    assert [row.cases for row in outcome.rows if row.protocol == "few"] == [2, 2]
    changed = read_plan(write_plan(lambda p: p["protocols"]["equal"].update(steps=7)))
    with pytest.raises(EvaluationError, match="protocols: equal"):
        quietly(changed, out)


def test_cases_that_changed_are_refused(write_plan: MakePlan, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(2):
        write_case(data / f"case_{number:04d}", seed=10 + number)  # others than the plan trains on
    source = {"kind": "folders", "folders": [str(data)]}
    plan = read_plan(write_plan(lambda p: p["sets"].update(test=source)))
    quietly(plan, tmp_path / "out", arms=["baseline"])
    shutil.copy(data / "case_0000" / "ct.nii.gz", data / "case_0001" / "ct.nii.gz")
    shutil.copy(data / "case_0000" / "labels.nii.gz", data / "case_0001" / "labels.nii.gz")
    with pytest.raises(EvaluationError, match="'test'"):
        quietly(plan, tmp_path / "out")


@pytest.mark.parametrize(
    ("network", "fact"),
    [
        ({"architecture": "vnet"}, "vnet"),
        ({"architecture": "joint_autoencoder", "arguments": {}}, "joint_autoencoder"),
        ({"arguments": {"channels": [4, 8], "strides": [2, 2]}}, "strides"),
        ({"patch": [15, 16, 16]}, "15 x 16 x 16"),
        ({"patch": [2, 2, 2]}, "2 x 2 x 2"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_anything_is_made(
    write_plan: MakePlan, tmp_path: Path, network: dict[str, object], fact: str
) -> None:
    path, out = write_plan(lambda p: p["network"].update(network)), tmp_path / "out"
    with pytest.raises(EvaluationError, match=fact):
        quietly(read_plan(path), out)
    assert not out.exists()


def test_a_second_experiment_in_one_folder_is_refused(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CLAIM_SECONDS", 0.2)
    with files.claim_folder(tmp_path / "out"), pytest.raises(OutputError, match="out"):
        quietly(plan, tmp_path / "out")


def test_pairs_of_another_anatomy_fail_their_arm(write_plan: MakePlan, tmp_path: Path) -> None:
    case = write_case(tmp_path / "pairs" / "pair_0000")
    labels = read_volume(case / "labels.nii.gz")
    write_volume(Volume((labels.array > 0).astype("uint8"), labels.affine), case / "labels.nii.gz")
    pairs = {"kind": "folders", "folders": [str(tmp_path / "pairs")]}
    plan = read_plan(write_plan(lambda p: p["sets"].update(pairs=pairs) or p["arms"]["mix"].update(share=0.25)))
    failed = quietly(plan, tmp_path / "out", arms=["mix"]).failed
    assert list(failed) == ["equal, mix, seed 3", "equal, mix, seed 4"]
    assert all("RV" in reason for reason in failed.values())


def test_labels_that_no_voxel_holds_are_named(write_plan: MakePlan, tmp_path: Path) -> None:
    case = write_case(tmp_path / "test" / "dot")
    labels = read_volume(case / "labels.nii.gz")
    dot = np.zeros_like(labels.array)
    dot[3, 3, 3] = 1
    write_volume(Volume(dot, labels.affine), case / "labels.nii.gz")
    source = {"kind": "folders", "folders": [str(tmp_path / "test")]}
    plan = read_plan(write_plan(lambda p: p["sets"].update(test=source) or p["network"].update(spacing_mm=10)))
    with pytest.raises(EvaluationError, match="dot"):
        quietly(plan, tmp_path / "out", arms=["baseline"])


def test_a_tested_case_in_another_set_is_refused_whatever_its_name(
    write_plan: MakePlan, phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(phantoms.parent / "tested" / "case_0007", tmp_path / "renamed" / "patient")
    known = {"kind": "folders", "folders": [str(tmp_path / "renamed")], "cases": 1}
    for role in ("train", "validation", "pairs"):
        plan = read_plan(write_plan(lambda content, role=role: content["sets"].update({role: known})))
        with pytest.raises(EvaluationError, match=f"patient.*{role}.*test"):
            quietly(plan, tmp_path / role)
        assert not (tmp_path / role / ROWS).exists()


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"pairs": {"kind": "folders", "folders": ["nowhere"]}}, ["nowhere"]),
        ({"train": {"kind": "folders", "folders": ["{phantoms}"], "cases": 40}}, ["'train'", "40", "6"]),
    ],
)
def test_missing_cases_are_named(
    write_plan: MakePlan, phantoms: Path, tmp_path: Path, change: dict[str, dict[str, object]], facts: list[str]
) -> None:
    for source in change.values():
        source["folders"] = [str(folder).format(phantoms=phantoms) for folder in source["folders"]]  # type: ignore[attr-defined]
    path = write_plan(lambda p: p["sets"].update(change))
    done = CliRunner().invoke(app, ["experiment", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert all(fact in done.output for fact in facts), done.output
    assert isinstance(done.exception, SystemExit)


def test_a_failed_run_does_not_stop_the_others(write_plan: MakePlan, tmp_path: Path) -> None:
    path = write_plan(lambda p: p["protocols"]["equal"].update(labels=4) or p["arms"]["mix"].update(share=40))
    done = CliRunner().invoke(app, ["experiment", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    plan = read_plan(path)
    assert {(row.arm, row.seed) for row in read_rows(plan, tmp_path / "out")} == {
        (arm, seed) for arm in ("baseline", "ssl") for seed in (3, 4)
    }
    assert done.output.count("Failed: equal, mix") == 2
    assert "160 are needed" in done.output


def test_a_failed_pretraining_fails_its_arms(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: object) -> None:
        raise EvaluationError("It diverged.")

    monkeypatch.setattr(runs, "pretrain", diverges)
    outcome = quietly(plan, tmp_path / "out", arms=["baseline", "ssl"])
    assert len(outcome.rows) == 2
    assert {name for name in outcome.failed if "ssl" in name} == {"equal, ssl, seed 3", "equal, ssl, seed 4"}
    assert all("It diverged." in reason for reason in outcome.failed.values())


def test_unknown_arms_and_durations_are_named(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="'sll'"):
        quietly(plan, tmp_path / "out", arms=["sll"])
    assert [parse_duration(text) for text in ("2h45m", "90m", "30s", "1h1s")] == [9900, 5400, 30, 3601]
    for text in ("", "2", "2h 45", "h", "-1m"):
        with pytest.raises(EvaluationError):
            parse_duration(text)
    assert deadline("1m") == pytest.approx(time.time() + 60, abs=5)
    assert deadline(None) == float("inf")


def test_a_damaged_row_is_named(made: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, whole = made
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    path = row_path(out, "equal", "mix", 4)
    path.write_text(path.read_text()[:50])
    with pytest.raises(EvaluationError, match=path.name):
        quietly(plan, out)

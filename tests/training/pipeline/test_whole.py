"""The whole pipeline: trainings are played by a stand-in; split, evaluation, packages and report are real."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cardiacldm_training.cases.splits import read_fold
from cardiacldm_training.cli import app
from cardiacldm_training.pipeline import costs, runner, whole
from cardiacldm_training.pipeline.costs import Cost
from cardiacldm_training.pipeline.steps import Data, Machine, Settings, make_steps, places_in
from cardiacldm_training.stages import generator_presets
from cardiacldm_training.stages.config import DataFacts
from CardiacLDMLib import files
from tests.support.generator_package import write_tiny_generator
from tests.support.phantom_package import write_phantom_package
from tests.support.training import write_case, write_cases


class StandIn:
    """Runs commands in this process; a training writes an empty checkpoint, an export the phantom's package."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> int:
        self.calls.append(list(command))
        out = Path(command[command.index("--out") + 1])
        match command[:2]:
            case ("train", "export"):
                if not out.exists():
                    (write_tiny_generator if out.name.endswith("-pairs") else write_phantom_package)(out)
                return 0
            case ("train", stage):
                for name in {"segmenter": ("locator", "segmenter"), "pretrain": ("pretrain",)}.get(stage, (stage,)):
                    (out / name).mkdir(parents=True, exist_ok=True)
                    (out / name / "best.ckpt").write_text(f"weights of {name}, call {len(self.calls)}")
                return 0
            case ("generate", _):
                (out / "pair_0000").mkdir(parents=True)
                (out / "pair_0000" / "ct.nii.gz").write_text("voxels")
                return 0
        options = [*command] if command[0] == "data" else [*command, "--device", "cpu"]
        return CliRunner().invoke(app, options).exit_code

    @property
    def names(self) -> list[str]:
        return [" ".join(call[:2] if call[0] in ("train", "data") else call[:1]) for call in self.calls]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    played = StandIn()
    monkeypatch.setattr(runner, "run_command", played)
    monkeypatch.setattr(whole, "run_command", played)
    monkeypatch.setattr(whole, "_expect", lambda *_: {"autoencoder": Cost(100.0, 5e6, 2e9), "pairs": Cost(60.0)})
    return played


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("data") / "clinic", 5)


def invoke(data: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["pipeline", "--data", str(data), "--out", str(out), "--device", "cpu", *options])


ALL = ["data split", "train autoencoder", "train diffusion", "train export", "generate", "train pretrain",
       "train segmenter", "train export", "evaluate", "train export"]  # fmt: skip


def test_from_scans_to_packages_and_a_report(stand_in: StandIn, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = invoke(data, out)
    assert result.exit_code == 0, result.output
    assert stand_in.names == ALL
    assert "3 minutes" in result.output  # the sum of the estimates
    assert str(out / "packages" / "own-pairs") in result.output
    kept = read_fold(out / "split.json", 0)
    assert [kept.part(f"clinic/case_{n:04d}") for n in range(5)].count("test") == 1
    page = (out / "report.html").read_text()
    assert "MYO" in page
    assert len(re.findall("data:image/jpeg", page)) == 1  # the only case that was kept aside
    assert "http" not in page.replace("http-equiv", "")
    assert str(tmp_path) not in page

    refused = invoke(data, out)
    assert refused.exit_code == 2
    again = invoke(data, out, "--resume")
    assert again.exit_code == 0, again.output
    assert stand_in.names == [*ALL, "data split"]


def test_a_new_scan_is_added_to_the_split_and_all_is_done_again(stand_in: StandIn, tmp_path: Path) -> None:
    data, out = write_cases(tmp_path / "clinic", 5), tmp_path / "run"
    options = ("--skip", "generate")
    assert invoke(data, out, *options).exit_code == 0
    first = read_fold(out / "split.json", 0).splits.cases
    write_case(data / "case_0009", 9)
    assert invoke(data, out, *options, "--resume").exit_code == 0
    cases = read_fold(out / "split.json", 0).splits.cases
    assert "clinic/case_0009" in cases
    assert {name: cases[name] for name in first} == first
    assert stand_in.names == 2 * ["data split", "train segmenter", "train export", "evaluate", "train export"]


def test_another_preset_removes_what_belonged_to_the_old_one(stand_in: StandIn, data: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "run", ("--skip", "generate", "--skip", "evaluate")
    assert invoke(data, out, *options).exit_code == 0
    (out / "segmenter" / "old").write_text("x")
    result = invoke(data, out, *options, "--resume", "--preset", "gpu")
    assert result.exit_code == 0
    assert not (out / "segmenter" / "old").exists()


def test_shipped_packages_are_started_from(stand_in: StandIn, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = invoke(data, out, "--from", "virtual-heart-v2", "--from", "virtual-pairs-v2", "--skip", "evaluate")
    assert result.exit_code == 0, result.output
    assert stand_in.names == ["data split", "generate", "train segmenter", "train export"]
    generate, segmenter = stand_in.calls[1:3]
    assert generate[generate.index("--package") + 1] == "virtual-pairs-v2"
    assert "--train" not in generate  # the shipped generator has not seen these scans
    assert segmenter[segmenter.index("--from") + 1] == "virtual-heart-v2"
    assert "--encoder" not in segmenter
    assert int(segmenter[segmenter.index("--steps") + 1]) == 300  # of 6000 from scratch
    assert "--learning-rate" in segmenter


def test_a_trial_keeps_pairs_that_no_check_would_accept(stand_in: StandIn, data: Path, tmp_path: Path) -> None:
    assert invoke(data, tmp_path / "run", "--effort", "0.01").exit_code == 0
    generate = next(call for call in stand_in.calls if call[0] == "generate")
    assert "--no-check" in generate
    assert "--train" not in generate


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--skip", "everything"), "everything"), (("--name", "Herz!"), "Herz!"),
        (("--name", "virtual-heart-v2"), "ships"),
        (("--name", "x" * 60), "--name"), (("--preset", "huge"), "huge"), (("--from", "no-such"), "no-such"),
        (("--from", "virtual-heart-v2", "--from", "virtual-heart-v2"), "segmenter"),
        (("--from", "virtual-pairs-v2", "--skip", "generate"), "virtual-pairs-v2"),
        (("--split", "nowhere.json"), "nowhere.json"), (("--map", "nowhere.csv"), "nowhere.csv"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_ends_before_any_training(
    stand_in: StandIn, data: Path, tmp_path: Path, options: tuple[str, ...], word: str
) -> None:
    result = invoke(data, tmp_path / "run", *options)
    assert result.exit_code == 2, result.output
    assert word in result.output.splitlines()[-1]
    assert not [name for name in stand_in.names if name != "data split"]


def test_folders_that_cannot_be_used(stand_in: StandIn, data: Path, tmp_path: Path) -> None:
    assert invoke(tmp_path / "nothing", tmp_path / "a").exit_code == 2
    assert invoke(data, data / "run").exit_code == 2  # its results would be scans of the next time
    (tmp_path / "file").write_text("x")
    assert invoke(data, tmp_path / "file").exit_code == 2
    one = write_cases(tmp_path / "one", 1)
    assert invoke(one, tmp_path / "b").exit_code == 2
    assert not [name for name in stand_in.names if name != "data split"]


def test_two_pipelines_in_one_folder(
    stand_in: StandIn, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CLAIM_SECONDS", 0.0)
    with files.claim_folder(tmp_path / "run"):
        result = invoke(data, tmp_path / "run", "--resume")
    assert result.exit_code == 2
    assert stand_in.calls == []
    assert not (tmp_path / "run" / "pipeline.json").exists()


def test_a_full_disk_is_foreseen(
    stand_in: StandIn, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "_expect", lambda *_: {"segmenter": Cost(1.0, 1e18)})
    result = invoke(data, tmp_path / "run")
    assert result.exit_code == 2
    assert stand_in.names == ["data split"]
    monkeypatch.setattr(whole, "_expect", lambda *_: {})
    assert invoke(data, tmp_path / "run", "--skip", "generate").exit_code == 0  # nothing had begun: no --resume


# --- steps and costs -----------------------------------------------------------------------------------------------


def test_every_step_needs_steps_before_it(tmp_path: Path) -> None:
    work = costs.budget(Settings(name="x"), 8)
    places, cases = places_in(tmp_path, "x"), Data(tmp_path / "data", tmp_path / "split.json", tmp_path / "map.csv")
    steps = make_steps(Settings(name="x", layout="nnunet"), work, cases, places, Machine(workers=3))
    done: set[str] = set()
    for step in steps:
        assert set(step.needs) <= done
        done.add(step.name)
        if step.reads_data:
            assert {"--layout", "--map"} <= set(step.command)


def test_the_budget_follows_effort_and_cases() -> None:
    usual, trial = costs.budget(Settings(name="x"), 40), costs.budget(Settings(name="x", effort=0.1), 40)
    assert trial.segmenter == round(0.1 * usual.segmenter)
    assert usual.pairs == trial.pairs == 120
    assert costs.budget(Settings(name="x", effort=1e-4), 1).autoencoder >= 1


def test_an_autoencoder_is_tried_as_it_is_trained() -> None:
    """On patches, which take less memory than pairs, and with its adversary."""
    model = generator_presets.generator_config("demo", DataFacts(cases=1, digest="")).generator
    with_batch_of_one = model.model_copy(update={"autoencoder": model.autoencoder.model_copy(update={"batch": 1})})
    trained, pair = costs._try_autoencoder(with_batch_of_one, "cpu"), costs._try_pair(model, "cpu")
    assert trained.weights > pair.weights
    assert trained.memory_bytes < pair.memory_bytes


def test_estimates_grow_with_the_work() -> None:
    settings = Settings(name="x", skip=("generate",))
    one = costs.estimate(settings, costs.budget(settings, 4), "cpu")
    assert list(one) == ["segmenter"]
    assert one["segmenter"].seconds > 0
    assert one["segmenter"].memory_bytes > 1e8
    total = costs.total({"a": Cost(1.0, 2.0, 3.0), "b": Cost(1.0, 2.0, 1.0), "c": Cost(9.0)}, ["a", "b", "d"])
    assert total == Cost(2.0, 4.0, 3.0)

"""The segmenter stage: a stateless stream of patches, exact resume after SIGKILL, devices, packages from runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cardiacldm_training.cards import FIGURES_MARK
from cardiacldm_training.cases import split, store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.evaluation.segmenter import evaluate_cases, write_evaluation
from cardiacldm_training.export import export_run
from cardiacldm_training.stages import config, run_folder, segmenter
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.training import TINY, equal, prepare, tiny_network, tiny_run, train, write_cases

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "support" / "training.py"


def environment() -> dict[str, str]:
    """The environment of the program: it imports what this process imports."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Patches of 16 voxels: threads waiting for each other would take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("data") / "cohort", 4)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end, patches made in its own process."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    threads = torch.get_num_threads()
    train(data, run)
    torch.set_num_threads(threads)
    return run


# --- training ----------------------------------------------------------------------------------------------------


def test_a_run_killed_and_resumed_ends_with_the_same_bits(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    last = run / "segmenter" / run_folder.LAST
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(data), str(run), "1", "1", "40"],
        stderr=subprocess.PIPE, start_new_session=True, env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 280
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
    reached = run_folder.load_checkpoint(last)["state"]["step"]
    assert 0 < reached < 40
    half_written = last.parent / ".part-abc.ckpt"
    half_written.write_bytes(b"cut short")

    train(data, run, resume=True, workers=0)

    assert not half_written.exists()
    for name in (run_folder.LAST, run_folder.BEST):
        one, other = (run_folder.load_checkpoint(r / "segmenter" / name) for r in (undisturbed, run))
        assert equal(one, other), name
    assert one["state"]["step"] <= 40


def test_training_changes_the_weights_and_says_where_it_ended(undisturbed: Path) -> None:
    last = run_folder.load_checkpoint(undisturbed / "segmenter" / run_folder.LAST)
    assert last["state"]["step"] == 40
    assert last["state"]["finished"]
    assert last["state"]["best"] > 0
    torch.manual_seed(3)
    fresh = build_network("unet", tiny_network().arguments).state_dict()
    assert all(not torch.equal(last["network"][name], fresh[name]) for name in fresh if name.endswith("conv.weight"))
    assert list((undisturbed / "segmenter" / "tensorboard").iterdir())


def test_a_finished_run_is_left_alone(data: Path, undisturbed: Path) -> None:
    last = undisturbed / "segmenter" / run_folder.LAST
    before = last.stat().st_mtime_ns
    train(data, undisturbed, resume=True)
    assert last.stat().st_mtime_ns == before


def test_an_existing_run_is_not_overwritten_nor_mixed_with_another(data: Path, undisturbed: Path) -> None:
    prepared = prepare(data)
    with pytest.raises(TrainingError, match="--resume"):
        run_folder.check_run(undisturbed, tiny_run(prepared), ["segmenter"], resume=False)
    run_folder.check_run(undisturbed, tiny_run(prepared), ["segmenter"], resume=True)
    other = tiny_run(prepared, segmenter=tiny_network(learning_rate=0.5))
    with pytest.raises(ConfigError, match=r"segmenter\.learning_rate is 0\.001, not 0\.5"):
        run_folder.check_run(undisturbed, other, ["segmenter"], resume=True)


def test_other_data_make_another_run(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    fewer = prepare(data)
    fewer = store.Prepared(fewer.cases[:-1], [])
    with pytest.raises(ConfigError, match=r"data\.cases is 4, not 3"):
        run_folder.check_run(undisturbed, tiny_run(fewer), ["segmenter"], resume=True)


def test_training_stops_when_validation_does_not_get_better(data: Path, tmp_path: Path) -> None:
    prepared = prepare(data)
    stuck = tiny_network(learning_rate=1e-12, patience=2, validate_every=2)
    end = segmenter.train_segmenter(
        tmp_path / "run", tiny_run(prepared, segmenter=stuck), {"segmenter": prepared}, ["segmenter"], resume=False,
        workers=0, say=lambda line: None,
    )["segmenter"]  # fmt: skip
    assert end.finished
    assert end.step - end.best_step == 4
    assert end.step < stuck.steps


def test_two_devices_share_each_step(data: Path, tmp_path: Path) -> None:
    """Two processes on the CPU (DDP): they end, and rank 0 leaves one run whose validation used both."""
    run = tmp_path / "run"
    subprocess.run(
        [sys.executable, str(PROGRAM), str(data), str(run), "0", "2", "10"],
        check=True, timeout=250, capture_output=True, env=environment(),
    )  # fmt: skip
    assert run_folder.load_checkpoint(run / "segmenter" / run_folder.LAST)["state"]["finished"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "huge"], "no preset 'huge'"),
        (["--network", "third"], "no network 'third'"),
        (["--precision", "8-bit"], "no precision '8-bit'"),
        (["--data", "nowhere"], "no folder nowhere"),
    ],
)
def test_wrong_options_are_one_sentence(data: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    base = [] if "--data" in arguments else ["--data", str(data)]
    result = CliRunner().invoke(app, ["train", "segmenter", "--out", str(tmp_path / "run"), *base, *arguments])
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


# --- patches -----------------------------------------------------------------------------------------------------


def stage(data: Path, name: str = "segmenter") -> segmenter.SegmentationStage:
    train_cases, held_out = split.split(prepare(data).cases, 0.1)
    return segmenter.SegmentationStage(name, tiny_network(), seed=3, train=train_cases, held_out=held_out)


def test_an_example_is_a_function_of_its_number(data: Path) -> None:
    one, other = stage(data), stage(data)
    other.example(8)
    first, again, next_one = one.example(7), other.example(7), one.example(9)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["image"], next_one["image"])
    assert first["image"].shape == first["labels"].shape == (1, 16, 16, 16)
    assert first["image"].dtype == np.float32
    assert 0.0 <= first["image"].min() <= first["image"].max() <= 1.0
    assert not np.array_equal(first["image"], stage(data, "locator").example(7)["image"])


def test_patches_hold_every_structure_sooner_or_later(data: Path) -> None:
    seen = np.unique(np.concatenate([stage(data).example(n)["labels"].ravel() for n in range(25)]))
    assert seen.tolist() == list(range(anatomy.NUM_CLASSES))


# --- from a run to a package -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(data: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both networks: the locator is the segmenter's copy."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    (run / "locator").mkdir(parents=True)
    (run / "segmenter").mkdir()
    (run / run_folder.CONFIG_FILE).write_bytes((undisturbed / run_folder.CONFIG_FILE).read_bytes())
    for name in config.SEGMENTER_NETWORKS:
        (run / name / run_folder.BEST).write_bytes((undisturbed / "segmenter" / run_folder.BEST).read_bytes())
    return run


def test_a_run_becomes_a_package_with_the_averaged_weights(whole_run: Path, tmp_path: Path) -> None:
    package = export_run(whole_run, tmp_path / "tiny", "tiny")
    networks = load_networks(package)
    averaged = run_folder.averaged_weights(whole_run / "segmenter" / run_folder.BEST)
    for name, tensor in networks["segmenter"].state_dict().items():
        torch.testing.assert_close(tensor, averaged[name], rtol=1e-3, atol=1e-4)
    training = package.manifest.training
    assert training.configuration["seed"] == training.seed == 3
    assert training.steps["segmenter"] == run_folder.best_step(whole_run, "segmenter")
    assert "None measured yet." in (package.folder / "README.md").read_text()


def test_figures_go_into_manifest_and_card(data: Path, whole_run: Path, tmp_path: Path) -> None:
    from cardiacldm_training.cases.readers.folders import find_cases

    first = export_run(whole_run, tmp_path / "tiny", "tiny")
    evaluation = evaluate_cases(Segmenter(first, "cpu"), find_cases(data)[:2], "the phantoms")
    write_evaluation(evaluation, tmp_path / "figures")
    card = tmp_path / "card.md"
    card.write_text(f"# Mine\n\n{FIGURES_MARK}\n\nThe end.\n")
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"title": "Phantoms", "licence": "CC0-1.0"}))
    arguments = ["train", "export", str(whole_run), "--out", str(tmp_path / "tiny"), "--name", "tiny",
                 "--evaluation", str(tmp_path / "figures"), "--card", str(card), "--about", str(about)]  # fmt: skip
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2  # a package exists
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert result.exit_code == 0, result.output
    package = open_package(tmp_path / "tiny")
    assert package.manifest.title == "Phantoms"
    means = {row.structure: row.dice.mean for row in evaluation.summary}
    figures = {f.name: f.value for f in package.manifest.figures if f.on == "the phantoms"}
    assert figures["Dice mean"] == pytest.approx(means["mean"], abs=1e-4)
    assert figures["HD95 LA"] > 0
    text = (package.folder / "README.md").read_text()
    assert text.startswith("# Mine")
    assert "| LA | 2 |" in text
    assert text.rstrip().endswith("The end.")


def test_an_unfinished_run_and_a_bad_name_are_refused(undisturbed: Path, whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"locator.best\.ckpt"):
        export_run(undisturbed, tmp_path / "tiny", "tiny")
    with pytest.raises(PackageError):
        export_run(whole_run, tmp_path / "tiny", "Not A Name")
    assert not list(tmp_path.iterdir())


def test_training_starts_from_a_package_that_fits(data: Path, whole_run: Path, tmp_path: Path) -> None:
    package = export_run(whole_run, tmp_path / "tiny", "tiny")
    prepared = prepare(data)
    start = f"{package.manifest.name} {package.sha256}"
    settings = tiny_run(prepared, start=start, segmenter=tiny_network(steps=1, validate_every=1, learning_rate=1e-7))
    begin, quiet = {"segmenter": prepared}, {"resume": False, "workers": 0, "say": lambda line: None}
    segmenter.train_segmenter(tmp_path / "run", settings, begin, ["segmenter"], start=package, **quiet)  # type: ignore[arg-type]
    weights = load_networks(package)["segmenter"].state_dict()
    for name, tensor in run_folder.averaged_weights(tmp_path / "run" / "segmenter" / run_folder.LAST).items():
        torch.testing.assert_close(tensor, weights[name], rtol=0.0, atol=1e-5)
    other = tiny_run(prepared, start=start, segmenter=tiny_network(arguments={**TINY, "channels": [4, 12]}))
    with pytest.raises(ConfigError, match="segmenter of tiny"):
        segmenter.train_segmenter(tmp_path / "other", other, begin, ["segmenter"], start=package, **quiet)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="start is"):
        config.check_same(settings, settings.model_copy(update={"start": None}))

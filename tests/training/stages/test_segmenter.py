"""The segmenter stage: a stateless stream of patches, exact resume after SIGKILL, devices, a package as start."""

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
import torch
from lightning.fabric import Fabric
from typer.testing import CliRunner

from cardiacldm_training.cases import split, store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.export import export_run
from cardiacldm_training.stages import config, run_folder, segmenter
from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.weights import load_networks
from tests.support.training import TINY, equal, prepare, tiny_network, tiny_run, train, write_cases

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "support" / "training.py"


def environment() -> dict[str, str]:
    """The environment of the program: it imports what this process imports."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


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
    with pytest.raises(ConfigError, match=r"segmenter\.learning_rate .*0\.001.*0\.5"):
        run_folder.check_run(undisturbed, other, ["segmenter"], resume=True)


def test_a_finished_run_goes_on_with_more_steps(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, run, steps=4)
    train(data, run, steps=7, resume=True)
    state = run_folder.load_checkpoint(run / "segmenter" / run_folder.LAST)["state"]
    assert (state["step"], state["finished"]) == (7, True)
    assert run_folder.read_config(run).segmenter.segmenter.steps == 7
    with pytest.raises(ConfigError, match=r"segmenter\.steps .*7.*5"):
        train(data, run, steps=5, resume=True)


def test_a_resumed_run_keeps_its_steps_unless_others_are_given(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[config.RunConfig] = []
    monkeypatch.setattr(segmenter, "train_segmenter", lambda run, settings, *_, **__: configs.append(settings) or {})
    command = ["train", "segmenter", "--data", str(data), "--out", str(tmp_path / "run"), "--workers", "0"]
    for options in (["--steps", "8"], ["--resume"], ["--resume", "--steps", "12"]):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        run_folder.write_config(configs[-1], tmp_path / "run")
    assert configs[1] == configs[0]
    assert [run_config.segmenter.segmenter.steps for run_config in configs] == [8, 8, 12]


def test_other_data_make_another_run(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    fewer = prepare(data)
    fewer = store.Prepared(fewer.cases[:-1], [])
    with pytest.raises(ConfigError, match=r"data\.cases .*4.*3"):
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


def test_processes_that_a_cluster_starts_train_one_run(data: Path, tmp_path: Path) -> None:
    """SLURM's srun starts all processes itself and tells each its number; they prepare the cases side by side."""
    run, cases = tmp_path / "run", tmp_path / "cohort"
    shutil.copytree(data, cases, ignore=shutil.ignore_patterns(".prepared"))
    job = {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0",
           "SLURM_NODELIST": "localhost", "SLURM_JOB_ID": str(20000 + os.getpid() % 10000)}  # fmt: skip
    command = [sys.executable, str(PROGRAM), str(cases), str(run), "0", "2", "10"]
    processes = [
        subprocess.Popen(
            command, stderr=subprocess.PIPE,
            env={**environment(), **job, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
        )
        for number in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=250)[1].decode()[-2000:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert run_folder.load_checkpoint(run / "segmenter" / run_folder.LAST)["state"]["finished"]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--preset", "huge"], "'huge'"),
        (["--only", "third"], "'third'"),
        (["--network", "vnet"], "'vnet'"),
        (["--precision", "8-bit"], "'8-bit'"),
        (["--data", "nowhere"], "nowhere"),
        (["--encoder", "nowhere"], "nowhere"),
        (["--encoder-rate", "0.5"], "--encoder"),
        (["--frozen-steps", "0"], "--encoder"),
        (["--mix-share", "3"], "--mix"),
        (["--seed", str(2**64)], "--seed"),
        (["--batch", "1000000000"], "--batch"),
    ],
)
def test_wrong_options_are_named(data: Path, tmp_path: Path, arguments: list[str], fact: str) -> None:
    base = [] if "--data" in arguments else ["--data", str(data)]
    result = CliRunner().invoke(app, ["train", "segmenter", "--out", str(tmp_path / "run"), *base, *arguments])
    assert result.exit_code == 2
    assert fact in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_pairs_that_cannot_be_used_leave_no_run(data: Path, tmp_path: Path) -> None:
    """A run that could not begin must not hold its configuration against the next try."""
    prepared = prepare(data)
    mix = config.MixFacts(package="", cases=0, digest="", share=3.0)
    settings = tiny_run(prepared, data=config.DataFacts(cases=4, digest=prepared.digest, mix=mix))
    with pytest.raises(ConfigError, match="pairs"):
        segmenter.train_segmenter(
            tmp_path / "run", settings, {"segmenter": prepared}, ["segmenter"], resume=False, workers=0,
            pairs=store.Prepared([], [("pair_0000", "It is empty.")]), say=lambda line: None,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_case_whose_labels_vanish_at_the_spacing_is_only_background(data: Path, tmp_path: Path) -> None:
    case = prepare(data).cases[0]
    shutil.copytree(case.folder, tmp_path / "entry")
    np.save(tmp_path / "entry" / "labels.npy", np.zeros(case.labels.shape, dtype=np.uint8))
    np.save(tmp_path / "entry" / "points.npy", np.full(case.points.shape, -1, dtype=np.int16))
    bare = store.PreparedCase("bare", tmp_path / "entry", "key", case.spacing_mm)
    stage = segmenter.SegmentationStage("segmenter", tiny_network(), seed=3, train=[bare], held_out=[bare])
    assert not any(stage.example(n)["labels"].any() for n in range(4))
    network = build_network("unet", TINY).eval()
    with torch.inference_mode():
        prediction, labels = stage.predict_case(Fabric(accelerator="cpu"), network, bare)
    assert prediction.shape == labels.shape == case.labels.shape


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


# --- training from a package --------------------------------------------------------------------------------------


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
    both = load_networks(export_run(tmp_path / "run", tmp_path / "further", "further"))  # with the old locator
    assert equal(both["locator"].state_dict(), load_networks(package)["locator"].state_dict())
    other = tiny_run(prepared, start=start, segmenter=tiny_network(arguments={**TINY, "channels": [4, 12]}))
    with pytest.raises(ConfigError, match=r"segmenter.*tiny"):
        segmenter.train_segmenter(tmp_path / "other", other, begin, ["segmenter"], start=package, **quiet)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="start "):
        config.check_same(settings, settings.model_copy(update={"start": None}))

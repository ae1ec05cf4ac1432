"""Training that meets numbers that are not finite, full memory, float16, or another device when it is resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from cardiacldm_training.cases.store import Prepared
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.stages import loop, run_folder
from CardiacLDMLib import files
from CardiacLDMLib.errors import MemoryShortage, OutputError
from tests.support import guess
from tests.support.guess import Guess, train
from tests.support.training import equal, tiny_network, tiny_run

ROOT = Path(__file__).parents[3]


def step_of(folder: Path, name: str = run_folder.LAST) -> int:
    return int(run_folder.load_checkpoint(folder / name)["state"]["step"])


# --- checkpoints, disks, other processes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["network"].popitem(),
        lambda c: c["network"].update(weight=torch.zeros(7, 7)),
        lambda c: c.update(optimizer={}),
        lambda c: c["optimizer"]["param_groups"].append({}),
    ],
)
def test_a_checkpoint_of_another_network_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    train(tmp_path, Guess(), steps=2, save_every=1)
    last = tmp_path / run_folder.LAST
    content = run_folder.load_checkpoint(last)
    change(content)
    torch.save(content, last)
    with pytest.raises(TrainingError, match=r"last\.ckpt"):
        train(tmp_path, Guess(), steps=4, resume=True)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes are Linux's")
@pytest.mark.parametrize(("size", "file"), [(2000, "ckpt"), (40, "tensorboard")])
def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(tmp_path: Path, size: int, file: str) -> None:
    import resource

    train(tmp_path, Guess(), steps=2, save_every=1)
    before = (tmp_path / run_folder.LAST).read_bytes()
    assert len(before) > 2000
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    threads: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", threads.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
        try:
            with pytest.raises(OutputError, match=file):
                train(tmp_path, Guess(), steps=30, save_every=1, validate_every=25, resume=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not threads
    assert not list(tmp_path.glob(".part*"))
    if file == "ckpt":
        assert (tmp_path / run_folder.LAST).read_bytes() == before


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CLAIM_SECONDS", 0.2)
    with files.claim_folder(tmp_path / "run"), pytest.raises(OutputError, match="run"):
        train(tmp_path / "run", Guess())
    train(tmp_path / "run", Guess(), steps=2)


# --- numbers that are not finite -------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_training_before_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 6\b"):
        train(tmp_path, Guess(lambda loss, n: loss + torch.where(n >= 5, torch.nan, 0.0).sum()))
    assert step_of(tmp_path) == 4


def test_a_gradient_that_is_no_number_ends_training_too(tmp_path: Path) -> None:
    """The loss of the last step before a checkpoint is finite, but the weights are not any more."""

    def root(loss: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return loss + (0.0 * loss * (n >= 5)).sqrt().sum() if bool((n >= 5).all()) else loss

    with pytest.raises(TrainingError):
        train(tmp_path, Guess(root), batch=1)
    assert step_of(tmp_path) == 4


def test_no_validation_keeps_weights_that_are_no_numbers(tmp_path: Path) -> None:
    stage = Guess(lambda loss, n: loss + torch.where(n >= 3, torch.inf, 0.0).sum())
    with pytest.raises(TrainingError, match=r"step 4\b"):
        train(tmp_path, stage, validate_every=2, save_every=50)
    assert (step_of(tmp_path), step_of(tmp_path, run_folder.BEST)) == (2, 2)


def test_all_ranks_end_with_the_sentence(tmp_path: Path) -> None:
    """Only the second of two processes computes no number, at the fifth step; a checkpoint is due after each."""
    process = run_two(tmp_path / "run", "number")
    assert sorted(re.findall(r"rank (\d): .*step 5\b", process.stdout)) == ["0", "1"], process.stderr[-2000:]
    assert step_of(tmp_path / "run") == 4


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_no_rank_outlives_the_first(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    process = run_two(tmp_path / "run", "death")
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    second, deadline = int((tmp_path / "run" / "second").read_text()), time.monotonic() + 60
    while is_running(second):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run_two(folder: Path, harm: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    output = folder.with_suffix(".txt")  # not a pipe, which the second process would keep open
    with output.open("w+") as file:
        process = subprocess.Popen(
            [sys.executable, guess.__file__, str(folder), harm], stdout=file, stderr=file, env=environment
        )
        code = process.wait(250)
    text = output.read_text()
    return subprocess.CompletedProcess(process.args, code, text, text)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- float16 ---------------------------------------------------------------------------------------------------------


def half(**scaling: float) -> Fabric:
    """Return Fabric in float16 with scaled gradients, which Fabric itself allows on a GPU only."""
    scaler = torch.amp.GradScaler("cpu", **scaling)  # type: ignore[arg-type]
    return Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)])


SCALING = {"init_scale": 4.0, "growth_interval": 3}


def test_a_float16_run_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    train(tmp_path / "whole", fabric=half(**SCALING))
    with pytest.raises(MemoryShortage):
        train(tmp_path / "parts", full(GPU_FULL), half(**SCALING))
    train(tmp_path / "parts", fabric=half(**SCALING), resume=True)
    whole, parts = (run_folder.load_checkpoint(tmp_path / name / run_folder.LAST) for name in ("whole", "parts"))
    assert whole["precision"]["scale"] == 16.0  # grown after the third and the sixth step
    assert whole["precision"]["_growth_tracker"] == 2
    for part in ("network", "average", "optimizer", "precision"):
        assert equal(whole[part], parts[part]), part


def test_gradients_that_overflow_in_float16_leave_a_step_out(tmp_path: Path) -> None:
    end = train(tmp_path, fabric=half(init_scale=2.0**126, backoff_factor=2.0**-120), steps=6)
    content = run_folder.load_checkpoint(tmp_path / run_folder.LAST)
    assert end.step == 6
    assert content["precision"]["scale"] < 2.0**126
    assert all(torch.isfinite(value).all() for value in content["network"].values())


def test_gradients_are_clipped_at_their_true_size(tmp_path: Path) -> None:
    """Clipped while scaled, gradients would be as many times smaller."""
    norms: list[float] = []
    real = torch.nn.utils.clip_grad_norm_

    def clip(*arguments: object, **options: object) -> torch.Tensor:
        norms.append(float(real(*arguments, **options)))  # type: ignore[arg-type]
        return torch.tensor(norms[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
        train(tmp_path / "half", fabric=half(init_scale=1024.0), steps=1)
        train(tmp_path / "single", steps=1)
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


@pytest.mark.parametrize("fused", [True, None])
def test_a_run_goes_on_where_the_optimiser_is_another(tmp_path: Path, fused: bool | None) -> None:
    """A GPU's checkpoint says that its optimiser was fused; one in float16 says how it scaled."""
    train(tmp_path, steps=4)
    content = run_folder.load_checkpoint(tmp_path / run_folder.LAST)
    content["optimizer"]["param_groups"][0]["fused"] = fused
    content["precision"] = {"scale": 4.0, "_growth_tracker": 1} if fused else {}
    torch.save(content, tmp_path / run_folder.LAST)
    assert train(tmp_path, resume=True).step == 8
    after = run_folder.load_checkpoint(tmp_path / run_folder.LAST)
    assert after["optimizer"]["param_groups"][0]["fused"] is None
    assert after["precision"] == {}


def test_checkpoints_of_earlier_versions_are_read(tmp_path: Path) -> None:
    train(tmp_path, steps=4)
    content = run_folder.load_checkpoint(tmp_path / run_folder.LAST)
    del content["precision"]
    torch.save(content, tmp_path / run_folder.LAST)
    assert train(tmp_path, resume=True).step == 8


# --- memory ----------------------------------------------------------------------------------------------------------


def full(error: Exception) -> Guess:
    def harm(loss: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        if int(n.max()) >= 4:
            raise error
        return loss

    return Guess(harm)


GPU_FULL = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


@pytest.mark.parametrize(
    ("error", "batch", "facts"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 8, ("GPU", "--batch 4")),
        (GPU_FULL, 5, ("GPU", "--batch 2")),
        (GPU_FULL, 1, ("GPU", "preset", "--device cpu")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 6, ("computer", "--batch 3")),
        (MemoryError(), 1, ("computer", "preset")),
    ],
)
def test_full_memory_names_a_smaller_batch(
    tmp_path: Path, error: Exception, batch: int, facts: tuple[str, ...]
) -> None:
    with pytest.raises(MemoryShortage) as shortage:
        train(tmp_path / "run" / "guess", full(error), batch=batch)
    assert shortage.value.kind == "memory"
    assert all(fact in str(shortage.value) for fact in facts)
    assert ("another folder" in str(shortage.value)) == (batch == 1)


def test_a_run_that_has_begun_needs_another_folder_for_a_smaller_batch(tmp_path: Path) -> None:
    train(tmp_path / "run" / "guess", batch=2, steps=2)
    with pytest.raises(MemoryShortage, match="another folder"):
        train(tmp_path / "run" / "guess", full(GPU_FULL), batch=2, resume=True)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(tmp_path / "run" / "guess", full(RuntimeError("CUDA error: an illegal memory access was encountered")))


class _Killed(Guess):
    def example(self, n: int) -> dict[str, np.ndarray]:
        if n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().example(n)


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--workers"):
        train(tmp_path / "run" / "guess", _Killed(), workers=1)


def test_a_run_that_has_not_begun_may_take_a_smaller_batch(tmp_path: Path) -> None:
    prepared = Prepared([], [])
    run_folder.write_config(tiny_run(prepared, segmenter=tiny_network(batch=8)), tmp_path)
    smaller = tiny_run(prepared, segmenter=tiny_network(batch=4))
    run_folder.check_run(tmp_path, smaller, ["segmenter"], resume=False)
    with pytest.raises(ConfigError, match="seed"):
        run_folder.check_run(tmp_path, tiny_run(prepared, seed=4), ["segmenter"], resume=False)
    (tmp_path / "locator").mkdir()
    (tmp_path / "locator" / run_folder.LAST).write_bytes(b"begun")
    assert run_folder.is_fixed(tmp_path, "segmenter")
    with pytest.raises(ConfigError, match=r"batch .*8.*4"):
        run_folder.check_run(tmp_path, smaller, ["segmenter"], resume=True)


def test_training_on_the_cpu_takes_the_usual_optimiser() -> None:
    run = loop._Run(Fabric(accelerator="cpu"), guess.settings(), torch.nn.Linear(1, 1), Guess())
    assert (run.fused, run.scales_gradients) == (None, False)

"""The training loop: early stopping on any measure, devices, learning rate and averages."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric

from cardiacldm_training.stages import config, loop
from tests.support.guess import Guess
from tests.support.training import tiny_network


def test_the_devices_of_a_step_take_different_examples_and_resume_takes_the_same() -> None:
    ranks = [list(loop.batch_indices(0, 5, 3, rank, 2)) for rank in (0, 1)]
    assert sorted(itertools.chain(*ranks[0], *ranks[1])) == list(range(30))
    assert ranks[1][0] == [3, 4, 5]
    assert list(loop.batch_indices(3, 5, 3, 1, 2)) == ranks[1][3:]


def test_any_measure_may_decide(tmp_path: Path) -> None:
    lines: list[str] = []
    settings = config.TrainingConfig(steps=6, validate_every=2, patience=3, learning_rate=0.1, ema_decay=0.1)
    end = loop.train_network(
        Fabric(accelerator="cpu"), settings, torch.nn.Linear(1, 1), Guess(), tmp_path, title="guess", say=lines.append
    )
    assert end.best_step == 6
    assert -50 < end.best < 0
    assert "guess: step 6: validation Closeness" in lines[-1]
    loop.train_network(
        Fabric(accelerator="cpu"), settings, torch.nn.Linear(1, 1), Guess(), tmp_path, title="guess", resume=True,
        say=lines.append,
    )  # fmt: skip
    assert all(fact in lines[-1] for fact in ("guess", "6 steps", f"Closeness {end.best:.3f}"))


def test_a_stopped_training_goes_on_with_its_curve_and_time(tmp_path: Path) -> None:
    settings = config.TrainingConfig(steps=6, validate_every=2, patience=9, learning_rate=0.1, save_every=50)
    ends = {}
    for name in ("whole", "parts"):
        torch.manual_seed(0)
        network, asked = torch.nn.Linear(1, 1), itertools.count(1)
        ends[name] = loop.train_network(
            Fabric(accelerator="cpu"), settings, network, Guess(), tmp_path / name, title="guess",
            stop=lambda asked=asked, name=name: name == "parts" and next(asked) == 3,  # type: ignore[misc]
        )  # fmt: skip
    stopped = ends["parts"]
    assert (stopped.step, stopped.finished, len(stopped.curve)) == (3, False, 1)
    end = loop.train_network(
        Fabric(accelerator="cpu"), settings, torch.nn.Linear(1, 1), Guess(), tmp_path / "parts", title="guess",
        resume=True,
    )  # fmt: skip
    assert end == ends["whole"]
    assert [step for step, _ in end.curve] == [2, 4, 6]
    assert end.core_seconds > stopped.core_seconds > 0


def test_learning_rate_warms_up_then_falls_to_a_hundredth() -> None:
    settings = tiny_network(steps=100, warmup_steps=10)
    rates = [loop.learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(1e-3 * (0.01 + 0.99 / 2))
    assert rates[100] == pytest.approx(1e-5)


def test_the_average_remembers_longer_as_training_goes_on() -> None:
    settings = tiny_network(ema_decay=0.99)
    assert loop.average_decay(1, settings) == pytest.approx(2 / 11)
    assert loop.average_decay(10_000, settings) == 0.99

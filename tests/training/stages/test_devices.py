"""The devices of a training: which ones, and in which precision they compute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.accelerators import MPSAccelerator
from typer.testing import CliRunner

from cardiacldm_training.cases import workers
from cardiacldm_training.cli import app
from cardiacldm_training.errors import TrainingError
from cardiacldm_training.stages import devices, presets
from CardiacLDMLib.errors import DeviceError
from tests.support.gpus import Card, pretend_gpus

OLD = Card("Tesla M40", (5, 2), computes=False)
TURING = Card("Quadro RTX 6000", (7, 5))
HOPPER = Card("NVIDIA H100", (9, 0))


@pytest.mark.parametrize(
    ("cards", "device", "count", "accelerator", "numbers"),
    [
        ((), "auto", 1, "cpu", 1), ((), "auto", 2, "cpu", 2), ((HOPPER,), "cpu", 2, "cpu", 2),
        ((HOPPER,), "auto", 1, "cuda", [0]), ((OLD, HOPPER), "auto", 1, "cuda", [1]),
        ((HOPPER, HOPPER), "cuda", 2, "cuda", 2), ((HOPPER, HOPPER), "cuda:1", 1, "cuda", [1]),
    ],
)  # fmt: skip
def test_devices_are_those_that_can_compute(
    monkeypatch: pytest.MonkeyPatch, cards: tuple[Card, ...], device: str, count: int, accelerator: str,
    numbers: int | list[int],
) -> None:  # fmt: skip
    pretend_gpus(monkeypatch, *cards)
    assert devices.select(device, count) == devices.Selection(accelerator, numbers)


def test_a_gpu_that_cannot_compute_leaves_the_cpu_with_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, OLD)
    assert "Tesla M40" in devices.select("auto", 1).remark
    lines: list[str] = []
    assert devices.launch(1, 1, "32-true", say=lines.append).device.type == "cpu"
    assert [line for line in lines if "Tesla M40" in line] == lines[:1]


@pytest.mark.parametrize(
    ("cards", "device", "count", "fact"),
    [
        ((), "cuda", 1, "cpu"), ((HOPPER,), "cuda", 2, "GPU 1"), ((OLD,), "cuda", 1, "Tesla M40"),
        ((HOPPER, OLD), "auto", 2, "Tesla M40"), ((HOPPER, HOPPER), "cuda:0", 2, "cuda:0"), ((), "mps", 1, "mps"),
    ],
)  # fmt: skip
def test_devices_that_cannot_be_had_are_refused(
    monkeypatch: pytest.MonkeyPatch, cards: tuple[Card, ...], device: str, count: int, fact: str
) -> None:
    pretend_gpus(monkeypatch, *cards)
    with pytest.raises(DeviceError, match=fact):
        devices.select(device, count)


def test_apples_gpu_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    assert devices.launch(1, 1, "32-true").device.type == "cpu"


@pytest.mark.parametrize(
    ("asked", "cards", "resolved"),
    [
        ("bf16-mixed", (HOPPER,), "bf16-mixed"), ("bf16-mixed", (TURING,), "16-mixed"),
        ("bf16-mixed", (HOPPER, TURING), "16-mixed"), ("16-mixed", (HOPPER,), "16-mixed"),
        ("16-mixed", (), "32-true"), ("bf16-mixed", (), "32-true"), ("32-true", (TURING,), "32-true"),
    ],
)  # fmt: skip
def test_half_precision_is_what_all_devices_have(
    monkeypatch: pytest.MonkeyPatch, asked: str, cards: tuple[Card, ...], resolved: str
) -> None:
    pretend_gpus(monkeypatch, *cards)
    gpus = [f"cuda:{number}" for number in range(len(cards))]
    assert devices.resolve_precision(presets.parse_precision(asked), gpus) == resolved  # type: ignore[arg-type]


def test_another_precision_than_asked_for_is_said() -> None:
    lines: list[str] = []
    fabric = devices.launch(1, 1, "16-mixed", "cpu", lines.append)
    assert fabric.strategy.precision.precision == "32-true"
    assert len(lines) == 1
    assert "float16" in lines[0]
    assert "float32" in lines[0]


def test_machines_in_different_precisions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients scaled on one machine and not on the other would be added."""
    monkeypatch.setattr(Fabric, "broadcast", lambda *_, **__: "16-mixed")
    with pytest.raises(TrainingError, match="32-true"):
        devices.launch(1, 1, "bf16-mixed", "cpu", lambda line: None)


def test_inputs_are_not_rounded_to_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The diffusion's time is an input: 0.3 in bfloat16 is 0.3008."""

    class Network(torch.nn.Linear):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            seen.extend([value, super().forward(value)])
            return seen[-1]

    seen: list[torch.Tensor] = []
    monkeypatch.setattr(devices, "resolve_precision", lambda *_: "bf16-mixed")
    fabric = devices.launch(1, 1, "bf16-mixed", "cpu")
    network = fabric.setup(Network(1, 1))
    assert network(torch.full((1, 1), 0.3)).dtype == torch.float32
    assert seen[0].item() == pytest.approx(0.3, abs=1e-7)
    assert seen[1].dtype == torch.bfloat16


def test_the_cpu_computes_as_before() -> None:
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    devices.launch(1, 1, "32-true", "cpu")
    assert (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()) == before


@pytest.mark.parametrize(
    ("cores", "count", "expected"), [(1, 1, 1), (2, 1, 1), (6, 1, 5), (64, 1, 8), (16, 4, 3), (4, 8, 1)]
)
def test_the_usual_workers_leave_a_core(monkeypatch: pytest.MonkeyPatch, cores: int, count: int, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    assert workers.usual_workers(count) == expected


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert workers.usual_workers() == 3


@pytest.mark.parametrize("stage", ["segmenter", "pretrain", "autoencoder", "diffusion"])
def test_every_stage_refuses_a_device_before_it_prepares_cases(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, OLD)
    for device, fact in (("cuda", "Tesla M40"), ("mps", "mps")):
        result = CliRunner().invoke(
            app, ["train", stage, "--data", "nowhere", "--out", str(tmp_path / "run"), "--device", device]
        )
        assert result.exit_code == 2
        assert fact in result.output
        assert "nowhere" not in result.output

"""Jobs on a computer whose GPU cannot compute with the installed torch: they run on the CPU, and say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CardiacLDMLib.errors import DeviceError
from CardiacLDMLib.image.grid import Grid
from CardiacLDMLib.worker import handlers
from CardiacLDMLib.worker.device import check_device, list_devices
from CardiacLDMLib.worker.messages import GeneratePair, Reply, Request, SegmentVolume
from CardiacLDMLib.worker.models import LoadedModels
from tests.support.generator_package import write_tiny_generator
from tests.support.gpus import Card, pretend_gpus
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package

CT, _ = phantom(Grid((44, 44, 36), np.array([[-4.0, 0, 0, 90], [0, 4, 0, -95], [0, 0, -5, 100], [0, 0, 0, 1]])))


@pytest.fixture(autouse=True)
def _old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, Card("Tesla M40", (5, 2), computes=False))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)


def handle(request: Request[Any], models: LoadedModels) -> Reply:
    job = handlers.RunningJob(models, None, lambda progress: None, lambda: False)
    return handlers.handle(request, job)


def test_a_scan_is_segmented_on_the_cpu_with_a_warning(tmp_path: Path) -> None:
    models, package = LoadedModels(), str(write_phantom_package(tmp_path / "phantom"))
    for device, is_warned in (("auto", True), ("cpu", False), ("auto", True)):
        reply: Any = handle(SegmentVolume(image=CT, package=package, device=device, quality="fast"), models)
        assert reply.device == "cpu"
        assert any("Tesla M40" in warning for warning in reply.warnings) == is_warned
    with pytest.raises(DeviceError, match="Tesla M40"):
        handle(SegmentVolume(image=CT, package=package, device="cuda:0", quality="fast"), models)


def test_a_pair_is_generated_on_the_cpu_with_a_warning(tmp_path: Path) -> None:
    models, package = LoadedModels(), str(write_tiny_generator(tmp_path / "tiny"))
    for device, is_warned in (("auto", True), ("cpu", False)):
        request = GeneratePair(seed=7, index=1, package=package, steps=1, device=device, check=False)
        reply: Any = handle(request, models)
        assert reply.device == "cpu"
        assert any("Tesla M40" in warning for warning in reply.warnings) == is_warned


def test_the_check_of_the_device_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_device("auto")
    assert (check.ok, check.device) == (True, "cpu")
    assert "Tesla M40" in check.text.splitlines()[-1]
    check = check_device("cuda")
    assert not check.ok
    assert any("Tesla M40" in line and "no code" in line for line in check.text.splitlines())
    assert check.problem is not None
    assert "no code" in check.problem


def test_the_list_says_which_gpu_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, Card("Tesla M40", (5, 2), computes=False), Card("H100"))
    old, new, cpu = list_devices()
    assert (old.device, old.name, old.free_bytes) == ("cuda:0", "Tesla M40", None)
    assert old.problem is not None
    assert (new.device, new.problem, cpu.problem) == ("cuda:1", None, None)

"""The choice of a device: GPUs that torch was not built for, or whose memory is full, and half precision."""

from __future__ import annotations

import pytest
import torch

from CardiacLDMLib import torch_device
from CardiacLDMLib.errors import DeviceError
from CardiacLDMLib.segmentation.windows import autocast
from CardiacLDMLib.torch_device import choose_device, half_precision, resolve_device
from tests.support.gpus import Card, pretend_gpus

OLD = Card("Tesla M40", (5, 2), computes=False)
NEW = Card("NVIDIA H100", (9, 0))


@pytest.mark.parametrize(
    ("device", "fact"), [("gpu", "cuda:N"), ("cuda:x", "cuda:N"), ("cuda:99", "GPU"), ("", "cuda:N"), ("mps", "cuda:N")]
)
def test_unknown_devices_are_refused(device: str, fact: str) -> None:
    with pytest.raises(DeviceError, match=fact) as refused:
        resolve_device(device)
    assert refused.value.kind == "device"


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    pretend_gpus(monkeypatch, NEW)
    assert choose_device("auto") == torch_device.ChosenDevice("cuda:0")
    assert resolve_device("cuda") == "cuda:0"


def test_apples_gpu_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch_device.ChosenDevice("cpu")


def test_the_check_of_a_device_computes() -> None:
    torch_device._compute("cpu")


def test_a_gpu_that_torch_was_not_built_for_is_passed_over_with_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, OLD)
    chosen = choose_device("auto")
    assert chosen.name == "cpu"
    assert "Tesla M40" in chosen.remark
    assert "CPU" in chosen.remark
    with pytest.raises(DeviceError, match=r"Tesla M40.*no code.*cpu") as refused:
        resolve_device("cuda")
    assert "\n" not in str(refused.value)


def test_another_fault_of_a_gpu_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, Card(computes=False, error="CUDA error: all CUDA-capable devices are busy\nmore"))
    assert "all CUDA-capable devices are busy" in choose_device("auto").remark
    with pytest.raises(DeviceError, match="busy"):
        choose_device("cuda:0")


def test_auto_takes_the_first_gpu_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, OLD, NEW)
    assert choose_device("auto") == torch_device.ChosenDevice("cuda:1")


def test_a_gpu_whose_memory_is_full_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs go on with less memory by themselves. cuDNN's words on memory alone say nothing: some mean another fault."""
    error = "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"
    pretend_gpus(monkeypatch, Card(computes=False, error=error, free_bytes=2**20))
    assert resolve_device("auto") == "cuda:0"
    pretend_gpus(monkeypatch, Card(computes=False, error=error))
    assert resolve_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("capability", "kind"),
    [((9, 0), torch.bfloat16), ((8, 6), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float16)],
)
def test_bfloat16_only_where_a_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kind: torch.dtype
) -> None:
    pretend_gpus(monkeypatch, Card(capability=capability))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # torch counts emulation
    assert half_precision("cuda:0") == kind
    with autocast("cuda:0"):
        assert torch.get_autocast_dtype("cuda") == kind

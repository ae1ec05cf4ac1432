"""The devices of a training: which ones, in which precision, and what their processes exchange."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from CardiacLDMLib.errors import DeviceError
from CardiacLDMLib.progress import Say
from CardiacLDMLib.torch_device import choose_device, half_precision, resolve_device

from ..errors import TrainingError
from .config import Precision


@dataclass(frozen=True)
class Selection:
    """Devices of one machine as Fabric takes them. ``remark``: a sentence if a GPU is there but cannot be used."""

    accelerator: str
    devices: int | list[int]
    remark: str = ""

    @property
    def names(self) -> list[str]:
        """The GPUs as torch names them; empty for the CPU."""
        numbers = range(self.devices) if isinstance(self.devices, int) else self.devices
        return [f"cuda:{number}" for number in numbers] if self.accelerator == "cuda" else []


def select(device: str, count: int) -> Selection:
    """Return ``count`` devices for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises ``DeviceError``.

    Fabric's own choice would also take Apple's GPU, on which not all layers exist, and a GPU that torch has no code
    for.
    """
    if ":" in device and count > 1:
        raise DeviceError(f"With several devices, name none of them: cuda instead of {device}.")
    chosen = choose_device(device)
    kind, _, number = chosen.name.partition(":")
    if kind == "cpu":
        return Selection(kind, count, chosen.remark)
    if count == 1:
        return Selection(kind, [int(number)])
    for other in range(count):
        resolve_device(f"cuda:{other}")
    return Selection(kind, count)


def resolve_precision(precision: Precision, gpus: list[str]) -> Precision:
    """Return the precision in which the devices compute what ``precision`` asks for.

    bfloat16 where all GPUs have it, else float16. On a CPU always float32: bfloat16 is slower there, and torch's
    gradients of a convolution in it are wrong at some sizes (seen with 2.13 on 2 x 2 x 2 voxels). A run keeps what was
    asked for, so it can be resumed on another device.
    """
    if precision == "32-true" or not gpus:
        return "32-true"
    return precision if all(half_precision(gpu) == torch.bfloat16 for gpu in gpus) else "16-mixed"


class _Autocast(MixedPrecision):
    """Mixed precision in which the network's inputs stay in float32; autocast rounds them where a layer is fast.

    Fabric rounds all inputs, so the diffusion would see times and conditions in steps of up to 0.4 %.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def launch(devices: int, nodes: int, precision: Precision, device: str = "auto", say: Say = print) -> Fabric:
    """Return Fabric on ``device``: auto (a GPU if one can be used, else the CPU), cpu, cuda or cuda:N.

    With several devices, start their processes. Raises ``DeviceError``, and :class:`TrainingError` for machines whose
    GPUs differ too much.
    """
    selection = select(device, devices)
    resolved = resolve_precision(precision, selection.names)
    precision_of_fabric: dict[str, Any] = {"precision": resolved}
    if resolved != "32-true":
        precision_of_fabric = {"plugins": [_Autocast(resolved, selection.accelerator)]}
    fabric = Fabric(
        accelerator=selection.accelerator, devices=selection.devices, num_nodes=nodes, **precision_of_fabric
    )
    fabric.launch()
    if fabric.local_rank > 0:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if fabric.broadcast(resolved) != resolved:
        raise TrainingError("The machines' GPUs do not compute in the same 16 bits: choose --precision 32-true.")
    if fabric.is_global_zero:
        for remark in filter(None, [selection.remark, _remark(precision, resolved)]):
            say(remark)
    if selection.accelerator == "cuda":
        _compute_fast()
    return fabric


def _end_with(parent: int) -> None:
    """End this process when its parent ends. It would wait for it in a sum over all processes, holding its GPU."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _remark(asked: Precision, resolved: Precision) -> str:
    """Return a sentence if training computes in another precision than asked for."""
    if asked == resolved:
        return ""
    kind = {"16-mixed": "float16", "bf16-mixed": "bfloat16", "32-true": "float32"}
    return f"Training computes in {kind[resolved]}: these devices are not made for {kind[asked]}."


def _compute_fast() -> None:
    """Let cuDNN try its algorithms, and matrix products take TF32, as convolutions do by default.

    All patches of a network have one shape, so the trial is made once. On the CPU neither changes anything. Networks
    stay in torch's usual memory format: channels_last_3d made one with instance norm slower by a quarter (PyTorch issue
    59168), since that norm copies its input; ``make gpu-check`` measures it for ours.
    """
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def merge_ranks(fabric: Fabric, table: np.ndarray) -> np.ndarray:
    """Merge the tables of scores of all ranks; a row is NaN on every rank but the one that scored its case."""
    if fabric.world_size == 1:
        return table
    gathered: Any = fabric.all_gather(torch.from_numpy(np.nan_to_num(table, nan=-np.inf, posinf=np.inf)))
    merged = gathered.amax(0).cpu().numpy()
    merged[np.isneginf(merged)] = np.nan
    return merged


def is_finite_everywhere(fabric: Fabric, value: torch.Tensor) -> bool:
    """Return whether a number is finite on all ranks; all of them get the same answer."""
    total: Any = fabric.all_reduce(value.clone(), reduce_op="sum")
    return math.isfinite(float(total))

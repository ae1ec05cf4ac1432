"""Devices that torch computes on, and settings for reproducible results."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .errors import DeviceError, first_line, is_gpu_memory_error


@dataclass(frozen=True)
class ChosenDevice:
    """A device to compute on, ``cpu`` or ``cuda:N``. ``remark``: a sentence if a GPU is there but cannot be used."""

    name: str
    remark: str = ""


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises :class:`DeviceError`."""
    return choose_device(device).name


def choose_device(device: str) -> ChosenDevice:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises :class:`DeviceError`.

    ``auto`` is the first GPU that can compute, else the CPU. torch is not built for every GPU: it has no code for old
    cards, or for those that are newer than itself. Apple's GPU (MPS) is never chosen.
    """
    if device != "auto":
        return ChosenDevice(_asked_device(device))
    remark = ""
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        why = why_unusable(number)
        if why is None:
            return ChosenDevice(f"cuda:{number}")
        remark = remark or f"The GPU ({torch.cuda.get_device_name(number)}) cannot be used ({why}): the CPU was used."
    return ChosenDevice("cpu", remark)


def _asked_device(device: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for a device that a user named. Raises :class:`DeviceError`."""
    if device == "cpu":
        return device
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise DeviceError(f"The device must be auto, cpu, cuda or cuda:N, not {device!r}.")
    if not torch.cuda.is_available():
        raise DeviceError("There is no CUDA GPU that can be used here: choose the device cpu.")
    number = int(match[1] or 0)
    if number >= torch.cuda.device_count():
        raise DeviceError(f"There is no GPU {number}: this computer has {torch.cuda.device_count()}.")
    why = why_unusable(number)
    if why is not None:
        name = torch.cuda.get_device_name(number)
        raise DeviceError(f"The GPU ({name}) cannot be used ({why}): choose the device cpu.")
    return f"cuda:{number}"


def why_unusable(number: int) -> str | None:
    """Return why a GPU cannot compute, None if it can. Full memory is no reason: jobs handle that themselves."""
    try:
        _compute(f"cuda:{number}")
    except RuntimeError as error:
        if is_gpu_memory_error(error) and _is_full(number):
            return None
        is_old = any(word in str(error) for word in ("no kernel image", "ARCH_MISMATCH"))
        return "the installed torch has no code for it" if is_old else first_line(error).rstrip(".")
    return None


def _is_full(number: int) -> bool:
    """Return whether a GPU has hardly any free memory. cuDNN may speak of memory where it does not know the card."""
    try:
        free, _ = torch.cuda.mem_get_info(number)
    except RuntimeError:  # not even enough to ask
        return True
    return free < 2**30


def _compute(device: str) -> None:
    """Run one small convolution, which needs torch's own code and that of cuDNN for the device."""
    voxels, weights = torch.ones(1, 8, 4, 4, 4, device=device), torch.ones(8, 8, 3, 3, 3, device=device)
    float(torch.nn.functional.conv3d(voxels, weights).sum())  # waits for the result


def half_precision(device: str) -> torch.dtype:
    """Return the 16-bit type that a GPU computes fast.

    That is bfloat16 from compute capability 8 (Ampere) on. Older GPUs emulate it, which is slow, and torch calls that
    supported too.
    """
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


#: Number of CPU threads for generating a pair, for any number of cores: with another one some voxels differ by 1 HU.
THREADS = 2


@contextlib.contextmanager
def same_bits() -> Iterator[None]:
    """Make torch add in the same order every time, with ``THREADS`` threads; restore its settings at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)

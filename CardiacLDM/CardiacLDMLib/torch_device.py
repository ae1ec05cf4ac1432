"""Devices that torch computes on, and settings for reproducible results."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from .errors import DeviceError


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises :class:`DeviceError`."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
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
    return f"cuda:{number}"


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

"""Sliding windows: number of windows, predictions averaged over mirrored windows, precision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch

from ..torch_device import half_precision


def window_count(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> int:
    """Return the number of windows of ``patch`` voxels that cover ``shape`` voxels, with ``overlap`` of their side."""
    steps = (1 + math.ceil(max(n - p, 0) / window_step(p, overlap)) for n, p in zip(shape, patch, strict=True))
    return math.prod(steps)


def window_step(side: int, overlap: float) -> int:
    """Return the voxels from one window of ``side`` voxels to the next, as MONAI places them."""
    return max(int(side * (1 - overlap)), 1)


def predict_with_flips(
    network: torch.nn.Module, windows: torch.Tensor, before_each: Callable[[], None]
) -> torch.Tensor:
    """Return logits (N, 9, I, J, K): three quarters the plain prediction, one quarter the mean of mirrored ones.

    ``windows`` (N, 1, I, J, K) are mirrored along each axis; ``before_each`` is called before every mirrored pass.
    Mirrored passes weigh less, since networks see few mirrored hearts in training: at a weight of one half the right
    atrium of a real scan was lost; at one quarter the Dice there is 0.819, and 0.818 without mirrored passes.
    """
    mean = network(windows).float() * 0.75
    for axis in (2, 3, 4):
        before_each()
        mean += network(windows.flip(axis)).float().flip(axis) / 12
    return mean


def autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """Return a context that computes in half precision on a GPU; not on a CPU, where that takes twice the time."""
    if device == "cpu":
        return contextlib.nullcontext()
    return torch.autocast("cuda", dtype=half_precision(device))

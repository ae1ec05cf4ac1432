"""The bilateral filter (Tomasi and Manduchi 1998) on tensors of any number of channels.

MONAI's filter needs compiled code that its wheels lack, and takes no separate guide image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bilateral(values: torch.Tensor, guide: torch.Tensor, width: float, taps: Sequence[float]) -> torch.Tensor:
    """Return the weighted mean of each voxel's neighbourhood in ``values`` (N, D, I, J, K), without padding.

    The weight of a neighbour is the product of the ``taps`` of its three offsets (an odd number of taps, the middle one
    for the voxel itself) and ``exp(-d^2 / (2 width^2))``, with ``d`` the distance of both voxels in ``guide``
    (N, C, I, J, K).
    """
    import torch

    total, weights = torch.zeros_like(values), torch.zeros_like(guide[:, :1])
    reach = len(taps) // 2
    for offset in itertools.product(range(-reach, reach + 1), repeat=3):
        here, there = _overlap(offset, guide.shape[2:]), _overlap([-step for step in offset], guide.shape[2:])
        weight = torch.exp((guide[there] - guide[here]).square().sum(1, keepdim=True) / (-2.0 * width**2))
        for step in offset:
            weight *= taps[reach + step]
        total[here] += weight * values[there]
        weights[here] += weight
    return total / weights


def _overlap(offset: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices (N, C, I, J, K) of the voxels whose neighbour at ``-offset`` lies within ``shape``."""
    spans = (slice(max(o, 0), max(side + min(o, 0), 0)) for o, side in zip(offset, shape, strict=True))
    return slice(None), slice(None), *spans

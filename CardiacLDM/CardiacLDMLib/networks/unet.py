"""The U-Net with residual units of MONAI (Kerfoot et al. 2019), in torch alone.

It has the tensors, names, first weights and results of MONAI's ``UNet``, to the bit; a test compares them. Importing
MONAI takes longer than importing torch and labelling a small scan, since it loads plotting and statistics too.

:mod:`build` imports this module only for a package that needs it, since it imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from .architectures import Norm, Shape, UNetArguments

_NORMS: dict[str, type[nn.InstanceNorm3d | nn.BatchNorm3d]] = {
    "instance": nn.InstanceNorm3d,
    "batch": nn.BatchNorm3d,
}


class UNet(nn.Module):
    """Maps (N, inputs, I, J, K) to logits (N, outputs, I, J, K)."""

    def __init__(self, arguments: UNetArguments, inputs: int, outputs: int) -> None:
        super().__init__()
        self.model = _level(arguments, inputs, outputs, 0)
        if arguments.light_top:
            self.model[-1] = _transposed(_joined(arguments.channels), outputs, arguments.strides[0], None)

        self._stride = math.prod(arguments.strides)
        self._least_voxels = 2 if arguments.norm == "instance" else 1  # of the lowest level: one alone has no spread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.model(x))

    def takes(self, patch: Shape) -> bool:
        """Return whether a patch of voxels becomes logits of the same size, without computing any."""
        lowest = math.prod(side // self._stride for side in patch)
        return all(side % self._stride == 0 for side in patch) and lowest >= self._least_voxels


def _level(arguments: UNetArguments, inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """Return a level and all below it: down, the level below with a connection around it, up."""
    channels, stride = arguments.channels[depth:], arguments.strides[depth]
    # First weights are drawn as layers are made: from the lowest level up, as in MONAI.
    if len(channels) > 2:
        below: nn.Module = _level(arguments, channels[0], channels[0], depth + 1)
    else:
        below = _down(arguments, channels[0], channels[1], 1)
    down = _down(arguments, inputs, channels[0], stride)
    return nn.Sequential(down, _Joined(below), _up(arguments, _joined(channels), outputs, stride, top=depth == 0))


def _joined(channels: Sequence[int]) -> int:
    """Return the channels of a level's features beside those from below; the lowest level has its own width."""
    return channels[0] + (channels[0] if len(channels) > 2 else channels[1])


def _down(arguments: UNetArguments, inputs: int, outputs: int, stride: int) -> nn.Module:
    units, norm = arguments.num_res_units, arguments.norm
    if units:
        return _ResidualUnit(inputs, outputs, stride, [norm] * units)
    return _convolution(inputs, outputs, stride, norm)


def _up(arguments: UNetArguments, inputs: int, outputs: int, stride: int, *, top: bool) -> nn.Module:
    last: Norm | None = None if top else arguments.norm
    if not arguments.num_res_units:
        return _transposed(inputs, outputs, stride, last)
    transposed = _transposed(inputs, outputs, stride, arguments.norm)
    return nn.Sequential(transposed, _ResidualUnit(outputs, outputs, 1, [last]))


class _Joined(nn.Module):
    """Features, and beside them what ``submodule`` makes of them."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.submodule(x)], dim=1)


class _ResidualUnit(nn.Module):
    """Convolutions, one for each of ``norms``, around which the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, norms: Sequence[Norm | None]) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        for number, norm in enumerate(norms):
            first = number == 0
            unit = _convolution(inputs if first else outputs, outputs, stride if first else 1, norm)
            self.conv.add_module(f"unit{number}", unit)
        self.residual: nn.Module = nn.Identity()
        if stride != 1:
            self.residual = nn.Conv3d(inputs, outputs, 3, stride, padding=1)
        elif inputs != outputs:
            self.residual = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.residual(x)
        return cast("torch.Tensor", self.conv(x) + residual)


def _convolution(inputs: int, outputs: int, stride: int, norm: Norm | None) -> nn.Sequential:
    return _with_norm(nn.Conv3d(inputs, outputs, 3, stride, padding=1), norm)


def _transposed(inputs: int, outputs: int, stride: int, norm: Norm | None) -> nn.Sequential:
    """Return a convolution that multiplies each side by ``stride``."""
    layer = nn.ConvTranspose3d(inputs, outputs, 3, stride, padding=1, output_padding=stride - 1)
    return _with_norm(layer, norm)


def _with_norm(layer: nn.Conv3d | nn.ConvTranspose3d, norm: Norm | None) -> nn.Sequential:
    """Return a layer, with a normalisation and an activation unless ``norm`` is None."""
    sequence = nn.Sequential()
    sequence.add_module("conv", layer)
    if norm is not None:
        after = nn.Sequential()
        after.add_module("N", _NORMS[norm](layer.out_channels, affine=True))
        after.add_module("A", nn.PReLU())
        sequence.add_module("adn", after)
    return sequence

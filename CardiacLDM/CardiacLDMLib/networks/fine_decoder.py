"""The fine decoder: decode latents to an image and labels with voxels of half the autoencoder's size.

:mod:`build` imports this module only for a package that needs it, since it imports torch and MONAI.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import torch
from monai.networks.blocks import SubpixelUpsample
from monai.networks.utils import pixelshuffle

from .. import anatomy
from .architectures import FINE_STRIDE, LATENT_STRIDE

if TYPE_CHECKING:
    from .architectures import FineDecoderArguments

#: Image and logits of the decoder's output.
_OUT = 1 + anatomy.NUM_CLASSES
#: Channels of the noise: a number for each coarse and each fine voxel of a latent voxel.
NOISE_CHANNELS = LATENT_STRIDE**3 + FINE_STRIDE**3
#: Factor of the residual blocks' last layer before training, so that a block hardly changes its input at first.
_FIRST_GAIN = 0.1
_SLOPE = 0.2
#: Factor of the layers in the image, as in :class:`JointAutoencoder`.
_FINE = 0.1


class FineDecoder(torch.nn.Module):
    """Convolutions at four resolutions, from latents (a side of 8 voxels of the output) to the output.

    A linear map of latents to blocks of voxels twice as large as the output's, as in :class:`JointAutoencoder`, gives
    a first image and first logits, which are interpolated to the output; the layers add to them. There is no
    normalisation, so that a part of the latents is decoded as it is within the whole (Wang et al. 2018, "ESRGAN").
    Detail that latents do not determine, like grain, comes from noise, of which each latent voxel brings its own.
    """

    def __init__(self, arguments: FineDecoderArguments) -> None:
        super().__init__()
        latent, (deep, middle, coarse, fine) = arguments.latent_channels, arguments.channels
        self.latent_channels, self.noise_channels = latent, NOISE_CHANNELS
        self.linear = SubpixelUpsample(3, latent, _OUT, LATENT_STRIDE, apply_pad_pool=False)
        self.deep = torch.nn.Sequential(_convolution(latent, deep), *_blocks(deep, arguments.blocks), _Up(deep, middle))
        self.middle = torch.nn.Sequential(*_blocks(middle, arguments.blocks), _Up(middle, coarse))
        self.join = _convolution(coarse + _OUT + 1, coarse)
        self.coarse = torch.nn.Sequential(*_blocks(coarse, arguments.blocks), _Up(coarse, fine - 1))
        self.fine_join = _convolution(fine, fine)  # with one channel of noise
        last = _convolution(fine, _OUT)
        torch.nn.init.zeros_(last.weight)  # the linear map alone at first
        self.fine = torch.nn.Sequential(*_blocks(fine, 1), _activation(), last)

    def features(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (N, D, 4 I, 4 J, 4 K) of latents (N, C, I, J, K), and the first image and logits there."""
        with _full_precision(z.device.type):  # 8 bits of an image would be coarser than its noise
            first = self.linear(z.float())
        return self.middle(self.deep(z)), first

    def refine(
        self, features: torch.Tensor, first: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and logits from :meth:`features`, or from the same part of both and of the noise."""
        coarse_noise = pixelshuffle(noise[:, : LATENT_STRIDE**3], 3, LATENT_STRIDE)
        fine_noise = pixelshuffle(noise[:, LATENT_STRIDE**3 :], 3, FINE_STRIDE)
        joined = self.join(torch.cat([features, _centred(first), coarse_noise], dim=1))
        fine = self.fine_join(torch.cat([self.coarse(joined), fine_noise], dim=1))
        base = torch.nn.functional.interpolate(first, scale_factor=2, mode="trilinear")
        out = self.fine(fine).float()
        return base[:, :1] + _FINE * out[:, :1], base[:, 1:] + out[:, 1:]

    def patch(self, z: torch.Tensor, corners: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the part of the output that belongs to a part of the latents, for training.

        ``z`` (N, C, ...): the part with its surroundings. ``corners`` (N, 3): where in it the part begins. ``noise``
        (N, NOISE_CHANNELS, P, Q, R): of the part alone, P x Q x R latents.
        """
        sides = [LATENT_STRIDE * side for side in noise.shape[2:]]
        parts = []
        for tensor in self.features(z):
            boxes = [
                own[(slice(None), *(slice(low, low + side) for low, side in zip(corner, sides, strict=True)))]
                for own, corner in zip(tensor, (LATENT_STRIDE * corners).tolist(), strict=True)
            ]
            parts.append(torch.stack(boxes))
        return self.refine(parts[0], parts[1], noise)

    def forward(self, z: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image (N, 1, 8 I, 8 J, 8 K), about 0..1, and nine logits of that size.

        ``z`` (N, C, I, J, K): latents on the autoencoder's scale. ``noise`` (N, NOISE_CHANNELS, I, J, K): standard
        normal.
        """
        return self.refine(*self.features(z), noise)


def _full_precision(device: str) -> contextlib.AbstractContextManager[None]:
    """Return a context without mixed precision, on any kind of device, also on ``meta``, which knows none."""
    available = torch.amp.autocast_mode.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


def _centred(first: torch.Tensor) -> torch.Tensor:
    """Return the image about 0 and probabilities in place of logits: both are then of the size of activations."""
    return torch.cat([2 * first[:, :1] - 1, first[:, 1:].softmax(1)], dim=1)


def _activation() -> torch.nn.Module:
    return torch.nn.LeakyReLU(_SLOPE)


def _convolution(inputs: int, outputs: int) -> torch.nn.Conv3d:
    layer = torch.nn.Conv3d(inputs, outputs, kernel_size=3, padding=1)
    torch.nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    torch.nn.init.zeros_(cast("torch.Tensor", layer.bias))
    return layer


class _Up(torch.nn.Module):
    """Twice the resolution. A kernel of one voxel costs a 27th of MONAI's, and residual blocks come before it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(inputs, outputs * 8, kernel_size=1)
        with torch.no_grad():  # the eight voxels are equal at first: otherwise a pattern of two voxels would stay long
            self.layer.weight.copy_(self.layer.weight[::8].repeat_interleave(8, dim=0))
            cast("torch.Tensor", self.layer.bias).zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", pixelshuffle(self.layer(x), 3, 2))


def _blocks(channels: int, count: int) -> list[torch.nn.Module]:
    return [_Residual(channels) for _ in range(count)]


class _Residual(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        last = _convolution(channels, channels)
        with torch.no_grad():
            last.weight.mul_(_FIRST_GAIN)
        self.layers = torch.nn.Sequential(_activation(), _convolution(channels, channels), _activation(), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)

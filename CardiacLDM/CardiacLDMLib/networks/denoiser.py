"""The denoiser: predict velocity or noise from noisy latents, their time and optional conditions.

:mod:`build` imports this module only for a package that needs it, since it imports torch and MONAI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from monai.networks.nets import DiffusionModelUNet

if TYPE_CHECKING:
    from .architectures import DenoiserArguments

#: MONAI's sinusoidal time embedding expects times from 0 to 1000.
_TIME_SCALE = 1000.0


class GaussianPrior(torch.nn.Module):
    """A normal distribution over whole latents, fitted to the training set before the network learns.

    ``mean`` (C, I, J, K); ``modes`` (M, C, I, J, K), the orthonormal directions of largest variance; their
    ``variances`` (M,); ``rest`` (C, I, J, K), the standard deviation of each element outside the modes, taken as
    independent.
    """

    def __init__(self, channels: int, shape: tuple[int, int, int], modes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, *shape))
        self.register_buffer("modes", torch.zeros(modes, channels, *shape))
        self.register_buffer("variances", torch.ones(modes))
        self.register_buffer("rest", torch.ones(channels, *shape))

    mean: torch.Tensor
    modes: torch.Tensor
    variances: torch.Tensor
    rest: torch.Tensor

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the expected velocity, the network's input (N, 2 C, I, J, K), and the scale of the network's output.

        ``z`` (N, C, I, J, K): noisy latents of rectified flow at the times ``t`` (N,). The input consists of the
        posterior mean of the data along the modes and of the residual of ``z``, scaled to a variance of about 1 (as in
        Karras et al. 2022, table 1, with a single variance).
        """
        time = t.view(-1, 1)
        signal = 1 - time
        mean, modes, rest = self.mean.flatten(), self.modes.flatten(1), self.rest.flatten()
        centred = z.flatten(1) - signal * mean
        coefficients = centred @ modes.T
        outside = centred - coefficients @ modes
        mode_variance, rest_variance = (
            variance * signal.square() + time.square() for variance in (self.variances, rest.square())
        )
        expected = mean + (signal * self.variances / mode_variance * coefficients) @ modes
        velocity = (time - signal * self.variances) / mode_variance * coefficients @ modes - mean
        velocity = velocity + (time - signal * rest.square()) / rest_variance * outside
        scale = rest_variance.rsqrt()
        residual = (z.flatten(1) - signal * expected) * scale
        inputs = torch.cat([expected.view_as(z), residual.view_as(z)], dim=1)
        return velocity.view_as(z), inputs, (rest * scale).view_as(z)


class Denoiser(torch.nn.Module):
    """MONAI's ``DiffusionModelUNet`` with one context token for each condition, and one constant token.

    An unset condition has a token of its own, which is learned as training drops conditions at random. With a
    ``prior``, which fits velocities only, the network predicts the difference from the velocity expected under it.
    """

    def __init__(self, arguments: DenoiserArguments) -> None:
        super().__init__()
        self.latent_channels = arguments.latent_channels
        self.prior = _prior(arguments)
        self.unet = DiffusionModelUNet(
            spatial_dims=3, in_channels=arguments.latent_channels * (1 if self.prior is None else 2),
            out_channels=arguments.latent_channels, channels=arguments.channels,
            num_res_blocks=arguments.num_res_blocks, attention_levels=arguments.attention_levels,
            num_head_channels=arguments.num_head_channels, norm_num_groups=arguments.norm_num_groups,
            with_conditioning=True, cross_attention_dim=arguments.context_dim, use_flash_attention=True,
        )  # fmt: skip
        width = arguments.context_dim
        self.always = torch.nn.Parameter(0.02 * torch.randn(1, width))  # a context is needed without conditions too
        self.choices = torch.nn.ModuleList(torch.nn.Embedding(values + 1, width) for values in arguments.choices)
        self.numbers = torch.nn.ModuleList(_number_token(width) for _ in range(arguments.numbers))
        self.unknown_numbers = torch.nn.ParameterList(0.02 * torch.randn(width) for _ in range(arguments.numbers))

    def forward(
        self, z: torch.Tensor, t: torch.Tensor, choices: torch.Tensor, numbers: torch.Tensor
    ) -> torch.Tensor:  # fmt: skip
        """Return the velocity or the noise, whichever the network was trained for, (N, C, I, J, K).

        ``z``: normalised noisy latents of that shape. ``t`` (N,): their times, 0 for data to 1 for noise. ``choices``
        (N, A) int64: the index of each choice's value, -1 for unset. ``numbers`` (N, B) float: about -1..1, NaN for
        unset.
        """
        context = self._context(choices, numbers)
        if self.prior is None:
            return cast("torch.Tensor", self.unet(z, _TIME_SCALE * t, context=context))
        velocity, inputs, scale = self.prior(z, t)
        return cast("torch.Tensor", velocity + scale * self.unet(inputs, _TIME_SCALE * t, context=context))

    def _context(self, choices: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the context tokens (N, 1 + A + B, context_dim)."""
        tokens = [self.always.expand(len(choices), -1)]
        tokens += [embedding(choices[:, n] + 1) for n, embedding in enumerate(self.choices)]
        for n, token in enumerate(self.numbers):
            set_token = token(numbers[:, n, None].nan_to_num())
            tokens.append(torch.where(numbers[:, n, None].isnan(), self.unknown_numbers[n], set_token))
        return torch.stack(tokens, dim=1)


def _prior(arguments: DenoiserArguments) -> GaussianPrior | None:
    if arguments.prior_modes is None or arguments.latent_shape is None:
        return None
    return GaussianPrior(arguments.latent_channels, arguments.latent_shape, arguments.prior_modes)


def _number_token(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.SiLU(), torch.nn.Linear(width, width))

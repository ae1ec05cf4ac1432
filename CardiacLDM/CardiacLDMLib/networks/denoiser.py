"""The denoiser: predict velocity or noise from noisy latents, their time and optional conditions.

:mod:`build` imports this module when a package names it, since it needs torch and MONAI.
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

        ``z`` (N, C, I, J, K) are noisy latents of rectified flow at the times ``t`` (N,). The input is the posterior
        mean of the data given the modes, and the rest of ``z``, scaled to a variance of about 1 (as in Karras et al.
        2022, table 1, with a single variance).
        """
        time = t.view(-1, 1)
        signal = 1 - time
        mean, modes, rest = self.mean.flatten(), self.modes.flatten(1), self.rest.flatten()
        moved = z.flatten(1) - signal * mean
        along = moved @ modes.T
        beside = moved - along @ modes
        of_modes, of_rest = (variance * signal.square() + time.square() for variance in (self.variances, rest.square()))
        expected = mean + (signal * self.variances / of_modes * along) @ modes
        velocity = (time - signal * self.variances) / of_modes * along @ modes - mean
        velocity = velocity + (time - signal * rest.square()) / of_rest * beside
        scale = of_rest.rsqrt()
        left = (z.flatten(1) - signal * expected) * scale
        seen = torch.cat([expected.view_as(z), left.view_as(z)], dim=1)
        return velocity.view_as(z), seen, (rest * scale).view_as(z)


class Denoiser(torch.nn.Module):
    """MONAI's ``DiffusionModelUNet`` with one context token for each condition, and one constant token.

    An unset condition has its own token, learned while conditions are dropped at random. With a ``prior``, for
    velocities alone, the network predicts the difference from the velocity that a normal distribution gives.
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
        """Return velocity or noise, as trained, (N, C, I, J, K) like the normalised noisy latents ``z``.

        ``t`` (N,) in 0..1, 1 is noise; ``choices`` (N, A) int64, the index of each choice's value, -1 for unset;
        ``numbers`` (N, B) float, about -1..1, NaN for unset.
        """
        context = self._context(choices, numbers)
        if self.prior is None:
            return cast("torch.Tensor", self.unet(z, _TIME_SCALE * t, context=context))
        expected, seen, scale = self.prior(z, t)
        return cast("torch.Tensor", expected + scale * self.unet(seen, _TIME_SCALE * t, context=context))

    def _context(self, choices: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the context tokens (N, 1 + A + B, context_dim)."""
        tokens = [self.always.expand(len(choices), -1)]
        tokens += [embedding(choices[:, n] + 1) for n, embedding in enumerate(self.choices)]
        for n, token in enumerate(self.numbers):
            given = token(numbers[:, n, None].nan_to_num())
            tokens.append(torch.where(numbers[:, n, None].isnan(), self.unknown_numbers[n], given))
        return torch.stack(tokens, dim=1)


def _prior(arguments: DenoiserArguments) -> GaussianPrior | None:
    if arguments.prior_modes is None or arguments.latent_shape is None:
        return None
    return GaussianPrior(arguments.latent_channels, arguments.latent_shape, arguments.prior_modes)


def _number_token(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.SiLU(), torch.nn.Linear(width, width))

"""The diffusion network: predicts from noisy latents, their time and optional conditions what the schedule asks for.

Imported by :mod:`networks` when a package names it, for it needs torch and MONAI at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from monai.networks.nets import DiffusionModelUNet

if TYPE_CHECKING:
    from .architectures import DenoiserArguments

#: The sinusoids of MONAI's time embedding are made for steps of a thousand.
_TIME_SCALE = 1000.0


class GaussianPrior(torch.nn.Module):
    """What the latents of a training set are before a network learns: a normal distribution over whole latents.

    Their ``mean``, the ``modes`` (orthonormal) in which they vary most with the ``variances`` (M,), and what is left of
    each number's standard deviation, ``rest``, as if it varied by itself. All but the variances have the shape
    (C, I, J, K), the modes (M, C, I, J, K).
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
        """For noisy latents ``z`` (N, C, I, J, K) of rectified flow at the times ``t`` (N,): the velocity that is
        expected of them, what a network is to look at (N, 2 C, I, J, K), and the scale of what it may add to the
        velocity.

        The network sees the data that are expected from the modes, and what is left of ``z`` without them, scaled to
        about 1 (as Karras et al. 2022, table 1, do with a single variance).
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
    """MONAI's ``DiffusionModelUNet`` with one token of context for each condition, and one that is always the same.

    An unknown condition has a token of its own, learned while conditions are dropped at random.

    With a ``prior``, for velocities alone, it is left only what a normal distribution does not tell of the velocity.
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
        self.always = torch.nn.Parameter(0.02 * torch.randn(1, width))  # without conditions there must be a context too
        self.choices = torch.nn.ModuleList(torch.nn.Embedding(values + 1, width) for values in arguments.choices)
        self.numbers = torch.nn.ModuleList(_number_token(width) for _ in range(arguments.numbers))
        self.unknown_numbers = torch.nn.ParameterList(0.02 * torch.randn(width) for _ in range(arguments.numbers))

    def forward(
        self, z: torch.Tensor, t: torch.Tensor, choices: torch.Tensor, numbers: torch.Tensor
    ) -> torch.Tensor:  # fmt: skip
        """What the schedule asks for, (N, C, I, J, K) as the normalised noisy latents ``z``.

        ``t`` (N,) in 0..1, 1 is noise; ``choices`` (N, A) int64, the number of each choice's value, -1 for unknown;
        ``numbers`` (N, B) float, about -1..1, NaN for unknown.
        """
        context = self._context(choices, numbers)
        if self.prior is None:
            return cast("torch.Tensor", self.unet(z, _TIME_SCALE * t, context=context))
        expected, seen, scale = self.prior(z, t)
        return cast("torch.Tensor", expected + scale * self.unet(seen, _TIME_SCALE * t, context=context))

    def _context(self, choices: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """(N, 1 + A + B, context_dim)."""
        tokens = [self.always.expand(len(choices), -1)]
        tokens += [embedding(choices[:, n] + 1) for n, embedding in enumerate(self.choices)]
        for n, token in enumerate(self.numbers):
            known = token(numbers[:, n, None].nan_to_num())
            tokens.append(torch.where(numbers[:, n, None].isnan(), self.unknown_numbers[n], known))
        return torch.stack(tokens, dim=1)


def _prior(arguments: DenoiserArguments) -> GaussianPrior | None:
    if arguments.prior_modes is None or arguments.latent_shape is None:
        return None
    return GaussianPrior(arguments.latent_channels, arguments.latent_shape, arguments.prior_modes)


def _number_token(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.SiLU(), torch.nn.Linear(width, width))

"""The diffusion network: predicts from noisy latents, their time and optional conditions what the schedule asks for.

Imported by :mod:`networks` when a package names it, for it needs torch and MONAI at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from monai.networks.nets import DiffusionModelUNet

if TYPE_CHECKING:
    from .networks import DenoiserArguments

#: The sinusoids of MONAI's time embedding are made for steps of a thousand.
_TIME_SCALE = 1000.0


class Denoiser(torch.nn.Module):
    """MONAI's ``DiffusionModelUNet`` with one token of context for each condition, and one that is always the same.

    An unknown condition has a token of its own, learned while conditions are dropped at random.

    ``preconditioned``, for velocities alone, it is left only what each latent for itself does not tell of the velocity,
    given the standard deviation of its channel, ``spread`` (Karras et al. 2022, table 1, for rectified flow).
    """

    def __init__(self, arguments: DenoiserArguments) -> None:
        super().__init__()
        self.latent_channels = arguments.latent_channels
        self.preconditioned = arguments.preconditioned
        self.unet = DiffusionModelUNet(
            spatial_dims=3, in_channels=arguments.latent_channels, out_channels=arguments.latent_channels,
            channels=arguments.channels, num_res_blocks=arguments.num_res_blocks,
            attention_levels=arguments.attention_levels, num_head_channels=arguments.num_head_channels,
            norm_num_groups=arguments.norm_num_groups, with_conditioning=True,
            cross_attention_dim=arguments.context_dim, use_flash_attention=True,
        )  # fmt: skip
        self.register_buffer("spread", torch.ones(arguments.latent_channels))
        width = arguments.context_dim
        self.always = torch.nn.Parameter(0.02 * torch.randn(1, width))  # without conditions there must be a context too
        self.choices = torch.nn.ModuleList(torch.nn.Embedding(values + 1, width) for values in arguments.choices)
        self.numbers = torch.nn.ModuleList(_number_token(width) for _ in range(arguments.numbers))
        self.unknown_numbers = torch.nn.ParameterList(0.02 * torch.randn(width) for _ in range(arguments.numbers))

    spread: torch.Tensor

    def forward(
        self, z: torch.Tensor, t: torch.Tensor, choices: torch.Tensor, numbers: torch.Tensor
    ) -> torch.Tensor:  # fmt: skip
        """What the schedule asks for, (N, C, I, J, K) as the normalised noisy latents ``z``.

        ``t`` (N,) in 0..1, 1 is noise; ``choices`` (N, A) int64, the number of each choice's value, -1 for unknown;
        ``numbers`` (N, B) float, about -1..1, NaN for unknown.
        """
        context = self._context(choices, numbers)
        if not self.preconditioned:
            return cast("torch.Tensor", self.unet(z, _TIME_SCALE * t, context=context))
        time, spread = t.view(-1, 1, 1, 1, 1), self.spread.view(-1, 1, 1, 1)
        variance = ((1 - time) * spread).square() + time.square()
        rest = self.unet(z / variance.sqrt(), _TIME_SCALE * t, context=context)
        return ((time - (1 - time) * spread.square()) * z + spread * variance.sqrt() * rest) / variance

    def _context(self, choices: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """(N, 1 + A + B, context_dim)."""
        tokens = [self.always.expand(len(choices), -1)]
        tokens += [embedding(choices[:, n] + 1) for n, embedding in enumerate(self.choices)]
        for n, token in enumerate(self.numbers):
            known = token(numbers[:, n, None].nan_to_num())
            tokens.append(torch.where(numbers[:, n, None].isnan(), self.unknown_numbers[n], known))
        return torch.stack(tokens, dim=1)


def _number_token(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.SiLU(), torch.nn.Linear(width, width))

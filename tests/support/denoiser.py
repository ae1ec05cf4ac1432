"""A tiny denoiser with random weights, and inputs for it."""

from __future__ import annotations

from typing import Any

import torch

from CardiacLDMLib.generation.sampler import noise
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.denoiser import Denoiser

LATENT = (2, 4, 4, 4)

ARGUMENTS: dict[str, Any] = {
    "channels": [8, 16], "attention_levels": [False, True], "num_head_channels": 8, "norm_num_groups": 4,
    "context_dim": 8,
}  # fmt: skip

SIZES: dict[str, Any] = {"choices": [2, 3], "numbers": 1}

PRIOR: dict[str, Any] = {"prior_modes": 2, "latent_shape": LATENT[1:]}


def denoiser(**changes: object) -> Denoiser:
    """Return a denoiser with random weights, also where MONAI sets them to zero: zeros would hide everything else."""
    torch.manual_seed(0)
    network = build_network("diffusion_unet", {**ARGUMENTS, **SIZES, "latent_channels": LATENT[0], **changes})  # type: ignore[dict-item]
    assert isinstance(network, Denoiser)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(samples: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    z = torch.stack([noise(1, n, 0, LATENT) for n in range(samples)])
    return z, torch.full((samples,), 0.5), torch.tensor([[1, 2]] * samples), torch.tensor([[0.3]] * samples)

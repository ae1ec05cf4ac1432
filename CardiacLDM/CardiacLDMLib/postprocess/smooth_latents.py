"""Remove grain from sampled latents with a bilateral filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, FiniteFloat

from .bilateral import bilateral
from .kinds import LatentStep

if TYPE_CHECKING:
    import torch

#: Weights of the neighbours along an axis, two to each side.
_BOX = (1.0,) * 5

Width = Annotated[FiniteFloat, Field(ge=0.01, le=10)]
#: Widths of the filter for the first channel alone, then for all channels.
Widths = tuple[Width, Width]


class SmoothLatents(LatentStep):
    """Average neighbouring latent voxels with similar values."""

    step: Literal["smooth_latents"] = "smooth_latents"
    widths: Annotated[
        Widths,
        Field(description="How far latents may differ and still be averaged: the first channel alone, then all."),
    ]

    def apply(self, z: torch.Tensor) -> torch.Tensor:
        """Return ``z`` filtered by :func:`smooth_latents`."""
        return smooth_latents(z, self.widths)

    def describe(self) -> str:
        """Return the sentence of the model card."""
        return "Neighbouring latent voxels with similar values are averaged."


def smooth_latents(z: torch.Tensor, widths: Widths) -> torch.Tensor:
    """Return normalised latents (N, C, I, J, K) with less grain and the same edges.

    The first channel is filtered alone with ``widths[0]``, then all channels together with ``widths[1]``. In an
    autoencoder that starts from principal components, the first channel is close to the mean of an image block.
    """
    import torch

    z = torch.cat([bilateral(z[:, :1], z, widths[0], _BOX), z[:, 1:]], dim=1)
    return bilateral(z, z, widths[1], _BOX)

"""Remove from a decoded image the pattern that repeats with every latent voxel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, FiniteFloat

from .bilateral import bilateral
from .kinds import ImageStep

if TYPE_CHECKING:
    import torch

#: Weights of the neighbours along an axis. They sum up to four voxels, the side of a latent voxel: the mean over one
#: period removes a pattern of that period.
_TAPS = (0.5, 1.0, 1.0, 1.0, 0.5)

WidthHu = Annotated[FiniteFloat, Field(ge=1, le=1000)]


class Deblock(ImageStep):
    """Average the image over a latent voxel, but not across edges."""

    step: Literal["deblock"] = "deblock"
    width_hu: Annotated[WidthHu, Field(description="How far voxels may differ and still be averaged, HU.")]

    def apply(self, image: torch.Tensor, window_hu: tuple[float, float]) -> torch.Tensor:
        """Return the filtered image (N, 1, I, J, K)."""
        low, high = window_hu
        return bilateral(image, image, self.width_hu / (high - low), _TAPS)

    def describe(self) -> str:
        """Return the sentence of the model card."""
        return f"The decoded image is averaged over a latent voxel, but not across edges of {self.width_hu:g} HU."

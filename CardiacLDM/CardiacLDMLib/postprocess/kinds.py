"""The three kinds of post-processing step, on latents, image or HU, each with one signature of ``apply``.

A step is an immutable record of its settings, as a package's manifest lists it. Its entry ``step`` is its name.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch


class PostprocessStep(BaseModel):
    """The settings of one step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def describe(self) -> str:
        """Return a sentence on the step for the model card."""


class LatentStep(PostprocessStep):
    """A step on sampled latents, before they are decoded."""

    @abstractmethod
    def apply(self, z: torch.Tensor) -> torch.Tensor:
        """Return the changed latents.

        ``z`` (N, C, I, J, K): sampled latents, normalised per channel to mean 0 and standard deviation 1.
        """


class ImageStep(PostprocessStep):
    """A step on the decoded image, before its labels are decided."""

    @abstractmethod
    def apply(self, image: torch.Tensor, window_hu: tuple[float, float]) -> torch.Tensor:
        """Return the changed image (N, 1, I, J, K); 0..1 stands for ``window_hu``."""


class HuStep(PostprocessStep):
    """A step on an image in HU and its labels."""

    @abstractmethod
    def apply(self, hu: np.ndarray, labels: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
        """Return the changed image (I, J, K), float32, in HU.

        ``labels`` (I, J, K) uint8. Voxels are cubes of ``spacing_mm``. ``rng`` is the only source of random numbers.
        """


#: The order in which the kinds are applied, and in which a package must list its steps.
KINDS: tuple[type[PostprocessStep], ...] = (LatentStep, ImageStep, HuStep)

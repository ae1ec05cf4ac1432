"""Settings of sampling and augmentation of training patches and pairs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from CardiacLDMLib.packages.fields import Record

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class AugmentConfig(Record):
    """Augmentation of training patches. Lengths in mm, intensities in HU, angles in degrees."""

    rotation_deg: float = 15.0
    scale: tuple[Positive, Positive] = (0.8, 1.25)
    flip: Probability = 0.1
    warp_mm: float = 5.0  # standard deviation of the warp's control points
    warp_spacing_mm: Positive = 35.0  # distance between control points
    contrast: Probability = 0.4
    left_shift_hu: float = 150.0
    right_shift_hu: float = 200.0
    wall_shift_hu: float = 40.0
    mixing: Probability = 0.25
    mixing_hu: float = 250.0
    bias: Probability = 0.3
    bias_hu: float = 60.0
    blur: Probability = 0.25
    blur_mm: float = 2.5
    thick_slices: Probability = 0.25
    thick_slices_mm: float = 8.0
    noise: Probability = 0.5
    noise_hu: float = 70.0
    noise_length_mm: float = 4.0
    scale_hu: float = 0.1
    shift_hu: float = 30.0
    gamma: Probability = 0.3
    gamma_log: float = 0.3
    view: Probability = 0.15  # probability, per axis, that the field of view ends inside the patch
    view_smallest: Probability = 0.5  # smallest share of the patch that stays inside the field of view

    def with_probability(self, factor: float) -> AugmentConfig:
        """Return the same augmentation, each part with ``factor`` (0 to 1) of its probability."""
        names = ("flip", "contrast", "mixing", "bias", "blur", "thick_slices", "noise", "gamma", "view")
        return self.model_copy(update={name: getattr(self, name) * factor for name in names})


class SamplingConfig(Record):
    """Where training patches lie: around a random voxel of a random structure, or anywhere in the scan."""

    anywhere: Probability = 0.1  # probability of a patch anywhere in the scan
    jitter: Probability = 0.25  # largest shift of the centre, as a part of the patch


class PairAugmentConfig(Record):
    """Augmentation of training pairs: the four kinds of the paper, and a shift of the grid's box.

    A generator trained with flips draws mirrored hearts, so only the paper's preset has them.
    """

    jitter: Probability = 0.06  # largest shift of the box along each axis, as a part of its side
    crop: Probability = 0.5  # probability that a random part of the axial plane is stretched to all of it
    crop_smallest: Annotated[float, Field(gt=0, le=1)] = 0.85  # smallest part of the sides that is left
    horizontal_flip: Probability = 0.0  # right for left
    vertical_flip: Probability = 0.0  # front for back
    boost: Probability = 0.05
    boost_hu: float = 50.0


#: Hu et al. 2024; the paper does not state the smallest crop.
PAPER_AUGMENT = PairAugmentConfig(jitter=0.0, crop=1.0, crop_smallest=0.8, horizontal_flip=0.2, vertical_flip=0.2)

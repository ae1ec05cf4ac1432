"""Correct HU away from the heart to the distribution of reference scans.

A denoiser predicts the mean of all possible images. Where these differ much, as in ribs and spine, the mean is too
pale. Labelled structures keep their HU. Away from them, a rising curve maps HU to the distribution of reference scans:
bone gets brighter, fat darker. The curve restores brightness, not missing structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, FiniteFloat, field_validator

from ..anatomy import BACKGROUND
from ..image.grid import AIR_HU
from .kinds import HuStep

#: Distance from all labels, mm, beyond which the curve has its full effect. It has none on the voxels next to a label,
#: which hold blood in part.
REACH_MM = 9.0
#: Limits of a curve: the number of its knots, and their HU.
MOST_KNOTS, MOST_HU = 64, 5000.0

#: Knots (HU before, HU after). The first values must rise, the second must not fall.
Curve = Sequence[tuple[float, float]]


class Tone(HuStep):
    """Map HU away from the labels along a curve."""

    step: Literal["tone"] = "tone"
    curve: Annotated[
        tuple[tuple[FiniteFloat, FiniteFloat], ...],
        Field(min_length=1, description="Knots of the curve: HU as sampled, and HU of reference scans."),
    ]

    @field_validator("curve")
    @classmethod
    def _is_valid(cls, curve: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        check_curve(curve)
        return curve

    def apply(self, hu: np.ndarray, labels: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
        """Return ``hu`` changed by :func:`apply_tone`; ``rng`` is not used."""
        return apply_tone(hu, labels, spacing_mm, self.curve)

    def describe(self) -> str:
        """Return the sentence of the model card."""
        return "Away from the labels, HU follow a curve that gives them the distribution of held-out cases."


def check_curve(curve: Curve) -> None:
    """Raise ValueError for knots that do not rise, or that lie beyond the limits."""
    knots = np.array(curve, dtype=float).reshape(-1, 2)
    if len(knots) > MOST_KNOTS or not (np.abs(knots) <= MOST_HU).all():
        raise ValueError(f"a tone has at most {MOST_KNOTS} knots, from {-MOST_HU:g} to {MOST_HU:g} HU")
    if (np.diff(knots[:, 0]) <= 0).any() or (np.diff(knots[:, 1]) < 0).any():
        raise ValueError("the knots of a tone must rise")


def distance_share(labels: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Return the weight of the curve in each voxel, (I, J, K) float32.

    It is 0 on labels (uint8, cubes of ``spacing_mm``) and one voxel around them, and rises to 1 at ``REACH_MM``.
    Distance is the largest of those along the three axes. The ramp is at least two voxels wide.
    """
    import torch

    reach = max(round(REACH_MM / spacing_mm), 2)
    near = torch.from_numpy(np.ascontiguousarray(labels != BACKGROUND, dtype=np.float32))[None, None]
    near = torch.nn.functional.max_pool3d(near, 3, 1, 1)
    share = near.clone()
    for _ in range(reach - 1):
        near = torch.nn.functional.max_pool3d(near, 3, 1, 1)
        share += near
    return 1.0 - (share / reach)[0, 0].numpy()


def apply_tone(hu: np.ndarray, labels: np.ndarray, spacing_mm: float, curve: Curve) -> np.ndarray:
    """Return ``hu`` (I, J, K), float32, with the ``curve`` applied away from ``labels``.

    Beyond the first and last knot their shift of HU applies. No voxel gets darker than air. Raises ValueError as
    :func:`check_curve` does.
    """
    check_curve(curve)
    if not curve:
        return np.asarray(hu, dtype=np.float32)
    before, after = np.array(curve, dtype=float).T
    shift = np.interp(hu, before, after - before) * distance_share(labels, spacing_mm)
    return np.maximum(hu + shift, np.minimum(hu, AIR_HU)).astype(np.float32)

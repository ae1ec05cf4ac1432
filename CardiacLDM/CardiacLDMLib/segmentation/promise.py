"""How good the labels are expected to be, from the network's own probabilities.

They promise a Dice: that of the labels with a truth drawn by them. A line of the package turns it into the Dice that
labels with such a promise had. docs/research/review.md says how well that works.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..anatomy import VALUE
from ..results.trust import ExpectedDice

if TYPE_CHECKING:
    from ..packages.expected_dice import DiceLine

#: Beyond these shares logits are not told apart.
LOWEST, HIGHEST = 0.02, 0.995


def total_shares(shares: torch.Tensor) -> np.ndarray:
    """Return the sum of each class (9,) of probabilities (9, I, J, K), or of a list of voxels (9, N)."""
    return shares.flatten(1).sum(1).cpu().numpy().astype(np.float64)


def promised_dice(values: np.ndarray, probability: np.ndarray, totals: np.ndarray) -> dict[str, float]:
    """Return the Dice that probabilities promise, by structure that has labels.

    It is twice the probability within the label, over its voxels and the probability everywhere. ``values``: the
    likeliest class of each voxel (I, J, K). ``probability``: that of this class (I, J, K). ``totals``: the sum of each
    class over all voxels (9,).
    """
    promised = {}
    for name, value in VALUE.items():
        inside = probability[values == value]
        if inside.size:
            promised[name] = float(2.0 * inside.sum(dtype=np.float64) / (inside.size + totals[value]))
    return promised


def expected_dice(line: DiceLine, promised: dict[str, float]) -> dict[str, ExpectedDice]:
    """Return the expected Dice by structure, rounded to three digits."""
    expected = {}
    for name, dice in promised.items():
        centre = line.slope * _logit(dice) + line.constants[name]
        shares = (_share(centre + offset) for offset in (0.0, line.low, line.high))
        expected[name] = ExpectedDice(*(round(share, 3) for share in shares))
    return expected


def _logit(share: float) -> float:
    clipped = min(max(share, LOWEST), HIGHEST)
    return math.log(clipped / (1.0 - clipped))


def _share(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))

"""HU around the heart, brought to those of scans.

A denoiser gives means of what may have been, and where it knows little, as in ribs and spine, a mean is pale. The
labelled structures keep their HU; away from them a curve, rising with the HU, gives an image the distribution that
reference scans have there: bone becomes as bright, fat as dark. What has no brightness at all is not drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..anatomy import BACKGROUND
from ..image.grid import AIR_HU

#: The curve has its full effect further than this from all labels, mm, and none within a voxel of them, where voxels
#: hold blood in part.
REACH_MM = 9.0
#: Knots of a curve, and HU of any: more is no scan's.
MOST_KNOTS, MOST_HU = 64, 5000.0

#: Knots (HU as drawn, HU as it should be), the first rising and the second not falling.
Curve = Sequence[tuple[float, float]]


def check_curve(curve: Curve) -> None:
    """Raises ValueError for knots that do not rise, or HU beyond ``MOST_HU``."""
    knots = np.array(curve, dtype=float).reshape(-1, 2)
    if len(knots) > MOST_KNOTS or not (np.abs(knots) <= MOST_HU).all():
        raise ValueError(f"a tone has at most {MOST_KNOTS} knots, from {-MOST_HU:g} to {MOST_HU:g} HU")
    if (np.diff(knots[:, 0]) <= 0).any() or (np.diff(knots[:, 1]) < 0).any():
        raise ValueError("the knots of a tone must rise")


def away(labels: np.ndarray, spacing_mm: float) -> np.ndarray:
    """(I, J, K) float32: 0 on labels (uint8, cubes of ``spacing_mm``) and a voxel around, up to 1 beyond ``REACH_MM``.

    Distances are the largest of those along the three axes; of wide voxels at least two are the ramp.
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


def toned(hu: np.ndarray, labels: np.ndarray, spacing_mm: float, curve: Curve) -> np.ndarray:
    """``hu`` (I, J, K) with the ``curve`` applied away from ``labels``, float32; nothing gets darker than air.

    Beyond the curve's ends HU move as at them. Raises ValueError as :func:`check_curve`.
    """
    check_curve(curve)
    if not curve:
        return np.asarray(hu, dtype=np.float32)
    drawn, wanted = np.array(curve, dtype=float).T
    shift = np.interp(hu, drawn, wanted - drawn) * away(labels, spacing_mm)
    return np.maximum(hu + shift, np.minimum(hu, AIR_HU)).astype(np.float32)

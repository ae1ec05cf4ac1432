"""The elongated aorta of many old people: its arch rises higher and reaches further forward, back and aside.

It grows longer with age, most in the ascending aorta (Sugawara and others, JACC: Cardiovascular Imaging 2008;1:739).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from .deform import COARSE, SMALLEST_JACOBIAN, Deformation, smallest_jacobian
from .model import HeartModel

#: How far the arch rises (mm), and the factor on its reach from front to back and from side to side.
RISE_MM, WIDER = (12.0, 30.0), (0.1, 0.35)
#: Depth below the arch's top where the movement begins, and where all of the aorta takes part in it, mm.
BEGIN_MM, WHOLE_MM = 68.0, 30.0
#: Steps of the movement.
STEPS = 6


def elongate_arch(
    deformation: Deformation, model: HeartModel, ceiling: float, rng: np.random.Generator
) -> Deformation:  # fmt: skip
    """Return the deformation with the aortic arch moved upward and apart, but not above ``ceiling`` (z, mm).

    The aorta keeps its width; what lies beside it gives way.
    """
    rise, wider, aside = rng.uniform(*RISE_MM), rng.uniform(*WIDER), rng.uniform(0.0, 7.0)
    for _ in range(STEPS):
        places = deformation.map_coarse_points()
        share, pulmonary = (model.share_at(VALUE[name], places) for name in ("AO", "PA"))
        points = COARSE.origin + COARSE.spacing * np.argwhere(share > 0.4)
        if not len(points):
            return deformation
        top = float(np.quantile(points[:, 2], 0.995))
        arch = points[points[:, 2] > top - BEGIN_MM]
        middle = 0.5 * (arch.min(0) + arch.max(0))
        height = np.clip((COARSE.axis(2) - top + BEGIN_MM) / (BEGIN_MM - WHOLE_MM), 0.0, 1.0)
        near = np.clip(2.2 * ndimage.gaussian_filter(share - 0.6 * pulmonary, 8.0 / COARSE.spacing), 0.0, 1.0)
        weight = ndimage.gaussian_filter(near, 6.0 / COARSE.spacing) * np.square(height) * (3.0 - 2.0 * height)
        ahead = (COARSE.axis(1) - np.float32(middle[1])) / np.float32(max(np.ptp(arch[:, 1]) / 2, 10.0))
        velocity = np.stack([aside * np.tanh(ahead) * weight,
                             wider * np.clip(COARSE.axis(1) - np.float32(middle[1]), -60, 60) * weight,
                             min(rise, max(ceiling - top, 0.0) * STEPS) * weight]) / STEPS  # fmt: skip
        moved = deformation.advance(velocity.astype(np.float32))
        if smallest_jacobian(moved.displacement) < SMALLEST_JACOBIAN:
            return deformation
        deformation = moved
    return deformation

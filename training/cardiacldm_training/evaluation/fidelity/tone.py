"""Distribution of HU around the heart in generated and reference images.

It is measured away from the labels, where :mod:`CardiacLDMLib.postprocess.tone` has its full effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid

from CardiacLDMLib.postprocess.tone import distance_share

from .cases import Pair

#: Percentiles of the distribution; the last ones are bone and contrast medium.
PERCENTILES = np.array([
    0.5, 2.5, 5, 10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99, 99.25, 99.5,
    99.75, 99.9, 99.95,
])  # fmt: skip
#: Bone, calcium and contrast medium are above this, HU.
BRIGHT_HU = 250.0
#: Least distance between knots of a curve, HU.
_LEAST_STEP = 1.0
#: Fewest voxels for a measurement.
_FEWEST_VOXELS = 2000


def measure(pair: Pair) -> np.ndarray:
    """Return HU at each of the ``PERCENTILES``, then the share of bright voxels in percent: (P + 1,).

    All are NaN for too few voxels around the heart.
    """
    hu = pair.hu[distance_share(pair.labels, pair.view.spacing_mm) == 1.0]
    if len(hu) < _FEWEST_VOXELS:
        return np.full(len(PERCENTILES) + 1, np.nan)
    return np.append(np.percentile(hu, PERCENTILES), 100.0 * (hu > BRIGHT_HU).mean())


def distance_hu(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean difference (HU) of two sets' mean distributions; rows are results of :func:`measure`."""
    one, two = (rows[:, :-1].mean(0) for rows in (first, second))
    return float(trapezoid(np.abs(one - two), PERCENTILES) / np.ptp(PERCENTILES))


def tone_curve(generated: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> tuple[tuple[float, float], ...]:
    """Return the curve (HU to HU) that gives generated images the mean distribution of references.

    It is the argument of :func:`CardiacLDMLib.postprocess.tone.apply_tone`. Rows are results of :func:`measure`. The
    curve is empty if one side has no finite row.
    """
    sides = [np.array([row[:-1] for row in side if np.isfinite(row).all()]) for side in (generated, reference)]
    if not all(map(len, sides)):
        return ()
    knots: list[tuple[float, float]] = []
    for source, target in zip(*(side.mean(0).round(1).tolist() for side in sides), strict=True):
        if not knots or source >= knots[-1][0] + _LEAST_STEP:
            knots.append((source, max(target, knots[-1][1]) if knots else target))
    return tuple(knots)

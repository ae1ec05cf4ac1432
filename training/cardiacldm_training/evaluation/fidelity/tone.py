"""HU around the heart: their distribution, measured alike in generated and reference images.

Measured away from the labels, where :mod:`CardiacLDMLib.tone` has its full effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid

from CardiacLDMLib.postprocess.tone import distance_share

from .cases import Pair

#: Where a distribution is measured, percent of the voxels. The last ones are bone and contrast medium.
PERCENTILES = np.array([
    0.5, 2.5, 5, 10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99, 99.25, 99.5,
    99.75, 99.9, 99.95,
])  # fmt: skip
#: Above it there is bone, calcium or contrast medium, HU.
BRIGHT_HU = 250.0
#: Knots of a curve are at least so far from each other, HU.
_LEAST_STEP = 1.0
#: Fewer voxels than this say nothing.
_FEWEST_VOXELS = 2000


def measure(pair: Pair) -> np.ndarray:
    """(P + 1,): HU at each of the ``PERCENTILES``, then the share of bright voxels in percent. NaN for too few voxels
    around the heart."""
    hu = pair.hu[distance_share(pair.labels, pair.view.spacing_mm) == 1.0]
    if len(hu) < _FEWEST_VOXELS:
        return np.full(len(PERCENTILES) + 1, np.nan)
    return np.append(np.percentile(hu, PERCENTILES), 100.0 * (hu > BRIGHT_HU).mean())


def distance_hu(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference (HU) of two sets' typical distributions, each of the rows of :func:`measure`."""
    one, two = (rows[:, :-1].mean(0) for rows in (first, second))
    return float(trapezoid(np.abs(one - two), PERCENTILES) / np.ptp(PERCENTILES))


def remedy(generated: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> tuple[tuple[float, float], ...]:
    """The curve that gives generated images the distribution of references, for :func:`CardiacLDMLib.tone.apply_tone`.

    Both are means over cases of what :func:`measure` found. Empty where a side has none.
    """
    sides = [np.array([row[:-1] for row in side if np.isfinite(row).all()]) for side in (generated, reference)]
    if not all(map(len, sides)):
        return ()
    knots: list[tuple[float, float]] = []
    for drawn, wanted in zip(*(side.mean(0).round(1).tolist() for side in sides), strict=True):
        if not knots or drawn >= knots[-1][0] + _LEAST_STEP:
            knots.append((drawn, max(wanted, knots[-1][1]) if knots else wanted))
    return tuple(knots)

"""How unlike each other the images of a set are: MS-SSIM between its pairs, low where they are varied."""

from __future__ import annotations

import numpy as np
import torch

from CardiacLDMLib.anatomy import FULL_WINDOW

from ...cases.augment import to_window
from .cases import Source

#: Pairs of cases that are compared at most.
MOST_PAIRS = 150
#: Weights of the scales (Wang et al. 2003), the finest first; grids that are too small for all take the first ones.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
KERNEL = 5


def ms_ssim(cases: Source, seed: int = 0) -> np.ndarray:
    """MS-SSIM of pairs of different cases: all of them, or ``MOST_PAIRS`` drawn with ``seed``."""
    from monai.metrics import MultiScaleSSIMMetric

    places = np.stack(np.triu_indices(len(cases), 1), axis=1)
    if len(places) > MOST_PAIRS:
        places = places[np.sort(np.random.default_rng(seed).choice(len(places), MOST_PAIRS, replace=False))]
    weights = np.array(WEIGHTS[: scales(cases.view.grid)])
    metric = MultiScaleSSIMMetric(3, kernel_size=KERNEL, weights=tuple(weights / weights.sum()))
    values = []
    for first, second in places:
        one, two = (torch.from_numpy(to_window(cases[int(n)].hu, FULL_WINDOW))[None, None] for n in (first, second))
        values.append(float(metric(one, two)))
    return np.array(values)


def scales(grid: tuple[int, int, int]) -> int:
    """How many scales of MS-SSIM fit, by MONAI's rule and with a coarsest image that holds the kernel."""
    coarsest = {n: min(grid) // max((n - 1) ** 2, 2 ** (n - 1)) for n in range(1, len(WEIGHTS) + 1)}
    return max((n for n, side in coarsest.items() if side >= KERNEL), default=1)

"""Diversity of a set of images: MS-SSIM between its members, low for diverse sets."""

from __future__ import annotations

import numpy as np
import torch

from CardiacLDMLib.anatomy import FULL_WINDOW
from CardiacLDMLib.segmentation.scan import to_window

from .cases import CaseSet

#: Most pairs of cases that are compared.
MOST_PAIRS = 150
#: Weights of the scales (Wang et al. 2003), finest first; small grids use the first ones.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
KERNEL = 5


def ms_ssim(cases: CaseSet) -> np.ndarray:
    """Return MS-SSIM (n,) of pairs of different cases: all, or ``MOST_PAIRS`` chosen at random."""
    from monai.metrics import MultiScaleSSIMMetric

    places = np.stack(np.triu_indices(len(cases), 1), axis=1)
    if len(places) > MOST_PAIRS:
        places = places[np.sort(np.random.default_rng(0).choice(len(places), MOST_PAIRS, replace=False))]
    weights = np.array(WEIGHTS[: scales(cases.view.grid)])
    metric = MultiScaleSSIMMetric(3, kernel_size=KERNEL, weights=tuple(weights / weights.sum()))
    values = []
    for first, second in places:
        one, two = (torch.from_numpy(to_window(cases[int(n)].hu, FULL_WINDOW))[None, None] for n in (first, second))
        values.append(float(metric(one, two)))
    return np.array(values)


def scales(grid: tuple[int, int, int]) -> int:
    """Return the number of MS-SSIM scales for a grid, by MONAI's rule; the coarsest image contains the kernel."""
    coarsest = {n: min(grid) // max((n - 1) ** 2, 2 ** (n - 1)) for n in range(1, len(WEIGHTS) + 1)}
    return max((n for n, side in coarsest.items() if side >= KERNEL), default=1)

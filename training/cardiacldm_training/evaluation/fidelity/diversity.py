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
#: Finer images are compared with voxels of about this size: grain is no diversity, and it would take minutes.
FINEST_MM = 3.0


def ms_ssim(cases: CaseSet) -> np.ndarray:
    """Return MS-SSIM (n,) of pairs of different cases: all, or ``MOST_PAIRS`` chosen at random."""
    from monai.metrics import MultiScaleSSIMMetric

    places = np.stack(np.triu_indices(len(cases), 1), axis=1)
    if len(places) > MOST_PAIRS:
        places = places[np.sort(np.random.default_rng(0).choice(len(places), MOST_PAIRS, replace=False))]
    factor = max(round(FINEST_MM / cases.view.spacing_mm), 1)
    i, j, k = (side // factor for side in cases.view.grid)
    weights = np.array(WEIGHTS[: scales((i, j, k))])
    metric = MultiScaleSSIMMetric(3, kernel_size=KERNEL, weights=tuple(weights / weights.sum()))
    values = []
    for first, second in places:
        values.append(float(metric(*(_image(cases, int(n), factor) for n in (first, second)))))
    return np.array(values)


def _image(cases: CaseSet, index: int, factor: int) -> torch.Tensor:
    """Return an image (1, 1, I, J, K) in 0..1, with means over ``factor`` voxels along each axis."""
    image = torch.from_numpy(to_window(cases[index].hu, FULL_WINDOW))[None, None]
    return torch.nn.functional.avg_pool3d(image, factor) if factor > 1 else image


def scales(grid: tuple[int, int, int]) -> int:
    """Return the number of MS-SSIM scales for a grid, by MONAI's rule; the coarsest image contains the kernel."""
    coarsest = {n: min(grid) // max((n - 1) ** 2, 2 ** (n - 1)) for n in range(1, len(WEIGHTS) + 1)}
    return max((n for n, side in coarsest.items() if side >= KERNEL), default=1)

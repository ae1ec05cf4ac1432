"""Features of axial slices: what fills each part of them, and how sharp it is. Edges, lungs and bone count too.

No network is needed, and nothing was trained. The image is cut into ``SLABS`` from below and ``PARTS`` x ``PARTS``
columns. In each block: the mean in a window of lung, of soft tissue and of bone; the mean absolute difference to the
mean over 3 x 3 voxels of the slice (detail), and to the next slice (steps).
"""

from __future__ import annotations

import numpy as np

from CardiacLDMLib.anatomy import FULL_WINDOW
from CardiacLDMLib.segmentation.scan import to_window

SLABS, PARTS = 6, 4
#: How much detail and steps are multiplied by, so that they vary about as much as the means.
WEIGHT = 8.0
#: Windows (HU) of lung, soft tissue, and bone and contrast medium.
WINDOWS = ((-1000.0, -400.0), (-200.0, 300.0), (200.0, 1000.0))


def slice_features(hu: np.ndarray) -> np.ndarray:
    """Return features (SLABS * PARTS * PARTS * 5,) float32 of an image (I, J, K; HU, RAS)."""
    from scipy import ndimage

    image = to_window(hu, FULL_WINDOW).astype(np.float32)
    detail = WEIGHT * np.abs(image - ndimage.uniform_filter(image, (3, 3, 1)))
    steps = WEIGHT * np.abs(np.diff(image, axis=2, append=image[..., -1:]))
    maps = [np.clip((hu - low) / (high - low), 0.0, 1.0) for low, high in WINDOWS]
    return np.concatenate([_block_means(values) for values in (*maps, detail, steps)]).astype(np.float32)


def _block_means(values: np.ndarray) -> np.ndarray:
    """Return the means (PARTS * PARTS * SLABS,) of the blocks of ``values`` (I, J, K)."""
    for axis, count in enumerate((PARTS, PARTS, SLABS)):
        starts = np.linspace(0, values.shape[axis], count + 1).astype(int)
        sides = np.diff(starts).reshape([-1 if a == axis else 1 for a in range(3)])
        values = np.add.reduceat(values, starts[:-1], axis=axis) / sides
    return values.ravel()

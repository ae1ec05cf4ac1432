"""Find pieces of structures in places that networks are unsure of, such as consolidated lung."""

from __future__ import annotations

import cc3d
import numpy as np

from .. import anatomy
from ..image.labels import values_of_pieces

#: Probability from which a voxel's label counts as sure.
SURE = 0.9


def unsure_pieces(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return a mask of the pieces that are larger than the surest piece of their structure, and less sure.

    ``labels`` (uint8) and their ``probability`` (0 to 1) have the same shape. The surest piece has most sure voxels.
    Clean-up keeps the largest piece, which in scans of consolidated lungs may lie in the lung. The aorta may be in two
    pieces, and is left alone.
    """
    pieces = cc3d.connected_components(labels, connectivity=6)
    counts = np.bincount(pieces.ravel(order="K"))
    sure = np.bincount(pieces[probability >= SURE], minlength=len(counts))
    values = values_of_pieces(pieces, labels, len(counts))
    unsure = np.zeros(len(counts), dtype=bool)
    for name, value in anatomy.VALUE.items():
        own = np.flatnonzero(values == value)
        if name != "AO" and own.size:
            surest = max(own, key=lambda piece: (sure[piece], counts[piece]))
            unsure[own] = counts[own] > counts[surest]
    return unsure[pieces]

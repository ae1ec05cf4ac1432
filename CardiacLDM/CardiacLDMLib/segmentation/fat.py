"""Take fat and lung out of the blood: nothing in a chamber or vessel is as dark as they are.

In noisy scans the network labels the fat in the grooves of the heart as blood. Where noise or errors of the scan make
blood itself as dark as fat, nothing is taken out.
"""

from __future__ import annotations

import numpy as np

from .. import anatomy
from .borders import LEAST_VOXELS, inside

#: Chambers and vessels: all but the myocardium, which has fat of its own in some patients.
_BLOOD = tuple(value for name, value in anatomy.VALUE.items() if name != "MYO")
#: Between fat (-120 to -60 HU) and the darkest blood (30 HU).
DARK_HU = -20.0
#: Most of a structure's inside that may be dark; with more, noise or errors of the scan make it so.
MOST_DARK = 0.01


def find_bright(labels: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Return for each value of ``labels`` (9; bool) whether it is blood whose inside is bright.

    ``labels`` and averaged ``hu`` are (I, J, K). False for a structure that is too small to have an inside; such an
    appendage is judged by its atrium.
    """
    bright = np.zeros(anatomy.NUM_CLASSES, dtype=bool)
    for value in _BLOOD:
        values = hu[inside(labels == value)]
        if values.size >= LEAST_VOXELS:
            bright[value] = float(np.mean(values < DARK_HU)) <= MOST_DARK
        elif value == anatomy.VALUE["LAA"]:
            bright[value] = bright[anatomy.VALUE["LA"]]
    return bright


def take_out_dark(labels: np.ndarray, hu: np.ndarray, bright: np.ndarray) -> None:
    """Turn voxels of ``labels`` (uint8) that are dark by ``hu`` into background, in the structures of ``bright``."""
    labels[(hu < DARK_HU) & bright[labels]] = anatomy.BACKGROUND

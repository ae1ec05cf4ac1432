"""Take fat and lung out of the blood: nothing in a chamber or vessel is as dark as they are.

Networks that hardly see through noise follow the grooves of the heart, and take the fat there for blood. Where noise or
errors of the scan make blood itself as dark, nothing is taken.
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
    """Return which values of ``labels`` (9; bool) are of blood that is nowhere dark, by averaged ``hu`` (both I, J, K).

    A structure that is too small to have an inside is not among them, but an appendage is judged by its atrium.
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
    """Make voxels of ``labels`` (uint8) that ``hu`` show as fat or lung background, in the structures of ``bright``."""
    labels[(hu < DARK_HU) & bright[labels]] = anatomy.BACKGROUND

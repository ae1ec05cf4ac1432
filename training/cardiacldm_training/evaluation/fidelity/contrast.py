"""Contrast medium and metal in an image."""

from __future__ import annotations

import numpy as np

from CardiacLDMLib.anatomy import VALUE

from .cases import Pair

#: Chambers and vessels whose HU tell the contrast phase.
BLOOD = ("LA", "LV", "RA", "RV", "AO", "PA")


def blood_hu(pair: Pair) -> dict[str, float]:
    """Return the median HU of each chamber and vessel that is there."""
    medians = {name: pair.hu[pair.labels == VALUE[name]] for name in BLOOD}
    return {name: float(np.median(values)) for name, values in medians.items() if len(values)}


def brightest_hu(pair: Pair) -> float:
    """Return the HU of the brightest voxel: metal is brighter than bone and contrast medium.

    Of 262 virtual cases at 3 mm those without an implant had 917 on average, those with leads 2865; the implant
    explains half of the variance. The volume above 950 HU tells nothing, because contrast medium is as bright.
    """
    return float(pair.hu.max())

"""Fat that a network takes for blood is given back, unless noise makes blood as dark."""

from __future__ import annotations

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.segmentation.fat import find_bright, take_out_dark

RA, LA, LAA, MYO = (anatomy.VALUE[name] for name in ("RA", "LA", "LAA", "MYO"))
BLOOD_HU, FAT_HU = 150.0, -90.0


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Labels (40, 40, 40; uint8) of atria, a small appendage and a wall, and HU with fat where a finger of RA runs."""
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    labels[4:18, 4:18, 4:18] = RA
    labels[18:30, 10:12, 10:12] = RA  # the finger
    labels[4:18, 22:36, 4:18] = LA
    labels[18:22, 28:31, 10:13] = LAA
    labels[4:18, 22:36, 22:36] = MYO
    hu = np.where(labels > 0, BLOOD_HU, FAT_HU)
    hu[18:30, 10:12, 10:12] = FAT_HU
    hu[20:22, 28:31, 10:13] = FAT_HU  # half of the appendage
    hu[17, 22:36, 22:36] = FAT_HU  # within the wall
    return labels, hu


def cleared(labels: np.ndarray, hu: np.ndarray) -> np.ndarray:
    out = labels.copy()
    take_out_dark(out, hu, find_bright(labels, hu))
    return out


def test_fat_leaves_the_blood_and_stays_in_the_wall() -> None:
    labels, hu = drawn()
    out = cleared(labels, hu)
    assert not out[18:30, 10:12, 10:12].any()
    assert (out[4:18, 4:18, 4:18] == RA).all()
    assert (out == MYO).sum() == (labels == MYO).sum()


def test_an_appendage_without_an_inside_is_judged_by_its_atrium() -> None:
    labels, hu = drawn()
    assert (cleared(labels, hu) == LAA).sum() == (labels == LAA).sum() / 2
    hu[4:18, 22:36, 4:18] += np.random.default_rng(1).normal(0.0, 120.0, (14, 14, 14))
    assert (cleared(labels, hu) == LAA).sum() == (labels == LAA).sum()


def test_blood_that_noise_makes_dark_stays() -> None:
    labels, hu = drawn()
    hu[labels > 0] -= BLOOD_HU - 40.0  # no contrast medium
    hu += np.random.default_rng(2).normal(0.0, 40.0, hu.shape)
    assert np.mean(hu[labels == LA] < -20.0) > 0.05
    assert (cleared(labels, hu) == labels).all()

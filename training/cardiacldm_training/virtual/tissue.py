"""Tissue codes and tissue maps, which heart, body and scanner share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    """The tissue of a voxel. 1 to 8 are the labelled structures: blood or, for MYO, muscle."""

    OUTSIDE = 0
    LA = 1
    LV = 2
    RA = 3
    RV = 4
    MYO = 5
    AO = 6
    PA = 7
    LAA = 8
    WALL = 9  # of atria, right ventricle and vessels
    FAT = 10
    MUSCLE = 11
    SKIN = 12
    BONE = 13
    MARROW = 14
    CARTILAGE = 15
    LUNG = 16
    AIRWAY = 17
    LIVER = 18
    SPLEEN = 19
    STOMACH = 20
    GAS = 21
    CAVA = 22
    PULMONARY_VEIN = 23
    LUNG_VESSEL = 24
    OESOPHAGUS = 25
    TABLE = 26
    INFERIOR_CAVA = 27
    PAPILLARY = 28  # papillary muscles and trabeculae: muscle, labelled as the cavity they stand in
    VALVE = 29
    CORONARY_ARTERY = 30
    CORONARY_VEIN = 31  # coronary sinus and great cardiac vein
    PERICARDIUM = 32
    DISC = 33
    CORD = 34  # the spinal canal
    BREAST = 35  # glands; the rest of a breast is FAT
    KIDNEY = 36
    BOWEL = 37
    CALCIUM = 38
    METAL = 39  # implants
    FLUID = 40  # effusions
    VEIN = 41  # azygos, hemiazygos, brachiocephalic and hepatic veins
    SOFT = 42  # thymus, lymph nodes, gallbladder, pancreas: soft tissue of no particular kind
    COLLAPSED_LUNG = 43
    AIRWAY_WALL = 44
    FALSE_LUMEN = 45  # of a dissected aorta, labelled as aorta, as the next two
    THROMBUS = 46
    FLAP = 47
    FISSURE = 48  # between lobes of a lung: less than a voxel of tissue


def tissue_mask(tissue: np.ndarray, codes: Iterable[Tissue]) -> np.ndarray:
    """Return the mask of the voxels with one of ``codes``; a table is several times faster than ``np.isin``."""
    table = np.zeros(256, dtype=bool)
    table[list(codes)] = True
    return table[tissue]


@dataclass(frozen=True)
class Body:
    """Tissue codes and labels of the eight structures, both (I, J, K) uint8 on one lattice.

    They differ where a labelled cavity contains papillary muscle or a valve instead of blood.
    """

    tissue: np.ndarray
    labels: np.ndarray

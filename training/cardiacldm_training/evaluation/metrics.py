"""Dice, HD95 and NSD of two label maps, per structure. The definitions are fixed so that figures can be compared.

- **Dice**: twice the common voxels over the sum of both (:mod:`CardiacLDMLib.image.labels`).
- **HD95** in mm: the larger of the two directed 95th percentiles of the distances between surface voxels.
- **NSD**, the surface Dice: the part of both surfaces, as areas at sub-voxel precision, within ``TOLERANCE_MM`` of the
  other.
- A structure that is **missed**, or that is labelled where there is none (**extra**), has Dice 0, NSD 0 and the
  diagonal of the scan as HD95. A structure that neither map has is left out.
- Distances respect the voxel spacing. A mask that ends with the scan has a surface there.

MONAI measures HD95 and NSD. On its own it gives NaN for a structure that only one map has.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.labels import agreement
from CardiacLDMLib.packages.fields import Record

#: Distance up to which two surfaces agree, in mm: about two voxels of a cardiac CT.
TOLERANCE_MM = 2.0
METRICS = ("dice", "hd95_mm", "nsd")


class StructureScore(Record):
    """Scores of one structure of one case."""

    structure: str
    dice: float
    hd95_mm: float
    nsd: float
    outcome: Literal["found", "missed", "extra"]


def score_labels(prediction: np.ndarray, reference: np.ndarray, spacing_mm: np.ndarray) -> list[StructureScore]:
    """Score every structure that ``prediction`` or ``reference`` has.

    Both are label maps (I, J, K) on the same grid, with values of :mod:`CardiacLDMLib.anatomy`; ``spacing_mm`` (3,) is
    the voxel size along I, J, K.
    """
    diagonal = float(np.linalg.norm(np.array(reference.shape) * spacing_mm))
    dice = agreement(prediction.astype(np.uint8), reference.astype(np.uint8))
    scores = []
    for name in dice:
        first, second = prediction == anatomy.VALUE[name], reference == anatomy.VALUE[name]
        outcome: Literal["found", "missed", "extra"] = "found"
        hd95, nsd = diagonal, 0.0
        if not first.any():
            outcome = "missed"
        elif not second.any():
            outcome = "extra"
        else:
            hd95, nsd = surface_scores(first, second, spacing_mm)
        scores.append(StructureScore(structure=name, dice=dice[name], hd95_mm=hd95, nsd=nsd, outcome=outcome))
    return scores


def surface_scores(
    first: np.ndarray, second: np.ndarray, spacing_mm: np.ndarray, tolerance_mm: float = TOLERANCE_MM
) -> tuple[float, float]:
    """Return HD95 in mm and NSD of two masks (I, J, K; bool), neither of them empty."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    # MONAI gets the box of both masks, for speed, and a voxel of background around it, so that a mask that ends with
    # the scan has a surface there.
    either = np.nonzero(first | second)
    box = tuple(slice(places.min(), places.max() + 1) for places in either)
    pair = [torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (first, second)]
    spacing = [float(s) for s in spacing_mm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own deprecations
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(*pair, [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True)
    return float(hd95), float(nsd)

"""Measures of label maps beside plausibility: unusual volumes, the width of the aorta, diversity."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, NAMES, STRUCTURES, VALUE
from CardiacLDMLib.generation.plausibility import Labels
from CardiacLDMLib.segmentation.findings import Finding, volume_findings

_DIVERSITY_SPACING_MM, _DIVERSITY_SIDE = 3.0, 64


def unusual_volumes(labels: Labels) -> list[Finding]:
    """Return findings on whole structures with an unusual volume for an adult. It is no rule: disease causes that."""
    return [f for f in volume_findings(labels.volumes_ml(), unjudged=labels.cut) if f.rule == "volume"]


def aorta_width_mm(labels: Labels) -> float | None:
    """Return the width of the ascending aorta at the height of the pulmonary artery's centroid.

    It is the diameter of a disc of the same axial area. None if the aorta, the pulmonary artery or the left atrium is
    missing, or if only the descending aorta is there.
    """
    if not {"AO", "PA", "LA"} <= labels.boxes.keys():
        return None
    centres = labels.centroids()
    slice_ = labels.array[:, :, round(centres["PA"][2] / labels.spacing[2])] == VALUE["AO"]
    components, count = ndimage.label(slice_)
    best, front = None, centres["LA"][1]
    for n in range(1, count + 1):
        piece = components == n
        middle = float(np.nonzero(piece)[1].mean() * labels.spacing[1])
        area = float(piece.sum() * labels.spacing[0] * labels.spacing[1])
        if middle > front and area > 100.0:  # mm2; smaller pieces are noise
            best, front = 2.0 * float(np.sqrt(area / np.pi)), middle
    return best


def shape_around_centre(labels: Labels) -> np.ndarray | None:
    """Return (64, 64, 64) uint8 labels at 3 mm around the centroid of the heart; None if it is not whole."""
    if set(HEART) & labels.cut or not set(HEART) <= labels.boxes.keys():
        return None
    centre = np.argwhere(np.isin(labels.array, [VALUE[name] for name in HEART])).mean(0)
    offsets = (np.arange(_DIVERSITY_SIDE) - (_DIVERSITY_SIDE - 1) / 2) * _DIVERSITY_SPACING_MM
    index = [np.rint(centre[a] + offsets / labels.spacing[a]).astype(int) for a in range(3)]
    shape = np.zeros((_DIVERSITY_SIDE,) * 3, dtype=np.uint8)
    inside = [np.flatnonzero((i >= 0) & (i < n)) for i, n in zip(index, labels.array.shape, strict=True)]
    shape[np.ix_(*inside)] = labels.array[np.ix_(*(i[part] for i, part in zip(index, inside, strict=True)))]
    return shape


def pairwise_dice(shapes: np.ndarray) -> np.ndarray:
    """Return (8, N, N) Dice of each structure between all pairs of ``shapes`` (N, ...; uint8).

    It is NaN where neither has the structure. Matrix products are far faster here than
    :func:`CardiacLDMLib.image.labels.dice_per_structure` for each pair.
    """
    flat = shapes.reshape(len(shapes), -1)
    tables = np.full((len(NAMES), len(flat), len(flat)), np.nan)
    for row, structure in enumerate(STRUCTURES):
        masks = flat == structure.value
        masks = masks[:, masks.any(0)].astype(np.float32)
        both = masks @ masks.T
        sizes = np.diag(both)[:, None] + np.diag(both)
        np.divide(2.0 * both, sizes, out=tables[row], where=sizes > 0)
    return tables

"""What the report on label maps says beside soundness: unusual volumes, the aorta, how unlike hearts are."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, NAMES, STRUCTURES, VALUE
from CardiacLDMLib.generation.plausibility import Labels

_DIVERSITY_SPACING_MM, _DIVERSITY_SIDE = 3.0, 64


def outside_limits(labels: Labels) -> list[str]:
    """Whole structures whose volume is unusual for an adult: worth a look, and no rule, since disease does that."""
    flags = []
    volumes = labels.volumes_ml()
    for structure in STRUCTURES:
        volume = volumes.get(structure.name)
        if volume is None or structure.volume_limits_ml is None or structure.name in labels.cut:
            continue
        if not structure.volume_limits_ml[0] <= volume <= structure.volume_limits_ml[1]:
            flags.append(f"{structure.name} {volume:.0f} mL")
    return flags


def aorta_width_mm(labels: Labels) -> float | None:
    """Width of the ascending aorta: that of a disc of its axial area at the height of the pulmonary artery's middle.

    None where aorta or pulmonary artery is missing, or only the descending aorta is there.
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
        if middle > front and area > 100.0:  # mm2; smaller ones are crumbs
            best, front = 2.0 * float(np.sqrt(area / np.pi)), middle
    return best


def shape_around_centre(labels: Labels) -> np.ndarray | None:
    """(64, 64, 64) uint8 labels at 3 mm around the middle of the chambers and the wall; None if one of them is cut."""
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
    """(8, N, N) Dice of each structure between all pairs of ``shapes`` (N, ...) uint8; NaN where neither has it."""
    flat = shapes.reshape(len(shapes), -1)
    tables = np.full((len(NAMES), len(flat), len(flat)), np.nan)
    for row, structure in enumerate(STRUCTURES):
        masks = flat == structure.value
        masks = masks[:, masks.any(0)].astype(np.float32)
        both = masks @ masks.T
        sizes = np.diag(both)[:, None] + np.diag(both)
        np.divide(2.0 * both, sizes, out=tables[row], where=sizes > 0)
    return tables

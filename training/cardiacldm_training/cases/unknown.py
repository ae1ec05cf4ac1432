"""What is unknown in the labels of a case, for the loss and for scores.

A structure that a data set does not label, or labels in part, may lie where its labels say background; an appendage
that it does not label may also lie within the atrium. So a label stands for one of several classes there.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from CardiacLDMLib import anatomy

from .readers.label_map import IGNORED

#: Structure -> the one that holds it in data sets that do not label it.
PART_OF = {"LAA": "LA"}


def fitting_classes(unknown: Collection[str]) -> np.ndarray:
    """Return which classes each label of a case may stand for, (10, 9) bool; the last row: of :data:`IGNORED` voxels.

    ``unknown``: the structures that the case does not label, or labels in part.
    """
    table = np.eye(anatomy.NUM_CLASSES + 1, anatomy.NUM_CLASSES, dtype=bool)
    table[anatomy.NUM_CLASSES] = True
    for name in unknown:
        table[anatomy.BACKGROUND, anatomy.VALUE[name]] = True
        if name in PART_OF:
            table[anatomy.VALUE[PART_OF[name]], anatomy.VALUE[name]] = True
    return table


def comparable(
    prediction: np.ndarray, reference: np.ndarray, unknown: Collection[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return two label maps (I, J, K; uint8) for scores, without what is unknown in ``reference``.

    A prediction that fits the label counts as that label. Then neither map has the unknown structures any more, nor
    anything where ``reference`` is :data:`IGNORED`: a score leaves them out.
    """
    rows = np.minimum(reference, np.uint8(anatomy.NUM_CLASSES))
    if not len(unknown) and not (rows == anatomy.NUM_CLASSES).any():
        return prediction, np.asarray(reference)
    prediction = np.where(fitting_classes(unknown)[rows, prediction], reference, prediction)
    kept = np.zeros(IGNORED + 1, dtype=np.uint8)
    for structure in anatomy.STRUCTURES:
        if structure.name not in unknown:
            kept[structure.value] = structure.value
    return kept[prediction], kept[reference]

"""What is unknown in the labels of a case, for the loss and for scores.

A structure that a data set does not label, or labels in part, may lie where its labels say background; an appendage
that it does not label may also lie within the atrium. So a label stands for one of several classes there. In the
atrium the appendage is the less likely one: were both alike, a network could take the whole atrium for an appendage.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from CardiacLDMLib import anatomy

from .readers.label_map import IGNORED

#: Structure -> the one that may hold it in data sets that do not label it, and about its share of that one's volume.
PART_OF = {"LAA": ("LA", 0.1)}


def fitting_classes(unknown: Collection[str]) -> np.ndarray:
    """Return the weights of the classes that each label of a case may stand for, (10, 9) float32, 0 for the others.

    The last row is that of :data:`IGNORED` voxels. ``unknown``: the structures that the case does not label, or labels
    in part.
    """
    table = np.eye(anatomy.NUM_CLASSES + 1, anatomy.NUM_CLASSES, dtype=np.float32)
    table[anatomy.NUM_CLASSES] = 1.0
    for name in unknown:
        table[anatomy.BACKGROUND, anatomy.VALUE[name]] = 1.0
        if name in PART_OF:
            whole, share = PART_OF[name]
            table[anatomy.VALUE[whole], anatomy.VALUE[name]] = share
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
    prediction = np.where(fitting_classes(unknown)[rows, prediction] > 0, reference, prediction)
    kept = np.zeros(IGNORED + 1, dtype=np.uint8)
    for structure in anatomy.STRUCTURES:
        if structure.name not in unknown:
            kept[structure.value] = structure.value
    return kept[prediction], kept[reference]

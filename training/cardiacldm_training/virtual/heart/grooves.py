"""Grooves between the chambers, which hold fat and the coronary vessels.

Models and templates join the chambers along smooth surfaces. In reality a wedge of fat, up to about 10 mm deep, lies
where atrium and ventricle, or both ventricles, meet the heart's surface. It is cut out of the labels.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from .topology import box_of_contact, boxes_of

#: (first, second, those of them that give way to the groove, range of its size in mm). A groove is about as wide as its
#: size and somewhat deeper. The wall of the left ventricle never gives way.
GROOVES = (
    ("RA", "RV", ("RA", "RV"), (3.0, 9.0)),
    ("RV", "MYO", ("RV",), (2.0, 5.0)),
    ("LA", "MYO", ("LA",), (2.0, 7.0)),
)


def cut_grooves(labels: np.ndarray, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Return the labels with grooves of random size as background."""
    out, boxes = labels.copy(), boxes_of(labels)
    for first, second, giving, sizes in GROOVES:
        size, edge = rng.uniform(*sizes), rng.uniform(0.07, 0.16)
        box = box_of_contact(labels, boxes, VALUE[first], VALUE[second], int(2.0 * size / spacing) + 2)
        if box is None:
            continue
        here = labels[box]
        outside = _blur(here > 0, 2.5 / spacing) < 0.5  # without the thin walls between the structures
        wedge = _blur(outside, size / spacing) > edge
        for name in (first, second):
            wedge &= _blur(here == VALUE[name], size / spacing) > edge
        out[box][wedge & np.isin(here, [VALUE[n] for n in giving])] = 0
    return out


def _blur(mask: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=2.0)

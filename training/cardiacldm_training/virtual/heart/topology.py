"""What makes a labelled heart sound, and mending one that is nearly so.

Walls between blood pools are background in most label maps, so two structures touch when they come within 2 mm.
"""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import (
    FORBIDDEN_CONTACTS,
    LARGEST_LV_OPENING_DRAWN,
    NAMES,
    NUM_CLASSES,
    SMALLEST_ML,
    VALUE,
)
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.generation.plausibility import Labels
from CardiacLDMLib.segmentation.findings import Finding

#: What remains between two structures that must not touch, mm; a little more than a contact.
GAP_MM = 3.2

LV, MYO = VALUE["LV"], VALUE["MYO"]
#: Pairs kept apart by a wall, of which the first gives way.
SEPARATED = (("RA", "LA"), ("RA", "AO"), ("RV", "AO"), ("RV", "LA"), ("LA", "AO"), ("PA", "AO"), ("LA", "PA"),
             ("LAA", "PA"), ("LAA", "AO"), ("RA", "PA"), ("LAA", "RV"), ("LAA", "RA"))  # fmt: skip

Box = tuple[slice, slice, slice]


# --- repair --------------------------------------------------------------------------------------------------------


def _within(mask: np.ndarray, distance_mm: float, spacing: float) -> np.ndarray:
    if distance_mm < 1.4 * spacing:  # the six neighbours
        return ndimage.binary_dilation(mask)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance_mm


def boxes_of(labels: np.ndarray) -> dict[int, Box]:
    """The box of voxels of each structure that has any, by its value."""
    found = ndimage.find_objects(labels, max_label=NUM_CLASSES - 1)
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _grow(box: Box, voxels: int, shape: tuple[int, ...]) -> Box:
    a, b, c = (slice(max(s.start - voxels, 0), min(s.stop + voxels, n)) for s, n in zip(box, shape, strict=True))
    return a, b, c


def _meeting(labels: np.ndarray, boxes: dict[int, Box], first: int, second: int, reach: int) -> Box | None:
    """The box in which voxels of ``first`` and ``second`` can lie within ``reach`` voxels of each other."""
    if first not in boxes or second not in boxes:
        return None
    ends = [(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(*(_grow(boxes[v], reach, labels.shape) for v in (first, second)), strict=True)]  # fmt: skip
    if any(stop <= start for start, stop in ends):
        return None
    return _grow((slice(*ends[0]), slice(*ends[1]), slice(*ends[2])), reach, labels.shape)


def _touching(
    labels: np.ndarray, boxes: dict[int, Box], first: int, second: int, mm: float, spacing: float
) -> tuple[Box, np.ndarray] | None:
    """Voxels of ``first`` within ``mm`` of ``second``, as a box and the mask within it; None if there cannot be any."""
    box = _meeting(labels, boxes, first, second, int(mm / spacing) + 2)
    if box is None:
        return None
    one, other = labels[box] == first, labels[box] == second
    if not one.any() or not other.any():
        return None
    return box, one & _within(other, mm, spacing)


def repair(labels: np.ndarray, spacing: float) -> np.ndarray:
    """Mend a drawn heart: wall all around the LV, thin walls between other pools, one piece each, no holes."""
    out = labels.copy()
    boxes = boxes_of(out)
    if LV in boxes:
        for name in ("RV", "RA", "PA", "LAA"):
            found = _touching(out, boxes, VALUE[name], LV, GAP_MM, spacing)
            if found:
                out[found[0]][found[1]] = MYO
    for first, second in SEPARATED:
        wide = (first, second) in FORBIDDEN_CONTACTS or (second, first) in FORBIDDEN_CONTACTS
        found = _touching(out, boxes, VALUE[first], VALUE[second], GAP_MM if wide else 1.01 * spacing, spacing)
        if found:
            out[found[0]][found[1]] = 0
    if LV in boxes:  # after making room, which may have laid it bare
        box = _grow(boxes[LV], 2, out.shape)
        here = out[box]
        here[(here == 0) & ndimage.binary_dilation(here == LV)] = MYO
    out = _whole(out)
    for value in (VALUE["LA"], VALUE["AO"]) if LV in boxes else ():  # what is left between the valves belongs to these
        here = out[box]
        beside = ndimage.binary_dilation(here == LV) & ndimage.binary_dilation(here == value)
        here[(here == 0) & beside] = value
    return out


def _whole(labels: np.ndarray) -> np.ndarray:
    """The largest piece of each structure, its holes filled."""
    out = np.zeros_like(labels)
    for value, tight in boxes_of(labels).items():
        box = _grow(tight, 1, labels.shape)
        piece = cc3d.largest_k(labels[box] == value, k=1, connectivity=6) > 0
        piece |= _holes(piece)
        out[box][piece & (out[box] == 0) & ((labels[box] == value) | (labels[box] == 0))] = value
    return out


def _holes(mask: np.ndarray) -> np.ndarray:
    """Voxels outside a mask that cannot reach the rim of its box."""
    pieces = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6)
    return ((pieces > 0) & (pieces != pieces[0, 0, 0]))[1:-1, 1:-1, 1:-1]


# --- judging -------------------------------------------------------------------------------------------------------


def faults(labels: np.ndarray, spacing: float) -> list[Finding]:
    """Return what makes a drawn heart implausible; none if it may be used. ``labels``: uint8 on the lattice.

    The rules are those of :mod:`CardiacLDMLib.generation.plausibility`, with four differences. Nothing of a drawn heart
    is cut off, so nothing is excused. Each structure must have the smallest usable volume. Islands are not counted,
    since the repair leaves none. The opening of the left ventricle is limited more strictly and counted in voxels
    around it instead of faces. A heart with a fault of a single structure is not judged further.
    """
    try:
        whole = plausibility.uncut_labels(labels, spacing)
    except VolumeError:
        return [Finding("missing")]
    broken = [*_too_small(whole, spacing), *plausibility.pieces_and_holes(whole)]
    if broken:
        return broken
    _, near = plausibility.contact_tables(whole)
    return [*plausibility.contacts(whole, near), *_lv_opening(labels), *plausibility.order(whole)]


def _too_small(labels: Labels, spacing: float) -> list[Finding]:
    voxels = np.bincount(labels.array.ravel(), minlength=NUM_CLASSES)
    volumes = {name: float(voxels[VALUE[name]] * spacing**3 / 1000.0) for name in NAMES}
    return [Finding("too small", (n,), ml, SMALLEST_ML[n]) for n, ml in volumes.items() if ml < SMALLEST_ML[n]]


def _lv_opening(labels: np.ndarray) -> list[Finding]:
    """Return a finding if too many of the voxels just outside the left ventricle are background."""
    here = labels[_grow(boxes_of(labels)[LV], 2, labels.shape)]
    rim = here[ndimage.binary_dilation(here == LV) & (here != LV)]
    share, limit = float((rim == 0).mean()), LARGEST_LV_OPENING_DRAWN
    return [Finding("LV open", ("LV",), share, limit)] if share > limit else []

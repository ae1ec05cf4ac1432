"""Repair of a drawn heart, and its plausibility.

The rules of plausibility are shared with every other label map; :func:`faults` names the differences.
"""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import (
    FORBIDDEN_CONTACTS,
    LARGEST_LV_OPENING_VIRTUAL,
    NAMES,
    NUM_CLASSES,
    SMALLEST_ML,
    VALUE,
)
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.generation.plausibility import Labels
from CardiacLDMLib.segmentation.findings import Finding

#: Distance that the repair leaves between two structures that must not touch, mm: a little more than a contact.
GAP_MM = 3.2

LV, MYO = VALUE["LV"], VALUE["MYO"]
#: Pairs that the repair parts by a wall; the first gives way.
SEPARATED = (("RA", "LA"), ("RA", "AO"), ("RV", "AO"), ("RV", "LA"), ("LA", "AO"), ("PA", "AO"), ("LA", "PA"),
             ("LAA", "PA"), ("LAA", "AO"), ("RA", "PA"), ("LAA", "RV"), ("LAA", "RA"))  # fmt: skip

Box = tuple[slice, slice, slice]


# --- repair --------------------------------------------------------------------------------------------------------


def _within(mask: np.ndarray, distance_mm: float, spacing: float) -> np.ndarray:
    """Return the voxels within ``distance_mm`` of a mask; at coarse spacings those that share a face with it."""
    if distance_mm < 1.4 * spacing:  # the six neighbours
        return ndimage.binary_dilation(mask)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance_mm


def boxes_of(labels: np.ndarray) -> dict[int, Box]:
    """Return the box of each structure that is there, by label value."""
    boxes = ndimage.find_objects(labels, max_label=NUM_CLASSES - 1)
    return {value: box for value, box in enumerate(boxes, start=1) if box is not None}


def _grow(box: Box, voxels: int, shape: tuple[int, ...]) -> Box:
    a, b, c = (slice(max(s.start - voxels, 0), min(s.stop + voxels, n)) for s, n in zip(box, shape, strict=True))
    return a, b, c


def box_of_contact(labels: np.ndarray, boxes: dict[int, Box], first: int, second: int, reach: int) -> Box | None:
    """Return the box in which ``first`` and ``second`` can lie within ``reach`` voxels of each other, or None."""
    if first not in boxes or second not in boxes:
        return None
    wide = [_grow(boxes[value], reach, labels.shape) for value in (first, second)]
    ends = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*wide, strict=True)]
    if any(stop <= start for start, stop in ends):
        return None
    return _grow((slice(*ends[0]), slice(*ends[1]), slice(*ends[2])), reach, labels.shape)


def _contact(
    labels: np.ndarray, boxes: dict[int, Box], first: int, second: int, mm: float, spacing: float
) -> tuple[Box, np.ndarray] | None:
    """Return the voxels of ``first`` within ``mm`` of ``second``: a box and the mask in it, or None."""
    box = box_of_contact(labels, boxes, first, second, int(mm / spacing) + 2)
    if box is None:
        return None
    one, other = labels[box] == first, labels[box] == second
    if not one.any() or not other.any():
        return None
    return box, one & _within(other, mm, spacing)


def repair(labels: np.ndarray, spacing: float) -> np.ndarray:
    """Return a repaired heart: the LV enclosed by wall, thin walls between other pools, one piece each, no holes."""
    out = labels.copy()
    boxes = boxes_of(out)
    if LV in boxes:
        for name in ("RV", "RA", "PA", "LAA"):
            contact = _contact(out, boxes, VALUE[name], LV, GAP_MM, spacing)
            if contact:
                out[contact[0]][contact[1]] = MYO
    for first, second in SEPARATED:
        wide = (first, second) in FORBIDDEN_CONTACTS or (second, first) in FORBIDDEN_CONTACTS
        contact = _contact(out, boxes, VALUE[first], VALUE[second], GAP_MM if wide else 1.01 * spacing, spacing)
        if contact:
            out[contact[0]][contact[1]] = 0
    if LV in boxes:  # the walls may have exposed it
        box = _grow(boxes[LV], 2, out.shape)
        here = out[box]
        here[(here == 0) & ndimage.binary_dilation(here == LV)] = MYO
    out = _largest_pieces(out)
    for value in (VALUE["LA"], VALUE["AO"]) if LV in boxes else ():  # atrium and aorta fill the gaps at the valves
        here = out[box]
        beside = ndimage.binary_dilation(here == LV) & ndimage.binary_dilation(here == value)
        here[(here == 0) & beside] = value
    return out


def _largest_pieces(labels: np.ndarray) -> np.ndarray:
    """Return the largest piece of each structure with its holes filled."""
    out = np.zeros_like(labels)
    for value, tight in boxes_of(labels).items():
        box = _grow(tight, 1, labels.shape)
        piece = cc3d.largest_k(labels[box] == value, k=1, connectivity=6) > 0
        piece |= _holes(piece)
        out[box][piece & (out[box] == 0) & ((labels[box] == value) | (labels[box] == 0))] = value
    return out


def _holes(mask: np.ndarray) -> np.ndarray:
    """Return the voxels that a mask encloses."""
    pieces = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6)
    return ((pieces > 0) & (pieces != pieces[0, 0, 0]))[1:-1, 1:-1, 1:-1]


# --- plausibility --------------------------------------------------------------------------------------------------


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
    share, limit = float((rim == 0).mean()), LARGEST_LV_OPENING_VIRTUAL
    return [Finding("LV open", ("LV",), share, limit)] if share > limit else []

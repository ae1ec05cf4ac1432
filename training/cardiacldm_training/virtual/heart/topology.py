"""What makes a labelled heart sound, and mending one that is nearly so.

Walls between blood pools are background in most label maps, so two structures touch when they come within 2 mm.
"""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import FORBIDDEN_CONTACTS, NAMES, NUM_CLASSES, REQUIRED_CONTACTS, VALUE
from CardiacLDMLib.generation.plausibility import CONTACT_MM, ORDER, SMALLEST_ML

#: What remains between two structures that must not touch, mm; a little more than a contact.
GAP_MM = 3.2
#: Largest share of the left ventricle's surface that may face background.
BARE_LV = 0.02

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


def faults(labels: np.ndarray, spacing: float) -> list[str]:
    """What is wrong with a heart; empty if it is sound.

    Every structure there, in one piece, without holes; contacts as they should be after 2 mm dilation; the left
    ventricle nowhere bare; left and right, front and back in order.
    """
    boxes = boxes_of(labels)
    found = _broken(labels, boxes, spacing)
    if found:
        return found
    reach = max(CONTACT_MM, 1.01 * spacing)
    for pairs, wanted in ((REQUIRED_CONTACTS, True), (FORBIDDEN_CONTACTS, False)):
        for a, b in pairs:
            contact = _touching(labels, boxes, VALUE[b], VALUE[a], reach, spacing)
            if (contact is not None and bool(contact[1].any())) != wanted:
                found.append(f"{a} and {b} {'apart' if wanted else 'touch'}")
    if _bare(labels, boxes) > BARE_LV:
        found.append("LV bare")
    return found + _disorder(labels, boxes)


def _broken(labels: np.ndarray, boxes: dict[int, Box], spacing: float) -> list[str]:
    """Structures that are missing or too small, in pieces or with holes."""
    found = []
    for name in NAMES:
        mask = labels[boxes[VALUE[name]]] == VALUE[name] if VALUE[name] in boxes else np.zeros((1, 1, 1), bool)
        if mask.sum() * spacing**3 / 1000.0 < SMALLEST_ML[name]:
            found.append(f"{name} too small")
        elif cc3d.connected_components(mask, connectivity=26, return_N=True)[1] != 1:
            found.append(f"{name} in pieces")
        elif _holes(mask).any():
            found.append(f"{name} with holes")
    return found


def _bare(labels: np.ndarray, boxes: dict[int, Box]) -> float:
    """Share of the voxels just outside the left ventricle that are background."""
    here = labels[_grow(boxes[LV], 2, labels.shape)]
    rim = here[ndimage.binary_dilation(here == LV) & (here != LV)]
    return float((rim == 0).mean())


def _disorder(labels: np.ndarray, boxes: dict[int, Box]) -> list[str]:
    """Which of :data:`ORDER` the structures' centroids break."""
    names = sorted({name for first, second, *_ in ORDER for name in (first, second)})
    centre = {name: np.argwhere(labels[boxes[VALUE[name]]] == VALUE[name]).mean(0)
              + [s.start for s in boxes[VALUE[name]]] for name in names}  # fmt: skip
    return [
        f"{first} not {word} {second}"
        for first, second, axis, word in ORDER
        if centre[first][axis] <= centre[second][axis]
    ]

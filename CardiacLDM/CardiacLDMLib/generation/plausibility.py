"""Check a label map, virtual, generated or labelled by hand, by the rules of a plausible heart.

Every structure is present, in one piece, without holes; required contacts exist and forbidden ones do not; the order of
the centroids is right; the left ventricle is enclosed. A structure that the scan cuts off may be in pieces, lack a
contact or lie elsewhere. :mod:`CardiacLDMLib.anatomy` holds the contacts, the order and the limits. Lengths are in mm,
volumes in mL.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import cc3d
import numpy as np

from ..anatomy import (
    CENTROID_ORDER,
    CONTACT_MM,
    FORBIDDEN_CONTACTS,
    LARGEST_LV_OPENING,
    NAMES,
    NUM_CLASSES,
    REQUIRED_CONTACTS,
    VALUE,
)
from ..errors import VolumeError
from ..image.grid import Volume
from ..image.labels import check_labels, volumes_ml
from ..segmentation.findings import Finding, Rule

#: Most islands of one label map: parts that touch the rest of their structure at an edge or a corner only.
MOST_ISLANDS = 10
#: The rules of :func:`check`, in the order of reports.
RULES: tuple[Rule, ...] = ("missing", "pieces", "holes", "islands", "contact", "forbidden contact", "LV open", "order")

_OUTSIDE = NUM_CLASSES  # label of voxels beyond the scan


@dataclass(frozen=True)
class Labels:
    """A label map turned to the nearest RAS axes and cropped to its foreground.

    ``array``: (I, J, K) uint8. ``spacing``: (3,) mm. ``boxes``: the box of each structure that is there. ``cut``: the
    structures that reach the edge of the scan. ``edges`` (3, 2) bool: whether the array's first and last slice along
    each axis are those of the scan.
    """

    array: np.ndarray = field(repr=False)
    spacing: np.ndarray
    boxes: dict[str, tuple[slice, slice, slice]]
    cut: frozenset[str]
    edges: np.ndarray

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0

    def mask(self, name: str) -> np.ndarray:
        """Return the mask of a structure within its box."""
        return self.array[self.boxes[name]] == VALUE[name]

    def centroids(self) -> dict[str, np.ndarray]:
        """Return the centre of mass of each structure, mm from the first voxel of the array."""
        return {
            name: (np.argwhere(self.mask(name)).mean(0) + [s.start for s in box]) * self.spacing
            for name, box in self.boxes.items()
        }

    def volumes_ml(self) -> dict[str, float]:
        """Return the volume of each structure that is there."""
        return {name: ml for name, ml in volumes_ml(self.array, self.voxel_ml).items() if ml}


# --- reading -------------------------------------------------------------------------------------------------------


def as_labels(volume: Volume) -> Labels:
    """Return a label map turned to RAS and cropped.

    Raises :class:`VolumeError` if it is empty or has values other than 0 to 8.
    """
    array, spacing = _to_ras(volume)
    check_labels(array)
    return _crop(array.astype(np.uint8), spacing, in_scan=True)


def uncut_labels(array: np.ndarray, spacing_mm: float) -> Labels:
    """Return labels (uint8, RAS) that do not come from a scan, cropped: a structure at the array's edge is not cut off.

    Raises :class:`VolumeError` if they are empty.
    """
    return _crop(array, np.full(3, spacing_mm), in_scan=False)


def _crop(array: np.ndarray, spacing: np.ndarray, in_scan: bool) -> Labels:
    foreground = [box for box in _boxes((array > 0).view(np.uint8))[1:] if box]
    if not foreground:
        raise VolumeError("It holds no label.")
    ends = zip(foreground[0], array.shape, strict=True)
    edges = np.array([(in_scan and s.start == 0, in_scan and s.stop == n) for s, n in ends])
    array = np.ascontiguousarray(array[foreground[0]])
    boxes = {NAMES[value - 1]: box for value, box in enumerate(_boxes(array)) if value and box}
    cut = {
        name
        for name, box in boxes.items()
        if any((edges[a, 0] and s.start == 0) or (edges[a, 1] and s.stop == array.shape[a]) for a, s in enumerate(box))
    }
    return Labels(array, spacing, boxes, frozenset(cut), edges)


def _boxes(array: np.ndarray) -> list[tuple[slice, slice, slice] | None]:
    """Return the box of each value from 0 up to the largest; None for values that do not occur."""
    statistics = cc3d.statistics(array)
    counted = zip(statistics["bounding_boxes"], statistics["voxel_counts"], strict=True)
    return [box if count else None for box, count in counted]


def _to_ras(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return array and spacing with the axes permuted and flipped to the nearest right, anterior, superior axes."""
    cosines = volume.affine[:3, :3] / volume.spacing  # [world axis, voxel axis]
    order = max(itertools.permutations(range(3)), key=lambda axes: np.abs(cosines[range(3), axes]).sum())
    flipped = tuple(world for world, axis in enumerate(order) if cosines[world, axis] < 0)
    return np.flip(volume.array.transpose(order), flipped), volume.spacing[list(order)]


# --- rules ---------------------------------------------------------------------------------------------------------


def check(labels: Labels) -> list[Finding]:
    """Return the rules that a label map breaks; none if it is plausible."""
    faces, near = contact_tables(labels)
    parts = [*missing(labels), *pieces_and_holes(labels), *islands(labels)]
    return [*parts, *contacts(labels, near), *order(labels), *lv_opening(faces)]


def missing(labels: Labels) -> list[Finding]:
    """Return absent structures, but not those with a neighbour that is cut off, since the scan may end before them."""
    neighbours = {name: {b for pair in REQUIRED_CONTACTS if name in pair for b in pair} - {name} for name in NAMES}
    absent = [name for name in NAMES if name not in labels.boxes]
    return [Finding("missing", (name,)) for name in absent if not neighbours[name] & labels.cut]


def pieces_and_holes(labels: Labels) -> list[Finding]:
    """Return structures in several pieces, which do not touch even at a corner, and structures with holes."""
    findings = []
    for name in labels.boxes:
        mask = labels.mask(name)
        pieces = _inner_pieces(labels, name, mask, 26)
        if pieces > 1:
            findings.append(Finding("pieces", (name,), pieces, 1))
        hole_ml = _enclosed(mask) * labels.voxel_ml
        if hole_ml:
            findings.append(Finding("holes", (name,), hole_ml, 0.0))
    return findings


def islands(labels: Labels) -> list[Finding]:
    """Return a finding if more than ``MOST_ISLANDS`` parts touch their structures at an edge or a corner only."""
    counts = {}
    for name in labels.boxes:
        mask = labels.mask(name)
        counts[name] = _inner_pieces(labels, name, mask, 6) - _inner_pieces(labels, name, mask, 26)
    if sum(counts.values()) <= MOST_ISLANDS:
        return []
    counts = {name: n for name, n in counts.items() if n}
    where = ", ".join(f"{n} in {name}" for name, n in counts.items())
    return [Finding("islands", tuple(counts), sum(counts.values()), MOST_ISLANDS, where)]


def lv_opening(faces: np.ndarray) -> list[Finding]:
    """Return a finding if too much of the left ventricle's surface faces background.

    ``faces``: the first of the :func:`contact_tables`.
    """
    lv = VALUE["LV"]
    share = float(faces[lv, 0] / max(faces[lv].sum() - faces[lv, lv] - faces[lv, _OUTSIDE], 1))
    return [Finding("LV open", ("LV",), share, LARGEST_LV_OPENING)] if share > LARGEST_LV_OPENING else []


def _inner_pieces(labels: Labels, name: str, mask: np.ndarray, connectivity: int) -> int:
    """Return the number of pieces of a structure; pieces that the scan cuts count as one."""
    components, count = cc3d.connected_components(mask, connectivity=connectivity, return_N=True)
    if count == 1 or name not in labels.cut:
        return int(count)
    starts = [s.start for s in labels.boxes[name]]
    inner = 0
    for box in cc3d.statistics(components)["bounding_boxes"][1:]:
        at_edge = any(
            (labels.edges[a, 0] and s.start + starts[a] == 0)
            or (labels.edges[a, 1] and s.stop + starts[a] == labels.array.shape[a])
            for a, s in enumerate(box)
        )
        inner += not at_edge
    return inner + (inner < count)


def _enclosed(mask: np.ndarray) -> int:
    """Return the number of voxels that a mask encloses."""
    rest = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6)
    return int(np.count_nonzero(rest) - np.count_nonzero(rest == rest[0, 0, 0]))


def contact_tables(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Return two (10, 10) counts of voxel pairs by label: pairs that share a face, and pairs within ``CONTACT_MM``.

    Label 9 stands for voxels beyond the scan. Voxels that share a face are near at any spacing. Only voxels at a
    surface are counted: the closest voxels of two structures are among them.
    """
    reach = np.maximum(np.floor(CONTACT_MM / labels.spacing), 1).astype(int)
    padded = np.pad(labels.array, [(r, r) for r in reach])
    for a in range(3):
        for end, is_scan in ((slice(0, reach[a]), labels.edges[a, 0]), (slice(-reach[a], None), labels.edges[a, 1])):
            if is_scan:
                padded[tuple(end if d == a else slice(None) for d in range(3))] = _OUTSIDE
    flat, strides = padded.ravel(), np.array(padded.strides)
    surface = np.zeros(padded.shape, dtype=bool)
    for a in range(3):
        differs = np.diff(padded.view(np.int8), axis=a) != 0
        for part in (slice(None, -1), slice(1, None)):
            surface[tuple(part if d == a else slice(None) for d in range(3))] |= differs
    places = np.flatnonzero(surface & (padded > 0) & (padded != _OUTSIDE))
    here = flat[places].astype(np.int64) * (NUM_CLASSES + 1)
    faces, near = np.zeros((2, (NUM_CLASSES + 1) ** 2), dtype=np.int64)
    for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
        steps = int(np.abs(offset).sum())
        if steps == 0 or (steps > 1 and np.linalg.norm(offset * labels.spacing) > CONTACT_MM):
            continue
        pairs = np.bincount(here + flat[places + int(offset @ strides)], minlength=near.size)
        near += pairs
        if steps == 1:
            faces += pairs
    side = NUM_CLASSES + 1
    return faces.reshape(side, side), near.reshape(side, side)


def contacts(labels: Labels, near: np.ndarray) -> list[Finding]:
    """Return required contacts that are absent and forbidden ones that exist.

    ``near``: the second of the :func:`contact_tables`.
    """
    findings = []
    for a, b in REQUIRED_CONTACTS:
        both = a in labels.boxes and b in labels.boxes
        if both and not near[VALUE[a], VALUE[b]] and not {a, b} & labels.cut:
            findings.append(Finding("contact", (a, b), limit=CONTACT_MM))
    for a, b in FORBIDDEN_CONTACTS:
        if near[VALUE[a], VALUE[b]]:
            findings.append(Finding("forbidden contact", (a, b), limit=CONTACT_MM))
    return findings


def order(labels: Labels) -> list[Finding]:
    """Return pairs of structures, neither of them cut off, whose centroids are in the wrong order."""
    centres = labels.centroids()
    return [
        Finding("order", (first, second), where=side)
        for first, second, axis, side in CENTROID_ORDER
        if first in centres and second in centres and not {first, second} & labels.cut
        and centres[first][axis] <= centres[second][axis]
    ]  # fmt: skip

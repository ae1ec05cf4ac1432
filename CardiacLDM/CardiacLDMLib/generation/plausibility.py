"""Is a label map sound? For virtual hearts, generated ones, and hearts that somebody labelled by hand.

A label map is turned to the RAS axes closest to its own and judged by the rules of a whole heart: every structure
there, in one piece, without holes, touching what it must and nothing that it must not, on the right side of the
others. What the scan's edge cuts off is excused: a cut structure may be in pieces, lack a contact or lie elsewhere.
Lengths in mm, volumes in mL.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import cc3d
import numpy as np

from ..anatomy import FORBIDDEN_CONTACTS, NAMES, NUM_CLASSES, REQUIRED_CONTACTS, STRUCTURES, VALUE
from ..errors import VolumeError
from ..image.grid import Volume

#: Distance below which two structures count as touching, mm: walls between blood pools are background in most labels.
CONTACT_MM = 2.0
#: (first, second, axis, what is expected): the first's centroid lies further along the RAS axis.
ORDER: tuple[tuple[str, str, int, str], ...] = (
    ("RA", "LV", 0, "right of"), ("RA", "LAA", 0, "right of"), ("RA", "LA", 0, "right of"), ("RV", "LV", 1, "before"),
    ("RV", "LA", 1, "before"), ("LV", "LA", 1, "before"), ("PA", "RV", 2, "above"), ("LA", "LV", 2, "above"),
)  # fmt: skip
#: Fewest millilitres of each structure in a usable heart.
SMALLEST_ML = {"LA": 12, "LV": 25, "RA": 15, "RV": 30, "MYO": 40, "AO": 20, "PA": 12, "LAA": 1.0}
#: The largest part of the LV's surface that may face background: the plane of the mitral valve in thin labels.
LARGEST_LV_OPENING = 0.10
#: Most islands (pieces joined to their structure through an edge or a corner only) of one label map.
MOST_ISLANDS = 10
#: Rules, as they are counted in a report.
RULES = ("missing", "pieces", "holes", "islands", "contact", "forbidden contact", "LV open", "order")

_OUTSIDE = NUM_CLASSES  # what lies beyond the scan


@dataclass(frozen=True)
class Finding:
    """A rule that a label map breaks, and how; ``of``: the structures that break it."""

    rule: str
    what: str
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """A label map turned to RAS and cut down to its foreground.

    ``array`` (I, J, K) uint8; ``cut`` names the structures that reach the edge of the scan.
    """

    array: np.ndarray = field(repr=False)
    spacing: np.ndarray
    boxes: dict[str, tuple[slice, slice, slice]]
    cut: frozenset[str]
    edges: np.ndarray  # (3, 2) bool: whether the array's first and last slice along an axis are the scan's

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0

    def mask(self, name: str) -> np.ndarray:
        """A structure within its box."""
        return self.array[self.boxes[name]] == VALUE[name]

    def centroids(self) -> dict[str, np.ndarray]:
        """Centre of mass of each structure, mm from the array's first voxel."""
        return {
            name: (np.argwhere(self.mask(name)).mean(0) + [s.start for s in box]) * self.spacing
            for name, box in self.boxes.items()
        }

    def volumes_ml(self) -> dict[str, float]:
        count = np.bincount(self.array.ravel(), minlength=NUM_CLASSES)
        return {s.name: float(count[s.value]) * self.voxel_ml for s in STRUCTURES if count[s.value]}


# --- reading -------------------------------------------------------------------------------------------------------


def as_labels(volume: Volume) -> Labels:
    """Turn and crop a label map. Raises :class:`VolumeError` if it is empty or holds other values than 0 to 8."""
    array, spacing = _to_ras(volume)
    if array.min() < 0 or array.max() >= NUM_CLASSES or not (array == array.astype(np.uint8)).all():
        raise VolumeError(f"It holds values other than the whole numbers 0 to {NUM_CLASSES - 1}.")
    array = array.astype(np.uint8)
    foreground = [box for box in _boxes((array > 0).view(np.uint8))[1:] if box]
    if not foreground:
        raise VolumeError("It holds no label.")
    edges = np.array([(s.start == 0, s.stop == n) for s, n in zip(foreground[0], array.shape, strict=True)])
    array = np.ascontiguousarray(array[foreground[0]])
    boxes = {NAMES[value - 1]: box for value, box in enumerate(_boxes(array)) if value and box}
    cut = {
        name
        for name, box in boxes.items()
        if any((edges[a, 0] and s.start == 0) or (edges[a, 1] and s.stop == array.shape[a]) for a, s in enumerate(box))
    }
    return Labels(array, spacing, boxes, frozenset(cut), edges)


def _boxes(array: np.ndarray) -> list[tuple[slice, slice, slice] | None]:
    """The box of voxels of each value up to the largest, None for those that are not there."""
    statistics = cc3d.statistics(array)
    there = zip(statistics["bounding_boxes"], statistics["voxel_counts"], strict=True)
    return [box if count else None for box, count in there]


def _to_ras(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Array and spacing with axes permuted and flipped to point right, anterior and superior as nearly as they can."""
    cosines = volume.affine[:3, :3] / volume.spacing  # [world axis, voxel axis]
    order = max(itertools.permutations(range(3)), key=lambda axes: np.abs(cosines[range(3), axes]).sum())
    flipped = tuple(world for world, axis in enumerate(order) if cosines[world, axis] < 0)
    return np.flip(volume.array.transpose(order), flipped), volume.spacing[list(order)]


# --- rules ---------------------------------------------------------------------------------------------------------


def check(labels: Labels) -> list[Finding]:
    """What is wrong with a label map; empty if it is sound."""
    faces, near = _contact_tables(labels)
    findings = _missing(labels) + _pieces(labels) + _contacts(labels, near) + _order(labels)
    lv = VALUE["LV"]
    open_part = faces[lv, 0] / max(faces[lv].sum() - faces[lv, lv] - faces[lv, _OUTSIDE], 1)
    if open_part > LARGEST_LV_OPENING:
        findings.append(Finding("LV open", f"{open_part:.1%} of the LV's surface faces background", ("LV",)))
    return findings


def _missing(labels: Labels) -> list[Finding]:
    """A structure may lie beyond the scan if a structure that it touches is cut."""
    neighbours = {name: {b for pair in REQUIRED_CONTACTS if name in pair for b in pair} - {name} for name in NAMES}
    return [
        Finding("missing", f"no {name}", (name,))
        for name in NAMES
        if name not in labels.boxes and not neighbours[name] & labels.cut
    ]


def _pieces(labels: Labels) -> list[Finding]:
    findings, islands = [], {}
    for name in labels.boxes:
        mask = labels.mask(name)
        pieces = _inner_pieces(labels, name, mask, 26)
        if pieces > 1:
            findings.append(Finding("pieces", f"{name} in {pieces} pieces", (name,)))
        islands[name] = _inner_pieces(labels, name, mask, 6) - pieces
        hole = _enclosed(mask) * labels.voxel_ml
        if hole:
            findings.append(Finding("holes", f"{hole:.2g} mL enclosed by {name}", (name,)))
    if sum(islands.values()) > MOST_ISLANDS:
        what = ", ".join(f"{n} {name}" for name, n in islands.items() if n)
        findings.append(Finding("islands", f"islands: {what}"))
    return findings


def _inner_pieces(labels: Labels, name: str, mask: np.ndarray, connectivity: int) -> int:
    """Pieces of a structure; of those that reach the scan's edge, where it was cut, only one counts."""
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
    """Voxels that a mask encloses without being part of it."""
    rest = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6)
    return int(np.count_nonzero(rest) - np.count_nonzero(rest == rest[0, 0, 0]))


def _contact_tables(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Two (10, 10) tables of voxel pairs, by label (9 is beyond the scan): sharing a face, and within CONTACT_MM.

    Only voxels at a surface are looked at: the closest voxels of two structures are.
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


def _contacts(labels: Labels, near: np.ndarray) -> list[Finding]:
    findings = []
    for a, b in REQUIRED_CONTACTS:
        there = a in labels.boxes and b in labels.boxes
        if there and not near[VALUE[a], VALUE[b]] and not {a, b} & labels.cut:
            findings.append(Finding("contact", f"{a} and {b} apart", (a, b)))
    for a, b in FORBIDDEN_CONTACTS:
        if near[VALUE[a], VALUE[b]]:
            findings.append(Finding("forbidden contact", f"{a} and {b} touch", (a, b)))
    return findings


def _order(labels: Labels) -> list[Finding]:
    centres = labels.centroids()
    return [
        Finding("order", f"{first} not {word} {second}", (first, second))
        for first, second, axis, word in ORDER
        if first in centres and second in centres and not {first, second} & labels.cut
        and centres[first][axis] <= centres[second][axis]
    ]  # fmt: skip

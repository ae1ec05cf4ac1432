"""Check a label map, virtual, generated or labelled by hand, by the rules of a plausible heart.

Every structure is present, in one piece, without holes; required contacts exist and forbidden ones do not; the order of
the centroids is right; the left ventricle is enclosed. A structure that the scan cuts off may be in pieces, lack a
contact or lie elsewhere. :mod:`CardiacLDMLib.anatomy` holds the contacts, the order and the limits. Lengths are in mm,
volumes in mL.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

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
from ..image.grid import Volume, in_ras_order
from ..image.labels import check_labels, volumes_ml
from ..image.resample import dilate
from ..segmentation.findings import Finding, Place, Rule

#: Most islands of one label map: parts that touch the rest of their structure at an edge or a corner only.
MOST_ISLANDS = 10
#: The rules of :func:`check`, in the order of reports.
RULES: tuple[Rule, ...] = ("missing", "pieces", "holes", "islands", "contact", "forbidden contact", "LV open", "order")

#: Share of the smaller structure that counts as in doubt where a contact is absent, and where there is a wrong one.
NO_CONTACT, WRONG_CONTACT = 0.5, 0.1

_OUTSIDE = NUM_CLASSES  # label of voxels beyond the scan


@dataclass(frozen=True)
class Labels:
    """A label map turned to the nearest RAS axes and cropped to its foreground.

    ``array``: (I, J, K) uint8. ``affine``: (4, 4), its indices -> RAS mm. ``spacing``: (3,) mm. ``boxes``: the box of
    each structure that is there. ``cut``: the structures that reach the edge of the scan. ``edges`` (3, 2) bool:
    whether the array's first and last slice along each axis are those of the scan.
    """

    array: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)
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

    def place(self, index: np.ndarray) -> Place:
        """Return a point in RAS mm, rounded to 0.1 mm, from its indices (3,) in the array."""
        x, y, z = (round(float(v), 1) for v in self.affine[:3, :3] @ index + self.affine[:3, 3])
        return x, y, z

    def place_in(self, name: str, mask: np.ndarray) -> Place:
        """Return the voxel of ``mask`` (bool, in the box of a structure) that is nearest to the mask's centre."""
        voxels = np.argwhere(mask)
        nearest = voxels[np.abs((voxels - voxels.mean(0)) * self.spacing).sum(1).argmin()]
        return self.place(nearest + [s.start for s in self.boxes[name]])

    def volumes_ml(self) -> dict[str, float]:
        """Return the volume of each structure that is there."""
        return {name: ml for name, ml in volumes_ml(self.array, self.voxel_ml).items() if ml}


# --- reading -------------------------------------------------------------------------------------------------------


def as_labels(volume: Volume) -> Labels:
    """Return a label map turned to RAS and cropped.

    Raises :class:`VolumeError` if it is empty or has values other than 0 to 8.
    """
    check_labels(volume.array)
    return _crop(in_ras_order(volume), in_scan=True)


def uncut_labels(array: np.ndarray, spacing_mm: float) -> Labels:
    """Return labels (uint8, RAS) that do not come from a scan, cropped: a structure at the array's edge is not cut off.

    Raises :class:`VolumeError` if they are empty.
    """
    return _crop(Volume(array, np.diag([spacing_mm] * 3 + [1.0])), in_scan=False)


def _crop(volume: Volume, in_scan: bool) -> Labels:
    occupied = [np.flatnonzero(volume.array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not occupied[0].size:
        raise VolumeError("It holds no label.")
    box = tuple(slice(int(o[0]), int(o[-1]) + 1) for o in occupied)
    ends = zip(box, volume.array.shape, strict=True)
    edges = np.array([(in_scan and s.start == 0, in_scan and s.stop == n) for s, n in ends])
    array = np.ascontiguousarray(volume.array[box], dtype=np.uint8)
    grid = volume.grid.crop(np.array([s.start for s in box]), np.array([s.stop for s in box]))
    boxes = {NAMES[value - 1]: box for value, box in enumerate(_boxes(array)) if value and box}
    cut = {
        name
        for name, box in boxes.items()
        if any((edges[a, 0] and s.start == 0) or (edges[a, 1] and s.stop == array.shape[a]) for a, s in enumerate(box))
    }
    return Labels(array, grid.affine, grid.spacing, boxes, frozenset(cut), edges)


def _boxes(array: np.ndarray) -> list[tuple[slice, slice, slice] | None]:
    """Return the box of each label up to the largest, after that of the background; None if it does not occur."""
    import cc3d

    if array.size <= array.max():  # cc3d wants more voxels than that
        array = np.pad(array, ((0, len(NAMES) + 1), (0, 0), (0, 0)))
    statistics = cc3d.statistics(array)
    counted = zip(statistics["bounding_boxes"], statistics["voxel_counts"], strict=True)
    return [box if count else None for box, count in counted]


# --- rules ---------------------------------------------------------------------------------------------------------


def check(labels: Labels) -> list[Finding]:
    """Return the rules that a label map breaks; none if it is plausible."""
    faces, near = contact_tables(labels)
    parts = [*missing(labels), *pieces_and_holes(labels), *islands(labels)]
    return [*parts, *contacts(labels, near), *order(labels), *lv_opening(labels, faces)]


def missing(labels: Labels) -> list[Finding]:
    """Return absent structures, but not those with a neighbour that is cut off, since the scan may end before them."""
    neighbours = {name: {b for pair in REQUIRED_CONTACTS if name in pair for b in pair} - {name} for name in NAMES}
    absent = [name for name in NAMES if name not in labels.boxes]
    return [Finding("missing", (name,), severity=1.0) for name in absent if not neighbours[name] & labels.cut]


def pieces_and_holes(labels: Labels) -> list[Finding]:
    """Return structures in several pieces, which do not touch even at a corner, and structures with holes."""
    findings = []
    for name in labels.boxes:
        mask = labels.mask(name)
        pieces = _inner_pieces(labels, name, mask, 26)
        if pieces > 1:
            findings.append(_several(labels, name, mask, pieces))
        holes = _enclosed(mask)
        if holes is not None:
            share, ml = np.count_nonzero(holes) / np.count_nonzero(mask), np.count_nonzero(holes) * labels.voxel_ml
            place = labels.place_in(name, holes)
            findings.append(Finding("holes", (name,), ml, 0.0, place=place, severity=min(share, 1.0)))
    return findings


def _several(labels: Labels, name: str, mask: np.ndarray, pieces: int) -> Finding:
    """Return the finding on a structure in several ``pieces``; its place is in the second largest one."""
    import cc3d

    components = cc3d.connected_components(mask, connectivity=26)
    counts = np.bincount(components.ravel())
    counts[0] = 0
    order = np.argsort(counts)[::-1]
    place = labels.place_in(name, components == order[1])
    return Finding("pieces", (name,), pieces, 1, place=place, severity=1.0 - counts[order[0]] / counts.sum())


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
    worst = max(counts, key=lambda name: counts[name])
    loose = _loose(labels.mask(worst))
    place, doubt = labels.place_in(worst, loose), np.count_nonzero(loose) / np.count_nonzero(labels.mask(worst))
    return [Finding("islands", tuple(counts), sum(counts.values()), MOST_ISLANDS, where, place, doubt)]


def _loose(mask: np.ndarray) -> np.ndarray:
    """Return the parts of a mask that touch its largest part through no face."""
    import cc3d

    components = cc3d.connected_components(mask, connectivity=6)
    counts = np.bincount(components.ravel())
    counts[0] = 0
    return mask & (components != counts.argmax())


def lv_opening(labels: Labels, faces: np.ndarray) -> list[Finding]:
    """Return a finding if too much of the left ventricle's surface faces background.

    ``faces``: the first of the :func:`contact_tables`.
    """
    lv = VALUE["LV"]
    share = float(faces[lv, 0] / max(faces[lv].sum() - faces[lv, lv] - faces[lv, _OUTSIDE], 1))
    if share <= LARGEST_LV_OPENING:
        return []
    bare = labels.mask("LV") & dilate(labels.array[labels.boxes["LV"]] == 0, 1)
    place = labels.place_in("LV", bare if bare.any() else labels.mask("LV"))
    return [Finding("LV open", ("LV",), share, LARGEST_LV_OPENING, "", place, share)]


def _inner_pieces(labels: Labels, name: str, mask: np.ndarray, connectivity: int) -> int:
    """Return the number of pieces of a structure; pieces that the scan cuts count as one."""
    import cc3d

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


def _enclosed(mask: np.ndarray) -> np.ndarray | None:
    """Return the voxels (bool, as ``mask``) that a mask encloses, None if there are none."""
    import cc3d

    rest, count = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6, return_N=True)
    if count == 1:
        return None
    return ((rest > 0) & (rest != rest[0, 0, 0]))[1:-1, 1:-1, 1:-1]


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
            findings.append(Finding("contact", (a, b), None, CONTACT_MM, "", _between(labels, a, b), NO_CONTACT))
    for a, b in FORBIDDEN_CONTACTS:
        if near[VALUE[a], VALUE[b]]:
            place = _between(labels, a, b)
            findings.append(Finding("forbidden contact", (a, b), None, CONTACT_MM, "", place, WRONG_CONTACT))
    return findings


def contact_mm2(labels: Labels, first: str, second: str) -> float:
    """Return about the area over which ``first`` lies within ``CONTACT_MM`` of ``second``."""
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in _ends(labels, first, second))
    one, other = (labels.array[box] == VALUE[name] for name in (first, second))
    reach = np.maximum(np.floor(CONTACT_MM / labels.spacing), 1).astype(int)
    return float(np.count_nonzero(one & dilate(other, reach)) * labels.voxel_ml * 1000.0 / CONTACT_MM)


def _between(labels: Labels, first: str, second: str) -> Place:
    """Return the voxel of ``first`` that is nearest to ``second``, within a step of the search."""
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in _ends(labels, first, second))
    one, other = (labels.array[box] == VALUE[name] for name in (first, second))
    reach = np.maximum(np.rint(CONTACT_MM / labels.spacing), 1).astype(int)
    while not (one & other).any():  # reaches further each time
        other = dilate(other, reach)
        reach = 2 * reach
    return labels.place(np.argwhere(one & other)[0] + [s.start for s in box])


def _ends(labels: Labels, first: str, second: str) -> zip[tuple[slice, slice]]:
    return zip(labels.boxes[first], labels.boxes[second], strict=True)


def order(labels: Labels) -> list[Finding]:
    """Return pairs of structures, neither of them cut off, whose centroids are in the wrong order."""
    centres = labels.centroids()
    return [
        Finding("order", (first, second), None, None, side, _middle(labels, first), 1.0)
        for first, second, axis, side in CENTROID_ORDER
        if first in centres and second in centres and not {first, second} & labels.cut
        and centres[first][axis] <= centres[second][axis]
    ]  # fmt: skip


def _middle(labels: Labels, name: str) -> Place:
    return labels.place_in(name, labels.mask(name))

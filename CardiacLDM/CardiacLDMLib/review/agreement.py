"""Compare labels with a second label map of the same scan: a package's own labels, or those of the mirrored scan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..anatomy import HEART, NAMES, VALUE
from ..image.labels import Box, agreement
from ..segmentation.findings import Rule
from . import tissue
from .scene import Measure, Scene, grown, largest_part, region
from .surface import fit, signed_distance

#: Up to this far from the package's border, mm, a part that it labels otherwise is a difference of borders.
DEEP_MM = 2.5
#: Structures that run on above or below, into vessels of which the end is a matter of convention. What the package does
#: not label of them counts within this distance, mm, of what it labels in the same axial slice.
RUN_ON, BESIDE_MM = ("RA", "AO", "PA"), 15.0
#: The aorta looks like much that lies beside it: of it counts what is further off than this, mm, with any HU.
FAR_MM = 5.0
#: Structures of which the package's labels hardly ever differ so far; of the others only what the CT confirms counts.
SURE = ("LV", "RV", "LAA")


def measures(scene: Scene) -> Iterator[Measure]:
    """Yield the measures of agreement of a scene.

    ``own labels``: 1 - Dice of each structure with the package's. ``mirrored``: the same between the package's labels
    and those of the mirrored scan. ``moved``: mm by which the surface of a structure lies off the package's as a whole,
    ``surface``: mm by which it lies ``outside`` or ``inside`` of it; of the muscle this is the outer surface.

    ``difference``, with a CT: mL of the largest part of a structure that is background in the package's labels, away
    from its border there, and that holds other HU than the structure (``beyond``); and of the reverse, with the
    structure's HU (``short of``); of ``SURE`` structures also with any HU. Where labels part two structures, and how
    far they follow vessels, is a matter of convention: that counts in the Dice alone. Structures without contrast have
    limits of their own: the package is unsure of them itself.
    """
    levels = tissue.read_levels(scene)
    if scene.own is not None:
        for name, dice in agreement(scene.array, scene.own).items():
            yield _whole(scene, "own labels", name, dice, scene.own, tissue.contrast(levels, name))
        for name in NAMES:
            if name in scene.boxes and (scene.own == VALUE[name]).any():
                yield from _against(scene, name, scene.own, levels)
    if scene.mirrored is not None:
        first = scene.array if scene.own is None else scene.own
        for name, dice in agreement(first, scene.mirrored).items():
            yield _whole(scene, "mirrored", name, dice, scene.mirrored, tissue.contrast(levels, name))


def _whole(scene: Scene, rule: Rule, name: str, dice: float, others: np.ndarray, faint: str) -> Measure:
    box = region((scene.array == VALUE[name]) | (others == VALUE[name]))
    differs = (scene.array[box] == VALUE[name]) != (others[box] == VALUE[name])
    return Measure(rule, name, 1.0 - dice, "", differs, box, faint)


def _against(scene: Scene, name: str, others: np.ndarray, levels: dict[str, tissue.Level]) -> Iterator[Measure]:
    """Yield how a structure's surface lies against that of the package, and the parts of the one that lie off it."""
    box = region((scene.array == VALUE[name]) | (others == VALUE[name]))
    mine, theirs = scene.array[box], others[box]
    away, away_from_theirs = (signed_distance(part == VALUE[name], scene.spacing) for part in (mine, theirs))
    differs = (mine == VALUE[name]) != (theirs == VALUE[name])
    found = fit(away, away_from_theirs, scene.spacing)
    yield Measure("moved", name, found.moved_mm, "", differs, box)
    outer = _outer(scene, box, others) if name == "MYO" else found.outside_mm
    yield Measure("surface", name, outer, "outside", differs & (mine == VALUE[name]), box)
    yield Measure("surface", name, -outer, "inside", differs & (theirs == VALUE[name]), box)
    if name in levels:
        yield from _parts(scene, name, box, others, (away, away_from_theirs), levels)


def _parts(
    scene: Scene, name: str, box: Box, others: np.ndarray, away: tuple[np.ndarray, np.ndarray],
    levels: dict[str, tissue.Level],
) -> Iterator[Measure]:  # fmt: skip
    """Yield the largest parts off the other border; ``away``: distances (I, J, K) from both borders, the own first."""
    mine, theirs, value = scene.array[box], others[box], VALUE[name]
    alike, faint = tissue.alike(scene, box, levels[name]), tissue.contrast(levels, name)
    beyond = (mine == value) & (theirs == 0) & (away[1] > DEEP_MM)
    short = (mine == 0) & (theirs == value) & (away[0] > DEEP_MM)
    if name in RUN_ON:
        beyond &= grown(theirs == value, round(BESIDE_MM / float(scene.spacing[:2].max())), axes=(0, 1))
    parts = [("beyond", "odd", beyond & ~alike)]
    if name == "AO":
        parts = [("beyond", "", beyond & (away[1] > FAR_MM))]
    if name in HEART:
        parts.append(("short of", "alike", short & alike))
    if name in SURE:
        parts += [("beyond", "", beyond), ("short of", "", short)]
    for where, layer, mask in parts:
        part = largest_part(mask)
        ml = np.count_nonzero(part) * scene.voxel_ml
        yield Measure("difference", name, ml, where, part, box, f"{layer} {faint}".strip())


def _outer(scene: Scene, box: Box, others: np.ndarray) -> float:
    """Return by how much the surface around the left ventricle and its wall lies outside the package's, mm."""
    mine, theirs = (np.isin(array[box], [VALUE["LV"], VALUE["MYO"]]) for array in (scene.array, others))
    away, away_from_theirs = signed_distance(mine, scene.spacing), signed_distance(theirs, scene.spacing)
    return fit(away, away_from_theirs, scene.spacing).outside_mm

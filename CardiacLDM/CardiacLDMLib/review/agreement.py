"""Compare labels with a second label map of the same scan: a package's own labels, or those of the mirrored scan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..anatomy import HEART, VALUE
from ..image.labels import Box, agreement
from ..segmentation.findings import Rule
from . import tissue
from .scene import Measure, Scene, grown, largest_part, shrunk

#: Depth in voxels below which a part that the package labels otherwise is a difference of borders, not of shape.
BEYOND_DEPTH, SHORT_DEPTH = 2, 1


def measures(scene: Scene) -> Iterator[Measure]:
    """Yield the measures of agreement of a scene.

    ``own labels``: 1 - Dice of each structure with the package's. ``mirrored``: the same between the package's labels
    and those of the mirrored scan. ``difference``, with a CT: mL of the largest thick part of a structure of the heart
    that is background in the package's labels (``beyond``), also of its part with other HU than the structure, and of
    the reverse (``short of``), also of its part with the structure's HU. How far labels follow the great vessels, and
    where they part two structures, is a matter of convention: that counts in the Dice alone. Structures without
    contrast have limits of their own: the package is unsure of them itself.
    """
    levels = tissue.read_levels(scene)
    if scene.own is not None:
        for name, dice in agreement(scene.array, scene.own).items():
            yield _whole(scene, "own labels", name, dice, scene.own, tissue.contrast(levels, name))
        yield from _differences(scene, scene.own, levels)
    if scene.mirrored is not None:
        first = scene.array if scene.own is None else scene.own
        for name, dice in agreement(first, scene.mirrored).items():
            yield _whole(scene, "mirrored", name, dice, scene.mirrored, tissue.contrast(levels, name))


def _whole(scene: Scene, rule: Rule, name: str, dice: float, others: np.ndarray, faint: str) -> Measure:
    box = _box_of(scene, name)
    differs = (scene.array[box] == VALUE[name]) != (others[box] == VALUE[name])
    return Measure(rule, name, 1.0 - dice, "", differs, box, faint)


def _differences(scene: Scene, others: np.ndarray, levels: dict[str, tissue.Level]) -> Iterator[Measure]:
    for name in (name for name in HEART if name in levels):
        level = levels[name]
        box, value, faint = scene.boxes[name], VALUE[name], tissue.contrast(levels, name)
        mine, theirs, alike = scene.array[box], others[box], tissue.alike(scene, name, level)
        beyond = _thick((mine == value) & (theirs == 0), BEYOND_DEPTH)
        short = _thick((mine == 0) & (theirs == value), SHORT_DEPTH)
        parts = (("beyond", "", beyond), ("beyond", "odd", beyond & ~alike), ("short of", "", short),
                 ("short of", "alike", short & alike))  # fmt: skip
        for where, layer, mask in parts:
            part = largest_part(mask)
            ml = np.count_nonzero(part) * scene.voxel_ml
            yield Measure("difference", name, ml, where, part, box, f"{layer} {faint}".strip())


def _thick(mask: np.ndarray, depth: int) -> np.ndarray:
    """Return the parts of a mask that reach ``depth`` voxels below its surface."""
    return mask & grown(shrunk(mask, depth), depth)


def _box_of(scene: Scene, name: str) -> Box:
    """Return the region of a structure, or the whole scene if the checked labels lack it."""
    return scene.boxes.get(name, tuple(slice(None) for _ in range(3)))

"""Compare labels with the CT: each structure should hold one tissue, and end where that tissue ends.

The tissue of a structure is known from its own core: the median of the HU there and their spread. So contrast medium,
tube voltage and noise need no settings. Where blood mixes, the spread is large and the rules say little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..anatomy import VALUE
from ..image.labels import Box
from .scene import Measure, Scene, grown, largest_part, share, shrunk

#: Voxels belong to the tissue of a structure within this many of its spreads, and at least so many HU.
SPREADS, LEAST_HU = 2.5, 40.0
#: Below this a voxel is lung or air, even at its border.
LUNG_HU = -300.0
#: Fewest voxels of a structure, and of its core, of which HU are judged.
FEWEST, FEWEST_CORE = 8, 20
#: Pools that hold the same blood, bright in one phase.
LEFT = ("LV", "LA", "AO")
#: Beyond the labels, voxels belong to a structure within at most so many HU, however mixed its own blood is.
MOST_HU = 100.0
#: A pool less than this many HU from muscle cannot be told from it, and has limits of its own; so has the muscle where
#: no pool of the left heart is further from it.
LEAST_CONTRAST = 60.0
#: In the table of limits: the limits of such structures.
FAINT = "faint"


@dataclass(frozen=True)
class Level:
    """The tissue of a structure: median of HU in its ``core``, and how far from it voxels may lie."""

    mask: np.ndarray = field(repr=False)
    core: np.ndarray = field(repr=False)
    middle: float
    reach: float


def measures(scene: Scene) -> Iterator[Measure]:
    """Yield the measures of each structure on the CT of a scene.

    ``tissue``: mL of the largest part with the HU of lung, or within the core darker or brighter than the structure.
    ``border``, inside: share of the second or third layer of voxels below the surface that hold another tissue;
    outside: share of the first, second or third layer beyond the structure that is no label and holds the same one.
    ``unlabelled``: mL of the largest part of such tissue that is thicker than two voxels. ``blood``: HU by
    which a pool of the left heart is darker than muscle. ``pools``: difference of such a pool and the brightest one, as
    a share of the contrast between that one and muscle.

    Structures that cannot be told from muscle, as all without contrast medium, have limits of their own (``FAINT``).
    """
    levels = read_levels(scene)
    for name, level in levels.items():
        faint = contrast(levels, name)
        for measure in (*_odd_tissue(scene, name, level), *_border(scene, name, level)):
            yield replace(measure, layer=f"{measure.layer} {faint}".strip())
    yield from _pools(scene, levels)


def read_levels(scene: Scene) -> dict[str, Level]:
    """Return the tissue of each structure of which the CT shows enough; none without a CT."""
    return {name: level for name in scene.boxes if (level := _level(scene, name)) is not None}


def contrast(levels: dict[str, Level], name: str) -> str:
    """Return ``FAINT`` if a structure cannot be told from muscle, or muscle not from the left heart, else nothing."""
    if "MYO" not in levels:
        return ""
    muscle = levels["MYO"].middle
    others = [levels[n].middle for n in (LEFT if name == "MYO" else (name,)) if n in levels]
    return FAINT if all(abs(other - muscle) < LEAST_CONTRAST for other in others) else ""


def alike(scene: Scene, box: Box, level: Level, most: float = np.inf) -> np.ndarray:
    """Return which voxels of ``box`` hold the tissue of a structure, within its reach and at most so many HU."""
    assert scene.hu is not None
    return np.asarray(np.abs(scene.hu[box] - level.middle) < min(level.reach, most))


def _hu(scene: Scene, name: str) -> np.ndarray:
    assert scene.hu is not None
    return scene.hu[scene.boxes[name]]


def _level(scene: Scene, name: str) -> Level | None:
    """Return the tissue of a structure that is there; None if the CT shows too little of it."""
    if scene.hu is None or name not in scene.boxes:
        return None
    mask = (scene.array[scene.boxes[name]] == VALUE[name]) & ~np.isnan(_hu(scene, name))
    if np.count_nonzero(mask) < FEWEST:
        return None
    core = shrunk(mask)
    core = core if np.count_nonzero(core) >= FEWEST_CORE else mask
    values = _hu(scene, name)[core]
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return Level(mask, core, middle, max(SPREADS * spread, LEAST_HU))


def _part(scene: Scene, name: str, where: str, odd: np.ndarray) -> Measure:
    part = largest_part(odd)
    return Measure("tissue", name, np.count_nonzero(part) * scene.voxel_ml, where, part, scene.boxes[name])


def _odd_tissue(scene: Scene, name: str, level: Level) -> Iterator[Measure]:
    hu = _hu(scene, name)
    yield _part(scene, name, "lung", level.mask & (hu < LUNG_HU))
    yield _part(scene, name, "darker tissue", level.core & (hu < level.middle - level.reach))
    yield _part(scene, name, "brighter tissue", level.core & (hu > level.middle + level.reach))


def _border(scene: Scene, name: str, level: Level) -> Iterator[Measure]:
    box, hu = scene.boxes[name], _hu(scene, name)
    seen, bare = ~np.isnan(hu), scene.array[box] == 0
    odd, same = np.abs(hu - level.middle) >= level.reach, alike(scene, box, level, MOST_HU)  # NaN is neither
    first = grown(bare)
    second = grown(first)
    inner = {"2": level.mask & second & ~first, "3": level.mask & grown(second) & ~second}
    shells = [scene.array[box] == VALUE[name]]
    for _ in range(3):
        shells.append(grown(shells[-1]))
    for number, layer in inner.items():
        yield _share(scene, name, "inside", number, layer & odd, layer)
    for n in (1, 2, 3):
        layer = shells[n] & ~shells[n - 1] & seen
        yield _share(scene, name, "outside", str(n), layer & bare & same, layer)
    part = largest_part(shrunk(bare & same & grown(shells[-1], 2)))
    yield Measure("unlabelled", name, np.count_nonzero(part) * scene.voxel_ml, "", part, box)


def _share(scene: Scene, name: str, where: str, number: str, odd: np.ndarray, layer: np.ndarray) -> Measure:
    return Measure("border", name, share(odd, layer, FEWEST), where, odd, scene.boxes[name], number)


def _pools(scene: Scene, levels: dict[str, Level]) -> Iterator[Measure]:
    left = [name for name in LEFT if name in levels]
    if "MYO" not in levels or not left:
        return
    muscle, highest = levels["MYO"].middle, max(levels[name].middle for name in left)
    for name in left:
        mask, box, middle = levels[name].mask, scene.boxes[name], levels[name].middle
        yield Measure("blood", name, muscle - middle, "", mask, box)
        if highest - muscle >= LEAST_CONTRAST:
            yield Measure("pools", name, (highest - middle) / (highest - muscle), "", mask, box)

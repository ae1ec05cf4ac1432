"""The left atrial appendage in its four published shapes.

Chicken wing about 48 % (one lobe with a sharp bend), cactus 30 % (a central lobe with secondary lobes up and down),
windsock 19 % (one long dominant lobe), cauliflower 3 % (short, with many lobes of equal size).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from CardiacLDMLib.anatomy import VALUE

from ..shapes import perpendicular, smooth_path, tube_distance, unit
from .model import HeartModel

#: Shapes and their frequencies.
APPENDAGES = {"chicken wing": 0.48, "cactus": 0.30, "windsock": 0.19, "cauliflower": 0.03}
#: Least volume of an appendage in the free space beside its neighbours, mL.
LEAST_ML = 2.0
#: Directions that are tried.
TRIES = 5


def draw_appendage(rng: np.random.Generator) -> str:
    """Draw one of the four shapes."""
    return str(rng.choice(list(APPENDAGES), p=list(APPENDAGES.values())))


def draw_lobes(
    rng: np.random.Generator, kind: str, outward: np.ndarray, side: np.ndarray, size: float
) -> list[np.ndarray]:
    """Draw the lobes of an appendage as tubes (N, 4; point and radius in mm) with the neck at the origin.

    It leaves the atrium along ``outward`` and bends to ``side``. Its volume is 6 to 9 mL at ``size`` 1.
    """
    across = np.cross(outward, side)

    def tube(points: list[tuple[float, float, float]], radii: list[float]) -> np.ndarray:
        frame = np.stack([outward, side, across])
        places = np.array(points) + rng.normal(0.0, 0.8, (len(points), 3)) * (np.arange(len(points)) > 0)[:, None]
        return smooth_path(size * places @ frame, size * np.array(radii) * rng.uniform(0.9, 1.1), step=1.5)

    neck = rng.uniform(5.5, 7.5)
    if kind == "chicken wing":
        reach, bend = rng.uniform(14, 19), np.deg2rad(rng.uniform(75, 125))
        wing = rng.uniform(20, 30)
        tip = (reach + wing * np.cos(bend), wing * np.sin(bend), rng.uniform(-6, 6))
        middle = (reach + 2 + 0.45 * wing * np.cos(bend), 0.5 * wing * np.sin(bend), 0.0)
        out = [tube([(-6, 0, 0), (0, 0, 0), (reach, 1, 0), middle, tip], [neck + 1, neck, 8.5, 8.0, 3.5])]
        return out + _draw_bumps(rng, out[0], 4, 0.5)
    if kind == "windsock":
        long, sway = rng.uniform(36, 46), rng.uniform(3, 11)
        out = [tube([(-6, 0, 0), (0, 0, 0), (0.35 * long, 0.3 * sway, 0), (0.7 * long, 0.7 * sway, 2), (long, sway, 2)],
                    [neck + 1, neck, 8.2, 7.0, 3.5])]  # fmt: skip
        return out + _draw_bumps(rng, out[0], 5, 0.55)
    if kind == "cactus":
        long = rng.uniform(22, 28)
        out = [tube([(-6, 0, 0), (0, 0, 0), (0.5 * long, 0, 0), (long, 2, 0)], [neck + 1, neck, 8.0, 5.0])]
        for n in range(int(rng.integers(2, 5))):
            at, way = rng.uniform(0.35, 0.85) * long, (-1.0) ** n
            up, more = way * rng.uniform(13, 19), rng.uniform(-7, 7)
            out.append(tube([(at, 0, 0), (at + 3, 0.6 * up, 0.4 * more), (at + rng.uniform(3, 9), up, more)],
                            [5.5, 5.0, 3.0]))  # fmt: skip
        return out + _draw_bumps(rng, out[0], 3, 0.5)
    short = rng.uniform(11, 15)
    out = [tube([(-6, 0, 0), (0, 0, 0), (short, 0, 0)], [neck + 2, neck + 1, 8.5])]
    for turn in np.linspace(0, 2 * np.pi, int(rng.integers(5, 9)), endpoint=False):
        a, b = 11.5 * np.cos(turn), 11.5 * np.sin(turn)
        out.append(tube([(short * 0.7, 0, 0), (short + rng.uniform(0, 6), a, b)], [5.0, rng.uniform(4.0, 5.5)]))
    return out


def _draw_bumps(rng: np.random.Generator, path: np.ndarray, count: int, share: float) -> list[np.ndarray]:
    """Draw small lobes on the outer half of a tube, for the crenated outline."""
    out = []
    for _ in range(count):
        root = path[int(rng.uniform(0.4, 0.95) * len(path))]
        away = unit(rng.standard_normal(3)) * root[3] * rng.uniform(0.6, 0.95)
        out.append(np.stack([root, np.append(root[:3] + away, root[3] * share)]))
    return out


def replace_appendage(model: HeartModel, kind: str, rng: np.random.Generator) -> HeartModel:
    """Return the model with an appendage of ``kind`` that extends from the same neck into free space.

    The model keeps its own appendage if no direction has room for ``LEAST_ML``.
    """
    neck, hint = model.appendage_neck
    lattice = model.lattice
    best, most = model, 0.0
    for _ in range(TRIES):
        outward = unit(hint + 0.25 * rng.standard_normal(3))
        side = perpendicular(rng.standard_normal(3) + np.array([-0.2, 0.3, 0.0]), outward)
        shares = model.shares.copy()
        shares[0] += shares[VALUE["LAA"]]
        shares[VALUE["LAA"]] = 0
        size = rng.uniform(0.85, 1.05)
        for path in draw_lobes(rng, kind, outward, side, size):
            box, field = tube_distance(lattice, path + np.append(neck, 0.0), lattice.spacing)
            here = np.clip(0.5 - field / lattice.spacing, 0, 1) * 255
            free = shares[(0, *box)]
            taken = np.minimum(free, (here * (free / 255.0)).astype(np.uint8))
            shares[(VALUE["LAA"], *box)] += taken
            shares[(0, *box)] -= taken
        candidate = replace(model, shares=shares)
        volume = candidate.volume_ml(VALUE["LAA"])
        if volume > most:
            best, most = candidate, volume
        if volume >= LEAST_ML * 2.2:
            break
    return best if most >= LEAST_ML else model

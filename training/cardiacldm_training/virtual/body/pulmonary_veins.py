"""The trunks of the pulmonary veins from the left atrium to the lungs: two a side, at times one trunk on the left.

The left upper vein runs behind and above the left atrial appendage and touches it, as in nearly every patient. Only a
fold of the atrial wall, the left lateral ridge, parts the two mouths (Cabrera et al., Eur Heart J 2008). The left lower
vein crosses before the descending aorta. The veins are blood of the left atrium without a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..shapes import perpendicular, unit
from ..tissue import Tissue
from .canvas import Canvas
from .courses import Course, Obstacles, make_course
from .frame import Landmarks

#: Radius of the appendage's mouth, and width of the ridge beside it (our estimate), mm.
MOUTH_MM, RIDGE_MM = 6.0, (2.0, 9.0)
#: Gap between the left upper vein and the appendage, mm. Below zero the vein is flattened.
GAP_MM = (-2.0, 2.0)
#: Share of patients with one common trunk of the left veins (Marom et al., Radiology 2004, report 14 %).
COMMON_TRUNK = 0.14


@dataclass(frozen=True)
class PulmonaryVeins:
    """The trunks, and the points (2, 2, 3; mm) where upper and lower veins enter the lung, right lung first."""

    trunks: list[Course]
    ends: np.ndarray


def plan_pulmonary_veins(marks: Landmarks, obstacles: Obstacles, rng: np.random.Generator) -> PulmonaryVeins:
    """Plan the trunks."""
    centre, trunks, ends = marks.centre("LA"), [], []
    common = rng.random() < COMMON_TRUNK
    for side in (1.0, -1.0):
        ostia = [marks.extreme("LA", unit([side, -0.4, z])) for z in (0.5, -0.4)]
        goals = [o + 24.0 * unit(v) for o, v in zip(ostia, ([side, 0.05, 0.55], [side, -0.6, -0.3]), strict=True)]
        if common and side < 0:
            ostia = [0.5 * (ostia[0] + ostia[1]) + [side * 3.0, 0, 0]] * 2
        for upper, ostium, goal in zip((True, False), ostia, goals, strict=True):
            r, taper = rng.uniform(5.0, 8.0), (1.15, 1.0, 0.85, 0.66)
            knots = np.array([ostium, 0.45 * ostium + 0.55 * goal, goal])
            if upper and side < 0:
                taper = (1.15, 1.0, 0.95, 0.76)
                knots = _pass_the_appendage(marks, obstacles, r, None if not common else ostium, rng)
            elif not upper and side < 0:
                knots[1:] = _pass_the_aorta(marks, knots, 0.8 * r, rng)
            points = np.vstack([0.65 * knots[0] + 0.35 * centre, knots])
            trunks.append(make_course(points, np.array(taper) * r, Tissue.PULMONARY_VEIN))
            ends.append(knots[-1])
    return PulmonaryVeins(trunks, np.array(ends).reshape(2, 2, 3))


def paint_pulmonary_veins(
    canvas: Canvas, veins: PulmonaryVeins, over: tuple[Tissue, ...], rng: np.random.Generator
) -> None:
    """Paint the trunks. In some patients the wall of the appendage is seen between it and the vein."""
    walled = rng.random() < 0.4
    for one in veins.trunks:
        canvas.paint_tube(one.points[:2], one.radii[:2], one.tissue, over)
        rest = tuple(t for t in over if t != Tissue.WALL) if walled else over
        canvas.paint_tube(one.points, one.radii, one.tissue, rest)


def _pass_the_appendage(
    marks: Landmarks, obstacles: Obstacles, r: float, ostium: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Return ostium, middle and end (3, 3; mm) of the left upper vein of radius ``r``, which passes the appendage."""
    atrium, appendage = marks.points("LA"), marks.points("LAA")
    away, _ = cKDTree(appendage).query(atrium)
    mouth = atrium[away <= away.min() + 3.0].mean(0)
    along = unit(appendage.mean(0) - mouth)
    tilt = np.deg2rad(rng.uniform(5.0, 70.0))  # the vein lies behind the appendage (0) to above it (90)
    aside = perpendicular(np.array([-0.05, -np.cos(tilt), np.sin(tilt)]) + rng.normal(0, 0.08, 3), along)
    if ostium is None:
        wanted = mouth + aside * (MOUTH_MM + rng.uniform(*RIDGE_MM) + r)
        ostium = atrium[np.argmin(np.square(atrium - wanted).sum(1))]
    gap = rng.uniform(*GAP_MM)
    height = (appendage - mouth) @ along
    level = np.quantile(height, rng.uniform(0.3, 0.7))
    section = appendage[np.abs(height - level) <= 3.0]
    reach = float(((section - section.mean(0)) @ aside).max()) + 0.4 * marks.lattice.spacing
    middle = section.mean(0) + aside * (reach + r + gap)
    middle = obstacles.push_out(middle[None], r + gap, clearance=0.0)[0]
    end = middle + rng.uniform(18.0, 30.0) * unit([-0.6, rng.uniform(-0.15, 0.3), rng.uniform(0.4, 0.9)])
    return np.vstack([ostium, middle, obstacles.push_out(end[None], 0.76 * r, clearance=0.5)])


def _pass_the_aorta(marks: Landmarks, knots: np.ndarray, r: float, rng: np.random.Generator) -> np.ndarray:
    """Return middle and end (2, 3; mm) of the left lower vein, moved to cross right before the descending aorta.

    ``knots`` (3, 3; mm) are its ostium, middle and end; they stay where the aorta is not just behind the vein.
    """
    aorta = marks.points("AO")
    section = aorta[(np.abs(aorta[:, 2] - knots[1, 2]) < 6.0) & (aorta[:, 1] < knots[0, 1])]
    if len(section) < 8:
        return knots[1:]
    middle = section.mean(0)
    before = unit([-0.35, 1.0, 0.0])
    front = middle + before * (((section - middle) @ before).max() + r + rng.uniform(-1.0, 4.0))
    if np.linalg.norm((front - knots[0])[:2]) > 45.0 or front[1] > knots[0, 1] + 6.0:
        return knots[1:]
    front[2] = knots[1, 2]
    return np.stack([front, front + 14.0 * unit([-1.0, -0.5, -0.3])])

"""Tubular organs of the mediastinum: venae cavae and their tributaries, branches of the arch, airways, oesophagus.

They are planned before the lungs are painted, which leave room for them, and kept clear of the labelled structures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..shapes import unit
from ..tissue import Tissue
from .courses import Course, Obstacles, make_course
from .frame import BodyFrame, Landmarks
from .pulmonary_veins import PulmonaryVeins, plan_pulmonary_veins
from .trunk_fit import FittedTrunk

#: Gap between superior vena cava and ascending aorta, mm: they touch in most patients.
AORTA_GAP_MM = (-1.5, 2.5)


@dataclass(frozen=True)
class Mediastinum:
    """Planned tubes and the points (mm) where the lungs' trees begin, right lung first."""

    courses: list[Course]
    hila: np.ndarray  # (2, 3) ends of the pulmonary arteries
    bronchi: np.ndarray  # (2, 3) ends of the main bronchi
    veins: PulmonaryVeins


def plan_mediastinum(
    marks: Landmarks, obstacles: Obstacles, frame: BodyFrame, real: FittedTrunk | None, rng: np.random.Generator
) -> Mediastinum:
    """Plan all courses, in the order in which they are painted.

    Trachea and oesophagus run as in the ``real`` trunk if there is one.
    """
    hila = np.stack([marks.extreme("PA", unit([s, -0.35, -0.15])) for s in (1.0, -1.0)])
    airways, carina, bronchi = _plan_airways(marks, frame, hila, obstacles, real, rng)
    veins = plan_pulmonary_veins(marks, obstacles, rng)
    courses = [
        *_plan_oesophagus(marks, frame, carina, obstacles, real, rng),
        *airways,
        *_plan_arch_branches(marks, frame, rng),
        *_plan_superior_veins(marks, frame, carina, obstacles, rng),
        *_plan_inferior_cava(marks, frame, obstacles, rng),
    ]
    return Mediastinum(courses, hila, bronchi, veins)


def _plan_airways(
    marks: Landmarks, frame: BodyFrame, hila: np.ndarray, obstacles: Obstacles, real: FittedTrunk | None,
    rng: np.random.Generator,
) -> tuple[list[Course], np.ndarray, np.ndarray]:  # fmt: skip
    """Return trachea and main bronchi, the carina and the bronchi's ends (2, 3)."""
    top = marks.extreme("PA", np.array([0.0, 0.0, 1.0]))[2]
    z = top + rng.uniform(-4, 8)
    spine = frame.spine_at(z)
    front = 0.5 * (hila[0] + hila[1])[1] - rng.uniform(4, 12)
    carina = np.array([0.5 * spine[0] + 0.5 * hila[:, 0].mean() + 3.0, max(front, spine[1] + 30.0), z])
    carina = obstacles.push_out(carina[None], 10.0)[0]
    r = rng.uniform(7.0, 9.5) if frame.sex == "male" else rng.uniform(6.0, 8.0)
    up = frame.top - np.array([-60.0, 0.0, 45.0])
    above = np.column_stack([np.full(3, frame.middle[0]), frame.spine_at(up)[:, 1] + np.array([44, 36, 34]), up])
    if real and len(real.trachea) > 2:
        r = float(np.clip(np.median(real.trachea[:, 3]), 5.5, 10.0))
        above = _continue_upward(real.trachea[:-1, :3], frame, 44.0)
        carina = obstacles.push_out(real.trachea[-1:, :3], r + 1.0)[0]
    trachea = np.vstack([above, carina])
    trachea[:-1] = obstacles.push_out(trachea[:-1], r + 1.0)
    out = [make_course(trachea, r, Tissue.AIRWAY, Tissue.AIRWAY_WALL, 1.4)]
    ends = []
    for side, hilum in zip((1.0, -1.0), hila, strict=True):
        end = hilum + [-side * 6.0, -9.0, -12.0]
        between = 0.5 * (carina + end) + [0, -2.0, -2.0]
        knots = np.vstack([carina, obstacles.push_out([between, end], 0.7 * r)])
        out.append(make_course(knots, np.array([0.85, 0.75, 0.62]) * r, Tissue.AIRWAY, Tissue.AIRWAY_WALL, 1.3))
        ends.append(knots[-1])
    return out, carina, np.array(ends)


def _plan_oesophagus(
    marks: Landmarks, frame: BodyFrame, carina: np.ndarray, obstacles: Obstacles, real: FittedTrunk | None,
    rng: np.random.Generator,
) -> list[Course]:  # fmt: skip
    """Return the oesophagus behind trachea and left atrium, at times with air or fluid in it."""
    z = np.array([frame.top + 60, frame.top - 40, carina[2], marks.centre("LA")[2], frame.seat, frame.seat - 25])
    spine = frame.spine_at(z)
    ahead = np.array([30.0, 24.0, 22.0, 24.0, 32.0, 38.0])
    points = np.column_stack([spine[:, 0] - np.array([4, 6, 4, 8, 16, 28]) + rng.normal(0, 2.5, 6),
                              spine[:, 1] + ahead, z])  # fmt: skip
    size = rng.uniform(5.0, 8.0)
    if real and len(real.oesophagus) > 5:
        points = _continue_upward(real.oesophagus[:, :3], frame, 30.0)
        size = float(np.clip(np.median(real.oesophagus[:, 3]), 4.5, 9.0))
    out = [make_course(obstacles.push_out(points, size), size, Tissue.OESOPHAGUS)]
    if rng.random() < 0.35:
        first = int(rng.integers(0, 4))
        hollow = out[0].points[first : first + 3]
        content = Tissue.AIRWAY if rng.random() < 0.7 else Tissue.STOMACH
        out.append(make_course(hollow, rng.uniform(0.2, 0.65) * size, content))
    return out


def _continue_upward(points: np.ndarray, frame: BodyFrame, ahead: float) -> np.ndarray:
    """Return the axis (N, 3; mm, from above) of a tube, above the lungs continued ``ahead`` mm before the spine."""
    z = frame.top + np.array([60.0, 25.0])
    neck = np.column_stack([np.full(2, frame.middle[0]), frame.spine_at(z)[:, 1] + ahead, z])
    return np.vstack([neck, points[points[:, 2] < frame.top - 5.0]])


def _plan_arch_branches(marks: Landmarks, frame: BodyFrame, rng: np.random.Generator) -> list[Course]:
    """Return brachiocephalic, left carotid and left subclavian artery: aortic blood without a label."""
    points = marks.points("AO")
    points = points[points[:, 2] > points[:, 2].max() - 12.0]
    out = []
    for quantile, radius, x, y in ((0.82, 6.0, 22.0, 4.0), (0.5, 3.6, -16.0, 2.0), (0.22, 4.6, -30.0, -12.0)):
        near = points[np.abs(points[:, 1] - np.quantile(points[:, 1], quantile)) < 6.0]
        start = near[near[:, 2] >= np.quantile(near[:, 2], 0.8)].mean(0)
        end = np.array([frame.middle[0] + x, frame.spine_at(frame.top)[1] + 34.0 + y, max(frame.top, start[2] + 25.0)])
        middle = 0.6 * start + 0.4 * end + [0, 0, 4.0]
        r = radius * rng.uniform(0.85, 1.15)
        out.append(
            make_course(
                [start - [0, 0, 5.0], middle, end, end + [np.sign(x) * 8, 0, 60]], r, Tissue.AO, Tissue.WALL, 1.0
            )
        )
    return out


def _plan_superior_veins(
    marks: Landmarks, frame: BodyFrame, carina: np.ndarray, obstacles: Obstacles, rng: np.random.Generator
) -> list[Course]:  # fmt: skip
    """Return superior vena cava, both brachiocephalic veins and the azygos vein over the right bronchus."""
    ra = marks.centre("RA")
    up = marks.extreme("RA", unit([0.2, -0.45, 1.0]))
    r = rng.uniform(7.5, 11.5)
    top = frame.top - rng.uniform(50, 70)
    climb = max(top - up[2], 40.0)
    x = max(up[0], frame.middle[0] + 14.0)
    knots = np.array([up + [0, 0, 12], [x + 2, up[1] + 2, up[2] + 0.5 * climb], [x, up[1] + 8, up[2] + climb]])
    gap = rng.uniform(*AORTA_GAP_MM)
    knots = obstacles.push_out(_beside_the_aorta(marks, knots, r + gap), r, clearance=gap)
    cava = make_course(np.vstack([0.6 * up + 0.4 * ra, up, knots]), [1.1 * r, r, r, 0.97 * r, 0.95 * r], Tissue.CAVA)
    joint = knots[-1]
    left = obstacles.push_out(np.array([joint + [-22, 10, 8], joint + [-55, 8, 22], joint + [-78, -4, 44]]), 0.7 * r)
    right = joint + np.array([[8, 0, 18], [22, -4, 42]])
    arms = Tissue.CAVA if rng.random() < 0.5 else Tissue.VEIN  # the injected arm is bright
    small = rng.uniform(3.0, 5.0)
    z = np.array([frame.seat - 160, frame.seat - 60, marks.centre("LA")[2], carina[2] - 4])
    spine = frame.spine_at(z)
    column = obstacles.push_out(np.column_stack([spine[:, 0] + [6, 8, 9, 12], spine[:, 1] + 20.0, z]), small)
    arch = obstacles.push_out([carina + [24, -8, 8], carina + [28, 6, 12]], small)
    at = knots[1] * 0.5 + knots[0] * 0.5
    return [cava, make_course(np.vstack([joint, left]), 0.72 * r, arms),
            make_course(np.vstack([joint, right]), 0.75 * r, Tissue.CAVA),
            make_course(np.vstack([column, arch, [*at[:2], arch[-1][2] + 2]]), small, Tissue.VEIN)]  # fmt: skip


def _beside_the_aorta(marks: Landmarks, points: np.ndarray, distance: float) -> np.ndarray:
    """Return points (N, 3; mm) moved to ``distance`` mm from the right side of the ascending aorta at their heights.

    Points above or below it stay.
    """
    aorta = marks.points("AO")
    aorta = aorta[aorta[:, 1] > marks.centre("LA")[1] + 8.0]
    out = points.copy()
    for n, point in enumerate(points):
        section = aorta[np.abs(aorta[:, 2] - point[2]) < 5.0]
        if len(section) < 8:
            continue
        middle = section.mean(0)
        away = unit([1.0, np.clip((point - middle)[1] / 20.0, -0.9, 0.1), 0.0])
        out[n, :2] = middle[:2] + away[:2] * (((section - middle) @ away).max() + distance)
    return out


def _plan_inferior_cava(
    marks: Landmarks, frame: BodyFrame, obstacles: Obstacles, rng: np.random.Generator
) -> list[Course]:
    """Return the inferior vena cava from the right atrium through the diaphragm down beside the aorta."""
    ra = marks.centre("RA")
    down = marks.extreme("RA", unit([0.1, -0.4, -1.0]))
    r = rng.uniform(9, 13.5)
    z = np.array([min(frame.seat, down[2]) - 25.0, frame.seat - 90.0, frame.seat - 330.0])
    spine = frame.spine_at(z)
    low = np.column_stack([spine[:, 0] + [20, 20, 16], spine[:, 1] + [36, 30, 28], z])
    low[0] = 0.5 * low[0] + 0.5 * np.array([down[0] - 2, down[1] - 6, z[0]])
    points = np.vstack([0.65 * down + 0.35 * ra, down + [0, -2, -5], low])
    return [make_course(points, [0.95 * r, r, 1.12 * r, r, 0.9 * r], Tissue.INFERIOR_CAVA)]

"""Coronary arteries and veins in the grooves of the heart."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from ..shapes import perpendicular, unit
from ..tissue import Tissue
from .canvas import Canvas
from .courses import Obstacles
from .frame import Landmarks, ventricle_axes
from .surface import AROUND_HEART, Sac


def _trace_groove(
    sac: Sac, first: tuple[str, ...], second: tuple[str, ...], bins: np.ndarray, edges: np.ndarray
) -> np.ndarray:  # fmt: skip
    """Return the course (N, 3; mm) of the groove between two structures.

    ``bins`` is a coordinate of the lattice's points along the groove; each interval of ``edges`` gives one point, the
    weighted mean of the groove's points in it, or none if it has fewer than three.
    """
    score = sac.spread(*first) * sac.spread(*second)
    score *= sac.grooves
    place = np.digitize(bins, edges)
    out = []
    points = sac.points()
    for n in range(1, len(edges)):
        here = (place == n) & (score > 0.02)
        if here.sum() >= 3:
            out.append(np.average(points[here], axis=0, weights=score[here] ** 2 + 1e-9))
    return np.array(out).reshape(-1, 3)


def paint_coronaries(
    canvas: Canvas, marks: Landmarks, obstacles: Obstacles, sac: Sac, rng: np.random.Generator
) -> None:
    """Paint the left main, anterior descending, circumflex, right and posterior descending artery, and the veins."""
    axes = ventricle_axes(marks)
    points = sac.points() - axes.base.astype(np.float32)
    along, ahead = points @ axes.apex, points @ axes.front
    aside = points @ axes.septum
    root = _aortic_root(marks)
    r = rng.uniform(1.3, 2.3)
    bins = np.where(ahead > 0, along, -1e3)
    descending = _trace_groove(sac, ("MYO",), ("RV",), bins, np.linspace(-0.05, 1.15, 9) * axes.length)
    inferior = _trace_groove(
        sac, ("MYO",), ("RV",), np.where(ahead < 0, along, -1e3), np.linspace(0, 0.9, 6) * axes.length
    )
    angle = np.rad2deg(np.arctan2(-aside, ahead))  # 0 in front, 90 on the free wall, 180 behind
    left = _trace_groove(sac, ("LA", "LAA"), ("MYO",), angle, np.linspace(10, 190, 9))
    right = _right_groove(marks, sac, root)
    trunk = root + 14.0 * unit([-1.0, 0.25, 0.35])
    for course, start, size in ((descending, trunk, r), (left, trunk, 0.9 * r), (right, root + [8.0, 12.0, 4.0], r),
                                (inferior, None, 0.65 * r)):  # fmt: skip
        if len(course) < 3:
            continue
        knots = course if start is None else np.vstack([start, course])
        canvas.paint_tube(knots, np.linspace(size, 0.55 * size, len(knots)), Tissue.CORONARY_ARTERY, AROUND_HEART)
    canvas.paint_tube([root, trunk], [1.3 * r, 1.2 * r], Tissue.CORONARY_ARTERY, AROUND_HEART)
    over_wall = axes.apex - 1.2 * axes.septum
    for course, way, share in ((descending, over_wall, 1.0), (left, axes.apex, 0.8), (right, axes.apex, 0.7)):
        _paint_branches(canvas, obstacles, course, way, 0.6 * share * r, rng)
    beside = obstacles.push_out(descending + rng.normal(0, 3.0, 3), 1.5) if len(descending) > 2 else descending
    if len(beside):  # the great cardiac vein begins beside the artery
        canvas.paint_tube(beside, np.full(len(beside), rng.uniform(0.9, 1.8)), Tissue.CORONARY_VEIN, AROUND_HEART)
    _paint_coronary_sinus(canvas, marks, left, rng)


def _paint_branches(
    canvas: Canvas, obstacles: Obstacles, course: np.ndarray, way: np.ndarray, r: float, rng: np.random.Generator
) -> None:  # fmt: skip
    """Paint branches of an artery over the ventricles' surface, roughly along ``way``, in a sleeve of fat.

    ``course`` is the artery's path (N, 3; mm). Every second branch is a vein.
    """
    if len(course) < 3:
        return
    for n, start in enumerate(course[rng.permutation(len(course))[: int(rng.integers(1, 5))]]):
        turn = unit(unit(way) + rng.normal(0, 0.25, 3))
        points = [start]
        for _ in range(int(rng.integers(3, 8))):
            points.append(obstacles.push_out((points[-1] + 7.0 * turn)[None], r, clearance=rng.uniform(0.3, 1.5))[0])
            turn = unit(turn + rng.normal(0, 0.15, 3))
        on_wall = [p for p in points if obstacles.distance_at(p) < 8.0]
        if len(on_wall) > 2:
            radii = np.linspace(r, 0.5 * r, len(on_wall))
            canvas.paint_tube(on_wall, radii + 1.8, Tissue.FAT, (Tissue.LUNG, Tissue.FISSURE))
            tissue = Tissue.CORONARY_VEIN if n % 2 else Tissue.CORONARY_ARTERY
            canvas.paint_tube(on_wall, radii, tissue, AROUND_HEART)


def _aortic_root(marks: Landmarks) -> np.ndarray:
    """Return the middle of the aortic root, a little above the valve, in mm."""
    at = np.argwhere(marks.labels == VALUE["AO"])
    distance = (ndimage.distance_transform_edt(marks.labels != VALUE["LV"]) * marks.lattice.spacing)[tuple(at.T)]
    near = at[(distance > 6.0) & (distance < 22.0)]
    near = near if len(near) else at[distance.argsort()[:20]]
    return np.asarray(marks.lattice.origin + marks.lattice.spacing * near.mean(0))


def _right_groove(marks: Landmarks, sac: Sac, root: np.ndarray) -> np.ndarray:
    """Return the course of the groove between right atrium and ventricle, from the aorta to the crux."""
    ra, rv = marks.centre("RA"), marks.centre("RV")
    normal = unit(rv - ra)
    centre = 0.5 * (ra + rv)
    first = perpendicular(root - centre, normal)
    away = np.cross(normal, first)
    away *= np.sign(away @ (centre - marks.centre("LV"))) or 1.0
    offset = sac.points() - centre.astype(np.float32)
    angle = np.rad2deg(np.arctan2(offset @ away, offset @ first))
    return _trace_groove(sac, ("RA",), ("RV",), np.mod(angle + 40.0, 360.0), np.linspace(45, 250, 10))


def _paint_coronary_sinus(canvas: Canvas, marks: Landmarks, groove: np.ndarray, rng: np.random.Generator) -> None:
    """Paint the great cardiac vein along the left groove and the sinus through which it enters the right atrium."""
    if len(groove) < 4:
        return
    points = marks.points("RA")
    mouth = points[np.argmin(np.square(points - groove[-1]).sum(1))]
    out = groove[len(groove) // 2 - 1 :] + 2.5 * unit(marks.centre("LA") - marks.centre("LV"))
    knots = np.vstack([out, mouth])
    r = rng.uniform(3.0, 6.0)
    canvas.paint_tube(knots, np.linspace(0.5 * r, r, len(knots)), Tissue.CORONARY_VEIN, AROUND_HEART)

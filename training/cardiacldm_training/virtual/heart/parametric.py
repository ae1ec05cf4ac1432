"""A heart of geometric solids: ventricles, atria with stumps of their veins, appendages, aortic root, great vessels.

Coordinates are in mm, RAS, from the middle of the left ventricle's base; ``d`` points from base to apex, ``s`` to the
septum, ``t`` to the underside. Sizes are those of an average heart with random variation; later
:func:`.anatomy.draw_heart` grows every structure to its target volume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..shapes import Lattice, perpendicular, smooth_path, tube_distance, unit
from .model import HeartModel, SharePainter, make_model

#: Spacing at which solids are painted, mm; smooth solids need no finer one.
MODEL_MM = 2.0

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class HeartFrame:
    """Axes of the left ventricle (unit vectors), and sizes and centres of the other structures, in mm."""

    d: np.ndarray
    s: np.ndarray
    t: np.ndarray
    length: float
    radius: float
    wall: float
    mitral: np.ndarray
    aortic: np.ndarray
    pulmonary: np.ndarray
    tricuspid: np.ndarray
    la: np.ndarray
    ra: np.ndarray
    aorta: float  # radius of the ascending aorta
    trunk: float  # radius of the pulmonary trunk

    def point(self, d: float = 0.0, s: float = 0.0, t: float = 0.0) -> np.ndarray:
        """Return the point with these coordinates along the axes, mm."""
        return d * self.d + s * self.s + t * self.t


def draw_frame(rng: np.random.Generator) -> HeartFrame:
    """Draw sizes and positions of one heart."""
    d = unit(np.array([-0.70, 0.58, -0.42]) + rng.normal(0.0, 0.05, 3))
    s = perpendicular([0.62, 0.75, 0.1], d)
    t = np.cross(d, s)
    length, radius, wall = (m * float(np.clip(rng.normal(1.0, sd), 0.8, 1.2))
                            for m, sd in ((82.0, 0.07), (24.5, 0.06), (9.0, 0.1)))  # fmt: skip

    def jitter(point: np.ndarray, sd: float = 2.0) -> np.ndarray:
        return point + rng.normal(0.0, sd, 3).clip(-2 * sd, 2 * sd)

    aortic = jitter(12 * s - 9 * t - 7 * d, 1.0)
    mitral = jitter(-8 * s + 4 * t, 1.0)
    aorta, trunk = 15.0 * rng.uniform(0.9, 1.12), 12.3 * rng.uniform(0.9, 1.12)
    return HeartFrame(d, s, t, length, radius, wall, mitral, aortic, jitter(aortic + [-20, 20, 20], 1.5),
                 jitter(np.array([30.0, 30.0, -8.0]), 2.0), jitter(mitral - 22 * d + [6, 0, 2]),
                 jitter(np.array([46.0, 19.0, -10.0]), 2.5), aorta, trunk)  # fmt: skip


def parametric_model(rng: np.random.Generator) -> HeartModel:
    """Draw a heart of solids."""
    low, high = np.array([-115.0, -100.0, -75.0]), np.array([100.0, 90.0, 118.0])
    shape = tuple(np.ceil((high - low) / MODEL_MM).astype(int))
    painter = SharePainter(Lattice(low, MODEL_MM, shape))
    frame = draw_frame(rng)
    _paint_right_heart(painter, frame, rng)
    _paint_left_atrium(painter, frame, rng)
    _paint_pulmonary_artery(painter, frame, rng)
    _paint_aorta(painter, frame, rng)
    _paint_left_ventricle(painter, frame, rng)
    return make_model("parametric", painter.to_uint8(), painter.lattice)


# --- solids --------------------------------------------------------------------------------------------------------


def ellipsoid(centre: np.ndarray, axes: np.ndarray) -> Field:
    """Return about the signed distance (mm) to an ellipsoid with semi-axes ``axes`` along x, y and z."""
    size = np.asarray(axes, dtype=np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        scaled = (points - np.asarray(centre, np.float32)) / size
        far = np.linalg.norm(scaled, axis=-1)
        return far * (far - 1) / np.maximum(np.linalg.norm(scaled / size, axis=-1), 1e-6)

    return distance


def ventricle(frame: HeartFrame, grow: float, tip: float) -> Field:
    """Return the signed distance to the left ventricle's cavity, enlarged by ``grow`` and at the apex by ``tip`` mm.

    The solid is widest at 0.3 of its length and cut at the base.
    """
    widest = 0.3 * frame.length
    radius = frame.radius + grow

    def distance(points: np.ndarray) -> np.ndarray:
        along = points @ frame.d.astype(np.float32)
        across = np.sqrt(np.maximum(np.square(points).sum(-1) - along**2, 0))
        half = np.where(along > widest, frame.length + tip - widest, 1.7 * widest)
        out = (np.sqrt(np.square((along - widest) / half) + np.square(across / radius)) - 1) * radius
        return np.maximum(out, -along)

    return distance


def join(*fields: Field, over: float = 6.0) -> Field:
    """Return the union of solids with seams rounded over ``over`` mm."""

    def distance(points: np.ndarray) -> np.ndarray:
        out = fields[0](points)
        for field in fields[1:]:
            other = field(points)
            blend = np.clip(0.5 + 0.5 * (other - out) / over, 0, 1)
            out = other * (1 - blend) + out * blend - over * blend * (1 - blend)
        return out

    return distance


def cone(first: np.ndarray, second: np.ndarray, wide: float, narrow: float) -> Field:
    """Return an approximate signed distance to a rounded cone between two points, radii ``wide`` and ``narrow``."""
    axis = (second - first).astype(np.float32)
    start = first.astype(np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        offset = points - start
        along = np.clip(offset @ axis / (axis @ axis), 0, 1)
        away = offset - along[..., None] * axis
        return np.sqrt(np.square(away).sum(-1)) - (wide + (narrow - wide) * along)

    return distance


def _paint_solid(painter: SharePainter, name: str, field: Field, middle: np.ndarray, reach: float) -> None:
    """Paint a solid in the box ``reach`` mm around ``middle``."""
    box = painter.lattice.box(middle - reach, middle + reach)
    painter.paint(name, box, field(painter.lattice.crop(box).points()))


def _paint_tube(
    painter: SharePainter, name: str, points: object, radii: list[float], only: tuple[str, ...] | None = None
) -> None:
    """Paint a tube along a smooth path."""
    path = smooth_path(np.asarray(points, dtype=float), radii, step=1.5)
    painter.paint(name, *tube_distance(painter.lattice, path, painter.lattice.spacing), only)


# --- structures ----------------------------------------------------------------------------------------------------


def _paint_left_ventricle(painter: SharePainter, frame: HeartFrame, rng: np.random.Generator) -> None:
    """Paint wall, cavity and outflow tract; the base is cut along the plane of the valves."""
    middle = frame.point(d=0.5 * frame.length)
    outflow = [frame.point(d=0.30 * frame.length, s=2), frame.point(d=0.1 * frame.length, s=8, t=-5), frame.aortic]
    wide = frame.aorta * 0.8
    path = smooth_path(np.array(outflow), [wide, wide, wide * 0.95], step=1.5)
    sleeve = path + np.array([0, 0, 0, 3.5])
    painter.paint(
        "MYO", *tube_distance(painter.lattice, sleeve[: -max(2, len(sleeve) // 5)], MODEL_MM), ("LA", "RA", "RV")
    )
    _paint_solid(painter, "MYO", ventricle(frame, frame.wall, 0.75 * frame.wall), middle, 72.0)
    _paint_solid(painter, "LV", ventricle(frame, 0.0, 0.0), middle, 66.0)
    painter.paint("LV", *tube_distance(painter.lattice, path, MODEL_MM), ("MYO", "LA", "LV"))


def _paint_right_heart(painter: SharePainter, frame: HeartFrame, rng: np.random.Generator) -> None:
    """Paint the right atrium with its appendage and stumps of both venae cavae, and the right ventricle."""
    size = rng.normal(1.0, 0.07, 3).clip(0.85, 1.15)
    atrium = join(ellipsoid(frame.ra, np.array([24.0, 26.0, 31.0]) * size),
                    ellipsoid(frame.ra + [3.0, -9.0, 4.0], np.array([19.0, 19.0, 27.0]) * size), over=8.0)  # fmt: skip
    _paint_solid(painter, "RA", atrium, frame.ra, 48.0)
    front = frame.ra + np.array([-6.0, 8.0, 16.0])
    tip = rng.uniform(0.7, 1.1)
    horn = front + np.array([[0, 0, 0], [-3, 9, 9], [-11, 15, 14], [-19, 17, 19]]) * tip
    _paint_tube(painter, "RA", horn, [15.0, 13.0, 9.5, 5.0])
    up, down = frame.ra + np.array([3.0, -12.0, 20.0]), frame.ra + np.array([0.0, -12.0, -20.0])
    r_up, r_down = rng.uniform(8, 11), rng.uniform(10, 13)
    _paint_tube(painter, "RA", [up, up + [0, -2, rng.uniform(6, 20)]], [r_up * 1.4, r_up])
    _paint_tube(painter, "RA", [down, down + [-2, -3, -rng.uniform(5, 15)]], [r_down * 1.3, r_down])
    _right_ventricle(painter, frame, rng)


def _right_ventricle(painter: SharePainter, frame: HeartFrame, rng: np.random.Generator) -> None:
    """Paint a crescent around the septum, over which the left ventricle is painted later.

    It has three corners: tricuspid valve, apex and pulmonary valve.
    """
    r, long = frame.radius + frame.wall, frame.length
    flat = rng.uniform(0.86, 1.0)
    inflow = frame.point(d=0.10 * long, s=(r + 4) * flat, t=15)
    under = frame.point(d=0.45 * long, s=0.92 * r * flat, t=19)
    front = frame.point(d=0.42 * long, s=0.95 * r * flat, t=-8)
    apex = frame.point(d=rng.uniform(0.76, 0.92) * long, s=0.60 * r, t=10)
    out = frame.point(d=0.20 * long, s=29, t=-14)
    sides = [(inflow, under, 21, 15), (under, apex, 15, 8), (inflow, out, 20, 16), (out, front, 16, 15),
             (front, apex, 15, 8), (under, front, 14, 14)]  # fmt: skip
    body = join(*(cone(*side) for side in sides), over=10.0)
    plane = unit(frame.point(d=0.35 * long, s=20) - frame.ra).astype(np.float32)
    base = frame.d.astype(np.float32)

    def cut(points: np.ndarray) -> np.ndarray:
        """Cut the ventricle at the tricuspid valve and at the base of the heart."""
        return np.maximum(body(points), np.maximum((frame.tricuspid.astype(np.float32) - points) @ plane,
                                                   -(points @ base) - 14))  # fmt: skip

    _paint_solid(painter, "RV", cut, frame.point(d=0.35 * long, s=0.8 * r), 66.0)
    half = 0.5 * (out + frame.pulmonary) + np.array([1.0, 4.0, -1.0])
    _paint_tube(painter, "RV", [out, half, frame.pulmonary, frame.pulmonary + [-1, -1, 3]],
          [16.0, 14.5, frame.trunk + 1, frame.trunk + 0.5])  # fmt: skip


def _paint_left_atrium(painter: SharePainter, frame: HeartFrame, rng: np.random.Generator) -> None:
    """Paint the left atrium with stumps of its veins, and a plain appendage whose neck is used later."""
    size = np.array([32.0, 20.0, 26.0]) * rng.normal(1.0, 0.07, 3).clip(0.86, 1.14)
    funnel = ellipsoid(0.55 * frame.la + 0.45 * frame.mitral, np.array([19.0, 19.0, 19.0]))
    roof = ellipsoid(frame.la + [0.0, 2.0, 6.0], size * [0.8, 0.9, 0.9])
    neck = frame.la + size * np.array([-0.70, 0.45, 0.45])
    outward = unit(np.array([-0.60, 0.45, 0.42]) + rng.normal(0, 0.06, 3))
    _paint_tube(painter, "LAA", [neck - 6 * outward, neck, neck + 14 * outward, neck + 26 * outward], [7, 6.5, 8, 4])
    stumps = rng.uniform(0.0, 11.0)
    for x in (1.0, -1.0):
        trunk = rng.random() < 0.15  # upper and lower vein in one
        for z in (0.05,) if trunk else (0.52, -0.42):
            root = frame.la + size * (np.array([0.70 * x, -0.45, z]) + rng.normal(0.0, 0.07, 3))
            way = unit(np.array([x * 0.85, -0.45, 0.6 * z]) + rng.normal(0.0, 0.18, 3))
            wide = rng.uniform(5.0, 7.5) * (1.5 if trunk else 1.0)
            end = root + way * (9.0 + stumps * rng.uniform(0.5, 1.4))
            _paint_tube(painter, "LA", [root, end], [wide * 1.4, wide])
    _paint_solid(painter, "LA", join(ellipsoid(frame.la, size), funnel, roof, over=8.0), frame.la, 50.0)


def _paint_pulmonary_artery(painter: SharePainter, frame: HeartFrame, rng: np.random.Generator) -> None:
    """Paint the pulmonary trunk, right artery behind the aorta and left artery, each with its first branches."""
    p, root = frame.trunk, frame.pulmonary
    fork = root + np.array([rng.normal(4, 2), rng.normal(-33, 2), rng.normal(26, 3)])
    _paint_tube(
        painter, "PA", [root, root + [-2, -9, 13], root + [0, -22, 24], fork], [p * 1.05, p * 1.05, p, p * 0.95]
    )
    right = fork + np.array([[0, 0, 0], [20, -13, -2], [43, -20, -7], [57, -23, -13]]) * rng.uniform(0.92, 1.08)
    left = fork + np.array([[0, 0, 0], [-14, -15, 4], [-25, -31, -1], [-30, -39, -14]]) * rng.uniform(0.92, 1.08)
    _paint_tube(painter, "PA", right, [p * 0.8, p * 0.78, p * 0.72, p * 0.6])
    _paint_tube(painter, "PA", left, [p * 0.85, p * 0.8, p * 0.72, p * 0.58])
    hilum = rng.uniform(0.2, 1.0)  # how far the label reaches into the hilum
    for main, x in ((right, 1.0), (left, -1.0)):
        above, below = main[2], main[3]
        _paint_tube(painter, "PA", [above, above + np.array([x * 12, 1, 11]) * (0.6 + hilum)], [p * 0.5, p * 0.36])
        _paint_tube(painter, "PA", [below, below + np.array([x * 5, -5, -16]) * (0.4 + hilum)], [p * 0.6, p * 0.45])
        if rng.random() < 0.5:
            _paint_tube(painter, "PA", [below, below + np.array([x * 15, -3, -4]) * (0.4 + hilum)], [p * 0.45, p * 0.3])


def _paint_aorta(painter: SharePainter, frame: HeartFrame, rng: np.random.Generator) -> None:
    """Paint root with sinuses, ascending aorta, arch (round, gothic or elongated) and start of the descending aorta."""
    a, valve = frame.aorta, frame.aortic
    lift, wide = rng.normal(0.0, 4.0), rng.normal(0.0, 3.0)
    if rng.random() < 0.3:  # elongated: higher, further to the right
        lift, wide = lift + rng.uniform(3, 9), wide + rng.uniform(3, 8)
    gothic = rng.uniform(-4, 7)
    course = valve + np.array([
        [0, 0, 0], [6, 2, 12], [11 + 0.4 * wide, 4, 25], [17 + wide, 5, 44], [11 + wide, -9, 63 + lift],
        [0, -29, 69 + lift + gothic], [-7, -47, 57 + lift], [-6, -57, 36 + lift], [-4, -59, 12]])  # fmt: skip
    radii = a * np.array([0.82, 0.95, 0.92, 1.0, 0.97, 0.86, 0.8, 0.76, 0.74])
    _paint_tube(painter, "AO", course, radii.tolist())
    axis = unit(course[2] - course[0])
    first = perpendicular(np.array([0.3, 0.9, 0.0]), axis)
    for turn in np.deg2rad([0.0, 120.0, 240.0]):  # the sinuses: three bulges just above the valve
        bulge = np.cos(turn) * first + np.sin(turn) * np.cross(axis, first)
        centre = valve + 9.0 * axis + bulge * a * 0.45
        _paint_solid(painter, "AO", ellipsoid(centre, np.array([0.68, 0.68, 0.68]) * a), centre, 20.0)

"""A heart from solids: ventricle, crescent, atria with their veins' stumps, appendages, root with sinuses, vessels.

Distances are in mm and RAS about the middle of the left ventricle's base; ``d`` runs from base to apex, ``s`` to the
septum, ``t`` to the underside. All figures are those of an average heart, varied; the volumes come later, when
:func:`.anatomy.draw_heart` grows every structure to what was drawn for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..shapes import Lattice, perpendicular, smooth_path, tube_field, unit
from .model import Model, Paint, centred

#: Spacing at which solids are painted, mm: they are smooth.
MODEL_MM = 2.0

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Frame:
    """The left ventricle's axes (unit vectors) and size, and the places that everything else hangs from, mm."""

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

    def place(self, d: float = 0.0, s: float = 0.0, t: float = 0.0) -> np.ndarray:
        return d * self.d + s * self.s + t * self.t

    @property
    def axes(self) -> np.ndarray:
        return np.stack([self.d, self.s, self.t])


def draw_frame(rng: np.random.Generator) -> Frame:
    """Sizes and places of one heart."""
    d = unit(np.array([-0.70, 0.58, -0.42]) + rng.normal(0.0, 0.05, 3))
    s = perpendicular([0.62, 0.75, 0.1], d)
    t = np.cross(d, s)
    length, radius, wall = (m * float(np.clip(rng.normal(1.0, sd), 0.8, 1.2))
                            for m, sd in ((82.0, 0.07), (24.5, 0.06), (9.0, 0.1)))  # fmt: skip

    def near(point: np.ndarray, sd: float = 2.0) -> np.ndarray:
        return point + rng.normal(0.0, sd, 3).clip(-2 * sd, 2 * sd)

    aortic = near(12 * s - 9 * t - 7 * d, 1.0)
    mitral = near(-8 * s + 4 * t, 1.0)
    aorta, trunk = 15.0 * rng.uniform(0.9, 1.12), 12.3 * rng.uniform(0.9, 1.12)
    return Frame(d, s, t, length, radius, wall, mitral, aortic, near(aortic + [-20, 20, 20], 1.5),
                 near(np.array([30.0, 30.0, -8.0]), 2.0), near(mitral - 22 * d + [6, 0, 2]),
                 near(np.array([46.0, 19.0, -10.0]), 2.5), aorta, trunk)  # fmt: skip


def parametric_model(rng: np.random.Generator) -> Model:
    """Draw a heart of solids."""
    low, high = np.array([-115.0, -100.0, -75.0]), np.array([100.0, 90.0, 118.0])
    shape = tuple(np.ceil((high - low) / MODEL_MM).astype(int))
    paint = Paint(Lattice(low, MODEL_MM, shape))
    frame = draw_frame(rng)
    _right_heart(paint, frame, rng)
    _left_atrium(paint, frame, rng)
    _pulmonary_artery(paint, frame, rng)
    _aorta(paint, frame, rng)
    _left_ventricle(paint, frame, rng)
    return centred("parametric", paint.as_bytes(), paint.lattice)


# --- solids --------------------------------------------------------------------------------------------------------


def ellipsoid(centre: np.ndarray, axes: np.ndarray, frame: np.ndarray | None = None) -> Field:
    """About the signed distance to an ellipsoid with semi-axes ``axes`` along the rows of ``frame``."""
    turn = (np.eye(3) if frame is None else frame).T.astype(np.float32)
    size = np.asarray(axes, dtype=np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        scaled = ((points - np.asarray(centre, np.float32)) @ turn) / size
        far = np.linalg.norm(scaled, axis=-1)
        return far * (far - 1) / np.maximum(np.linalg.norm(scaled / size, axis=-1), 1e-6)

    return distance


def ventricle(frame: Frame, grow: float, tip: float) -> Field:
    """The left ventricle's cavity (``grow`` 0) or outer surface: widest at 0.3 of its length, cut at the base."""
    widest = 0.3 * frame.length
    radius = frame.radius + grow

    def distance(points: np.ndarray) -> np.ndarray:
        along = points @ frame.d.astype(np.float32)
        across = np.sqrt(np.maximum(np.square(points).sum(-1) - along**2, 0))
        half = np.where(along > widest, frame.length + tip - widest, 1.7 * widest)
        out = (np.sqrt(np.square((along - widest) / half) + np.square(across / radius)) - 1) * radius
        return np.maximum(out, -along)

    return distance


def joined(*fields: Field, over: float = 6.0) -> Field:
    """Union of solids with rounded seams."""

    def distance(points: np.ndarray) -> np.ndarray:
        out = fields[0](points)
        for field in fields[1:]:
            other = field(points)
            blend = np.clip(0.5 + 0.5 * (other - out) / over, 0, 1)
            out = other * (1 - blend) + out * blend - over * blend * (1 - blend)
        return out

    return distance


def cone(first: np.ndarray, second: np.ndarray, wide: float, narrow: float) -> Field:
    """About the signed distance to a rounded cone between two points."""
    axis = (second - first).astype(np.float32)
    start = first.astype(np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        offset = points - start
        along = np.clip(offset @ axis / (axis @ axis), 0, 1)
        away = offset - along[..., None] * axis
        return np.sqrt(np.square(away).sum(-1)) - (wide + (narrow - wide) * along)

    return distance


def _solid(paint: Paint, name: str, field: Field, middle: np.ndarray, reach: float) -> None:
    """Paint a field in the box ``reach`` mm around ``middle``."""
    box = paint.lattice.box(middle - reach, middle + reach)
    paint.over(name, box, field(paint.lattice.part(box).points()))


def _tube(paint: Paint, name: str, points: object, radii: list[float], only: tuple[str, ...] | None = None) -> None:
    """Paint a tube along a smooth path."""
    path = smooth_path(np.asarray(points, dtype=float), radii, step=1.5)
    paint.over(name, *tube_field(paint.lattice, path, paint.lattice.spacing), only)


# --- structures ----------------------------------------------------------------------------------------------------


def _left_ventricle(paint: Paint, frame: Frame, rng: np.random.Generator) -> None:
    """Wall, cavity and outflow; the base is cut along the plane of the valves."""
    middle = frame.place(d=0.5 * frame.length)
    outflow = [frame.place(d=0.30 * frame.length, s=2), frame.place(d=0.1 * frame.length, s=8, t=-5), frame.aortic]
    wide = frame.aorta * 0.8
    path = smooth_path(np.array(outflow), [wide, wide, wide * 0.95], step=1.5)
    sleeve = path + np.array([0, 0, 0, 3.5])
    paint.over("MYO", *tube_field(paint.lattice, sleeve[: -max(2, len(sleeve) // 5)], MODEL_MM), ("LA", "RA", "RV"))
    _solid(paint, "MYO", ventricle(frame, frame.wall, 0.75 * frame.wall), middle, 72.0)
    _solid(paint, "LV", ventricle(frame, 0.0, 0.0), middle, 66.0)
    paint.over("LV", *tube_field(paint.lattice, path, MODEL_MM), ("MYO", "LA", "LV"))


def _right_heart(paint: Paint, frame: Frame, rng: np.random.Generator) -> None:
    """Right atrium with appendage and the stumps of both cavae; the right ventricle with its conus."""
    size = rng.normal(1.0, 0.07, 3).clip(0.85, 1.15)
    atrium = joined(ellipsoid(frame.ra, np.array([24.0, 26.0, 31.0]) * size),
                    ellipsoid(frame.ra + [3.0, -9.0, 4.0], np.array([19.0, 19.0, 27.0]) * size), over=8.0)  # fmt: skip
    _solid(paint, "RA", atrium, frame.ra, 48.0)
    front = frame.ra + np.array([-6.0, 8.0, 16.0])
    tip = rng.uniform(0.7, 1.1)
    horn = front + np.array([[0, 0, 0], [-3, 9, 9], [-11, 15, 14], [-19, 17, 19]]) * tip
    _tube(paint, "RA", horn, [15.0, 13.0, 9.5, 5.0])
    up, down = frame.ra + np.array([3.0, -12.0, 20.0]), frame.ra + np.array([0.0, -12.0, -20.0])
    r_up, r_down = rng.uniform(8, 11), rng.uniform(10, 13)
    _tube(paint, "RA", [up, up + [0, -2, rng.uniform(6, 20)]], [r_up * 1.4, r_up])
    _tube(paint, "RA", [down, down + [-2, -3, -rng.uniform(5, 15)]], [r_down * 1.3, r_down])
    _right_ventricle(paint, frame, rng)


def _right_ventricle(paint: Paint, frame: Frame, rng: np.random.Generator) -> None:
    """A crescent around the septum (the left ventricle is painted over it): three-cornered from the tricuspid valve
    along the underside to the apex and up to the pulmonary valve."""
    r, long = frame.radius + frame.wall, frame.length
    flat = rng.uniform(0.86, 1.0)
    inflow = frame.place(d=0.10 * long, s=(r + 4) * flat, t=15)
    under = frame.place(d=0.45 * long, s=0.92 * r * flat, t=19)
    front = frame.place(d=0.42 * long, s=0.95 * r * flat, t=-8)
    apex = frame.place(d=rng.uniform(0.76, 0.92) * long, s=0.60 * r, t=10)
    out = frame.place(d=0.20 * long, s=29, t=-14)
    sides = [(inflow, under, 21, 15), (under, apex, 15, 8), (inflow, out, 20, 16), (out, front, 16, 15),
             (front, apex, 15, 8), (under, front, 14, 14)]  # fmt: skip
    body = joined(*(cone(*side) for side in sides), over=10.0)
    plane = unit(frame.place(d=0.35 * long, s=20) - frame.ra).astype(np.float32)
    base = frame.d.astype(np.float32)

    def cut(points: np.ndarray) -> np.ndarray:
        """Behind the tricuspid valve lies the atrium, behind the base of the heart its fat."""
        return np.maximum(body(points), np.maximum((frame.tricuspid.astype(np.float32) - points) @ plane,
                                                   -(points @ base) - 14))  # fmt: skip

    _solid(paint, "RV", cut, frame.place(d=0.35 * long, s=0.8 * r), 66.0)
    half = 0.5 * (out + frame.pulmonary) + np.array([1.0, 4.0, -1.0])
    _tube(paint, "RV", [out, half, frame.pulmonary, frame.pulmonary + [-1, -1, 3]],
          [16.0, 14.5, frame.trunk + 1, frame.trunk + 0.5])  # fmt: skip


def _left_atrium(paint: Paint, frame: Frame, rng: np.random.Generator) -> None:
    """The atrium with the stumps of its veins, and a plain appendage that says where the neck is."""
    size = np.array([32.0, 20.0, 26.0]) * rng.normal(1.0, 0.07, 3).clip(0.86, 1.14)
    funnel = ellipsoid(0.55 * frame.la + 0.45 * frame.mitral, np.array([19.0, 19.0, 19.0]))
    roof = ellipsoid(frame.la + [0.0, 2.0, 6.0], size * [0.8, 0.9, 0.9])
    neck = frame.la + size * np.array([-0.70, 0.45, 0.45])
    outward = unit(np.array([-0.60, 0.45, 0.42]) + rng.normal(0, 0.06, 3))
    _tube(paint, "LAA", [neck - 6 * outward, neck, neck + 14 * outward, neck + 26 * outward], [7, 6.5, 8, 4])
    stumps = rng.uniform(0.0, 11.0)
    for x in (1.0, -1.0):
        trunk = rng.random() < 0.15  # upper and lower vein in one
        for z in (0.05,) if trunk else (0.52, -0.42):
            root = frame.la + size * (np.array([0.70 * x, -0.45, z]) + rng.normal(0.0, 0.07, 3))
            way = unit(np.array([x * 0.85, -0.45, 0.6 * z]) + rng.normal(0.0, 0.18, 3))
            wide = rng.uniform(5.0, 7.5) * (1.5 if trunk else 1.0)
            end = root + way * (9.0 + stumps * rng.uniform(0.5, 1.4))
            _tube(paint, "LA", [root, end], [wide * 1.4, wide])
    _solid(paint, "LA", joined(ellipsoid(frame.la, size), funnel, roof, over=8.0), frame.la, 50.0)


def _pulmonary_artery(paint: Paint, frame: Frame, rng: np.random.Generator) -> None:
    """Trunk, right artery behind the aorta, left artery over the bronchus; each with its first branches."""
    p, root = frame.trunk, frame.pulmonary
    fork = root + np.array([rng.normal(4, 2), rng.normal(-33, 2), rng.normal(26, 3)])
    _tube(paint, "PA", [root, root + [-2, -9, 13], root + [0, -22, 24], fork], [p * 1.05, p * 1.05, p, p * 0.95])
    right = fork + np.array([[0, 0, 0], [20, -13, -2], [43, -20, -7], [57, -23, -13]]) * rng.uniform(0.92, 1.08)
    left = fork + np.array([[0, 0, 0], [-14, -15, 4], [-25, -31, -1], [-30, -39, -14]]) * rng.uniform(0.92, 1.08)
    _tube(paint, "PA", right, [p * 0.8, p * 0.78, p * 0.72, p * 0.6])
    _tube(paint, "PA", left, [p * 0.85, p * 0.8, p * 0.72, p * 0.58])
    hilum = rng.uniform(0.2, 1.0)  # how far into the hilum the label goes
    for main, x in ((right, 1.0), (left, -1.0)):
        above, below = main[2], main[3]
        _tube(paint, "PA", [above, above + np.array([x * 12, 1, 11]) * (0.6 + hilum)], [p * 0.5, p * 0.36])
        _tube(paint, "PA", [below, below + np.array([x * 5, -5, -16]) * (0.4 + hilum)], [p * 0.6, p * 0.45])
        if rng.random() < 0.5:
            _tube(paint, "PA", [below, below + np.array([x * 15, -3, -4]) * (0.4 + hilum)], [p * 0.45, p * 0.3])


def _aorta(paint: Paint, frame: Frame, rng: np.random.Generator) -> None:
    """Root with three sinuses, ascending aorta, arch (round, gothic or elongated), start of the descending part."""
    a, valve = frame.aorta, frame.aortic
    lift, wide = rng.normal(0.0, 4.0), rng.normal(0.0, 3.0)
    if rng.random() < 0.3:  # elongated: higher, further to the right
        lift, wide = lift + rng.uniform(3, 9), wide + rng.uniform(3, 8)
    gothic = rng.uniform(-4, 7)
    course = valve + np.array([
        [0, 0, 0], [6, 2, 12], [11 + 0.4 * wide, 4, 25], [17 + wide, 5, 44], [11 + wide, -9, 63 + lift],
        [0, -29, 69 + lift + gothic], [-7, -47, 57 + lift], [-6, -57, 36 + lift], [-4, -59, 12]])  # fmt: skip
    radii = a * np.array([0.82, 0.95, 0.92, 1.0, 0.97, 0.86, 0.8, 0.76, 0.74])
    _tube(paint, "AO", course, radii.tolist())
    axis = unit(course[2] - course[0])
    first = perpendicular(np.array([0.3, 0.9, 0.0]), axis)
    for turn in np.deg2rad([0.0, 120.0, 240.0]):  # the sinuses: three bulges just above the valve
        bulge = np.cos(turn) * first + np.sin(turn) * np.cross(axis, first)
        centre = valve + 9.0 * axis + bulge * a * 0.45
        _solid(paint, "AO", ellipsoid(centre, np.array([0.68, 0.68, 0.68]) * a), centre, 20.0)

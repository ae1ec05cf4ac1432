"""The diaphragm, fitted to the heart's lower surface, and the organs of the upper abdomen."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, VALUE

from ..heart.anatomy import Heart
from ..shapes import smooth_path, unit
from ..tissue import Tissue
from .canvas import Canvas, blur
from .chest import Trunk
from .frame import BodyFrame
from .trunk_fit import FittedTrunk, diaphragm_heights

FAT = (Tissue.FAT,)
#: Gaps below the diaphragm that a real trunk's organs close, mm.
LIVER_GAP_MM, SPLEEN_GAP_MM = 22.0, 10.0


def draw_diaphragm(
    canvas: Canvas, heart: Heart, frame: BodyFrame, real: FittedTrunk | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Draw the heights (mm) of the diaphragm and of the heart's bed, each (I, J, 1) on the coarse lattice.

    The diaphragm is that of the ``real`` trunk, or has two domes, and follows the heart's lower surface between them.
    There is no lung below the bed: the heart rests on the diaphragm with only fat between them.
    """
    level = diaphragm_heights(canvas, frame, real) if real else _draw_domes(canvas, frame, rng)
    return _fit_to_heart(canvas, heart, frame, level, rng)


def _draw_domes(canvas: Canvas, frame: BodyFrame, rng: np.random.Generator) -> np.ndarray:
    """Draw the heights (I, J, 1; mm) of two domes."""
    dx, dy = canvas.x - frame.middle[0], canvas.y - frame.middle[1]
    right = frame.seat + rng.uniform(8, 38)
    left = right - rng.uniform(4, 22)
    level = np.full((dx.shape[0], dy.shape[1], 1), -np.inf)
    v = (dy - 0.22 * frame.half_depth) / (1.1 * frame.half_depth)
    for top, side in ((right, 0.5), (left, -0.52)):
        r2 = np.square((dx - side * frame.half_width) / (0.56 * frame.half_width)) + np.square(v)
        dome = top - 26.0 * r2 - 42.0 * r2**3 - 40.0 * np.clip(-v, 0, 1.2) ** 3
        level = np.logaddexp(level / 6.0, np.maximum(dome, -900.0) / 6.0) * 6.0
    return np.asarray(np.maximum(level, frame.seat - 260.0))


def _fit_to_heart(
    canvas: Canvas, heart: Heart, frame: BodyFrame, level: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Move the domes to a little below the heart's lower surface; return diaphragm and bed (see above)."""
    step = canvas.coarse.spacing
    inside = np.isin(heart.labels, [VALUE[n] for n in HEART])
    floor = np.where(inside.any(2), heart.lattice.origin[2] + heart.lattice.spacing * inside.argmax(2), 1e4)
    floor = ndimage.minimum_filter(floor, max(3, round(step / heart.lattice.spacing)))
    at = [(canvas.coarse.axis(a).ravel() - heart.lattice.origin[a]) / heart.lattice.spacing for a in range(2)]
    floor = ndimage.map_coordinates(floor, np.meshgrid(*at, indexing="ij"), order=0, mode="constant", cval=1e4)
    floor = floor[..., None]
    gap = rng.choice([rng.uniform(1.0, 3.0), rng.uniform(3.0, 9.0)], p=[0.65, 0.35])
    sits = floor < frame.seat + rng.uniform(10, 24)
    wide, close = (blur(sits, s, step) for s in (13.0, 5.0))
    target = np.where(sits, floor - gap, 0.0)
    broad = blur(np.where(sits, target - level, 0.0), 13.0, step) / (wide + 0.02)
    tight = blur(target, 5.0, step) / (close + 1e-3)
    out = level + broad * np.clip(2.5 * wide, 0, 1)
    share = np.clip(2.0 * close - 0.6, 0, 1)
    out = out * (1 - share) + tight * share
    out = np.minimum(out, floor - 0.5 * gap)
    under = np.clip((blur(sits, 6.0, step) - 0.1) / 0.4, 0, 1)  # smoothly, or lung would be left in the seams
    bed = np.minimum(out - 30.0 + 48.0 * under, np.minimum(floor, out + 40.0) + 4.0)
    return out.astype(np.float32), blur(bed, 4.0, step)


def steepness(level: np.ndarray, step: float) -> np.ndarray:
    """Return the ratio (I, J, 1) of vertical height above a surface to distance from it; ``step`` in mm."""
    gx, gy = np.gradient(level[..., 0], step)
    return np.sqrt(1.0 + np.square(gx) + np.square(gy))[..., None].astype(np.float32)


def tube_level(canvas: Canvas, points: ArrayLike, radii: ArrayLike) -> np.ndarray:
    """Return the level set (mm) of a wide tube on the coarse lattice."""
    out = np.full(canvas.coarse.shape, -99.0, dtype=np.float32)
    for *at, r in smooth_path(points, radii, step=6.0):
        box = canvas.coarse.box(np.array(at) - r - 16.0, np.array(at) + r + 16.0)
        squared = [np.square(axis[(slice(None),) * a + (box[a],)] - np.float32(at[a]))
                   for a, axis in enumerate((canvas.x, canvas.y, canvas.z))]  # fmt: skip
        part = out[box]
        np.maximum(part, np.float32(r) - np.sqrt(sum(squared)), out=part)
    return out


def ellipsoid_level(canvas: Canvas, centre: ArrayLike, axes: ArrayLike) -> np.ndarray:
    """Return the level set (about mm) of an ellipsoid on the coarse lattice."""
    c, a = np.asarray(centre, np.float32), np.asarray(axes, np.float32)
    r = np.sqrt(np.square((canvas.x - c[0]) / a[0]) + np.square((canvas.y - c[1]) / a[1])
                + np.square((canvas.z - c[2]) / a[2]))  # fmt: skip
    return np.asarray((1.0 - r) * a.min(), dtype=np.float32)


def paint_abdomen(
    canvas: Canvas, frame: BodyFrame, trunk: Trunk, level: np.ndarray, real: FittedTrunk | None,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Paint diaphragm, abdominal fat and organs below ``level``, the diaphragm's heights (I, J, 1; mm).

    Liver, stomach and spleen are those of the ``real`` trunk if there is one.
    """
    below = (level - canvas.z) / steepness(level, canvas.coarse.spacing)
    inside = np.minimum(below, -trunk.outside).astype(np.float32)
    if not (inside > 0).any():
        return
    canvas.fill(inside, Tissue.MUSCLE)
    canvas.fill(inside - np.float32(rng.uniform(1.6, 3.4)), Tissue.FAT)
    room = inside - np.float32(3.0 + rng.uniform(0.0, 0.12) * frame.fat)
    if real:
        canvas.fill(real.organ("liver", room, LIVER_GAP_MM), Tissue.LIVER, over=FAT)
        canvas.fill(real.organ("spleen", room, SPLEEN_GAP_MM), Tissue.SPLEEN, over=FAT)
        _fill_stomach(canvas, real.organ("stomach", room, SPLEEN_GAP_MM), rng)
        _paint_liver_vessels(canvas, frame, room, rng)
        _paint_flexure(canvas, frame, level, room, rng)
    else:
        _paint_liver(canvas, frame, room, rng)
        places = {"stomach": _paint_stomach, "flexure": _paint_flexure, "spleen": _paint_spleen}
        for name in rng.permutation(list(places)):
            places[str(name)](canvas, frame, level, room, rng)
    _paint_kidneys(canvas, frame, room, rng)
    _paint_bowel(canvas, frame, room, rng)
    _paint_psoas(canvas, frame)


def diaphragm_height(canvas: Canvas, level: np.ndarray, x: float, y: float) -> float:
    """Return the height of the diaphragm at a point, mm."""
    at = [(v - canvas.coarse.origin[a]) / canvas.coarse.spacing for a, v in enumerate((x, y))]
    return float(ndimage.map_coordinates(level[..., 0], [[at[0]], [at[1]]], order=1, mode="nearest")[0])


def _paint_liver(canvas: Canvas, frame: BodyFrame, room: np.ndarray, rng: np.random.Generator) -> None:
    """Paint the liver with its veins and, in most cases, the gallbladder."""
    x, y = canvas.x - frame.middle[0], canvas.y
    spine_y = frame.spine_at(frame.seat)[1]
    reach = rng.uniform(5, 85)  # of the left lobe beyond the middle
    thin, deep = rng.uniform(22, 75), rng.uniform(120, 200)
    knots = [-reach - 20, -reach, -0.4 * reach, 45, frame.half_width]
    drops = [-30.0, -6.0, 0.8 * thin, 0.6 * deep, deep]
    bottom = frame.seat - np.interp(x + 6.0 * canvas.noise(rng, 20.0), knots, drops)
    bottom = bottom - 0.25 * np.clip(y - frame.middle[1], -60, 60)
    behind = np.interp(x, [-60, 0, 30, 62], [frame.middle[1] + 5, spine_y + 34, spine_y + 16, spine_y - 60])
    wobble = 3.0 * canvas.noise(rng, 16.0)
    body = np.minimum(np.minimum(0.8 * (canvas.z - bottom), 0.8 * (y - behind)), x + reach + 14.0)
    body = np.minimum(body + wobble, room)
    canvas.fill(body.astype(np.float32), Tissue.LIVER, over=FAT)
    _paint_liver_vessels(canvas, frame, room, rng)


def _paint_liver_vessels(canvas: Canvas, frame: BodyFrame, room: np.ndarray, rng: np.random.Generator) -> None:
    """Paint the liver's veins and, in most cases, the gallbladder."""
    spine_y = frame.spine_at(frame.seat)[1]
    top = np.array([frame.middle[0] + 22.0, spine_y + 34.0, frame.seat - rng.uniform(2, 14)])
    for direction in ([1.0, 0.1, -0.25], [0.6, 0.9, -0.15], [-0.3, 0.9, -0.2]):
        end = top + unit(direction) * rng.uniform(60, 95)
        canvas.paint_tube([top, 0.5 * (top + end) + rng.normal(0, 5, 3), end], [5.5, 4.0, 1.6], Tissue.VEIN,
                    over=(Tissue.LIVER,))  # fmt: skip
    porta = top + [18.0, 12.0, -rng.uniform(45, 65)]
    canvas.paint_tube([porta + [-35, -8, -45], porta], [6.5, 6.5], Tissue.VEIN, over=(Tissue.LIVER, Tissue.FAT))
    for _ in range(7):
        end = porta + unit(rng.normal(0, 1, 3) + [0.8, 0.2, 0.2]) * rng.uniform(40, 80)
        canvas.paint_tube([porta, 0.5 * (porta + end) + rng.normal(0, 6, 3), end], [4.0, 2.6, 1.2], Tissue.VEIN,
                    over=(Tissue.LIVER,))  # fmt: skip
    if rng.random() < 0.7:
        sac = ellipsoid_level(canvas, porta + [20.0, 45.0, -40.0], [17, 24, 22])
        canvas.fill(np.minimum(sac, room), Tissue.FLUID, over=(Tissue.FAT, Tissue.LIVER))


def _paint_stomach(
    canvas: Canvas, frame: BodyFrame, level: np.ndarray, room: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint the stomach: fundus under the left dome, body in front, antrum across the middle; food and often gas."""
    full = rng.uniform(0.5, 1.3)
    x = frame.middle[0] - frame.half_width * rng.uniform(0.34, 0.56)
    y = frame.middle[1] + rng.uniform(-0.3, 0.4) * frame.half_depth
    r = 18.0 + 26.0 * full
    z = diaphragm_height(canvas, level, x, y) - r + rng.uniform(-5, 8)  # the dome flattens it
    path = [[x, y, z], [x + 4, y + 22, z - 45], [x + 22, frame.middle[1] + 34, z - 85],
            [frame.middle[0] - 4, frame.middle[1] + 36, z - 100]]  # fmt: skip
    outer = tube_level(canvas, path, [r, 0.85 * r, 0.65 * r, 0.45 * r]) + 2.0 * canvas.noise(rng, 14.0)
    _fill_stomach(canvas, np.minimum(outer, room), rng, y, r)


def _fill_stomach(
    canvas: Canvas, outer: np.ndarray, rng: np.random.Generator, y: float | None = None, r: float = 22.0
) -> None:
    """Paint a stomach's wall, food and often gas within a level set, whose middle is at ``y`` (mm)."""
    if y is None:
        inside = outer > 0
        if not inside.any():
            return
        y = float(np.broadcast_to(canvas.y, outer.shape)[inside].mean())
    canvas.fill(outer, Tissue.SOFT, over=FAT)
    folds = np.float32(rng.uniform(3.0, 6.5)) + 1.2 * canvas.noise(rng, 5.0)
    lumen = outer - folds
    over = (Tissue.SOFT,)
    canvas.fill(lumen, Tissue.STOMACH, over=over)
    gas = y + rng.uniform(-1.2, 1.3) * r
    if rng.random() < 0.75:
        canvas.fill(np.minimum(lumen, canvas.y - gas).astype(np.float32), Tissue.GAS, over=(Tissue.STOMACH,))


def _paint_flexure(
    canvas: Canvas, frame: BodyFrame, level: np.ndarray, room: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint the colon's left flexure and transverse part, with stool and gas."""
    r = rng.uniform(13, 26)
    x = frame.middle[0] - frame.half_width * rng.uniform(0.35, 0.75)
    y = frame.middle[1] + frame.half_depth * rng.uniform(-0.15, 0.5)
    z = diaphragm_height(canvas, level, x, y) - r - rng.choice([rng.uniform(-2, 6), rng.uniform(6, 40)])
    low = frame.seat - rng.uniform(90, 140)
    path = [[frame.middle[0] + 70, frame.middle[1] + 30, low], [frame.middle[0], frame.middle[1] + 48, low + 6],
            [x + 22, y + 14, z - 30], [x, y, z], [x - 12, y - 22, z - 40], [x - 10, y - 24, z - 160]]  # fmt: skip
    outer = tube_level(canvas, path, [r, r, 0.9 * r, r, 0.8 * r, 0.7 * r]) + 2.5 * canvas.noise(rng, 8.0)
    outer = np.minimum(outer, room)
    canvas.fill(outer, Tissue.SOFT, over=FAT)
    canvas.fill(outer - 2.6, Tissue.BOWEL, over=(Tissue.SOFT,))
    gas = np.minimum(outer - 2.8, 5.0 * (canvas.noise(rng, 9.0) + rng.uniform(-1.0, 1.3)))
    canvas.fill(gas.astype(np.float32), Tissue.GAS, over=(Tissue.BOWEL,))


def _paint_spleen(
    canvas: Canvas, frame: BodyFrame, level: np.ndarray, room: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint the spleen with its hilum."""
    x = frame.middle[0] - 0.68 * frame.half_width
    y = frame.middle[1] - rng.uniform(0.3, 0.55) * frame.half_depth
    size = rng.uniform(0.75, 1.2)
    z = diaphragm_height(canvas, level, x, y) - 34.0 * size
    body = ellipsoid_level(canvas, [x, y, z], np.array([30, 40, 48]) * size)
    hilum = ellipsoid_level(canvas, [x + 26 * size, y + 14 * size, z - 6], np.array([18, 16, 30]) * size)
    body = np.minimum(np.minimum(body, -hilum) + 1.5 * canvas.noise(rng, 14.0), room)
    canvas.fill(body, Tissue.SPLEEN, over=FAT)


def _paint_kidneys(canvas: Canvas, frame: BodyFrame, room: np.ndarray, rng: np.random.Generator) -> None:
    """Paint kidneys, their fat and the pancreas."""
    for side in (1.0, -1.0):
        z = frame.seat - rng.uniform(95, 130) - 12.0 * (side > 0)
        spine = frame.spine_at(z)
        centre = [spine[0] + side * rng.uniform(50, 60), spine[1] - 2.0, z]
        body = np.minimum(ellipsoid_level(canvas, centre, [27, 25, 52]), room - 6.0) + 0.8 * canvas.noise(rng, 12.0)
        sinus = ellipsoid_level(canvas, np.array(centre) + [-side * 12, 8, 0], [17, 12, 27])
        around = np.minimum(body + 9.0, room)
        canvas.fill(around, Tissue.FAT, over=(Tissue.BOWEL, Tissue.STOMACH, Tissue.SOFT, Tissue.LIVER, Tissue.SPLEEN))
        canvas.fill(body, Tissue.KIDNEY, over=FAT)
        canvas.fill(sinus + 2.0 * canvas.noise(rng, 6.0), Tissue.FAT, over=(Tissue.KIDNEY,))
    z = frame.seat - rng.uniform(80, 105)
    spine = frame.spine_at(z)
    pancreas = tube_level(canvas, [[spine[0] + 38, spine[1] + 42, z - 18], [spine[0], spine[1] + 52, z],
                                   [spine[0] - 80, spine[1] + 16, z + 28]], [14, 10, 8])  # fmt: skip
    canvas.fill(np.minimum(pancreas + 2.0 * canvas.noise(rng, 6.0), room), Tissue.SOFT, over=FAT)


def _paint_bowel(canvas: Canvas, frame: BodyFrame, room: np.ndarray, rng: np.random.Generator) -> None:
    """Paint bowel loops in front of the spine, at least 90 mm below the heart."""
    if canvas.lattice.origin[2] > frame.seat - 90.0:
        return
    lowest = max(canvas.lattice.origin[2], frame.seat - 330.0)
    for _ in range(int(np.clip((frame.seat - 90 - lowest) / 7.0, 2, 26))):
        at = np.array([frame.middle[0] + rng.uniform(-0.75, 0.75) * frame.half_width,
                       frame.middle[1] + rng.uniform(-0.1, 0.8) * frame.half_depth,
                       rng.uniform(lowest - 10, frame.seat - 100)])  # fmt: skip
        path = [at]
        for _ in range(4):
            path.append(path[-1] + rng.normal(0, [26, 14, 18]))
        r = rng.uniform(9, 15)
        loop = np.minimum(tube_level(canvas, path, [r] * 5), room - 2.0)
        canvas.fill(loop, Tissue.SOFT, over=FAT)
        canvas.fill(loop - 2.4, Tissue.BOWEL, over=(Tissue.SOFT,))
        if rng.random() < 0.35:
            gas = np.minimum(loop - 3.0, canvas.y - at[1] - rng.uniform(-8, 6)).astype(np.float32)
            canvas.fill(gas, Tissue.GAS, over=(Tissue.BOWEL,))


def _paint_psoas(canvas: Canvas, frame: BodyFrame) -> None:
    """Paint the psoas muscles beside the lumbar spine."""
    z = frame.seat + np.array([-60.0, -120.0, -200.0, -320.0])
    spine = frame.spine_at(z)
    for side in (1.0, -1.0):
        points = np.column_stack([spine[:, 0] + side * np.array([20, 25, 32, 42]), spine[:, 1] - [4, 4, 2, -6], z])
        canvas.paint_tube(points, [5, 10, 17, 22], Tissue.MUSCLE, over=(Tissue.FAT, Tissue.BOWEL, Tissue.SOFT))

"""The wall of the trunk (skin, fat, muscle, breasts, bones), shoulders, arms, and the scanner's table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..shapes import Lattice
from ..tissue import Tissue
from .canvas import Canvas
from .frame import BodyFrame

#: Thickness of the rib cage, mm.
CAGE_MM = 10.0
#: Exponent of the cavity's outline: 2 is an ellipse.
CAVITY_POWER = 2.15
SOFT_TISSUES = (Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE)
#: How far each rib's front end lies below its head, mm.
RIB_DROP = (28, 46, 60, 72, 84, 94, 102, 108, 104, 92, 62, 40)
#: Angle (degrees from the side towards the front) at which the bone of each rib ends.
RIB_END = (50, 54, 56, 57, 57, 55, 52, 44, 34, 22, -8, -40)


@dataclass(frozen=True)
class Trunk:
    """Distances in mm on the coarse lattice, (I, J, K)."""

    outside: np.ndarray  # from the thoracic and abdominal cavity, negative within it
    depth: np.ndarray  # below the skin's surface, negative in the air


def oval_depth(x: np.ndarray, y: np.ndarray, half_x: np.ndarray, half_y: np.ndarray, power: float) -> np.ndarray:
    """Return the depth (mm) inside a superellipse, negative outside, along the ray from its middle."""
    ratio = ((np.abs(x) / half_x) ** power + (np.abs(y) / half_y) ** power) ** (1.0 / power)
    return np.asarray(np.hypot(x, y) * (1.0 / np.maximum(ratio, 1e-3) - 1.0), dtype=np.float32)


def measure_trunk(canvas: Canvas, frame: BodyFrame, rng: np.random.Generator) -> Trunk:
    """Return how far each point is from cavity and skin."""
    z = canvas.z.ravel().astype(float)
    width, front, back = frame.cavity(z)
    x = canvas.x - frame.middle[0]
    out = -oval_depth(x, canvas.y - (front + back)[None, None] / 2, width, (front - back) / 2, CAVITY_POWER)
    below = frame.top - z
    muscle, fat = frame.muscle, frame.fat
    spine_y = frame.spine_at(z)[:, 1]
    waist = 1.0 - (0.09 if frame.sex == "female" else 0.03) * np.clip((below - 270.0) / 100.0, 0.0, 1.0)
    shoulder = 44.0 * np.exp(-np.square((below - 22.0) / 42.0))
    wide = frame.half_width * waist + CAGE_MM + 0.9 * muscle + 0.75 * fat + shoulder
    neck = np.clip((-below - 12.0) / 45.0, 0.0, 1.0) ** 0.7
    wide = wide * (1 - neck) + (58.0 + 0.4 * fat) * neck
    belly = np.clip((below - 230.0) / 120.0, 0.0, 1.0) * (0.8 * fat - 6.0)
    skin_front = np.maximum(front, spine_y + 62.0) + CAGE_MM + 0.35 * muscle + 0.8 * fat + belly
    skin_back = spine_y - 70.0 - 0.4 * muscle - 0.7 * fat
    half = (skin_front - skin_back) / 2
    bumps = 1.5 * canvas.noise(rng, 28.0)
    depth = oval_depth(x, canvas.y - (skin_front + skin_back)[None, None] / 2, wide, half, 2.35) + bumps
    groove = 9.0 * np.exp(-np.square(x / 14.0)) * (canvas.y < frame.middle[1])
    return Trunk(out, depth - groove.astype(np.float32))


def _angle(canvas: Canvas, frame: BodyFrame) -> np.ndarray:
    """Return degrees from the side (0) towards the front (90) or the back (-90) on the coarse lattice."""
    _, front, back = frame.cavity(canvas.z.ravel().astype(float))
    y = canvas.y - ((front + back) / 2)[None, None]
    return np.rad2deg(np.arctan2(y, np.abs(canvas.x - frame.middle[0])))


def paint_wall(canvas: Canvas, frame: BodyFrame, trunk: Trunk, rng: np.random.Generator) -> None:
    """Paint skin, fat, muscle and breasts; fill the cavity with fat."""
    depth, breast = trunk.depth, None
    if frame.sex == "female":
        breast = _breasts(canvas, frame, trunk, rng)
        depth = np.maximum(depth, breast)
    canvas.fill(depth, Tissue.SKIN)
    canvas.fill(depth - np.float32(rng.uniform(1.4, 2.4)), Tissue.FAT)
    if breast is not None:
        _glands(canvas, frame, np.minimum(breast, depth - 5.0), trunk, rng)
    m = frame.muscle
    thick = np.interp(_angle(canvas, frame), [-90, -62, -35, 0, 30, 55, 74, 90],
                      [36, 32, 1.4 * m, 1.1 * m, 0.9 * m, 1.3 * m, 0.5 * m, 1.0])  # fmt: skip
    ragged = 1.6 * canvas.noise(rng, 7.0)
    flesh = np.minimum(CAGE_MM + 1.0 + thick + ragged - trunk.outside, trunk.depth - 1.5 - 0.3 * frame.fat - ragged)
    canvas.fill(flesh.astype(np.float32), Tissue.MUSCLE)
    girdle = np.minimum(trunk.depth - 16.0 - frame.fat, 9.0 * (0.75 + canvas.noise(rng, 8.0)))
    high = np.clip((canvas.z - frame.top + 130.0) / 8.0, -3.0, 20.0)
    canvas.fill(np.minimum(girdle, high).astype(np.float32), Tissue.MUSCLE, over=(Tissue.FAT,))
    planes = 1.3 - np.abs(trunk.outside - CAGE_MM - 2.5 - 1.5 * ragged)
    box = canvas.positive_box(planes)
    if box is not None:
        sheet = np.abs(
            canvas.upsample(trunk.outside - 1.5 * ragged, box=box) - CAGE_MM - 2.5
        ) < 0.045 * frame.fat * canvas.upsample(1.0 + canvas.noise(rng, 14.0), box=box)
        canvas.tissue[box][sheet & canvas.tissue_mask(box, (Tissue.MUSCLE,))] = Tissue.FAT
    canvas.fill(-trunk.outside, Tissue.FAT)


def _breasts(canvas: Canvas, frame: BodyFrame, trunk: Trunk, rng: np.random.Generator) -> np.ndarray:
    """Return the level set (mm) of both breasts on the coarse lattice."""
    size, sag = rng.uniform(48, 74), rng.uniform(6, 18) + 0.8 * frame.fat
    z = frame.top - rng.uniform(165, 215)
    _, front, _ = frame.cavity(np.array([z]))
    out = np.full(canvas.coarse.shape, -99.0, dtype=np.float32)
    for side in (1.0, -1.0):
        x = frame.middle[0] + side * frame.half_width * rng.uniform(0.55, 0.68)
        y = front[0] + CAGE_MM + 0.3 * frame.fat - 14.0
        r = np.sqrt(np.square((canvas.x - x) / size) + np.square((canvas.y - y) / (14.0 + sag))
                    + np.square((canvas.z - z) / (0.95 * size)))  # fmt: skip
        out = np.maximum(out, (1.0 - r) * (14.0 + sag))
    return np.asarray(out, dtype=np.float32)


def _glands(canvas: Canvas, frame: BodyFrame, breast: np.ndarray, trunk: Trunk, rng: np.random.Generator) -> None:
    """Paint glandular strands into the fat of the breasts."""
    share = rng.uniform(-0.6, 1.3)
    strands = canvas.noise(rng, 5.5) + 0.7 * canvas.noise(rng, 12.0) - share
    inside = np.minimum(breast - 2.0, trunk.outside - CAGE_MM - frame.muscle - 4.0)
    canvas.fill(np.minimum(4.0 * strands, inside).astype(np.float32), Tissue.BREAST, over=(Tissue.FAT,))


# --- bones of the cage ---------------------------------------------------------------------------------------------


def rib_heads(frame: BodyFrame) -> np.ndarray:
    """Return the heights (12,) of the ribs' joints with the spine, mm."""
    return np.asarray(frame.top - 6.0 - frame.pitch * np.arange(12) * np.linspace(0.88, 1.0, 12))


def cage_points(frame: BodyFrame, degrees: np.ndarray, z: np.ndarray, side: float, out: float = 5.0) -> np.ndarray:
    """Return points (N, 3) ``out`` mm outside the cavity at angles from side to front and heights ``z``."""
    width, front, back = frame.cavity(z)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x = (width + out) * np.abs(c) ** (2 / CAVITY_POWER)
    y = (front + back) / 2 + ((front - back) / 2 + out) * np.sign(s) * np.abs(s) ** (2 / CAVITY_POWER)
    return np.column_stack([frame.middle[0] + side * x, y, z])


def paint_cage(
    canvas: Canvas, frame: BodyFrame, rng: np.random.Generator, sternum: np.ndarray | None = None
) -> None:  # fmt: skip
    """Paint twelve pairs of ribs, their cartilages and the sternum: a drawn one, or where a level set is positive."""
    notch = frame.top - rng.uniform(28, 46)
    length = rng.normal(182, 10) if frame.sex == "male" else rng.normal(160, 9)
    joints = notch - np.array([12, 46, 70, 93, 114, 131, 144, 150, 154, 158]) * length / 170.0
    heads = rib_heads(frame)
    slant, calcified = rng.uniform(0.8, 1.2), rng.random() < 0.25
    for side in (1.0, -1.0):
        for n in range(12):
            end = _paint_rib(canvas, frame, side, n, heads[n], slant)
            if n < 10:
                _paint_cartilage(canvas, frame, side, n, end, joints, calcified)
    if sternum is None:
        _paint_sternum(canvas, frame, notch, length, rng)
        return
    canvas.fill(sternum, Tissue.BONE)
    canvas.fill(sternum - np.float32(1.7), Tissue.MARROW)


def _paint_rib(canvas: Canvas, frame: BodyFrame, side: float, n: int, head: float, slant: float) -> np.ndarray:
    """Paint rib ``n`` of a side and return its front end, mm."""
    spine = frame.spine_at(head)
    start = np.array([[spine[0] + side * 16, spine[1] - 10, head], [spine[0] + side * 34, spine[1] - 27, head - 3]])
    degrees = np.linspace(-60 if n < 11 else -62, RIB_END[n], 9)
    z = head - 6 - slant * (RIB_DROP[n] - 6) * ((degrees + 60) / max(RIB_END[n] + 60, 20)).clip(0, 1) ** 1.1
    points = np.vstack([start, cage_points(frame, degrees, z, side)])
    big = 0.9 if frame.sex == "female" else 1.0
    for radius, tissue in ((4.0, Tissue.BONE), (2.3, Tissue.MARROW)):
        canvas.paint_tube(points, np.full(len(points), radius * big), tissue, z_stretch=1.65)
    return np.asarray(points[-1])


def _paint_cartilage(
    canvas: Canvas, frame: BodyFrame, side: float, n: int, end: np.ndarray, joints: np.ndarray, calcified: bool
) -> None:
    """Paint the cartilage from the end of rib ``n`` to its joint at the sternum."""
    _, front, _ = frame.cavity(joints[n : n + 1])
    edge = 16.0 if n < 7 else 16.0 + 12.0 * (n - 6)
    joint = np.array([frame.middle[0] + side * edge, front[0] + 5.0 - 0.35 * (edge - 16.0), joints[n]])
    middle = 0.5 * (end + joint)
    _, at_middle, _ = frame.cavity(middle[2:])
    middle += [side * 6.0, 0.5 * max(at_middle[0] + 5.0 - middle[1], 0.0), -0.25 * (joint[2] - end[2])]
    if calcified:
        canvas.paint_tube([end, middle, joint], [4.8, 5.4, 5.2], Tissue.BONE)
    canvas.paint_tube([end, middle, joint], [4.3, 4.9, 4.6], Tissue.CARTILAGE)


def _paint_sternum(canvas: Canvas, frame: BodyFrame, notch: float, length: float, rng: np.random.Generator) -> None:
    """Paint the sternum, ``length`` mm long from its notch downward."""
    lattice, middle = canvas.lattice, frame.middle[0]
    heights = lattice.axis(2).ravel()
    _, front, _ = frame.cavity(heights.astype(float))
    low = np.array([middle - 30.0, front.min() - 1.0, notch - length])
    box = lattice.box(low, np.array([middle + 30.0, front.max() + 15.0, notch]))
    share = (notch - heights[box[2]]) / length
    half = np.interp(share, [0, 0.1, 0.3, 0.36, 0.7, 0.86, 1.0], [21, 25, 15, 15, 19, 13, 4]) * rng.uniform(0.85, 1.1)
    half = np.where((share > 0) & (share < 1), half, 0.1)
    x, y = lattice.axis(0)[box[0]] - np.float32(middle), lattice.axis(1)[:, box[1]] - front[box[2]] - np.float32(6.5)
    part = canvas.tissue[box]
    for tissue, less in ((Tissue.BONE, 0.0), (Tissue.MARROW, 1.5)):
        part[oval_depth(x, y, np.maximum(half - less, 0.1), np.array([5.6 - less]), 3.0) > 0] = tissue


# --- spine ---------------------------------------------------------------------------------------------------------


def paint_spine(canvas: Canvas, frame: BodyFrame, rng: np.random.Generator) -> None:
    """Paint vertebral bodies and discs, canal, arches, transverse and spinous processes."""
    lattice = canvas.lattice
    heights = lattice.axis(2).ravel().astype(float)
    course = frame.spine_at(heights)
    low, high = course.min(0) - [46, 92], course.max(0) + [46, 26]
    box = lattice.box(np.append(low, heights[0]), np.append(high, heights[-1]))
    if any(s.stop <= s.start for s in box):
        return
    x = lattice.axis(0)[box[0]] - course[None, None, :, 0].astype(np.float32)
    y = lattice.axis(1)[:, box[1]] - course[None, None, :, 1].astype(np.float32)
    head = rib_heads(frame)[0]
    phase = np.mod((heights - head) / frame.pitch + 0.12, 1.0).astype(np.float32)  # a disc at the ribs' heads
    grow = (1.0 + 0.0011 * np.clip(head - heights, 0, 400)).astype(np.float32) * np.float32(rng.uniform(0.86, 1.02))
    part = canvas.tissue[box]
    _paint_arches(part, x / grow, y / grow, phase)
    waist = 1.0 - 0.09 * np.exp(-np.square((phase - 0.62) / 0.16))
    r = (np.abs(x) / 16.5) ** 2.4 + (np.abs(y) / 13.5) ** 2.4
    r = r ** (1 / 2.4) / (grow * waist)
    disc = (np.abs(phase - 0.12) < 0.1) | np.zeros_like(r, bool)
    body = r < 1.0
    part[body] = Tissue.BONE
    shell = 1.0 - 1.3 / 15.0
    inner = (r < shell) & (np.abs(phase - 0.12) > 0.145) & (np.abs(phase - 1.12) > 0.145)
    part[inner] = Tissue.MARROW
    part[body & disc] = Tissue.DISC


def _paint_arches(part: np.ndarray, x: np.ndarray, y: np.ndarray, phase: np.ndarray) -> None:
    """Paint the parts of the vertebrae behind their bodies into ``part``, a box of the canvas.

    ``x`` and ``y`` (mm) run from the body's middle, scaled to a vertebra of average size; ``phase`` (0 to 1) is the
    height within one vertebra and its disc.
    """
    back = y + 22.0
    ring = np.sqrt(np.square(x) + np.square(back))
    level = np.abs(phase - 0.62)
    pedicle = (np.abs(np.abs(x) - 11.0) < 3.6) & (y < -8) & (y > -26) & (np.abs(phase - 0.75) < 0.2)
    lamina = (ring < 14.0) & (back < 3.0) & (level < 0.36 - 0.01 * np.abs(x))
    drop = np.mod(phase - (y + 34.0) * 0.012, 1.0)
    spinous = (np.abs(x) < 3.0 + 1.2 * (y < -56)) & (y < -32) & (y > -64) & (np.abs(drop - 0.45) < 0.24)
    along = (np.abs(x) - 10.0) * 0.55
    transverse = (np.abs(y + 22.0 + along) < 5.0) & (np.abs(x) > 9) & (np.abs(x) < 33) & (np.abs(phase - 0.8) < 0.19)
    bone = (pedicle | lamina | spinous | transverse) & (part != Tissue.OUTSIDE) & (part != Tissue.SKIN)
    part[bone] = Tissue.BONE
    core = (np.abs(np.abs(x) - 11.0) < 2.2) & pedicle & (np.abs(phase - 0.75) < 0.13)
    core |= transverse & (np.abs(y + 22.0 + along) < 3.2) & (np.abs(x) < 31) & (np.abs(phase - 0.8) < 0.13)
    core |= spinous & (np.abs(x) < 1.8) & (np.abs(drop - 0.45) < 0.17)
    part[core & bone] = Tissue.MARROW
    part[ring < 9.5] = Tissue.FAT
    part[ring < 8.6] = Tissue.CORD


# --- shoulders, arms, table ----------------------------------------------------------------------------------------


def paint_shoulders(canvas: Canvas, frame: BodyFrame, trunk: Trunk, rng: np.random.Generator) -> None:
    """Paint collar bones, shoulder blades and upper arms, raised or beside the chest."""
    if canvas.lattice.origin[2] + canvas.lattice.spacing * canvas.lattice.shape[2] < frame.top - 170.0:
        return
    _paint_blades(canvas, frame, trunk, rng)
    notch = frame.top - 34.0
    _, front, _ = frame.cavity(np.array([notch]))
    for side in (1.0, -1.0):
        joint = np.array([frame.middle[0] + side * (frame.half_width + 12.0), frame.spine_at(frame.top)[1] + 22.0,
                          frame.top - 12.0 + (0.0 if frame.arms_down else 14.0)])  # fmt: skip
        inner = np.array([frame.middle[0] + side * 20.0, front[0] + 6.0, notch + 8.0])
        course = [inner, inner + [side * 45, 4.0, 12.0], 0.4 * inner + 0.6 * joint + [0, 6, 16], joint + [0, 4, 24.0]]
        canvas.paint_tube(course, [7.0, 5.5, 5.5, 6.5], Tissue.BONE, over=SOFT_TISSUES)
        canvas.paint_tube(course, [5.2, 3.2, 3.2, 4.5], Tissue.MARROW, over=(Tissue.BONE,))
        end = joint + ([side * 30, 6.0, -320.0] if frame.arms_down else [side * 40.0, 24.0, 250.0])
        _paint_arm(canvas, frame, joint, end, side)


def _paint_arm(canvas: Canvas, frame: BodyFrame, joint: np.ndarray, end: np.ndarray, side: float) -> None:
    """Paint an upper arm from ``joint`` to ``end`` (mm)."""
    reach = 46.0 + 0.4 * frame.fat
    start = joint + [side * 14, 0, 0]
    for tissue, less in ((Tissue.SKIN, 0.0), (Tissue.FAT, 2.0), (Tissue.MUSCLE, 4.0 + 0.5 * frame.fat)):
        over = (Tissue.OUTSIDE,) if tissue == Tissue.SKIN else SOFT_TISSUES
        canvas.paint_tube(
            [start, (start + end) / 2, end], [reach - less, reach * 0.9 - less, reach * 0.8 - less], tissue, over
        )
    for tissue, less in ((Tissue.BONE, 0.0), (Tissue.MARROW, 2.6)):
        canvas.paint_capsule(joint, joint + [side * 4, 0, 0], 23.0 - 0.6 * less, 22.0 - 0.6 * less, tissue)
        canvas.paint_tube(
            [joint + [side * 6, 0, -4], (joint + end) / 2, end], [12.0 - less, 10.5 - less, 10.5 - less], tissue
        )


def _paint_blades(canvas: Canvas, frame: BodyFrame, trunk: Trunk, rng: np.random.Generator) -> None:
    """Paint the shoulder blades: triangular plates behind the upper ribs, their long edge towards the spine."""
    lattice = canvas.lattice
    gap = CAGE_MM + rng.uniform(8.0, 13.0)
    low = np.array([frame.middle[0] - frame.half_width - 60, frame.middle[1] - frame.half_depth - 70, frame.top - 165])
    high = np.array([frame.middle[0] + frame.half_width + 60, frame.middle[1] + 10.0, frame.top + 5])
    box = lattice.box(low, high)
    if any(s.stop <= s.start for s in box):
        return
    out, degrees = canvas.upsample(trunk.outside, box=box), canvas.upsample(_angle(canvas, frame), box=box)
    part = canvas.tissue[box]
    down = (frame.top - 10.0) - lattice.axis(2)[..., box[2]]
    turned = 0.0 if frame.arms_down else 0.14
    arc = (degrees + 62.0) * 2.0  # about millimetres along the cage from near the spine
    inner = turned * down
    outer = 96.0 - 0.55 * down + turned * down
    plate = (arc > inner) & (arc < outer) & (down > 0) & (down < 150)
    edge = np.minimum(arc - inner, outer - arc)
    thick = np.where(edge < 9.0, 4.5, 2.4).astype(np.float32)
    bone = plate & (np.abs(out - gap) < thick)
    bone &= np.isin(part, [int(t) for t in SOFT_TISSUES])
    part[plate & (np.abs(out - gap) < 13.0) & (part == Tissue.FAT)] = Tissue.MUSCLE
    part[bone] = Tissue.BONE
    part[bone & (thick > 3.0) & (np.abs(out - gap) < thick - 1.9)] = Tissue.MARROW


def paint_table(canvas: Canvas, frame: BodyFrame, trunk: Trunk, rng: np.random.Generator) -> None:
    """Paint a flat or curved table top with a mattress, and at times a blanket, into the air."""
    lattice: Lattice = canvas.lattice
    y = lattice.axis(1)
    middle = frame.middle[0] + rng.normal(0, 8)
    back = float(frame.spine_at(0.0)[1] - 70.0 - 0.4 * frame.muscle - 0.7 * frame.fat)
    curve = rng.choice([0.0, 0.0007, 0.0012]) * np.square(lattice.axis(0) - middle)
    level = back - rng.uniform(6, 30) + curve
    empty = canvas.tissue == Tissue.OUTSIDE
    if rng.random() < 0.85:
        sheet = np.abs(y - level) < rng.uniform(1.5, 3.0)
        sheet |= np.abs(y - level + rng.uniform(18, 45)) < 2.0
        canvas.tissue[empty & sheet & (np.abs(lattice.axis(0) - middle) < 260)] = Tissue.TABLE
    if rng.random() < 0.3:
        cloth = canvas.upsample(trunk.depth + 7.0 * canvas.noise(rng, 14.0))
        canvas.tissue[empty & (np.abs(cloth + rng.uniform(9, 16)) < 0.9)] = Tissue.TABLE

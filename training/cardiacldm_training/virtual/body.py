"""The body around a virtual heart: the aorta's further course, thorax, lungs, spine, ribs, abdomen, fat and skin.

The body is fitted to the heart, not the heart to the body: the spine lies behind the descending aorta, the chest is
wide and deep enough for the heart, the diaphragm carries it. Millimetres in RAS, the heart's centre near the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, VALUE

from .anatomy import Heart, near
from .shapes import Lattice, inside_tube, smooth_field, smooth_path, unit
from .tissue import Body, Tissue

#: From the hindmost point of the heart to the middle of the vertebral bodies, at least (their radius and oesophagus).
SPINE_BEHIND_MM = 25.0


@dataclass(frozen=True)
class Frame:
    """Where the body lies around its heart, mm."""

    spine: np.ndarray  # (2,) x, y of the vertebral bodies
    middle: np.ndarray  # (2,) x, y of the thoracic cavity
    half_width: float
    half_depth: float
    fat: float
    muscle: float
    top: float  # z of the lungs' tips
    aorta: np.ndarray  # (N, 4) course of the aorta below the arch


# --- the aorta's further course ------------------------------------------------------------------------------------


def aorta_course(heart: Heart, rng: np.random.Generator) -> np.ndarray:
    """(N, 4) path of the aorta from where the heart's labels end (after arch or ascending part) down to the abdomen."""
    points = heart.lattice.origin + heart.lattice.spacing * np.argwhere(heart.labels == VALUE["AO"])
    behind = points[points[:, 1] < heart.centre("LA")[1] - 6.0]
    slab = 2.0 * heart.lattice.spacing
    if len(behind) * heart.lattice.spacing**3 > 1500.0:
        end = behind[behind[:, 2] < behind[:, 2].min() + slab + 4.0]
        start = end.mean(0)
        radius = float(np.clip(np.sqrt(len(end) * heart.lattice.spacing**3 / ((slab + 4.0) * np.pi)), 8.0, 13.5))
        arch = np.empty((0, 4))
    else:
        top = points[points[:, 2] > points[:, 2].max() - slab]
        above = top.mean(0)
        rise = rng.uniform(10.0, 26.0)
        course = above + np.array([[0, 0, -6], [-3, -8, rise * 0.8], [-14, -30, rise], [-26, -50, rise * 0.4]])
        start = above + np.array([-27.0, -58.0, -22.0])
        radius = float(rng.uniform(9.5, 13.5))
        arch = np.column_stack([course, np.linspace(1.2, 1.05, 4) * radius])
    drift = rng.normal(0.0, 5.0, 2)
    down = [
        [*start, radius],
        [start[0] + 0.2 * drift[0], start[1] - 2.0, start[2] - 30.0, radius],
        [start[0] + 0.6 * drift[0] + 3.0, start[1] + 0.4 * drift[1], start[2] - 110.0, radius * 0.96],
        [start[0] + drift[0] + 8.0, start[1] + drift[1] + 4.0, start[2] - 260.0, radius * 0.88],
    ]
    knots = np.vstack([arch, down])
    return smooth_path(knots[:, :3], knots[:, 3])


def with_aorta(heart: Heart, rng: np.random.Generator) -> Heart:
    """The heart with its aorta led on to the lower end of its lattice, wherever no other structure lies."""
    labels = heart.labels.copy()
    box, mask = inside_tube(heart.lattice, aorta_course(heart, rng))
    labels[box][mask & (labels[box] == 0)] = VALUE["AO"]
    return Heart(labels, heart.lattice, heart.source)


# --- fitting the body ----------------------------------------------------------------------------------------------


def draw_frame(heart: Heart, rng: np.random.Generator) -> Frame:
    """Thorax and spine that fit the heart: behind its aorta, around its chambers."""
    chambers = np.isin(heart.labels, [VALUE[name] for name in HEART])
    points = heart.lattice.origin + heart.lattice.spacing * np.argwhere(chambers)
    low, high = points.min(0), points.max(0)
    aorta = _descending(heart)
    spine = aorta[:2] + unit([0.65, -0.76]) * (aorta[3] + rng.uniform(18.0, 24.0))
    spine[1] = min(spine[1], _back_of_heart(heart, spine[0]) - SPINE_BEHIND_MM)
    back = spine[1] - rng.uniform(14.0, 26.0)
    front = high[1] + rng.uniform(6.0, 22.0)
    half_depth = (front - back) / 2
    middle = np.array([spine[0] + rng.normal(0, 4), (front + back) / 2])
    needed = max(abs(low[0] - middle[0]), abs(high[0] - middle[0])) + 10.0
    half_width = max(half_depth * rng.uniform(1.25, 1.6), needed)
    below = np.column_stack([np.tile(aorta[:2], (2, 1)), [aorta[2] + 4, aorta[2] - 300.0], [aorta[3]] * 2])
    return Frame(spine, middle, half_width, half_depth, rng.uniform(5, 34), rng.uniform(8, 22),
                 high[2] + rng.uniform(70, 120), smooth_path(below[:, :3], below[:, 3]))  # fmt: skip


def _back_of_heart(heart: Heart, x: float) -> float:
    """The hindmost y (mm) of heart and pulmonary artery in front of a spine at ``x``."""
    index = np.argwhere(np.isin(heart.labels, [VALUE[name] for name in (*HEART, "PA")]))
    points = heart.lattice.origin + heart.lattice.spacing * index
    return float(points[np.abs(points[:, 0] - x) < 34.0, 1].min(initial=np.inf))


def _descending(heart: Heart) -> np.ndarray:
    """(4,) middle and radius of the aorta where it leaves the heart's lattice at the bottom."""
    index = np.argwhere(heart.labels == VALUE["AO"])
    last = index[index[:, 2] == index[:, 2].min()]
    radius = max(np.sqrt(len(last) / np.pi) * heart.lattice.spacing, 7.0)
    return np.append(heart.lattice.origin + heart.lattice.spacing * last.mean(0), radius)


# --- painting ------------------------------------------------------------------------------------------------------


class Canvas:
    """Tissue codes (uint8) on a lattice, and brushes for it."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.tissue = np.zeros(lattice.shape, dtype=np.uint8)
        self.x, self.y, self.z = (lattice.axis(a) for a in range(3))

    def paint(self, mask: np.ndarray, tissue: Tissue) -> None:
        self.tissue[mask] = tissue

    def tube(self, points: object, radii: list[float], tissue: Tissue, over: tuple[Tissue, ...] | None = None) -> None:
        """A tube along a smooth path; ``over`` limits it to voxels of these tissues."""
        path = smooth_path(np.asarray(points, dtype=float), radii, step=max(1.5, self.lattice.spacing))
        box, mask = inside_tube(self.lattice, path)
        if over is not None:
            mask &= np.isin(self.tissue[box], over)
        self.tissue[box][mask] = tissue


def _oval(canvas: Canvas, middle: np.ndarray, half: tuple[float, float], taper: np.ndarray) -> np.ndarray:
    """Superellipse in every slice, below 1 inside; ``taper`` (1, 1, K) scales its half axes."""
    power = 2.4
    x = np.abs((canvas.x - np.float32(middle[0])) / half[0]) ** power
    y = np.abs((canvas.y - np.float32(middle[1])) / half[1]) ** power
    return ((x + y) / taper**power) ** (1 / power)


def paint_body(heart: Heart, lattice: Lattice, frame: Frame, rng: np.random.Generator) -> Body:
    """Heart and body on ``lattice``, whose voxels fall on those of the heart's."""
    canvas = Canvas(lattice)
    labels = _placed(heart, lattice, frame)
    hull = _hull(labels, lattice.spacing)
    cavity = _chest_wall(canvas, frame, rng)
    above = _above_diaphragm(canvas, frame, hull, rng)
    _abdomen(canvas, cavity & ~above, frame, rng)
    _lungs(canvas, cavity & above, hull, frame, rng)
    _spine(canvas, frame, rng)
    _airways(canvas, frame, heart, rng)
    _veins(canvas, heart, frame, rng)
    _lung_vessels(canvas, heart, rng)
    canvas.paint(hull & np.isin(canvas.tissue, [Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.LIVER, Tissue.GAS,
                                               Tissue.STOMACH, Tissue.SPLEEN]), Tissue.FAT)  # fmt: skip
    blood = np.isin(labels, [VALUE[n] for n in ("LA", "RA", "RV", "LAA", "AO", "PA")])
    wall = near(blood, rng.uniform(1.2, 2.6), lattice.spacing)
    canvas.paint(
        wall & ~np.isin(canvas.tissue, [Tissue.CAVA, Tissue.INFERIOR_CAVA, Tissue.PULMONARY_VEIN]), Tissue.WALL
    )
    inside = labels > 0
    canvas.tissue[inside] = labels[inside]
    return Body(canvas.tissue, np.where(canvas.tissue <= max(VALUE.values()), canvas.tissue, 0).astype(np.uint8))


def _placed(heart: Heart, lattice: Lattice, frame: Frame) -> np.ndarray:
    """The heart's labels on the body's lattice, the aorta led on below."""
    out = np.zeros(lattice.shape, dtype=np.uint8)
    shift = np.rint((heart.lattice.origin - lattice.origin) / lattice.spacing).astype(int)
    start, stop = np.maximum(shift, 0), np.minimum(shift + heart.labels.shape, lattice.shape)
    if (stop > start).all():
        target = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        source = tuple(slice(a, b) for a, b in zip(start - shift, stop - shift, strict=True))
        out[target] = heart.labels[source]
    box, mask = inside_tube(lattice, frame.aorta)
    bottom = heart.lattice.origin[2] - heart.lattice.spacing / 2
    mask &= lattice.axis(2)[..., box[2]] < bottom
    out[box][mask] = VALUE["AO"]
    return out


def _hull(labels: np.ndarray, spacing: float) -> np.ndarray:
    """The pericardial sac: the chambers' outline, smoothed so that the grooves between them are filled with fat."""
    chambers = np.isin(labels, [VALUE[name] for name in (*HEART, "PA")]).astype(np.float32)
    return ndimage.gaussian_filter(chambers, 7.0 / spacing, truncate=2.5) > 0.24


def _chest_wall(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Skin, fat, muscle, ribs and sternum; returns the thoracic and abdominal cavity."""
    z = canvas.z
    narrowing = 1.0 - 0.55 * np.clip((z - frame.top + 60.0) / 70.0, 0.0, 1.0) ** 2
    taper = (narrowing * (1.0 + 0.0006 * np.clip(-z, 0, 150))).astype(np.float32)
    cavity = _oval(canvas, frame.middle, (frame.half_width, frame.half_depth), taper)
    rib = rng.uniform(8.0, 12.0)
    shell = rib + frame.muscle
    outer = (frame.half_width + shell + 0.6 * frame.fat, frame.half_depth + shell * 0.8 + frame.fat)
    middle = frame.middle + np.array([0.0, -0.25 * frame.muscle])
    skin = _oval(canvas, middle, outer, np.maximum(taper, 0.8).astype(np.float32))
    canvas.paint(skin < 1.0, Tissue.SKIN)
    canvas.paint(skin < 1.0 - 2.5 / outer[1], Tissue.FAT)
    depth = (frame.half_depth + shell * 0.8) / frame.half_depth
    width = (frame.half_width + shell) / frame.half_width
    ragged = 1.0 + 0.02 * smooth_field(rng, canvas.lattice.shape, 12.0 / canvas.lattice.spacing)
    canvas.paint(cavity * ragged < (depth + width) / 2, Tissue.MUSCLE)
    _ribs(canvas, cavity, rib / frame.half_depth, frame, rng)
    if rng.random() < 0.5:
        table = frame.middle[1] - outer[1] - rng.uniform(4, 14) + 0.0009 * np.square(canvas.x - frame.middle[0])
        canvas.paint((np.abs(canvas.y - table) < 4.0) & (canvas.tissue == Tissue.OUTSIDE) & (z > -1e4), Tissue.TABLE)
    return cavity < 1.0


def _ribs(canvas: Canvas, cavity: np.ndarray, thickness: float, frame: Frame, rng: np.random.Generator) -> None:
    """Slanting bands in the chest wall, cartilage in front, and the sternum."""
    period, slope = rng.uniform(24, 32), rng.uniform(0.35, 0.7)
    height = canvas.z + slope * (canvas.y - frame.middle[1]) + rng.uniform(0, period)
    phase = np.abs(np.mod(height / period, 1.0) - 0.5)
    shell = (cavity > 1.015) & (cavity < 1.0 + thickness * 0.85) & (canvas.z > -150.0)
    band = shell & (phase < 0.2)
    front = canvas.y > frame.middle[1] + 0.62 * frame.half_depth
    canvas.paint(band & ~front, Tissue.BONE)
    inner = (cavity > 1.015 + 0.28 * thickness) & (cavity < 1.0 + thickness * 0.6) & (phase < 0.12)
    canvas.paint(inner & band & ~front, Tissue.MARROW)
    canvas.paint(band & front, Tissue.CARTILAGE)
    wide = rng.uniform(13, 20)
    plate = (cavity > 1.01) & (cavity < 1.0 + thickness) & (np.abs(canvas.x - frame.middle[0]) < wide) & front
    plate &= (canvas.z > rng.uniform(-50, -25)) & (canvas.z < frame.top - 20)
    canvas.paint(plate, Tissue.BONE)
    core = plate & (cavity > 1.01 + 0.3 * thickness) & (cavity < 1.0 + 0.75 * thickness)
    canvas.paint(core & (np.abs(canvas.x - frame.middle[0]) < wide - 3), Tissue.MARROW)


def _above_diaphragm(canvas: Canvas, frame: Frame, hull: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voxels above the diaphragm: two domes that sink under the heart."""
    lattice = canvas.lattice
    x, y = canvas.x[:, :, 0], canvas.y[:, :, 0]
    floor = np.where(hull.any(2), lattice.origin[2] + lattice.spacing * hull.argmax(2), np.inf)
    seat = float(np.quantile(floor[np.isfinite(floor)], 0.15)) if hull.any() else -60.0
    right = seat + rng.uniform(5, 32)
    left = right - rng.uniform(4, 22)
    domes = []
    for top, side in ((right, 0.48), (left, -0.5)):
        dx = (x - frame.middle[0] - side * frame.half_width) / (0.55 * frame.half_width)
        dy = (y - frame.middle[1] - 0.1 * frame.half_depth) / frame.half_depth
        domes.append(top - 42.0 * dx**2 - 55.0 * dy**2)
    level = np.maximum(*domes)
    under = np.isfinite(floor)
    level = np.where(under, np.minimum(level, floor - 2.0), level)
    level = ndimage.gaussian_filter(level, 5.0 / lattice.spacing)
    level = np.where(under, np.minimum(level, floor - 1.0), level)
    return canvas.z > level[:, :, None]


def _abdomen(canvas: Canvas, region: np.ndarray, frame: Frame, rng: np.random.Generator) -> None:
    """Liver to the right and under the heart, stomach with gas and spleen to the left, fat between."""
    x, y, z = canvas.x - frame.middle[0], canvas.y - frame.middle[1], canvas.z
    wobble = 6.0 * smooth_field(rng, canvas.lattice.shape, 14.0 / canvas.lattice.spacing)
    canvas.paint(region, Tissue.FAT)
    liver_edge = -rng.uniform(10, 60) + 0.25 * np.clip(z + 60, -200, 0)
    canvas.paint(region & (x + wobble > liver_edge) & (y > -0.75 * frame.half_depth), Tissue.LIVER)
    centre = np.array([-0.45 * frame.half_width, 0.15 * frame.half_depth])
    stomach = np.square((x - centre[0]) / rng.uniform(32, 52)) + np.square((y - centre[1]) / rng.uniform(30, 48))
    stomach = region & (stomach + 0.02 * wobble < 1.0) & (canvas.tissue == Tissue.FAT)
    canvas.paint(stomach, Tissue.STOMACH)
    canvas.paint(stomach & (y > centre[1] + rng.uniform(-10, 30)), Tissue.GAS)
    spleen = np.square((x + 0.66 * frame.half_width) / 30) + np.square((y + 0.45 * frame.half_depth) / 36)
    canvas.paint(region & (spleen + 0.02 * wobble < 1.0) & (canvas.tissue == Tissue.FAT), Tissue.SPLEEN)


def _lungs(canvas: Canvas, chest: np.ndarray, hull: np.ndarray, frame: Frame, rng: np.random.Generator) -> None:
    """Fill the chest with mediastinal fat, then both lungs beside the heart."""
    canvas.paint(chest, Tissue.FAT)
    wobble = 5.0 * smooth_field(rng, canvas.lattice.shape, 12.0 / canvas.lattice.spacing)
    front, back = frame.middle[1] + frame.half_depth, frame.spine[1]
    share = np.clip((canvas.y - back) / (front - back), 0.0, 1.0)  # 0 at the spine, 1 at the sternum
    middle = frame.spine[0] * (1 - share) + frame.middle[0] * share
    half = rng.uniform(20, 30) * (1 - share) + rng.uniform(4, 22) * share + 14.0 * np.exp(-((share - 0.5) ** 2) / 0.03)
    column = np.abs(canvas.x - middle + wobble) < half
    lungs = chest & ~column & ~hull
    canvas.paint(lungs, Tissue.LUNG)
    if rng.random() < 0.12:  # pleural effusion, along the back
        level = frame.spine[1] + rng.uniform(-5, 25)
        canvas.paint(lungs & (canvas.y + wobble < level) & (canvas.x > frame.spine[0]), Tissue.STOMACH)


def _spine(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """Vertebral bodies and discs, canal, arches and spinous processes."""
    x, y, z = canvas.x - frame.spine[0], canvas.y - frame.spine[1], canvas.z
    radius = rng.uniform(15, 20)
    r = np.sqrt(np.square(x) + np.square(y * 1.15))
    period = rng.uniform(24, 31)
    phase = np.mod(z / period + rng.random(), 1.0)
    disc = phase < 0.2
    canvas.paint((r < radius) & (z > -1e4), Tissue.BONE)
    canvas.paint((r < radius - 2.5) & (phase > 0.28) & (phase < 0.92), Tissue.MARROW)
    canvas.paint((r < radius) & disc, Tissue.CARTILAGE)
    canal = np.square(x) + np.square(y + radius + 9)
    arch = (canal < 15.0**2) & (y < -radius + 4) & (phase > 0.25) & (phase < 0.8)
    canvas.paint(arch, Tissue.BONE)
    canvas.paint((canal < 9.0**2) & (z > -1e4), Tissue.MUSCLE)
    process = (np.abs(x) < 3.5) & (y < -radius - 18) & (y > -radius - 45) & (np.mod(phase - y / 60, 1.0) < 0.4)
    canvas.paint(process, Tissue.BONE)
    transverse = (np.abs(y + radius + 4) < 5) & (np.abs(x) < 32) & (np.abs(x) > 13) & (phase > 0.35) & (phase < 0.65)
    canvas.paint(transverse, Tissue.BONE)


def _airways(canvas: Canvas, frame: Frame, heart: Heart, rng: np.random.Generator) -> None:
    """Trachea, main bronchi and oesophagus."""
    la = heart.centre("LA")
    pa = heart.extreme("PA", np.array([0.0, 0.0, 1.0]))
    carina = np.array(
        [frame.middle[0] * 0.5 + la[0] * 0.5 + 4.0, la[1] - rng.uniform(4, 12), pa[2] + rng.uniform(0, 8)]
    )
    r = rng.uniform(7, 10)
    top = np.array([frame.middle[0], carina[1] + 4, frame.top + 60])
    canvas.tube([top, carina], [r + 1.5] * 2, Tissue.CARTILAGE)
    canvas.tube([top, carina], [r] * 2, Tissue.AIRWAY)
    for side in (1.0, -1.0):
        end = carina + np.array([side * rng.uniform(38, 52), -6.0, -rng.uniform(22, 40)])
        canvas.tube([carina, (carina + end) / 2 + [0, 0, 3], end], [r * 0.85, r * 0.75, r * 0.6], Tissue.AIRWAY)
    gullet = [[frame.middle[0] - 2, carina[1] - 14, frame.top + 60], [la[0] - 4, la[1] - 30, la[2] + 20],
              [la[0] - 8, la[1] - 32, la[2] - 30], [frame.spine[0] - 18, frame.spine[1] + 34, la[2] - 110]]  # fmt: skip
    size = rng.uniform(6, 9)
    canvas.tube(gullet, [size] * 4, Tissue.OESOPHAGUS, over=(Tissue.FAT, Tissue.MUSCLE, Tissue.LUNG, Tissue.LIVER))
    if rng.random() < 0.3:
        canvas.tube(gullet, [size * 0.35] * 4, Tissue.AIRWAY, over=(Tissue.OESOPHAGUS,))


def _veins(canvas: Canvas, heart: Heart, frame: Frame, rng: np.random.Generator) -> None:
    """Both cavae from the right atrium, four pulmonary veins from the left atrium, the brachiocephalic vein."""
    ra, la = heart.centre("RA"), heart.centre("LA")
    up = heart.extreme("RA", unit([0.15, -0.35, 1.0]), 0.985)
    down = heart.extreme("RA", unit([0.1, -0.3, -1.0]), 0.985)
    r = rng.uniform(8, 12)
    above = np.array([up[0] + 2, up[1] + 2, up[2] + rng.uniform(55, 80)])
    canvas.tube([0.6 * up + 0.4 * ra, up + [0, 0, 6], above], [r * 1.1, r, r * 0.95], Tissue.CAVA)
    across = np.array([frame.middle[0] - 45.0, above[1] + 14.0, above[2] + 22.0])
    canvas.tube([above, (above + across) / 2 + [0, 8, 4], across], [r * 0.9, r * 0.7, r * 0.7], Tissue.CAVA)
    low = np.array([down[0] - 4, down[1] - 12, down[2] - 40.0])
    canvas.tube([0.6 * down + 0.4 * ra, down + [0, -3, -8], low, low + [-2, -8, -200]], [r, r * 1.1, r * 1.2, r * 1.1],
                Tissue.INFERIOR_CAVA)  # fmt: skip
    for x, z in ((1.0, 0.35), (1.0, -0.35), (-1.0, 0.35), (-1.0, -0.35)):
        start = heart.extreme("LA", unit([x, -0.45, z]), 0.985)
        size = rng.uniform(4.5, 7.0)
        end = start + np.array([x * rng.uniform(30, 48), -rng.uniform(6, 22), z * rng.uniform(30, 70)])
        canvas.tube([0.7 * start + 0.3 * la, start, 0.5 * (start + end) + [0, -2, 0], end],
                    [size * 1.2, size, size * 0.85, size * 0.6], Tissue.PULMONARY_VEIN)  # fmt: skip


def _lung_vessels(canvas: Canvas, heart: Heart, rng: np.random.Generator) -> None:
    """Branching vessels from both ends of the pulmonary artery into the lungs."""
    for x in (1.0, -1.0):
        root = heart.extreme("PA", unit([x, -0.4, -0.1]), 0.985)
        for _ in range(int(rng.integers(9, 15))):
            heading = unit([x * rng.uniform(0.3, 1.0), rng.normal(0, 0.7), rng.normal(-0.25, 0.75)])
            point, radius = root, rng.uniform(2.5, 6.0)
            for _ in range(3):
                end = point + heading * rng.uniform(18, 34)
                canvas.tube([point, end], [radius, radius * 0.75], Tissue.LUNG_VESSEL, over=(Tissue.LUNG, Tissue.FAT))
                twig = unit(heading + 0.7 * rng.standard_normal(3))
                canvas.tube(
                    [end, end + twig * 22], [radius * 0.5, radius * 0.3], Tissue.LUNG_VESSEL, over=(Tissue.LUNG,)
                )
                point, radius, heading = end, radius * 0.72, unit(heading + 0.35 * rng.standard_normal(3))

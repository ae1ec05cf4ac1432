"""What lies on the heart (fat, pericardium, walls, coronary and pulmonary vessels) and in it (muscles, ridges, valves).

Labels are not touched: a papillary muscle or a leaflet belongs to the cavity in which it stands, veins to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, VALUE

from ..shapes import Lattice, perpendicular, random_field, unit
from ..tissue import Tissue
from .canvas import Box, Canvas, blurred
from .frame import Frame, Marks
from .lungs import vein_ends

#: What the fat around the heart may take the place of.
YIELDING = (
    Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.PULMONARY_VEIN, Tissue.LIVER, Tissue.SPLEEN, Tissue.STOMACH, Tissue.SOFT,
    Tissue.BOWEL, Tissue.GAS, Tissue.FLUID, Tissue.COLLAPSED_LUNG, Tissue.VEIN,
)  # fmt: skip
#: What a vessel on the heart's surface may lie in.
AROUND = (Tissue.FAT, Tissue.WALL, Tissue.PERICARDIUM, Tissue.FLUID, Tissue.LUNG, Tissue.MUSCLE)


class Pools:
    """The labels (uint8) on the canvas, and the boxes that hold them, found once."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self._boxes = ndimage.find_objects(labels, max_label=len(VALUE))

    def box(self, names: tuple[str, ...], margin: int) -> Box | None:
        """The box around some structures and ``margin`` voxels more; none if none of them is in the scan."""
        found = [b for n in names if (b := self._boxes[VALUE[n] - 1]) is not None]
        if not found:
            return None
        x, y, z = (slice(max(min(b[a].start for b in found) - margin, 0), max(b[a].stop for b in found) + margin)
                   for a in range(3))  # fmt: skip
        return x, y, z


@dataclass(frozen=True)
class Sac:
    """The pericardial sac on a coarse lattice around the heart: millimetres ``inside``, thinned ``labels``.

    ``grooves`` are where vessels may run: outside all structures, but within a tight outline of the chambers.
    """

    lattice: Lattice
    labels: np.ndarray
    inside: np.ndarray
    grooves: np.ndarray

    def spread(self, *names: str, mm: float = 4.0) -> np.ndarray:
        """How much of some structures lies around each point, 0 to 1."""
        return blurred(np.isin(self.labels, [VALUE[n] for n in names]), mm, self.lattice.spacing)

    def points(self) -> np.ndarray:
        return self.lattice.points()


def draw_sac(marks: Marks, rng: np.random.Generator) -> Sac:
    """The chambers' outline smoothed so that the grooves between them are filled with fat."""
    lattice, labels = marks.lattice, marks.labels
    heart = np.isin(labels, [VALUE[n] for n in (*HEART, "PA")])
    hull = blurred(heart, rng.uniform(4.5, 9.0), lattice.spacing) > rng.uniform(0.15, 0.33)
    distance = ndimage.distance_transform_edt(hull) - ndimage.distance_transform_edt(~hull)
    inside = blurred(distance * lattice.spacing, 3.0, lattice.spacing) + rng.uniform(-1.0, 4.0)
    share = blurred(heart, 6.0, lattice.spacing)
    return Sac(lattice, labels, inside.astype(np.float32), (labels == 0) & (share > 0.28) & (share < 0.72))


def paint_on_heart(
    canvas: Canvas, marks: Marks, pools: Pools, frame: Frame, rng: np.random.Generator, veins: bool = True
) -> None:
    """Fat, pericardium and effusion, the thin walls, coronary vessels; with ``veins`` the pulmonary veins' trunks."""
    sac = draw_sac(marks, rng)
    _fat_and_pericardium(canvas, sac, frame, rng)
    _walls(canvas, pools, rng)
    if veins:
        _pulmonary_veins(canvas, marks, rng)
    _coronaries(canvas, marks, sac, rng)


def _fat_and_pericardium(canvas: Canvas, sac: Sac, frame: Frame, rng: np.random.Generator) -> None:
    noise = random_field(rng, sac.labels.shape, 14.0 / sac.lattice.spacing)
    z, y = sac.lattice.axis(2), sac.lattice.axis(1)
    low_front = np.clip((frame.seat + 55 - z) / 60, 0, 1) * np.clip((y + 10) / 40, 0, 1)
    plenty = rng.uniform(0.0, 0.3) * frame.fat
    outer = sac.inside + plenty * np.clip(0.5 + noise, 0, None) * (0.4 + 1.4 * low_front)
    canvas.fill(outer, Tissue.FAT, over=YIELDING, lattice=sac.lattice)
    box = canvas.box_of(sac.inside + 3.0, sac.lattice)
    if box is None:
        return
    depth = canvas.fine(sac.inside, sac.lattice, box)
    part = canvas.tissue[box]
    if rng.random() < 0.22:
        pool = rng.uniform(1.5, 6.0) * (0.2 + np.clip((frame.seat + 45 - z) / 70, 0, 1) + np.clip(-y / 70, 0, 0.7))
        wet = (depth > 0) & (depth < canvas.fine(np.broadcast_to(pool, sac.inside.shape) + noise, sac.lattice, box))
        part[wet & (part == Tissue.FAT)] = Tissue.FLUID
    seen = canvas.fine(noise + rng.uniform(-0.3, 1.2), sac.lattice, box) > 0
    line = np.abs(depth) < rng.uniform(0.35, 0.75)
    part[line & seen & (part == Tissue.FAT)] = Tissue.PERICARDIUM


def thickened(pools: Pools, names: tuple[str, ...], mm: float, spacing: float) -> tuple[Box, np.ndarray] | None:
    """Box and mask of everything within about ``mm`` of some structures, themselves included; none if none is there."""
    box = pools.box(names, int(mm / spacing) + 2)
    if box is None:
        return None
    sigma = max(mm, 0.8 * spacing)
    share = blurred(np.isin(pools.labels[box], [VALUE[n] for n in names]), sigma, spacing)
    return box, share > 0.5 * (1.0 - erf(mm / sigma / np.sqrt(2.0)))


def _walls(canvas: Canvas, pools: Pools, rng: np.random.Generator) -> None:
    """Thin muscle around atria, right ventricle and great vessels, except where veins open into them."""
    spacing = canvas.lattice.spacing
    keep = (Tissue.CAVA, Tissue.INFERIOR_CAVA, Tissue.AO, Tissue.AIRWAY, Tissue.AIRWAY_WALL, Tissue.BONE,
            Tissue.MARROW, Tissue.DISC)  # fmt: skip
    thin, right = rng.uniform(0.9, 2.2), rng.uniform(2.0, 4.5)
    for names, mm in ((("LA", "LAA", "RA", "AO", "PA"), thin), (("RV",), right)):
        if (found := thickened(pools, names, mm, spacing)) is not None:
            box, mask = found
            canvas.tissue[box][mask & ~canvas.over(box, keep)] = Tissue.WALL


def _pulmonary_veins(canvas: Canvas, marks: Marks, rng: np.random.Generator) -> None:
    """Four trunks from the left atrium (at times one in common on the left) to where the lungs' veins begin."""
    centre = marks.centre("LA")
    common = rng.random() < 0.2
    over = (*AROUND, *YIELDING)
    for side in (1.0, -1.0):
        ends = vein_ends(marks, side)
        ostia = [marks.extreme("LA", unit([side, -0.4, z])) for z in (0.5, -0.4)]
        if common and side < 0:
            ostia = [0.5 * (ostia[0] + ostia[1]) + [side * 3.0, 0, 0]] * 2
        for ostium, end in zip(ostia, ends, strict=True):
            r = rng.uniform(5.0, 8.0)
            start = 0.65 * ostium + 0.35 * centre
            canvas.tube([start, ostium, 0.45 * ostium + 0.55 * end, end], [1.15 * r, r, 0.8 * r, 0.62 * r],
                        Tissue.PULMONARY_VEIN, over)  # fmt: skip


# --- coronary vessels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axes:
    """The left ventricle's own directions: ``base`` (mm), unit vectors to apex, septum and front, its length."""

    base: np.ndarray
    apex: np.ndarray
    septum: np.ndarray
    front: np.ndarray
    length: float


def left_axes(marks: Marks) -> Axes:
    """Axes of the left ventricle from its labels."""
    cavity, middle = marks.points("LV"), marks.centre("LV")
    apex = unit(middle - marks.centre("LA"))
    along = cavity @ apex
    base = middle + apex * (np.quantile(along, 0.02) - middle @ apex)
    tip = cavity[along >= np.quantile(along, 0.99)].mean(0)
    axis = unit(tip - base)
    septum = perpendicular(marks.centre("RV") - middle, axis)
    front = np.cross(axis, septum)
    return Axes(
        base, axis, septum, front * np.sign(front @ np.array([-0.2, 0.7, 0.7])), float(np.linalg.norm(tip - base))
    )


def _groove(
    sac: Sac, first: tuple[str, ...], second: tuple[str, ...], bins: np.ndarray, edges: np.ndarray
) -> np.ndarray:  # fmt: skip
    """(N, 3) course of the groove between two structures, one point for each bin of ``bins`` that holds any of it."""
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


def _coronaries(canvas: Canvas, marks: Marks, sac: Sac, rng: np.random.Generator) -> None:
    """Left main, anterior descending, circumflex and right coronary artery; great cardiac vein and coronary sinus."""
    axes = left_axes(marks)
    points = sac.points() - axes.base.astype(np.float32)
    along, ahead = points @ axes.apex, points @ axes.front
    aside = points @ axes.septum
    root = _root(marks)
    r = rng.uniform(1.3, 2.3)
    bins = np.where(ahead > 0, along, -1e3)
    descending = _groove(sac, ("MYO",), ("RV",), bins, np.linspace(-0.05, 1.15, 9) * axes.length)
    inferior = _groove(sac, ("MYO",), ("RV",), np.where(ahead < 0, along, -1e3), np.linspace(0, 0.9, 6) * axes.length)
    angle = np.rad2deg(np.arctan2(-aside, ahead))  # 0 in front, 90 on the free wall, 180 behind
    left = _groove(sac, ("LA", "LAA"), ("MYO",), angle, np.linspace(10, 190, 9))
    right = _right_groove(marks, sac, root)
    trunk = root + 14.0 * unit([-1.0, 0.25, 0.35])
    for course, start, size in ((descending, trunk, r), (left, trunk, 0.9 * r), (right, root + [8.0, 12.0, 4.0], r),
                                (inferior, None, 0.65 * r)):  # fmt: skip
        if len(course) < 3:
            continue
        knots = course if start is None else np.vstack([start, course])
        canvas.tube(knots, np.linspace(size, 0.55 * size, len(knots)), Tissue.CORONARY_ARTERY, AROUND)
    canvas.tube([root, trunk], [1.3 * r, 1.2 * r], Tissue.CORONARY_ARTERY, AROUND)
    _coronary_sinus(canvas, marks, left, rng)


def _root(marks: Marks) -> np.ndarray:
    """Middle of the aortic root, a little above the valve, mm."""
    at = np.argwhere(marks.labels == VALUE["AO"])
    distance = (ndimage.distance_transform_edt(marks.labels != VALUE["LV"]) * marks.lattice.spacing)[tuple(at.T)]
    near = at[(distance > 6.0) & (distance < 22.0)]
    near = near if len(near) else at[distance.argsort()[:20]]
    return np.asarray(marks.lattice.origin + marks.lattice.spacing * near.mean(0))


def _right_groove(marks: Marks, sac: Sac, root: np.ndarray) -> np.ndarray:
    """Course of the groove between right atrium and ventricle, from the aorta round the right side to the crux."""
    ra, rv = marks.centre("RA"), marks.centre("RV")
    normal = unit(rv - ra)
    centre = 0.5 * (ra + rv)
    first = perpendicular(root - centre, normal)
    away = np.cross(normal, first)
    away *= np.sign(away @ (centre - marks.centre("LV"))) or 1.0
    offset = sac.points() - centre.astype(np.float32)
    angle = np.rad2deg(np.arctan2(offset @ away, offset @ first))
    return _groove(sac, ("RA",), ("RV",), np.mod(angle + 40.0, 360.0), np.linspace(45, 250, 10))


def _coronary_sinus(canvas: Canvas, marks: Marks, groove: np.ndarray, rng: np.random.Generator) -> None:
    """The great cardiac vein along the left groove, widening into the sinus that opens into the right atrium."""
    if len(groove) < 4:
        return
    points = marks.points("RA")
    mouth = points[np.argmin(np.square(points - groove[-1]).sum(1))]
    out = groove[len(groove) // 2 - 1 :] + 2.5 * unit(marks.centre("LA") - marks.centre("LV"))
    knots = np.vstack([out, mouth])
    r = rng.uniform(3.0, 6.0)
    canvas.tube(knots, np.linspace(0.5 * r, r, len(knots)), Tissue.CORONARY_VEIN, AROUND)


# --- inside the cavities -------------------------------------------------------------------------------------------


def paint_within(canvas: Canvas, marks: Marks, pools: Pools, rng: np.random.Generator) -> None:
    """Papillary muscles, trabeculae, pectinate ridges, moderator band and valves, in the blood of their cavities."""
    axes = left_axes(marks)
    _valves(canvas, marks, pools, axes, rng)
    kinds = (("LV", 2.2, rng.uniform(0.4, 2.6), 0.4), ("RV", 2.8, rng.uniform(1.2, 4.0), 0.2),
             ("RA", 2.2, rng.uniform(0.5, 2.8), 0.5), ("LAA", 1.7, rng.uniform(0.5, 1.8), 0.5))  # fmt: skip
    for name, coarse, thick, share in kinds:
        _ridges(canvas, marks, pools, axes, name, coarse, thick, share, rng)
    _papillaries(canvas, marks, axes, rng)
    _moderator_band(canvas, marks, axes, rng)


def _ridges(
    canvas: Canvas, marks: Marks, pools: Pools, axes: Axes, name: str, grain_mm: float, thick: float,
    threshold: float, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Muscle bundles on the inside of a cavity's wall, away from its valves and from smooth parts."""
    box, lattice = pools.box((name,), 1), canvas.lattice
    if box is None:
        return
    here = pools.labels[box] == VALUE[name]
    open_to = np.isin(pools.labels[box], [VALUE[n] for n in ("LA", "LV", "RA", "RV", "AO", "PA", "LAA")]) & ~here
    depth = ndimage.distance_transform_edt(here | open_to, sampling=lattice.spacing)
    grain = random_field(rng, here.shape, grain_mm / lattice.spacing)
    reach = np.float32(thick) * np.clip(grain - threshold, 0, 1.6)
    if name in ("LV", "RV"):  # smooth near the valves
        far = sum((lattice.axis(a).ravel()[box[a]] - axes.base[a]).reshape([-1 if d == a else 1 for d in range(3)])
                  * axes.apex[a] for a in range(3)) / axes.length  # fmt: skip
        reach = reach * np.clip((far - 0.15) * 2.2, 0, 1.3)
    if name == "RA":  # smooth at the back, where the cavae and the septum are
        reach = reach * np.clip((lattice.axis(1)[:, box[1]] - marks.centre("RA")[1] + 8.0) / 12.0, 0, 1)
    canvas.tissue[box][here & (depth <= reach + 0.5 * lattice.spacing * (reach > 0.3))] = Tissue.PAPILLARY


def _papillaries(canvas: Canvas, marks: Marks, axes: Axes, rng: np.random.Generator) -> None:
    """Two muscles from the free wall towards the mitral valve."""
    for turn in (1.0, -1.0):
        angle = np.deg2rad(rng.uniform(38, 62))
        out = unit(-np.cos(angle) * axes.septum + turn * np.sin(angle) * axes.front)
        root, tip = (_wall_point(marks, axes, out, s) for s in (rng.uniform(0.66, 0.8), rng.uniform(0.34, 0.46)))
        foot, wide = root
        at = tip[0] - out * tip[1] * rng.uniform(0.4, 0.55)
        r = np.clip(wide * rng.uniform(0.17, 0.27), 2.2, 6.5)
        for _ in range(int(rng.integers(1, 3))):
            spread = rng.normal(0, 2.0, 3)
            middle = 0.5 * (foot + at) - out * rng.uniform(0.0, 3.0) + spread
            canvas.tube([foot, middle, at + 1.5 * spread], [r, 0.9 * r, 0.55 * r], Tissue.PAPILLARY, (Tissue.LV,))


def _wall_point(marks: Marks, axes: Axes, out: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Where a ray from the axis leaves the left ventricle's cavity, and how far from the axis that is (mm)."""
    start = axes.base + share * axes.length * axes.apex
    steps = np.arange(0.0, 60.0, 0.75)
    index = np.rint(marks.lattice.index(start + steps[:, None] * out)).astype(int)
    index = np.clip(index, 0, np.array(marks.labels.shape) - 1)
    inside = marks.labels[tuple(index.T)] == VALUE["LV"]
    last = steps[np.flatnonzero(inside)[-1]] if inside.any() else 8.0
    return start + last * out, float(last)


def _moderator_band(canvas: Canvas, marks: Marks, axes: Axes, rng: np.random.Generator) -> None:
    """A muscular string across the right ventricle near its apex."""
    points = marks.points("RV")
    along = (points - axes.base) @ axes.apex / axes.length
    level = np.quantile(along, rng.uniform(0.7, 0.85))
    slab = points[np.abs(along - level) * axes.length < 4.0]
    if len(slab) < 20:
        return
    aside = (slab - axes.base) @ axes.septum
    start, end = slab[aside <= np.quantile(aside, 0.06)].mean(0), slab[aside >= np.quantile(aside, 0.94)].mean(0)
    r = rng.uniform(1.2, 3.0)
    canvas.tube(
        [start, 0.5 * (start + end) + rng.normal(0, 3, 3), end], [r, 0.8 * r, r], Tissue.PAPILLARY, (Tissue.RV,)
    )


# --- valves --------------------------------------------------------------------------------------------------------


def _valves(canvas: Canvas, marks: Marks, pools: Pools, axes: Axes, rng: np.random.Generator) -> None:
    """Orifices open between the pools; leaflets shut in systole, hanging into the ventricles otherwise."""
    shut = "systole" in marks.findings or rng.random() < 0.25
    for upper, lower in (("LA", "LV"), ("RA", "RV")):
        ring = _orifice(canvas, pools, upper, lower, Tissue[lower])
        if ring is not None:
            _leaflets(canvas, ring, Tissue[lower], shut, rng)
    for upper, lower in (("AO", "LV"), ("PA", "RV")):
        ring = _orifice(canvas, pools, lower, upper, Tissue[lower])
        if ring is not None and not shut:
            _cusps(canvas, ring, Tissue[upper], rng)


@dataclass(frozen=True)
class Ring:
    """A valve's ring: ``centre`` (mm), unit ``normal`` in the direction of flow, ``radius`` (mm)."""

    centre: np.ndarray
    normal: np.ndarray
    radius: float


def _orifice(canvas: Canvas, pools: Pools, before: str, behind: str, blood: Tissue) -> Ring | None:
    """Find where two pools meet and fill the gap between them with blood; none if they do not meet in the scan."""
    lattice, spacing = canvas.lattice, canvas.lattice.spacing
    margin = int(4.0 / spacing) + 1
    boxes = [pools.box((n,), margin) for n in (before, behind)]
    if boxes[0] is None or boxes[1] is None:
        return None
    spans = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*boxes, strict=True)]
    box = tuple(slice(start, max(start, stop)) for start, stop in spans)
    part = pools.labels[box]
    if not part.size:
        return None
    shares = [blurred(part == VALUE[n], max(1.4, 0.9 * spacing), spacing) for n in (before, behind)]
    meeting = (shares[0] > 0.18) & (shares[1] > 0.18)
    if meeting.sum() * spacing**3 < 200.0:
        return None
    canvas.tissue[box][meeting & (part == 0)] = blood
    points = lattice.origin + spacing * (np.argwhere(meeting) + [s.start for s in box])
    centre = points.mean(0)
    _, values, rows = np.linalg.svd(points - centre, full_matrices=False)
    spread = values[:2] / np.sqrt(len(points))
    middles = [np.argwhere(part == VALUE[n]).mean(0) for n in (before, behind)]
    normal = rows[2] * (np.sign(rows[2] @ (middles[1] - middles[0])) or 1.0)
    return Ring(centre, normal, float(2.0 * np.sqrt(spread[0] * spread[1])))


def _around(canvas: Canvas, ring: Ring, reach: float) -> tuple[Box, np.ndarray, np.ndarray, np.ndarray]:
    """Box around a ring; height along its normal, distance from its axis and angle about it, mm and radians."""
    lattice = canvas.lattice
    box = lattice.box(ring.centre - reach, ring.centre + reach)
    sub = Lattice(lattice.origin + lattice.spacing * np.array([s.start for s in box]), lattice.spacing,
                  tuple(s.stop - s.start for s in box))  # fmt: skip
    offset = sub.points() - ring.centre.astype(np.float32)
    height = offset @ ring.normal.astype(np.float32)
    first = perpendicular([0.3, 0.5, 0.8], ring.normal)
    second = np.cross(ring.normal, first)
    u, v = offset @ first.astype(np.float32), offset @ second.astype(np.float32)
    return box, height, np.hypot(u, v), np.arctan2(v, u)


def _leaflets(canvas: Canvas, ring: Ring, blood: Tissue, shut: bool, rng: np.random.Generator) -> None:
    """A sheet across the ring, or a funnel of two leaflets into the ventricle."""
    box, height, rho, angle = _around(canvas, ring, ring.radius + 26.0)
    thick = 0.5 * max(canvas.lattice.spacing, rng.uniform(0.9, 1.8))
    length = ring.radius * rng.uniform(0.6, 1.1)
    if shut:
        sheet = np.abs(height + 1.0 - 3.0 * (1.0 - np.square(rho / ring.radius))) < thick
        sheet &= rho < 1.05 * ring.radius
    else:
        uneven = 1.0 + 0.35 * np.cos(angle - rng.uniform(0, 6.3)) + 0.15 * np.cos(2 * angle)
        narrowing = 1.0 - rng.uniform(0.25, 0.6) * height / length
        sheet = (height > 0) & (height < length * uneven) & (np.abs(rho - 0.92 * ring.radius * narrowing) < thick)
    canvas.tissue[box][sheet & canvas.over(box, (blood,))] = Tissue.VALVE


def _cusps(canvas: Canvas, ring: Ring, blood: Tissue, rng: np.random.Generator) -> None:
    """Three shut cusps: their seams and bellies."""
    box, height, rho, angle = _around(canvas, ring, 1.3 * ring.radius + 4.0)
    thick = 0.5 * max(canvas.lattice.spacing, rng.uniform(0.7, 1.3))
    sector = np.mod(angle + rng.uniform(0, 2.1), 2.0944) - 1.0472  # about the middle of each cusp
    seam = (
        (rho * np.sin(1.0472 - np.abs(sector)) < thick) & (height > 0.35 * ring.radius) & (height < 0.8 * ring.radius)
    )
    belly = np.abs(height - 0.4 * ring.radius * (1 - rho / ring.radius)) < thick
    sheet = (seam | belly) & (rho < 1.05 * ring.radius) & (height > -1.0)
    canvas.tissue[box][sheet & canvas.over(box, (blood,))] = Tissue.VALVE

"""Lungs with their arteries, bronchi and veins, and lung diseases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..shapes import unit
from ..tissue import Tissue
from .abdomen import ellipsoid_level, steepness
from .canvas import Canvas, blur
from .chest import Trunk, oval_depth
from .frame import BodyFrame
from .trunk_fit import FittedTrunk
from .vessels import Mediastinum

#: Volume of lung for each end branch of a tree, mm3.
LEAF_MM3 = 3600.0
#: Most end branches in a lung.
MAX_LEAVES = 420
LUNG_ONLY = (Tissue.LUNG,)
LUNG_OR_FAT = (Tissue.LUNG, Tissue.FAT)


@dataclass(frozen=True)
class Branch:
    """A straight piece of a vessel from ``start`` to ``end`` with its radii there, in mm."""

    start: np.ndarray
    end: np.ndarray
    r0: float
    r1: float


def grow_tree(
    points: np.ndarray, root: np.ndarray, twig: float, thickest: float, rng: np.random.Generator
) -> list[Branch]:
    """Return a tree from ``root`` to every point (N, 3; mm), built by halving the points again and again.

    Radii follow Murray's law with exponent 2.6, from ``twig`` at the ends to at most ``thickest``.
    """
    out: list[Branch] = []
    waiting = [(np.asarray(root, float), points, thickest)]
    while waiting:
        start, served, before = waiting.pop()
        n = len(served)
        radius = min(twig * n ** (1 / 2.6), before)
        centre = served.mean(0)
        end = centre if n == 1 else start + rng.uniform(0.3, 0.55) * (centre - start)
        if n > 2:
            middle = 0.5 * (start + end) + rng.normal(0, 0.06 * np.linalg.norm(end - start) + 0.2, 3)
            out += [Branch(start, middle, radius, 0.95 * radius), Branch(middle, end, 0.95 * radius, 0.9 * radius)]
        else:
            out.append(Branch(start, end, radius, 0.8 * radius))
        if n > 1:
            _, axes = np.linalg.eigh(np.cov(served.T + 1e-3 * rng.standard_normal(served.T.shape)))
            along = (served - centre) @ axes[:, 2]
            cut = np.quantile(along, rng.uniform(0.35, 0.65))
            near = along <= cut
            if near.all():
                near[along.argmax()] = False
            waiting += [(end, served[near], radius), (end, served[~near], radius)]
    return out


def paint_lungs(
    canvas: Canvas, frame: BodyFrame, trunk: Trunk, level: np.ndarray, bed: np.ndarray,
    plan: Mediastinum, labels: np.ndarray, real: FittedTrunk | None, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Paint both lungs with vessels and airways, above the diaphragm (``level``) and the heart's ``bed``.

    Their shape and fissures are those of the ``real`` trunk if there is one.
    """
    above = (canvas.z - level) / steepness(level, canvas.coarse.spacing)
    cage, above = -trunk.outside - np.float32(rng.uniform(0.6, 2.4)), above - 0.3
    room = real.lungs(cage, above) if real else np.minimum(cage, above)
    room = np.minimum(room, canvas.z - bed)
    room = np.minimum(room, _vessel_clearance(canvas, plan, labels, rng))
    room = np.minimum(room, -_spine_hull(canvas, frame))
    if not real:
        room = np.minimum(room, -_middle_sheet(canvas, frame, rng))
    room = room.astype(np.float32)
    canvas.fill(room, Tissue.LUNG)
    for k, side in enumerate((1.0, -1.0)):
        lung = np.where(side * (canvas.x - frame.spine[0]) > 0, room, -1.0)
        if (lung > 4.0).any():
            _paint_side(canvas, lung, plan, k, rng)
    _paint_diseases(canvas, frame, room, rng)
    if real:
        _paint_fissures(canvas, real, rng)


def _paint_fissures(canvas: Canvas, real: FittedTrunk, rng: np.random.Generator) -> None:
    """Paint the sheets between the lobes, complete only in some patients, about a voxel thick."""
    for sheet, within in real.fissures():
        box = canvas.positive_box(np.minimum(within, 6.0 - np.abs(sheet)))
        shown = canvas.noise(rng, 22.0) + np.float32(rng.uniform(-0.3, 2.0))
        if box is not None:
            line = np.abs(canvas.upsample(sheet, box=box)) < 0.55 * canvas.lattice.spacing
            line &= np.minimum(canvas.upsample(within, box=box), canvas.upsample(shown, box=box)) > 0
            canvas.tissue[box][line & canvas.tissue_mask(box, LUNG_ONLY)] = Tissue.FISSURE


def _vessel_clearance(
    canvas: Canvas, plan: Mediastinum, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """Return a level set that is positive outside a smooth hull of heart and mediastinum, on the coarse lattice."""
    step, coarse = canvas.coarse.spacing, canvas.coarse
    every = [np.clip(np.rint((coarse.axis(a).ravel() - canvas.lattice.origin[a]) / canvas.lattice.spacing), 0, n - 1)
             .astype(int) for a, n in enumerate(canvas.lattice.shape)]  # fmt: skip
    mask = labels[np.ix_(*every)] > 0
    scratch = Canvas(coarse)
    for one in (*plan.courses, *plan.veins.trunks):
        scratch.paint_tube(one.points, one.radii + 0.6, Tissue.SOFT)
    mask |= scratch.tissue > 0
    sigma = rng.uniform(4.5, 7.5)
    share = blur(mask, sigma, step)
    # The blurred share is 0 beyond a few millimetres: add distance there.
    free = (rng.uniform(0.2, 0.36) - share) * sigma / 0.36 + 25.0 * np.clip(1.0 - share / 0.04, 0, 1)
    return np.asarray(free, dtype=np.float32)


def _spine_hull(canvas: Canvas, frame: BodyFrame) -> np.ndarray:
    """Return a level set that is positive in the spine and behind it, on the coarse lattice."""
    heights = canvas.z.ravel().astype(float)
    spine = frame.spine_at(heights)
    y = canvas.y - spine[:, 1][None, None]
    column = oval_depth(canvas.x - spine[:, 0][None, None], y, np.array([20.0]), np.array([19.0]), 2.2)
    behind = np.minimum(22.0 - np.abs(canvas.x - spine[:, 0][None, None]), -y)
    return np.asarray(np.maximum(column, behind), dtype=np.float32)


def _middle_sheet(canvas: Canvas, frame: BodyFrame, rng: np.random.Generator) -> np.ndarray:
    """Return a level set that is positive in the fat between both lungs, on the coarse lattice."""
    heights = canvas.z.ravel().astype(float)
    spine = frame.spine_at(heights)
    y = canvas.y - spine[:, 1][None, None]
    _, front, _ = frame.cavity(heights)
    share = np.clip(y / np.maximum(front - spine[:, 1], 1.0)[None, None], 0, 1)
    middle = spine[:, 0][None, None] * (1 - share) + frame.middle[0] * share
    ahead = np.interp(
        share, [0, 0.25, 0.6, 0.85, 1.0], [9, 8, 4, 2 + 0.3 * frame.fat, rng.uniform(3, 8) + 0.6 * frame.fat]
    )
    sheet = ahead + 2.0 * canvas.noise(rng, 14.0) - np.abs(canvas.x - middle)
    return np.asarray(sheet, dtype=np.float32)


def _paint_side(canvas: Canvas, room: np.ndarray, plan: Mediastinum, k: int, rng: np.random.Generator) -> None:
    """Paint arteries with bronchi beside them, and veins between them, into lung ``k`` (0 right, 1 left)."""
    spots = np.argwhere(room > 3.0)
    leaves = int(np.clip(len(spots) * canvas.coarse.spacing**3 / LEAF_MM3, 8, MAX_LEAVES))

    def draw_ends() -> np.ndarray:
        chosen = spots[rng.choice(len(spots), size=min(leaves, len(spots)), replace=False)]
        return np.asarray(
            canvas.coarse.origin + canvas.coarse.spacing * (chosen + rng.uniform(-0.4, 0.4, chosen.shape))
        )

    twig = rng.uniform(0.6, 0.85)
    arteries = grow_tree(draw_ends(), plan.hila[k], twig, rng.uniform(5.5, 7.5), rng)
    for b in arteries:
        canvas.paint_capsule(b.start, b.end, b.r0, b.r1, Tissue.LUNG_VESSEL, LUNG_OR_FAT if b.r0 > 2.2 else LUNG_ONLY)
    _paint_bronchi(canvas, arteries, plan.bronchi[k], plan.hila[k])
    points = draw_ends()
    ends = plan.veins.ends[k]
    upper = (points - ends.mean(0))[:, 2] + 0.5 * (points - ends.mean(0))[:, 1] > 0
    for end, lung in zip(ends, (points[upper], points[~upper]), strict=True):
        if len(lung):
            for b in grow_tree(lung, end, twig, rng.uniform(4.5, 6.0), rng):
                over = LUNG_OR_FAT if b.r0 > 2.0 else LUNG_ONLY
                canvas.paint_capsule(b.start, b.end, b.r0, b.r1, Tissue.PULMONARY_VEIN, over)


def _paint_bronchi(canvas: Canvas, arteries: list[Branch], end: np.ndarray, hilum: np.ndarray) -> None:
    """Paint airways beside the larger arteries, walls first."""
    pieces = [b for b in arteries if b.r0 > 1.5]
    shift = end - hilum
    moved = []
    for b in pieces:
        along = unit(b.end - b.start + 1e-6)
        away = unit(shift - (shift @ along) * along + 1e-6)
        moved.append((b.start + away * (1.9 * b.r0 + 0.8), b.end + away * (1.9 * b.r1 + 0.8), 0.85 * b.r0, 0.8 * b.r1))
    if moved:
        moved.insert(0, (end, moved[0][0], moved[0][2] * 1.2, moved[0][2]))
    solid = (Tissue.LUNG, Tissue.FAT, Tissue.AIRWAY_WALL)
    for start, stop, r0, r1 in moved:
        canvas.paint_capsule(start, stop, r0 + 0.25 * r0 + 0.5, r1 + 0.25 * r1 + 0.5, Tissue.AIRWAY_WALL, LUNG_OR_FAT)
    for start, stop, r0, r1 in moved:
        canvas.paint_capsule(start, stop, r0, r1, Tissue.AIRWAY, solid)


# --- diseases ------------------------------------------------------------------------------------------------------


def _paint_diseases(canvas: Canvas, frame: BodyFrame, room: np.ndarray, rng: np.random.Generator) -> None:
    """Paint, at random, effusions with atelectasis, dependent density, consolidation, emphysema and nodules."""
    whole = (Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.PULMONARY_VEIN, Tissue.AIRWAY, Tissue.AIRWAY_WALL)
    effusion = rng.random() < 0.16
    sides = rng.choice(["right", "left", "both"], p=[0.4, 0.25, 0.35]) if effusion else ""
    for name, side in (("right", 1.0), ("left", -1.0)):
        if sides in (name, "both"):
            _paint_effusion(
                canvas, frame, np.where(side * (canvas.x - frame.spine[0]) > 0, room + 1.5, -1.0), whole, rng
            )
    if rng.random() < 0.25:  # dependent density
        back = frame.spine_at(0.0)[1] - 34.0 + rng.uniform(4, 10) + 4.0 * canvas.noise(rng, 12.0)
        canvas.fill(np.minimum(back - canvas.y, room + 1.0).astype(np.float32), Tissue.COLLAPSED_LUNG, over=LUNG_ONLY)
    if rng.random() < 0.10:
        _paint_patches(canvas, room, 9.0, rng.uniform(1.7, 2.4), Tissue.COLLAPSED_LUNG, rng)
    if rng.random() < 0.14:
        paint_beside_heart(canvas, frame, room, rng)
    if rng.random() < 0.12:
        _paint_patches(canvas, room - 2.0, 5.0, rng.uniform(1.3, 2.1), Tissue.GAS, rng)
    for _ in range(int(rng.poisson(0.5))):
        spots = np.argwhere(room > 6.0)
        if len(spots):
            at = canvas.coarse.origin + canvas.coarse.spacing * spots[rng.integers(len(spots))]
            r = rng.uniform(2.0, 8.0)
            canvas.paint_capsule(at, at + rng.normal(0, 0.4 * r, 3), r, 0.8 * r, Tissue.SOFT, whole)


def _paint_effusion(
    canvas: Canvas, frame: BodyFrame, room: np.ndarray, whole: tuple[Tissue, ...], rng: np.random.Generator
) -> None:  # fmt: skip
    """Paint fluid at the back and below and, in most cases, collapsed lung in front of it."""
    high = 25.0 if rng.random() < 0.7 else 75.0  # a large one reaches the heart
    surface = frame.spine_at(0.0)[1] + rng.uniform(-28, high) - 0.12 * (canvas.z - frame.seat)
    surface = surface + 2.5 * canvas.noise(rng, 22.0)
    if rng.random() < 0.75:
        dense = surface + rng.uniform(3, 16) + 3.0 * canvas.noise(rng, 8.0)
        canvas.fill(np.minimum(dense - canvas.y, room - 2.0).astype(np.float32), Tissue.COLLAPSED_LUNG, over=LUNG_ONLY)
    canvas.fill(np.minimum(surface - canvas.y, room).astype(np.float32), Tissue.FLUID, over=whole + (Tissue.FAT,))


def paint_beside_heart(canvas: Canvas, frame: BodyFrame, room: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a consolidated or collapsed part of a lung that lies against the heart, around its open airways."""
    spots = canvas.coarse.origin + canvas.coarse.spacing * np.argwhere((room > 0) & (room < 6.0))
    ahead = spots[:, 1] - frame.spine_at(spots[:, 2])[:, 1]
    low = (spots[:, 2] > frame.seat + 5.0) & (spots[:, 2] < frame.seat + 85.0)
    spots = spots[low & (ahead > 20.0) & (np.abs(spots[:, 0] - frame.middle[0]) < 0.65 * frame.half_width)]
    if not len(spots):
        return
    blob = ellipsoid_level(canvas, spots[rng.integers(len(spots))], rng.uniform(20.0, 55.0, 3))
    blob = blob + rng.uniform(2.0, 7.0) * canvas.noise(rng, rng.uniform(6.0, 14.0))
    canvas.fill(np.minimum(blob, room + 2.0).astype(np.float32), Tissue.COLLAPSED_LUNG, over=LUNG_ONLY)


def _paint_patches(
    canvas: Canvas, room: np.ndarray, length: float, threshold: float, tissue: Tissue, rng: np.random.Generator
) -> None:  # fmt: skip
    """Paint patches of ``tissue`` where smooth noise of ``length`` mm exceeds ``threshold``."""
    spread = 3.0 * (canvas.noise(rng, length) - threshold)
    canvas.fill(np.minimum(spread, room).astype(np.float32), tissue, over=LUNG_ONLY)

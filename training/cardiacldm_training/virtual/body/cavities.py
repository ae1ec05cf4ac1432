"""Inside the cavities: papillary muscles, trabeculae, pectinate ridges, moderator band.

Labels do not change: a muscle belongs to the cavity in which it stands.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from ..shapes import random_field, unit
from ..tissue import Tissue
from .canvas import Canvas, LabelBoxes
from .frame import Landmarks, VentricleAxes, ventricle_axes


def paint_cavities(canvas: Canvas, marks: Landmarks, labels: LabelBoxes, rng: np.random.Generator) -> None:
    """Paint trabeculae, pectinate ridges, papillary muscles and moderator band into the blood of their cavities."""
    axes = ventricle_axes(marks)
    kinds = (("LV", 2.2, rng.uniform(0.4, 2.6), 0.4), ("RV", 2.8, rng.uniform(1.2, 4.0), 0.2),
             ("RA", 2.2, rng.uniform(0.5, 2.8), 0.5), ("LAA", 1.7, *_draw_comb(rng)))  # fmt: skip
    for name, coarse, thick, share in kinds:
        _paint_ridges(canvas, marks, labels, axes, name, coarse, thick, share, rng)
    _paint_papillaries(canvas, marks, axes, rng)
    _paint_moderator_band(canvas, marks, axes, rng)


def _draw_comb(rng: np.random.Generator) -> tuple[float, float]:
    """Draw height (mm) and threshold of the appendage's pectinate muscles.

    They are 1 mm and thicker in 97 % of hearts (Veinot et al., Circulation 1997). Where they are high and dense, the
    cavity is a feather of narrow clefts.
    """
    return (rng.uniform(0.5, 1.8), 0.5) if rng.random() < 0.55 else (rng.uniform(1.8, 4.0), rng.uniform(0.1, 0.5))


def _paint_ridges(
    canvas: Canvas, marks: Landmarks, labels: LabelBoxes, axes: VentricleAxes, name: str, grain_mm: float, thick: float,
    threshold: float, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Paint muscle bundles on the inside of a cavity's wall, up to about ``thick`` mm high.

    Bundles stand where smooth noise of ``grain_mm`` exceeds ``threshold``, not near valves or on smooth parts of walls.
    """
    box, lattice = labels.box((name,), 1), canvas.lattice
    if box is None:
        return
    here = labels.array[box] == VALUE[name]
    open_to = np.isin(labels.array[box], [VALUE[n] for n in ("LA", "LV", "RA", "RV", "AO", "PA", "LAA")]) & ~here
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


def _paint_papillaries(canvas: Canvas, marks: Landmarks, axes: VentricleAxes, rng: np.random.Generator) -> None:
    """Paint the two papillary muscles from the free wall towards the mitral valve."""
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
            canvas.paint_tube([foot, middle, at + 1.5 * spread], [r, 0.9 * r, 0.55 * r], Tissue.PAPILLARY, (Tissue.LV,))


def _wall_point(marks: Landmarks, axes: VentricleAxes, out: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Return where a ray leaves the left ventricle's cavity, and its length, in mm.

    The ray starts on the axis at ``share`` of its length from the base and runs in the direction ``out``.
    """
    start = axes.base + share * axes.length * axes.apex
    steps = np.arange(0.0, 60.0, 0.75)
    index = np.rint(marks.lattice.index(start + steps[:, None] * out)).astype(int)
    index = np.clip(index, 0, np.array(marks.labels.shape) - 1)
    inside = marks.labels[tuple(index.T)] == VALUE["LV"]
    last = steps[np.flatnonzero(inside)[-1]] if inside.any() else 8.0
    return start + last * out, float(last)


def _paint_moderator_band(canvas: Canvas, marks: Landmarks, axes: VentricleAxes, rng: np.random.Generator) -> None:
    """Paint the moderator band across the right ventricle near its apex."""
    points = marks.points("RV")
    along = (points - axes.base) @ axes.apex / axes.length
    level = np.quantile(along, rng.uniform(0.7, 0.85))
    slab = points[np.abs(along - level) * axes.length < 4.0]
    if len(slab) < 20:
        return
    aside = (slab - axes.base) @ axes.septum
    start, end = slab[aside <= np.quantile(aside, 0.06)].mean(0), slab[aside >= np.quantile(aside, 0.94)].mean(0)
    r = rng.uniform(1.2, 3.0)
    canvas.paint_tube(
        [start, 0.5 * (start + end) + rng.normal(0, 3, 3), end], [r, 0.8 * r, r], Tissue.PAPILLARY, (Tissue.RV,)
    )

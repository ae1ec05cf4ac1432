"""The heart's surface: fat, pericardium and effusion, thin walls; the trunks of the pulmonary veins through them.

Labels do not change: fat, walls and veins belong to no structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, VALUE

from ..shapes import Lattice, random_field
from ..tissue import Tissue
from .canvas import Box, Canvas, LabelBoxes, blur
from .frame import BodyFrame, Landmarks
from .pulmonary_veins import PulmonaryVeins, paint_pulmonary_veins

#: Tissues that the fat around the heart may replace.
REPLACEABLE = (
    Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.PULMONARY_VEIN, Tissue.LIVER, Tissue.SPLEEN, Tissue.STOMACH, Tissue.SOFT,
    Tissue.BOWEL, Tissue.GAS, Tissue.FLUID, Tissue.COLLAPSED_LUNG, Tissue.VEIN,
)  # fmt: skip
#: Tissues that a vessel on the heart's surface may replace.
AROUND_HEART = (Tissue.FAT, Tissue.WALL, Tissue.PERICARDIUM, Tissue.FLUID, Tissue.LUNG, Tissue.MUSCLE)


@dataclass(frozen=True)
class Sac:
    """The pericardial sac on a coarse lattice around the heart, arrays (I, J, K)."""

    lattice: Lattice
    labels: np.ndarray  # of the heart, thinned to the lattice
    inside: np.ndarray  # depth below the sac's surface in mm, negative outside
    grooves: np.ndarray  # mask of where vessels may run: outside all structures, near the chambers' outline

    def spread(self, *names: str, mm: float = 4.0) -> np.ndarray:
        """Return the share (0 to 1) of some structures around each point, smoothed over ``mm``."""
        return blur(np.isin(self.labels, [VALUE[n] for n in names]), mm, self.lattice.spacing)

    def points(self) -> np.ndarray:
        """Return the lattice's points (I, J, K, 3) in mm."""
        return self.lattice.points()


def draw_sac(marks: Landmarks, rng: np.random.Generator) -> Sac:
    """Draw a sac: the smoothed outline of the chambers, so that fat fills the grooves between them."""
    lattice, labels = marks.lattice, marks.labels
    heart = np.isin(labels, [VALUE[n] for n in (*HEART, "PA")])
    hull = blur(heart, rng.uniform(4.5, 9.0), lattice.spacing) > rng.uniform(0.15, 0.33)
    distance = ndimage.distance_transform_edt(hull) - ndimage.distance_transform_edt(~hull)
    inside = blur(distance * lattice.spacing, 3.0, lattice.spacing) + rng.uniform(-1.0, 4.0)
    share = blur(heart, 6.0, lattice.spacing)
    return Sac(lattice, labels, inside.astype(np.float32), (labels == 0) & (share > 0.28) & (share < 0.72))


def paint_surface(
    canvas: Canvas, labels: LabelBoxes, sac: Sac, frame: BodyFrame, rng: np.random.Generator,
    veins: PulmonaryVeins | None,
) -> None:  # fmt: skip
    """Paint fat, pericardium, optionally an effusion, thin walls and the trunks of ``veins``, if any."""
    _paint_fat_and_pericardium(canvas, sac, frame, rng)
    _paint_walls(canvas, labels, rng)
    if veins:
        paint_pulmonary_veins(canvas, veins, (*AROUND_HEART, *REPLACEABLE), rng)


def _paint_fat_and_pericardium(canvas: Canvas, sac: Sac, frame: BodyFrame, rng: np.random.Generator) -> None:
    """Paint the fat of the sac, most at the low front, the pericardium around it and optionally an effusion."""
    noise = random_field(rng, sac.labels.shape, 14.0 / sac.lattice.spacing)
    z, y = sac.lattice.axis(2), sac.lattice.axis(1)
    low_front = np.clip((frame.seat + 55 - z) / 60, 0, 1) * np.clip((y + 10) / 40, 0, 1)
    plenty = rng.uniform(0.0, 0.3) * frame.fat
    outer = sac.inside + plenty * np.clip(0.5 + noise, 0, None) * (0.4 + 1.4 * low_front)
    canvas.fill(outer, Tissue.FAT, over=REPLACEABLE, lattice=sac.lattice)
    box = canvas.positive_box(sac.inside + 3.0, sac.lattice)
    if box is None:
        return
    depth = canvas.upsample(sac.inside, sac.lattice, box)
    part = canvas.tissue[box]
    if rng.random() < 0.22:
        pool = rng.uniform(1.5, 6.0) * (0.2 + np.clip((frame.seat + 45 - z) / 70, 0, 1) + np.clip(-y / 70, 0, 0.7))
        wet = (depth > 0) & (depth < canvas.upsample(np.broadcast_to(pool, sac.inside.shape) + noise, sac.lattice, box))
        part[wet & (part == Tissue.FAT)] = Tissue.FLUID
    visible = canvas.upsample(noise + rng.uniform(-0.3, 1.2), sac.lattice, box) > 0
    line = np.abs(depth) < rng.uniform(0.35, 0.75)
    part[line & visible & (part == Tissue.FAT)] = Tissue.PERICARDIUM


def dilate(labels: LabelBoxes, names: tuple[str, ...], mm: float, spacing: float) -> tuple[Box, np.ndarray] | None:
    """Return box and mask of the voxels of some structures and within about ``mm`` of them; None if all are absent."""
    box = labels.box(names, int(mm / spacing) + 2)
    if box is None:
        return None
    sigma = max(mm, 0.8 * spacing)
    share = blur(np.isin(labels.array[box], [VALUE[n] for n in names]), sigma, spacing)
    return box, share > 0.5 * (1.0 - erf(mm / sigma / np.sqrt(2.0)))


def _paint_walls(canvas: Canvas, labels: LabelBoxes, rng: np.random.Generator) -> None:
    """Paint the thin walls of atria, right ventricle and great vessels, but not where veins open into them."""
    spacing = canvas.lattice.spacing
    keep = (Tissue.CAVA, Tissue.INFERIOR_CAVA, Tissue.AO, Tissue.AIRWAY, Tissue.AIRWAY_WALL, Tissue.BONE,
            Tissue.MARROW, Tissue.DISC)  # fmt: skip
    thin, right = rng.uniform(0.9, 2.2), rng.uniform(2.0, 4.5)
    for names, mm in ((("LA", "LAA", "RA", "AO", "PA"), thin), (("RV",), right)):
        if (region := dilate(labels, names, mm, spacing)) is not None:
            box, mask = region
            canvas.tissue[box][mask & ~canvas.tissue_mask(box, keep)] = Tissue.WALL

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

#: Tissues above the diaphragm that the fat around the heart may replace.
AROUND_SAC = (
    Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.PULMONARY_VEIN, Tissue.FLUID, Tissue.COLLAPSED_LUNG, Tissue.VEIN,
    Tissue.FISSURE,
)  # fmt: skip
#: Tissues that give way to the heart itself and the fat in its grooves.
REPLACEABLE = (
    *AROUND_SAC, Tissue.LIVER, Tissue.SPLEEN, Tissue.STOMACH, Tissue.SOFT, Tissue.BOWEL, Tissue.GAS,
)  # fmt: skip
#: Tissues that a vessel on the heart's surface may replace.
AROUND_HEART = (Tissue.FAT, Tissue.WALL, Tissue.PERICARDIUM, Tissue.FLUID, Tissue.LUNG, Tissue.MUSCLE,
                Tissue.FISSURE)  # fmt: skip


#: Volume (mL) within the sac, beside a tenth of the rest, that walls, vessels and pericardium take from the fat.
OTHER_ML = 35.0


@dataclass(frozen=True)
class Sac:
    """The pericardial sac on a coarse lattice around the heart, arrays (I, J, K)."""

    lattice: Lattice
    labels: np.ndarray  # of the heart, thinned to the lattice
    outline: np.ndarray  # depth below the smoothed outline of the heart in mm, negative outside
    inside: np.ndarray  # depth below the sac's surface, which the fat keeps away from the outline
    grooves: np.ndarray  # mask of where vessels may run: outside all structures, near the chambers' outline

    def spread(self, *names: str, mm: float = 4.0) -> np.ndarray:
        """Return the share (0 to 1) of some structures around each point, smoothed over ``mm``."""
        return blur(np.isin(self.labels, [VALUE[n] for n in names]), mm, self.lattice.spacing)

    def points(self) -> np.ndarray:
        """Return the lattice's points (I, J, K, 3) in mm."""
        return self.lattice.points()


def draw_sac(marks: Landmarks, frame: BodyFrame, rng: np.random.Generator) -> Sac:
    """Draw a sac: the smoothed outline of the chambers, so that fat fills the grooves between them."""
    lattice, labels = marks.lattice, marks.labels
    heart = np.isin(labels, [VALUE[n] for n in (*HEART, "PA")])
    hull = blur(heart, rng.uniform(4.5, 9.0), lattice.spacing) > rng.uniform(0.15, 0.33)
    distance = ndimage.distance_transform_edt(hull) - ndimage.distance_transform_edt(~hull)
    outline = blur(distance * lattice.spacing, 3.0, lattice.spacing).astype(np.float32)
    inside = outline + _draw_fat_thickness(outline, lattice, labels, frame.fat, rng)
    share = blur(heart, 6.0, lattice.spacing)
    return Sac(lattice, labels, outline, inside, (labels == 0) & (share > 0.28) & (share < 0.72))


def _draw_fat_thickness(
    outline: np.ndarray, lattice: Lattice, labels: np.ndarray, fat_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw the thickness (mm, float32) of the fat between outline and sac; below zero the outline's grooves are flat.

    The fat has about 104 +- 51 mL, nearly twice as much on the right heart as on the left (computed tomography of 30
    patients: 67 and 38 mL; Quantitative Imaging in Medicine and Surgery 2017;7:336, PMC5537129), and more in people
    with more fat under the skin (``fat_mm``).
    """
    right, left = (
        blur(np.isin(labels, [VALUE[n] for n in names]), 9.0, lattice.spacing)
        for names in (("RA", "RV", "PA"), ("LA", "LV", "MYO", "LAA"))
    )
    share = right / (left + right + 1e-3)
    uneven = 1.0 + rng.uniform(0.1, 0.5) * random_field(rng, labels.shape, rng.uniform(8.0, 16.0) / lattice.spacing)
    pattern = (0.4 + 1.0 * share) * np.clip(uneven, 0.1, 2.0)
    wanted = float(np.clip(100.0 * np.sqrt(fat_mm / 15.0) * np.exp(rng.normal(0.0, 0.38)), 25.0, 300.0))
    walled = ndimage.binary_dilation((labels > 0) & (labels != VALUE["MYO"]))
    room = np.where(walled, 0.2, 1.0) * (labels == 0)  # most of the rim is wall
    room *= lattice.spacing**3 / 1000.0
    low, high = -8.0, 20.0
    for _ in range(10):
        middle = 0.5 * (low + high)
        enough = room[outline + middle * pattern > 0].sum() > 1.1 * wanted + OTHER_ML
        low, high = (low, middle) if enough else (middle, high)
    return np.asarray(0.5 * (low + high) * pattern, dtype=np.float32)


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
    plenty = rng.uniform(0.0, 0.6) * frame.fat
    outer = sac.inside + plenty * np.clip(0.5 + noise, 0, None) * (0.4 + 1.4 * low_front)
    canvas.fill(sac.outline, Tissue.FAT, over=REPLACEABLE, lattice=sac.lattice)
    canvas.fill(outer, Tissue.FAT, over=AROUND_SAC, lattice=sac.lattice)
    box = canvas.positive_box(sac.inside + 3.0, sac.lattice)
    if box is None:
        return
    depth = canvas.upsample(sac.inside, sac.lattice, box)
    part = canvas.tissue[box]
    if rng.random() < 0.22:
        pool = rng.uniform(1.5, 6.0) * (0.2 + np.clip((frame.seat + 45 - z) / 70, 0, 1) + np.clip(-y / 70, 0, 0.7))
        wet = (depth > 0) & (depth < canvas.upsample(np.broadcast_to(pool, sac.inside.shape) + noise, sac.lattice, box))
        part[wet & (part == Tissue.FAT)] = Tissue.FLUID
    visible = canvas.upsample(noise + rng.uniform(-0.2, 1.6), sac.lattice, box) > 0
    line = np.abs(depth) < max(rng.uniform(0.4, 0.9), 0.45 * min(canvas.lattice.spacing, 2.0))  # in one piece
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
    thin, right = rng.uniform(0.9, 2.2), rng.uniform(1.5, 4.0)
    for names, mm in ((("LA", "LAA", "RA", "AO", "PA"), thin), (("RV",), right)):
        if (region := dilate(labels, names, mm, spacing)) is not None:
            box, mask = region
            canvas.tissue[box][mask & ~canvas.tissue_mask(box, keep)] = Tissue.WALL

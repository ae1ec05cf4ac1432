"""Check the image of a pair, away from its labels, by what true scans keep: plates, seams, lattice, tissues, lungs.

The limits come from virtual cases on a generator's grid: one in a hundred breaks one (docs/research/method.md). Faults
that differ from pair to pair and that anyone sees reject it: the next attempt may be free of them. Faults that nearly
all pairs of a generator have, or that some scans have too, are only remarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..anatomy import BACKGROUND
from ..image.grid import Volume
from ..networks.architectures import FINE_STRIDE, LATENT_STRIDE
from ..segmentation.findings import Finding, Place, Rule

#: Above this are bone, calcium and contrast medium; above ``BODY_HU`` no lung and no air.
BRIGHT_HU, BODY_HU = 250.0, -200.0
#: Soft tissue and fat have HU between these. Lung has such a mean over ``LUNG_MM``; vessels are ``VESSEL_HU`` above it.
SOFT_HU, FAT_HU, LUNG_HU = (-20.0, 150.0), (-160.0, -30.0), (-960.0, -600.0)
LUNG_MM, VESSEL_HU = 15.0, 150.0
#: Steps from voxel to voxel above this are borders of tissues, not a lattice.
BORDER_HU = 80.0
#: Least area (mm2) that two slices have in common where their step is measured.
LEAST_MM2 = 1350.0
#: Least volume (mL) in which a tissue is measured.
LEAST_ML = 13.5

#: Largest share of an axial slice's unlabelled voxels that is bright.
LARGEST_PLATE = 0.10
#: Largest step (HU) of the unlabelled body between two axial slices: of a true case, and of a pair that is kept.
LARGEST_SEAM_HU, REJECTED_SEAM_HU = 40.0, 100.0
#: Largest ratio of steps at one place of each latent voxel to those at others.
LARGEST_LATTICE = 1.06
#: Usual HU of the median lung and soft tissue around the heart, and share of bright voxels of the body.
USUAL_LUNG_HU, USUAL_SOFT_HU, MOST_BRIGHT = (-980.0, -745.0), (10.0, 90.0), 0.13
#: Least share of fat in the body around the heart, and of vessels in the lungs.
LEAST_FAT, LEAST_VESSELS = 0.18, 0.0125


@dataclass(frozen=True)
class Appearance:
    """Measures of an image away from the labels; NaN where there is too little of a tissue to measure it.

    ``plate``: the largest share of bright voxels in an axial slice, ``seam_hu``: the largest step from one to the next;
    ``plate_at`` and ``seam_at``: index of that slice. ``lattice``: see :func:`lattice`. ``lung_hu``, ``soft_hu``:
    medians. ``bright``, ``fat``: shares of the body; ``vessels``: share of the lungs.
    """

    plate: float
    plate_at: int
    seam_hu: float
    seam_at: int
    lattice: float
    lung_hu: float
    soft_hu: float
    bright: float
    fat: float
    vessels: float


# --- judging -------------------------------------------------------------------------------------------------------


def image_findings(image: Volume, labels: Volume) -> tuple[list[Finding], list[Finding]]:
    """Return the faults that reject a pair, and mere remarks, on its image (HU) away from its labels (uint8).

    Both are on one grid of cubes along the RAS axes.
    """
    a = measure(image.array, labels.array, float(image.spacing[0]))
    return _faults(a, image), _remarks(a, image)


def _faults(a: Appearance, image: Volume) -> list[Finding]:
    plate, seam = _slice_place(image, a.plate_at), _slice_place(image, a.seam_at)
    return [
        *_beyond("plate", a.plate, high=LARGEST_PLATE, place=plate),
        *_beyond("seam", a.seam_hu, high=REJECTED_SEAM_HU, place=seam),
        *_beyond("bone", a.bright, high=MOST_BRIGHT),
    ]


def _remarks(a: Appearance, image: Volume) -> list[Finding]:
    seam = _slice_place(image, a.seam_at)
    return [
        *(_beyond("seam", a.seam_hu, high=LARGEST_SEAM_HU, place=seam) if a.seam_hu <= REJECTED_SEAM_HU else ()),
        *_beyond("surroundings", a.lung_hu, *USUAL_LUNG_HU, where="lung"),
        *_beyond("surroundings", a.soft_hu, *USUAL_SOFT_HU, where="soft tissue"),
        *_beyond("lattice", a.lattice, high=LARGEST_LATTICE),
        *_beyond("fat", a.fat, low=LEAST_FAT),
        *_beyond("lung vessels", a.vessels, low=LEAST_VESSELS),
    ]


def _beyond(
    rule: Rule, value: float, low: float = -math.inf, high: float = math.inf, *, where: str = "",
    place: Place | None = None,
) -> list[Finding]:  # fmt: skip
    """Return a finding if ``value`` is outside its limits; NaN is not."""
    if not (value < low or value > high):
        return []
    return [Finding(rule, value=round(value, 4), limit=low if value < low else high, where=where, place=place)]


def _slice_place(image: Volume, index: int) -> Place:
    """Return the middle of axial slice ``index`` in RAS mm."""
    middle = [(side - 1) / 2 for side in image.array.shape[:2]]
    x, y, z = (round(float(v), 1) for v in image.affine[:3, :3] @ [*middle, index] + image.affine[:3, 3])
    return x, y, z


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(hu: np.ndarray, labels: np.ndarray, spacing_mm: float) -> Appearance:
    """Measure an image (I, J, K; int16 HU, RAS) away from its ``labels`` (uint8), cubes of ``spacing_mm``."""
    free = labels == BACKGROUND
    shares = ((hu > BRIGHT_HU) & free).sum((0, 1)) / np.maximum(free.sum((0, 1)), 1)
    body = free & (hu > BODY_HU)
    steps = _steps(hu, body, LEAST_MM2 / spacing_mm**2)
    around = hu[body]
    mean = _box_mean(hu, max(round(LUNG_MM / spacing_mm) // 2 * 2 + 1, 3))
    lung = free & (mean > LUNG_HU[0]) & (mean < LUNG_HU[1])
    fewest = LEAST_ML * 1000.0 / spacing_mm**3

    def median(values: np.ndarray) -> float:
        return float(np.median(values)) if len(values) >= fewest else math.nan

    def share(chosen: np.ndarray) -> float:
        return float(chosen.mean()) if len(chosen) >= fewest else math.nan

    return Appearance(
        plate=float(shares.max()), plate_at=int(shares.argmax()),
        seam_hu=float(steps.max()), seam_at=int(steps.argmax()),
        lattice=max(lattice(hu, LATENT_STRIDE), lattice(hu, FINE_STRIDE)),
        lung_hu=median(hu[lung]),
        soft_hu=median(around[(around > SOFT_HU[0]) & (around < SOFT_HU[1])]),
        bright=share(around > BRIGHT_HU), fat=share((around > FAT_HU[0]) & (around < FAT_HU[1])),
        vessels=share((hu - mean)[lung] > VESSEL_HU),
    )  # fmt: skip


def _steps(hu: np.ndarray, body: np.ndarray, fewest: float) -> np.ndarray:
    """Return the median step (K - 1,) of the HU of ``body`` from each axial slice to the next; 0 for too few voxels."""
    common = body[..., 1:] & body[..., :-1]
    differences = np.diff(hu.astype(np.int32), axis=2)
    return np.array([
        abs(float(np.median(differences[..., k][common[..., k]]))) if common[..., k].sum() >= fewest else 0.0
        for k in range(common.shape[2])
    ])  # fmt: skip


def lattice(hu: np.ndarray, period: int) -> float:
    """Return how much larger steps from voxel to voxel are at one place of every ``period`` than elsewhere.

    It is the mean of that ratio over the axes of ``hu`` (I, J, K), 1 without a pattern; NaN for too few voxels of soft
    tissue. Steps of more than ``BORDER_HU`` do not count.
    """
    ratios = []
    for axis in range(3):
        lines = np.moveaxis(hu.astype(np.int32), axis, 0)
        soft = np.abs(lines) < 300
        steps = np.abs(np.diff(lines, axis=0))
        counted = soft[1:] & soft[:-1] & (steps < BORDER_HU)
        if any(counted[place::period].sum() < 100 for place in range(period)):
            return math.nan
        means = sorted(float(steps[place::period][counted[place::period]].mean()) for place in range(period))
        ratios.append(means[-1] / max(sum(means[:-1]) / (period - 1), 1e-6))
    return float(np.mean(ratios))


def _box_mean(hu: np.ndarray, side: int) -> np.ndarray:
    """Return the mean (float32) over a box of ``side`` voxels around each voxel, as far as the image goes."""
    import torch

    array = torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32))[None, None]
    return torch.nn.functional.avg_pool3d(array, side, 1, side // 2, count_include_pad=False)[0, 0].numpy()

"""Convert tissues to Hounsfield units: enhancement of blood and organs, texture, unmixed contrast medium."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..protocol import IODINE_GAIN, NATIVE_BLOOD_HU, RANGES, Ranges, ScanProtocol
from ..shapes import Lattice, random_field, smooth_field
from ..tissue import Tissue, tissue_mask
from .mixing import MIXED, mix_contrast

T = Tissue


@dataclass(frozen=True)
class Look:
    """HU of a tissue at 120 kV."""

    mean: float  # without contrast medium
    spread: float  # standard deviation over patients
    arterial: float  # enhancement in the arterial phase
    venous: float  # enhancement in the venous phase
    widest: tuple[float, float]  # range of randomised means
    texture: tuple[float, float, float]  # amplitudes of texture of 1, 4 and 14 mm


#: Widest ranges. Soft tissue covers everything between air and dense bone.
SOFT, FATTY, AIRY, HARD = (-60.0, 330.0), (-250.0, 40.0), (-1000.0, -450.0), (120.0, 1700.0)

LOOKS: dict[Tissue, Look] = {
    T.OUTSIDE: Look(-1000, 2, 0, 0, (-1024, -900), (0, 0, 0)),
    T.FAT: Look(-104, 7, 0, 4, FATTY, (5, 8, 5)),
    T.MUSCLE: Look(54, 7, 4, 12, SOFT, (5, 6, 5)),
    T.SKIN: Look(20, 20, 10, 20, SOFT, (10, 10, 5)),
    T.BONE: Look(720, 140, 0, 0, HARD, (90, 80, 50)),
    T.MARROW: Look(150, 55, 5, 15, (-80, 600), (45, 30, 20)),
    T.CARTILAGE: Look(105, 25, 0, 5, (0, 700), (12, 18, 25)),
    T.LUNG: Look(-860, 28, 6, 10, AIRY, (34, 22, 16)),
    T.AIRWAY: Look(-995, 5, 0, 0, AIRY, (2, 2, 0)),
    T.AIRWAY_WALL: Look(10, 25, 15, 25, SOFT, (8, 8, 5)),
    T.LIVER: Look(56, 9, 9, 55, SOFT, (4, 6, 5)),
    T.SPLEEN: Look(48, 5, 70, 72, SOFT, (3, 6, 5)),
    T.STOMACH: Look(22, 18, 3, 5, (-80, 400), (8, 14, 14)),
    T.GAS: Look(-990, 12, 0, 0, AIRY, (4, 4, 2)),
    T.OESOPHAGUS: Look(35, 9, 12, 30, SOFT, (6, 8, 4)),
    T.TABLE: Look(-600, 250, 0, 0, (-950, 300), (15, 8, 4)),
    T.PERICARDIUM: Look(25, 18, 10, 25, SOFT, (6, 8, 4)),
    T.DISC: Look(82, 14, 0, 4, (0, 350), (8, 12, 8)),
    T.CORD: Look(26, 8, 2, 5, SOFT, (5, 6, 3)),
    T.BREAST: Look(20, 18, 12, 30, SOFT, (12, 20, 10)),
    T.KIDNEY: Look(32, 5, 120, 150, SOFT, (5, 22, 8)),
    T.BOWEL: Look(20, 20, 15, 25, (-100, 400), (14, 30, 25)),
    T.CALCIUM: Look(620, 180, 0, 0, HARD, (90, 60, 20)),
    T.METAL: Look(2900, 300, 0, 0, (900, 3071), (60, 30, 0)),
    T.FLUID: Look(9, 7, 0, 0, SOFT, (3, 4, 3)),
    T.SOFT: Look(42, 12, 14, 32, SOFT, (6, 8, 5)),
    T.COLLAPSED_LUNG: Look(35, 15, 45, 75, (-300, 330), (10, 20, 12)),
    T.VALVE: Look(60, 15, 30, 40, SOFT, (6, 4, 0)),
    T.THROMBUS: Look(44, 8, 1, 3, SOFT, (4, 8, 6)),
    T.FLAP: Look(55, 10, 15, 25, SOFT, (5, 4, 0)),
}

#: Least difference between randomised neighbouring structures, HU.
SEPARATION_HU = 25.0


def paint_hu(tissue: np.ndarray, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator) -> np.ndarray:
    """Return the HU (float32) of a tissue map before the scanner's effects."""
    ranges = RANGES[protocol.appearance]
    mean, texture = draw_means(protocol, ranges, rng)
    image = mean[tissue]
    spacing = lattice.spacing
    fine, medium = random_field(rng, tissue.shape, 1.0 / spacing), smooth_field(rng, tissue.shape, 4.0 / spacing)
    image += texture[0][tissue] * fine
    image += texture[1][tissue] * medium
    image += texture[2][tissue] * smooth_field(rng, tissue.shape, 14.0 / spacing)
    _add_structure(image, tissue, lattice, fine, medium, protocol, rng)
    mix_contrast(image, tissue, lattice, protocol, rng)
    _add_gradients(image, tissue, lattice, protocol, rng)
    return image


# --- one patient's table -------------------------------------------------------------------------------------------


def draw_means(protocol: ScanProtocol, ranges: Ranges, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patient's mean HU by tissue code and textures (3, codes) of 1, 4 and 14 mm, float32."""
    size = max(Tissue) + 1
    mean, texture = np.zeros(size, np.float32), np.zeros((3, size), np.float32)
    arterial, venous = {"none": (0.0, 0.0), "arterial": (1.0, 0.0), "dual": (0.7, 0.05), "venous": (0.0, 1.0)}[
        protocol.phase
    ]
    iodine = IODINE_GAIN[protocol.kv]
    dose = rng.uniform(0.6, 1.3)  # common to all organs of a patient
    for tissue, look in LOOKS.items():
        uptake = iodine * dose * (arterial * look.arterial + venous * look.venous)
        mean[tissue] = look.mean + look.spread * np.clip(rng.standard_normal(), -2.3, 2.3) + uptake
        texture[:, tissue] = np.array(look.texture) * rng.uniform(*ranges.texture)
        if rng.random() < ranges.redraw:
            mean[tissue] = rng.uniform(*look.widest)
            texture[:, tissue] += rng.uniform(0, 12, 3) * (look.widest is SOFT)
    if rng.random() < 0.12:
        mean[T.LIVER] -= rng.uniform(20, 55)  # fatty
    for tissue, hu in _blood_hu(protocol, ranges, rng).items():
        mean[tissue] = hu
        texture[:, tissue] = rng.uniform((0.0, 0.01, 0.01), (0.01, 0.035, 0.04)) * abs(hu - 20) * ranges.spread
    muscle = protocol.myocardium_hu
    for tissue in (T.MYO, T.PAPILLARY, T.WALL):
        texture[:, tissue] = (3, 7, 7)
    mean[T.MYO] = muscle
    mean[T.PAPILLARY] = muscle + rng.normal(0, 4)
    mean[T.WALL] = 30 + (muscle - 30) * rng.uniform(0.4, 0.95)
    mean[T.FISSURE] = 0.7 * mean[T.LUNG] + 0.3 * mean[T.WALL]
    texture[:, T.FISSURE] = texture[:, T.LUNG]
    if rng.random() < ranges.apart:
        _keep_apart(mean, protocol)
    return mean, texture


def _blood_hu(protocol: ScanProtocol, ranges: Ranges, rng: np.random.Generator) -> dict[Tissue, float]:
    """Draw the HU of cavities and vessels from those of left and right heart and the phase."""
    left, right, native = protocol.left_hu, protocol.right_hu, NATIVE_BLOOD_HU

    def near(hu: float, share: float) -> float:
        return float(hu + ranges.spread * share * (hu - native) * rng.standard_normal())

    cardiac = {"arterial": rng.uniform(0.1, 0.6), "dual": rng.uniform(0.3, 0.9)}.get(protocol.phase, 0.95)
    false = {"arterial": rng.uniform(0.1, 1.0), "dual": rng.uniform(0.4, 1.05)}.get(
        protocol.phase, rng.uniform(0.9, 1.05)
    )
    venous = {"arterial": rng.uniform(0.0, 0.12), "dual": rng.uniform(0.0, 0.12)}.get(protocol.phase, 0.97)
    renal = venous + (rng.uniform(0.0, 0.2) if protocol.phase != "venous" else 0.0)
    lungs = rng.random()
    blood = {
        T.LV: left, T.LA: near(left, 0.04), T.LAA: near(left, 0.05), T.AO: near(left, 0.04),
        T.FALSE_LUMEN: false, T.PULMONARY_VEIN: near(left, 0.05),
        T.CORONARY_ARTERY: native + rng.uniform(0.8, 1.0) * (left - native),
        T.CORONARY_VEIN: native + cardiac * (left - native), T.RV: right, T.RA: near(right, 0.08),
        T.PA: near(0.8 * right + 0.2 * left, 0.07), T.CAVA: protocol.superior_cava_hu,
        T.INFERIOR_CAVA: native + renal * (left - native), T.VEIN: native + venous * (left - native),
    }  # fmt: skip
    blood[T.LUNG_VESSEL] = lungs * blood[T.PA] + (1 - lungs) * blood[T.PULMONARY_VEIN]
    return blood


def _keep_apart(mean: np.ndarray, protocol: ScanProtocol) -> None:
    """Change the HU of fat, walls and liver where they equal those of a labelled neighbour. In place.

    Realistic scans keep their HU.
    """
    if protocol.appearance == "realistic":
        return
    for pool in (T.LV, T.RV, T.LA, T.RA):
        if abs(mean[T.FAT] - mean[pool]) < SEPARATION_HU:
            mean[T.FAT] = mean[pool] - SEPARATION_HU * 2
    mean[T.WALL] = mean[T.MYO] if abs(mean[T.WALL] - mean[T.LA]) < SEPARATION_HU else mean[T.WALL]
    if abs(mean[T.LIVER] - mean[T.MYO]) < 8:
        mean[T.LIVER] += SEPARATION_HU


# --- structured texture ------------------------------------------------------------------------------------------


def _add_structure(
    image: np.ndarray,
    tissue: np.ndarray,
    lattice: Lattice,
    fine: np.ndarray,
    medium: np.ndarray,
    protocol: ScanProtocol,
    rng: np.random.Generator,
) -> None:
    """Add septa in fat, fat in muscle, small vessels and a gravity gradient in lungs, gas in bowel. In place."""
    factor = rng.uniform(*RANGES[protocol.appearance].texture)
    spacing = lattice.spacing
    sheets = np.exp(-np.square(smooth_field(rng, tissue.shape, 7.0 / spacing) / 0.07))  # level sets of a smooth field
    lobules = np.exp(-np.square(medium / 0.12))
    fat = tissue == T.FAT
    image += fat * (factor * (rng.uniform(10, 45) * sheets + rng.uniform(0, 35) * lobules))
    fibre = ndimage.gaussian_filter1d(medium, 8.0 / spacing, axis=2, truncate=2.5)
    image -= (factor * rng.uniform(30, 120)) * ((tissue == T.MUSCLE) * np.clip(fibre - 0.55, 0.0, 0.8))
    lung = tissue == T.LUNG
    down = lattice.axis(1)
    dots = np.clip(fine + 0.5 * medium - 1.2, 0.0, 2.0)  # vessels and walls as small as a voxel
    image += lung * (factor * (0.45 * (float(down.mean()) - down) + rng.uniform(100, 220) * dots))
    image -= (tissue == T.BOWEL) * (factor * 500 * np.clip(np.abs(medium) - 1.3, 0.0, 1.0))


def _add_gradients(
    image: np.ndarray, tissue: np.ndarray, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator
) -> None:
    """Add gradients of enhancement: along the aorta, to the appendage's tip, and by layering of blood. In place."""
    if protocol.phase == "none":
        return
    slope = rng.normal(0.0, 0.0004) * RANGES[protocol.appearance].spread
    aorta = tissue == T.AO
    height = lattice.axis(2)
    image += aorta * (slope * (protocol.left_hu - NATIVE_BLOOD_HU) * (height - float(height.mean())))
    if protocol.tip_filling < 1.0:
        _delay_tip_filling(image, tissue, lattice, protocol, rng)
    if protocol.layering > 0.0:
        pools = tissue_mask(tissue, MIXED)
        if pools.any():
            depth = lattice.axis(1)
            middle = float(np.median(np.broadcast_to(depth, tissue.shape)[pools]))
            down = np.tanh((middle - depth) / 20.0)
            image += pools * (protocol.layering * (protocol.right_hu - NATIVE_BLOOD_HU) * down)


def _delay_tip_filling(
    image: np.ndarray, tissue: np.ndarray, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator
) -> None:
    """Reduce the enhancement of the appendage beyond a ragged front between its ostium and its tip. In place."""
    appendage = np.argwhere(tissue == T.LAA)
    atrium = np.argwhere(tissue == T.LA)
    if not len(appendage) or not len(atrium):
        return
    away = np.linalg.norm(appendage - atrium.mean(0), axis=1)
    share = (away - away.min()) / max(float(np.ptp(away)), 1e-6)
    low, high = appendage.min(0), appendage.max(0) + 1
    tongues = smooth_field(rng, tuple((high - low).tolist()), rng.uniform(2.5, 5.0) / lattice.spacing)
    ragged = tongues[tuple((appendage - low).T)]
    share = share + rng.uniform(0.02, 0.16) * (ragged - ragged.mean())
    front, width = rng.uniform(0.35, 0.75), rng.uniform(0.04, 0.12)
    filling = 1.0 - (1.0 - protocol.tip_filling) / (1.0 + np.exp(-(share - front) / width))
    where = tuple(appendage.T)
    image[where] = NATIVE_BLOOD_HU + (image[where] - NATIVE_BLOOD_HU) * filling.astype(np.float32)

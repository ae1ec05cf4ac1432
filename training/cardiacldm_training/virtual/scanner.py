"""The virtual scanner: tissues to Hounsfield units, with contrast phase, texture, blur, thick slices and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .shapes import Lattice, random_field, smooth_field
from .tissue import Tissue

#: Share of scans in each contrast phase: where the contrast medium is when the scan is taken.
PHASES = {"arterial": 0.42, "dual": 0.30, "venous": 0.16, "none": 0.12}

#: Mean and spread over patients (HU) of tissues that take up little contrast, and the texture within one (HU).
TISSUE_HU: dict[Tissue, tuple[float, float, float]] = {
    Tissue.OUTSIDE: (-1000, 3, 0),
    Tissue.FAT: (-95, 14, 9),
    Tissue.MUSCLE: (55, 12, 10),
    Tissue.SKIN: (40, 20, 10),
    Tissue.BONE: (480, 130, 120),
    Tissue.MARROW: (190, 60, 55),
    Tissue.CARTILAGE: (110, 35, 22),
    Tissue.LUNG: (-840, 45, 32),
    Tissue.AIRWAY: (-990, 8, 3),
    Tissue.LIVER: (85, 28, 9),
    Tissue.SPLEEN: (100, 32, 10),
    Tissue.STOMACH: (30, 25, 22),
    Tissue.GAS: (-960, 30, 12),
    Tissue.OESOPHAGUS: (45, 15, 12),
    Tissue.TABLE: (-350, 250, 40),
}


@dataclass(frozen=True)
class Scan:
    """How a case was scanned; kept in case.json."""

    phase: str
    left_hu: float
    right_hu: float
    myocardium_hu: float
    noise_hu: float
    blur_mm: float
    slice_mm: float
    streaks: bool


def draw_scan(rng: np.random.Generator, spacing: float) -> Scan:
    """A plausible protocol: contrast phase with its enhancement, dose (noise), kernel (blur) and slice thickness."""
    phase = str(rng.choice(list(PHASES), p=list(PHASES.values())))
    left, right = {
        "arterial": (rng.normal(380, 80), rng.normal(150, 60)),
        "dual": (rng.normal(340, 70), rng.normal(340, 90)),
        "venous": (rng.normal(180, 35), rng.normal(175, 35)),
        "none": (rng.normal(42, 6), rng.normal(42, 6)),
    }[phase]
    left, right = max(left, 32.0), max(right, 32.0)
    uptake = rng.uniform(0.10, 0.38) if phase != "none" else rng.uniform(-0.1, 0.3)
    return Scan(
        phase=phase,
        left_hu=round(float(left), 1),
        right_hu=round(float(right), 1),
        myocardium_hu=round(float(max(42 + uptake * (left - 42) + rng.normal(0, 8), 28)), 1),
        noise_hu=round(float(np.exp(rng.uniform(np.log(6), np.log(45)))), 1),
        blur_mm=round(float(rng.uniform(0.5, 1.3)), 2),
        slice_mm=round(
            float(rng.choice([spacing, rng.uniform(1.0, 3.0), rng.uniform(2.5, 5.0)], p=[0.4, 0.4, 0.2])), 2
        ),
        streaks=bool(phase in ("arterial", "dual") and rng.random() < 0.35),
    )


def scan(tissue: np.ndarray, lattice: Lattice, protocol: Scan, rng: np.random.Generator) -> np.ndarray:
    """Hounsfield units (int16) of a tissue map on its own lattice."""
    mean, texture = _means(protocol, rng)
    spacing = lattice.spacing
    image = mean[tissue]
    image += texture[tissue] * random_field(rng, tissue.shape, rng.uniform(1.2, 3.0) / spacing)
    image += 0.7 * texture[tissue] * smooth_field(rng, tissue.shape, 12.0 / spacing)
    _mixing(image, tissue, spacing, protocol, rng)
    image = _blurred(image, spacing, protocol)
    if protocol.streaks:
        image += _streaks(tissue, lattice, rng)
    image += _noise(tissue.shape, spacing, protocol, rng)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def _means(protocol: Scan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean HU and texture (HU) by tissue code (float32) for one patient."""
    mean, texture = np.zeros(max(Tissue) + 1, np.float32), np.zeros(max(Tissue) + 1, np.float32)
    for tissue, (hu, spread, grain) in TISSUE_HU.items():
        mean[tissue] = hu + spread * np.clip(rng.standard_normal(), -2.5, 2.5)
        texture[tissue] = grain * rng.uniform(0.6, 1.5)
    left, right = protocol.left_hu, protocol.right_hu

    def near(hu: float, share: float) -> float:
        return float(hu + share * max(hu - 40.0, 0.0) * rng.standard_normal())

    blood = {
        Tissue.LV: left, Tissue.LA: near(left, 0.07), Tissue.AO: near(left, 0.06), Tissue.LAA: near(left, 0.12),
        Tissue.PULMONARY_VEIN: near(left, 0.07), Tissue.RV: right, Tissue.RA: near(right, 0.12),
        Tissue.PA: near(0.75 * right + 0.25 * left, 0.12), Tissue.CAVA: near(right, 0.25),
        Tissue.INFERIOR_CAVA: 42 + rng.uniform(0.1, 0.9) * (right - 42),
    }  # fmt: skip
    if protocol.phase in ("arterial", "dual") and rng.random() < 0.5:
        blood[Tissue.CAVA] = rng.uniform(300, 1300)
    blood[Tissue.LUNG_VESSEL] = blood[Tissue.PA] if rng.random() < 0.6 else blood[Tissue.PULMONARY_VEIN]
    for tissue, hu in blood.items():
        mean[tissue], texture[tissue] = max(hu, 25.0), rng.uniform(3, 12)
    mean[Tissue.MYO], texture[Tissue.MYO] = protocol.myocardium_hu, rng.uniform(5, 14)
    mean[Tissue.WALL], texture[Tissue.WALL] = protocol.myocardium_hu * rng.uniform(0.6, 1.0), 8.0
    return mean, texture


def _mixing(image: np.ndarray, tissue: np.ndarray, spacing: float, protocol: Scan, rng: np.random.Generator) -> None:
    """Unmixed contrast in the right heart: dense and dilute blood side by side. In place."""
    if protocol.phase not in ("arterial", "dual"):
        return
    field = smooth_field(rng, tissue.shape, rng.uniform(7, 16) / spacing)
    for part, share in ((Tissue.RA, 0.30), (Tissue.RV, 0.18), (Tissue.CAVA, 0.25), (Tissue.INFERIOR_CAVA, 0.3)):
        here = tissue == part
        image[here] += rng.uniform(0.1, 1.0) * share * protocol.right_hu * field[here]


def _blurred(image: np.ndarray, spacing: float, protocol: Scan) -> np.ndarray:
    """Point spread in the plane, slice profile across it."""
    across = np.hypot(protocol.blur_mm, 0.42 * max(protocol.slice_mm - spacing, 0.0))
    return ndimage.gaussian_filter(
        image, np.array([protocol.blur_mm, protocol.blur_mm, across]) / spacing, truncate=3.0
    )


def _streaks(tissue: np.ndarray, lattice: Lattice, rng: np.random.Generator) -> np.ndarray:
    """Rays in the plane from dense contrast in the superior vena cava, fading with distance (HU, float32)."""
    where = np.argwhere(tissue == Tissue.CAVA)
    if not len(where):
        return np.zeros(tissue.shape, np.float32)
    x, y, _ = lattice.origin + lattice.spacing * where.mean(0)
    dx, dy = lattice.axis(0) - np.float32(x), lattice.axis(1) - np.float32(y)
    angle, distance = np.arctan2(dy, dx), np.hypot(dx, dy)
    rays = sum(np.cos(k * angle + rng.uniform(0, 6.3)) for k in rng.integers(3, 15, size=4))
    along = np.isin(tissue, [Tissue.CAVA]).any(axis=(0, 1)).astype(np.float32)
    along = ndimage.gaussian_filter1d(along, 2.0)
    return (rng.uniform(10, 40) * rays * np.exp(-distance / 45.0) * along).astype(np.float32)


def _noise(shape: tuple[int, ...], spacing: float, protocol: Scan, rng: np.random.Generator) -> np.ndarray:
    """Correlated noise: softer kernels leave longer grain; averaging over thick slices weakens it (HU, float32)."""
    grain = np.array([protocol.blur_mm, protocol.blur_mm, 0.42 * protocol.slice_mm]) / spacing * 0.8
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), grain, truncate=3.0, mode="wrap")
    return noise * (protocol.noise_hu / max(float(noise.std()), 1e-6) / np.sqrt(max(protocol.slice_mm / 1.5, 1.0)))

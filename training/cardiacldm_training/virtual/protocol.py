"""Draw the protocol of a virtual scan: phase, enhancement, dose, kernel, slices, artefacts, implant.

The two appearances differ only in their :class:`Ranges`: ``realistic`` covers scans of hospitals, ``randomised`` a much
wider range, so that real scans lie within the range on which a network is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..cases.condition_names import IMPLANTS, PHASES

Appearance = Literal["realistic", "randomised"]
Span = tuple[float, float]

#: HU of blood without contrast medium, on average.
NATIVE_BLOOD_HU = 42.0
#: Enhancement by iodine at a tube voltage (kV), relative to 120 kV.
IODINE_GAIN = {80: 1.5, 100: 1.22, 120: 1.0, 130: 0.93, 140: 0.87}
#: Above this the superior vena cava is full of contrast medium that no saline has followed.
DENSE_CAVA_HU = 450.0
#: Share of scans, by phase, in which the appendage fills later than the atrium: slow flow.
LATE_TIP = {"arterial": 0.35, "dual": 0.2}
#: Share of scans with contrast medium in which a dense stream crosses the right atrium.
STREAM = 0.55
#: What a sharp kernel (lung or bone, such as B70f) does to the noise and edges of the site's own kernel, our estimate:
#: factor on the noise, addition to the edge enhancement, factor on the point spread.
SHARP_NOISE, SHARP_EDGE, SHARP_BLUR = (2.0, 4.0), (0.5, 1.6), (0.65, 0.95)
#: Kinds of catheter in the central veins and the heart, and their shares.
CATHETERS = {"none": 0.85, "central": 0.08, "port": 0.05, "pulmonary": 0.02}
#: Share of scans in which the superior vena cava happens to be about as bright as the aorta.
EQUAL_CAVA = 0.15


@dataclass(frozen=True)
class Ranges:
    """Ranges of an appearance. Values are uniform over spans; shares are probabilities; factors multiply."""

    redraw: float  # share of tissues whose HU comes from the widest range of its kind
    apart: float  # share of cases in which neighbouring structures differ by at least 25 HU
    spread: float  # factor on the spread over patients and within one blood pool
    texture: Span  # factor on the texture of each tissue
    noise: Span  # factor on the noise of the site
    blur: Span  # factor on the site's point spread
    edge: Span  # addition to the edge enhancement of the site's kernel
    slice: Span  # factor on the site's slice thickness
    bias_hu: Span  # slow drift over the scan
    mixing: Span  # unmixed contrast in the right heart; 1 spans water to twice the mean
    motion_mm: Span  # excursion of the heart's wall in an ungated scan
    streaks: Span  # factor on beam hardening and streaks
    steps: float  # share of scans with misaligned slabs
    circle: float  # share of scans cut by the reconstruction circle
    cut: float  # share of scans that cut the heart's upper or lower end
    implants: tuple[float, ...]  # shares in the order of IMPLANTS
    calcium: float  # share of patients with calcifications
    phases: tuple[float, ...] | None  # shares in the order of PHASES, instead of those of equally likely sites


RANGES: dict[str, Ranges] = {
    "realistic": Ranges(
        redraw=0.0, apart=1.0, spread=1.0, texture=(0.7, 1.3), noise=(0.8, 1.25), blur=(0.9, 1.1), edge=(0.0, 0.0),
        slice=(1.0, 1.0), bias_hu=(0.0, 4.0), mixing=(0.1, 0.9), motion_mm=(1.0, 4.5), streaks=(0.3, 1.4), steps=0.08,
        circle=0.5, cut=0.05, implants=(0.86, 0.05, 0.025, 0.025, 0.025, 0.015), calcium=0.45, phases=None,
    ),
    "randomised": Ranges(
        redraw=0.85, apart=0.9, spread=2.0, texture=(0.0, 3.5), noise=(0.2, 2.2), blur=(0.6, 2.2), edge=(-0.1, 0.8),
        slice=(0.6, 1.6), bias_hu=(0.0, 70.0), mixing=(0.0, 1.4), motion_mm=(0.0, 7.0), streaks=(0.0, 2.5), steps=0.2,
        circle=0.5, cut=0.12, implants=(0.7, 0.09, 0.06, 0.05, 0.05, 0.05), calcium=0.6,
        phases=(0.36, 0.32, 0.20, 0.12),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One scanner style: its share of the scans and the spans of its protocols."""

    share: float
    phases: tuple[float, ...]  # shares in the order of PHASES
    views: dict[str, float]  # shares
    kv: tuple[int, ...]
    noise_hu: Span  # in a slice of 1.5 mm
    blur_mm: Span  # standard deviation of the point spread in the plane
    edge: Span  # edge enhancement; 0 none, 1 visible overshoot
    slice_mm: Span
    iterative: Span  # 0: filtered back-projection, 1: smooth, blotchy noise
    ungated: float  # share of scans without ECG gating
    sharp: float  # share of scans with a sharp kernel


#: The scanner styles; their names are the values of ``conditions.scan_location``.
SITES: dict[str, Site] = {
    "heart_centre": Site(0.36, (0.66, 0.26, 0.03, 0.05), {"heart": 0.6, "wide": 0.28, "chest": 0.12},
                         (80, 100, 100, 120), (11, 26), (0.5, 0.75), (0.0, 0.3), (0.5, 1.0), (0.2, 0.8), 0.08, 0.03),
    "university": Site(0.20, (0.38, 0.30, 0.20, 0.12), {"heart": 0.3, "wide": 0.3, "chest": 0.4},
                       (100, 120), (9, 24), (0.5, 0.9), (0.0, 0.4), (0.6, 3.0), (0.0, 0.7), 0.4, 0.1),
    "chest_clinic": Site(0.15, (0.18, 0.38, 0.24, 0.20), {"wide": 0.3, "chest": 0.7},
                         (100, 120), (12, 36), (0.45, 0.7), (0.2, 0.9), (1.0, 3.0), (0.0, 0.5), 0.8, 0.3),
    "emergency": Site(0.13, (0.22, 0.52, 0.22, 0.04), {"wide": 0.2, "chest": 0.5, "trunk": 0.3},
                      (100, 120, 140), (10, 27), (0.55, 0.9), (0.0, 0.3), (1.0, 5.0), (0.0, 0.6), 0.8, 0.08),
    "community": Site(0.10, (0.20, 0.20, 0.38, 0.22), {"wide": 0.2, "chest": 0.6, "trunk": 0.2},
                      (120, 130), (9, 20), (0.7, 1.2), (0.0, 0.2), (2.5, 5.0), (0.0, 0.2), 0.9, 0.1),
    "screening": Site(0.06, (0.10, 0.05, 0.05, 0.80), {"heart": 0.3, "wide": 0.2, "chest": 0.5},
                      (100, 120), (18, 45), (0.5, 0.9), (0.0, 0.6), (1.0, 3.0), (0.0, 0.6), 0.5, 0.15),
}  # fmt: skip


@dataclass(frozen=True)
class ScanProtocol:
    """The protocol of one scan, stored in case.json.

    Names end with the unit; the others are shares or factors. HU of blood are means over the cavity.
    """

    appearance: str = "realistic"
    site: str = "university"
    phase: str = "none"
    kv: int = 120
    left_hu: float = NATIVE_BLOOD_HU
    right_hu: float = NATIVE_BLOOD_HU
    myocardium_hu: float = 45.0
    superior_cava_hu: float = NATIVE_BLOOD_HU
    mixing: float = 0.0
    layering: float = 0.0
    stream: float = 0.0  # of dense blood through the right atrium, as a share of the superior vena cava's blood
    tip_filling: float = 1.0  # of the appendage's tip, as a share of the left atrium's enhancement
    noise_hu: float = 15.0
    iterative: float = 0.0
    blur_mm: float = 0.7
    edge: float = 0.0
    slice_mm: float = 1.5
    bias_hu: float = 0.0
    motion_mm: float = 0.0
    step_mm: float = 0.0
    streaks: float = 1.0
    circle: bool = False
    implant: str = "none"
    calcium: bool = False
    sharp: bool = False  # a sharp kernel
    catheter: str = "none"
    calcified_arch: bool = False


def _uniform(rng: np.random.Generator, span: Span) -> float:
    return float(rng.uniform(*span))


def _choose(rng: np.random.Generator, names: tuple[str, ...], shares: tuple[float, ...]) -> str:
    weights = np.asarray(shares, dtype=float)
    return str(rng.choice(names, p=weights / weights.sum()))


def draw_site(rng: np.random.Generator, appearance: str) -> str:
    """Draw the name of a scanner style."""
    shares = tuple(1.0 if RANGES[appearance].phases else site.share for site in SITES.values())
    return _choose(rng, tuple(SITES), shares)


def draw_protocol(rng: np.random.Generator, appearance: str = "realistic") -> ScanProtocol:
    """Draw a site, one of its protocols, the patient's implant, and whether the patient has calcifications."""
    ranges = RANGES[appearance]
    name = draw_site(rng, appearance)
    style = SITES[name]
    kv = int(rng.choice(style.kv))
    phase, left, right, cava = _draw_enhancement(rng, _choose(rng, PHASES, ranges.phases or style.phases), kv, ranges)
    thick = float(np.clip(np.exp(rng.uniform(*np.log(style.slice_mm))) * _uniform(rng, ranges.slice), 0.5, 5.0))
    sharp = bool(rng.random() < style.sharp)
    contrast = phase in ("arterial", "dual")
    ungated = rng.random() < style.ungated
    values = {
        "left_hu": left, "right_hu": right, "myocardium_hu": _draw_myocardium(rng, phase, left, right, ranges),
        "superior_cava_hu": cava,
        "mixing": _draw_mixing(rng, contrast, cava, ranges),
        "layering": _uniform(rng, (0.1, 0.5)) if contrast and rng.random() < 0.12 else 0.0,
        "stream": _uniform(rng, (0.4, 1.0)) if contrast and rng.random() < STREAM else 0.0,
        "tip_filling": _uniform(rng, (0.0, 0.8)) if rng.random() < LATE_TIP.get(phase, 0.0) else 1.0,
        **_draw_grain(rng, style, ranges, thick, sharp), "slice_mm": thick,
        "bias_hu": _uniform(rng, ranges.bias_hu), "motion_mm": _uniform(rng, ranges.motion_mm) if ungated else 0.0,
        "step_mm": _uniform(rng, (0.3, 1.0)) if not ungated and rng.random() < 2 * ranges.steps else 0.0,
        "streaks": _uniform(rng, ranges.streaks),
    }  # fmt: skip
    return ScanProtocol(
        appearance=appearance, site=name, phase=phase, kv=kv,
        circle=bool(rng.random() < ranges.circle), implant=_choose(rng, IMPLANTS, ranges.implants),
        calcium=bool(rng.random() < ranges.calcium), sharp=sharp,
        catheter=_choose(rng, tuple(CATHETERS), tuple(CATHETERS.values())), calcified_arch=False,
        **{key: round(value, 2) for key, value in values.items()},
    )  # fmt: skip


def _draw_grain(rng: np.random.Generator, style: Site, ranges: Ranges, thick: float, sharp: bool) -> dict[str, float]:
    """Draw noise, point spread, edge enhancement and reconstruction of slices of ``thick`` mm."""
    noise = np.exp(rng.uniform(*np.log(style.noise_hu))) * _uniform(rng, ranges.noise) * np.sqrt(1.5 / max(thick, 0.8))
    blur = _uniform(rng, style.blur_mm) * _uniform(rng, ranges.blur)
    edge = max(_uniform(rng, style.edge) + _uniform(rng, ranges.edge), 0.0)
    iterative = _uniform(rng, style.iterative)
    if sharp:
        noise, edge = noise * _uniform(rng, SHARP_NOISE), edge + _uniform(rng, SHARP_EDGE)
        blur, iterative = blur * _uniform(rng, SHARP_BLUR), 0.2 * iterative
    return {"noise_hu": float(np.clip(noise, 2.0, 180.0)), "iterative": iterative,
            "blur_mm": float(np.clip(blur, 0.35, 2.2)), "edge": edge}  # fmt: skip


def _draw_enhancement(rng: np.random.Generator, phase: str, kv: int, ranges: Ranges) -> tuple[str, float, float, float]:
    """Draw the mean HU of left heart, right heart and superior vena cava; return them with the phase.

    Iodine is brighter at lower voltage. HU from the widest range determine the phase; without contrast medium all blood
    has about the same HU.
    """
    if rng.random() < ranges.redraw:
        if phase == "none":
            left, right, cava = rng.uniform(15, 80) + rng.normal(0, 4, 3)
            return phase, float(left), float(right), float(cava)
        left, right = rng.uniform(15, 750, 2)
        return _phase_of(left, right), float(left), float(right), float(rng.uniform(0, 1500))
    iodine = IODINE_GAIN[kv]
    native = rng.normal(NATIVE_BLOOD_HU, 5)
    # A saline flush after the contrast medium leaves the superior vena cava dilute; without one it stays dense.
    cava_uptake = rng.uniform(20, 200) if rng.random() < 0.6 else rng.uniform(300, 1100)
    late = rng.normal(115, 25)  # evenly mixed in the body
    left, right, cava = {
        "arterial": (rng.normal(330, 65), rng.normal(110, 55), cava_uptake),
        "dual": (max(rng.normal(270, 75), 70), rng.normal(330, 90), np.exp(rng.normal(6.5, 0.45))),
        "venous": (late, late + rng.normal(-2, 8), late + rng.normal(0, 15)),
        "none": (0.0, 0.0, 0.0),
    }[phase]
    if phase != "none" and rng.random() < EQUAL_CAVA:
        cava = left * rng.uniform(0.8, 1.2)
    left, right, cava = (float(native + iodine * max(x, 0.0)) for x in (left, right, cava))
    return phase, left, right, cava


def _draw_mixing(rng: np.random.Generator, contrast: bool, cava: float, ranges: Ranges) -> float:
    """Draw how unevenly contrast is mixed in the right heart: most while the superior vena cava is dense."""
    mixing = _uniform(rng, ranges.mixing)
    if not contrast:
        return 0.12 * mixing
    return mixing * (1.6 if cava > DENSE_CAVA_HU else 1.0)


def _phase_of(left: float, right: float) -> str:
    """Return the contrast phase that left and right heart of these HU suggest."""
    if max(left, right) < 80:
        return "none"
    if max(left, right) < 220 and abs(left - right) < 60:
        return "venous"
    return "arterial" if left > right + 60 else "dual"


def _draw_myocardium(rng: np.random.Generator, phase: str, left: float, right: float, ranges: Ranges) -> float:
    """Draw the mean HU of the myocardium.

    In a share ``apart`` of cases it differs by at least 25 HU from the blood of both ventricles.
    """
    if phase != "none" and rng.random() < ranges.redraw:
        choices = rng.uniform(-20, 450, 30)
    else:
        uptake = {"arterial": (0.13, 0.32), "dual": (0.12, 0.34), "venous": (0.35, 0.62), "none": (0.0, 0.0)}[phase]
        choices = 43 + rng.uniform(*uptake, 30) * (left - NATIVE_BLOOD_HU) + rng.normal(0, 5, 30)
        if phase == "none":
            return float(choices[0])
    if rng.random() < ranges.apart:
        clear = (np.abs(choices - left) >= 25) & (np.abs(choices - right) >= 25)
        choices = choices[clear] if clear.any() else choices
    return float(choices[0])

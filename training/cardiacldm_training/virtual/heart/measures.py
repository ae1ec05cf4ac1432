"""Target measures of a virtual heart: volumes and calibres drawn from published adult distributions, by sex.

The distributions are :data:`CardiacLDMLib.anatomy.PUBLISHED`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from CardiacLDMLib.anatomy import PUBLISHED, Sex

#: Share of the variance between persons that all chambers share: large people have large hearts.
COMMON = 0.4
#: Share of patients with an elongated aorta (our estimate: a third of those above 70 years).
ELONGATED = 0.1
#: Volume of the atria at end-diastole as a share of that at end-systole.
ATRIUM_AT_DIASTOLE = 0.62


@dataclass(frozen=True)
class Measures:
    """Target measures of one heart.

    ``systole``: phase of the heartbeat from 0 (end-diastole) to 1 (end-systole). ``volumes``: mL at that phase.
    ``calibres``: widths of the vessels in mm. ``septum``: logarithm of the septum's extra thickening relative to the
    rest of the wall. ``body_surface``: m2. ``at_rest``: mL of LV and RV at end-diastole, of LA and RA at end-systole.
    """

    sex: Sex
    systole: float
    volumes: dict[str, float]
    calibres: dict[str, float]
    septum: float
    findings: tuple[str, ...]
    body_surface: float
    at_rest: dict[str, float]


def draw_measures(rng: np.random.Generator) -> Measures:
    """Draw one adult: sex, size, phase of the heartbeat, and findings about as frequent as in scanned patients."""
    sex: Sex = "male" if rng.random() < 0.5 else "female"
    common = rng.standard_normal()

    def person(name: str, shared: float = COMMON, least: float = -2.3, most: float = 2.8) -> float:
        mean, sd = PUBLISHED[name, sex][:2]
        z = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal()
        return float(mean + sd * np.clip(z, least, most))

    surface = person("body surface")
    full = {name: person(name) for name in ("LV", "RV", "MYO")}
    full["LA"] = person("LA index", 0.0) * surface
    full["RA"] = 1.08 * full["LA"] * float(np.exp(rng.normal(0.0, 0.16)))
    calibres = {"AO": person("aorta width", 0.2), "PA": person("pulmonary artery width", 0.2)}
    calibres["AO behind"] = calibres["AO"] * float(rng.normal(0.74, 0.05))
    full, calibres, septum, findings = _with_findings(rng, full, calibres)
    systole, now = _at_phase(rng, full)
    if systole > 0.5:
        findings = (*findings, "systole")
    now["LAA"] = float(np.clip(rng.gamma(4.0, 2.0) * (1.35 if "enlarged LA" in findings else 1.0), 2.2, 26.0))
    return Measures(sex, systole, now, calibres, septum, findings, surface, full)


def _with_findings(
    rng: np.random.Generator, full: dict[str, float], calibres: dict[str, float]
) -> tuple[dict[str, float], dict[str, float], float, tuple[str, ...]]:
    """Draw findings: enlarged atria, hypertrophy, a dilated left ventricle, dilated vessels, a diseased aorta."""
    full, calibres, septum, findings = dict(full), dict(calibres), 0.0, []
    if rng.random() < 0.16:
        findings.append("enlarged LA")
        full["LA"] *= rng.uniform(1.25, 2.0)
    if rng.random() < (0.4 if findings else 0.06):
        findings.append("enlarged RA")
        full["RA"] *= rng.uniform(1.25, 1.9)
    muscle = rng.random()
    if muscle < 0.08:
        findings.append("hypertrophy")
        full["MYO"] *= rng.uniform(1.25, 1.7)
    elif muscle < 0.12:
        findings.append("septal hypertrophy")
        full["MYO"] *= rng.uniform(1.1, 1.4)
        septum = rng.uniform(0.3, 0.6)
    elif muscle < 0.19:
        findings.append("dilated LV")
        full["LV"] *= rng.uniform(1.35, 2.1)
        full["MYO"] *= rng.uniform(1.05, 1.35)
    if rng.random() < 0.08:
        findings.append("dilated aorta")
        calibres["AO"] = rng.uniform(41.0, 52.0)
    disease = rng.random()
    if disease < 0.05:
        findings.append("dissection")
        calibres["AO"] *= rng.uniform(1.0, 1.3)
        calibres["AO behind"] *= rng.uniform(1.1, 1.6)
    elif disease < 0.085:
        findings.append("mural thrombus")
        calibres["AO behind"] *= rng.uniform(1.1, 1.7)
    if rng.random() < 0.07:
        findings.append("dilated PA")
        calibres["PA"] = rng.uniform(30.0, 37.0)
    if rng.random() < ELONGATED:
        findings.append("elongated aorta")
    return full, calibres, septum, tuple(findings)


def _at_phase(rng: np.random.Generator, full: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Draw the phase and return it with the volumes then: half near end-diastole, the rest anywhere in the beat."""
    systole = float(rng.uniform(0.0, 0.25) if rng.random() < 0.55 else rng.beta(1.2, 1.2))
    ejected = {"LV": rng.normal(0.61, 0.06), "RV": rng.normal(0.54, 0.06)}
    now = {name: full[name] * (1 - systole * float(np.clip(ejected[name], 0.35, 0.72))) for name in ejected}
    for name in ("LA", "RA"):
        now[name] = full[name] * (ATRIUM_AT_DIASTOLE + (1 - ATRIUM_AT_DIASTOLE) * systole)
    return systole, now | {"MYO": full["MYO"]}

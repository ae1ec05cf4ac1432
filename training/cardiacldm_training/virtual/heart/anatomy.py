"""Virtual hearts: models of solids or templates, deformed smoothly and invertibly to randomly drawn volumes.

Coordinates are in mm, RAS, with the heart's centre near the origin. Every heart has all eight structures, each in one
piece, with the required contacts and without the forbidden ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import NAMES, VALUE
from CardiacLDMLib.segmentation.findings import Finding, clause

from ...errors import AnatomyError
from ..shapes import Lattice
from .appendage import draw_appendage, replace_appendage
from .arch import elongate_arch
from .deform import COARSE, Deformation, draw_deformation, grow
from .grooves import cut_grooves
from .measures import Measures, draw_measures
from .model import HeartModel
from .parametric import parametric_model
from .templates import read_template
from .topology import Box, boxes_of, faults, repair

#: Corners of the box in which labels are drawn, mm: it includes aortic arch and hila.
LOW_MM, HIGH_MM = np.array([-115.0, -115.0, -110.0]), np.array([115.0, 115.0, 135.0])
#: Room between the highest aortic arch and the upper end of that box, mm.
ABOVE_ARCH_MM = 6.0
#: Share of templates whose appendage is replaced: most of theirs are not segmented from an image.
NEW_APPENDAGE = 0.8
#: Targets are larger by this, since the grooves between the chambers are cut out of them.
GROOVES = {"RA": 1.025, "RV": 1.03}
#: Number of steps in which a model grows to its target volumes.
STEPS = 8
#: Draws until the templates are reported as unusable.
TRIES = 20


@dataclass(frozen=True)
class Heart:
    """Labels (uint8, (I, J, K)) on ``lattice``, their ``source`` (``parametric`` or a template's name) and the patient.

    ``measures``: ``systole`` (0 end-diastole to 1 end-systole), ``body_surface_m2``, ``aorta_mm`` and ``pulmonary_mm``
    (target diameters), ``wall_mm`` (median thickness of the left ventricle's wall), ``<structure>_ml`` (volume of the
    labels), and the patient's largest volumes ``LV_diastole_ml``, ``RV_diastole_ml``, ``LA_systole_ml`` and
    ``RA_systole_ml``.
    """

    labels: np.ndarray
    lattice: Lattice
    source: str
    sex: str = "female"
    findings: tuple[str, ...] = ()
    appendage: str = ""
    measures: dict[str, float] = field(default_factory=dict)

    def centre(self, name: str) -> np.ndarray:
        """Return the centre of mass of a structure, mm."""
        return self.points(name).mean(0)

    def points(self, name: str) -> np.ndarray:
        """Return the voxel centres (N, 3; mm) of a structure. Raises KeyError if it is absent."""
        part = self.lattice.crop(self._boxes[VALUE[name]])
        return part.origin + part.spacing * np.argwhere(self.labels[self._boxes[VALUE[name]]] == VALUE[name])

    @cached_property
    def _boxes(self) -> dict[int, Box]:
        return boxes_of(self.labels)


@dataclass(frozen=True)
class HeartSources:
    """Sources of hearts: template files, the share of hearts from them, and the strength of ``deformation``.

    Strength 1 covers the range of adults.
    """

    templates: list[Path] = field(default_factory=list)
    template_share: float = 0.7
    deformation: float = 1.0


# --- drawing -------------------------------------------------------------------------------------------------------


def draw_heart(
    rng: np.random.Generator,
    spacing: float,
    sources: HeartSources,
    finish: Callable[[Heart], Heart] = lambda heart: heart,
) -> Heart:
    """Draw a plausible heart at ``spacing`` mm, from a template or from solids.

    ``finish`` may extend the labels (by the aorta's course) before they are repaired and checked. Implausible draws are
    repeated; raises :class:`AnatomyError` if twenty in a row fail.
    """
    shape = ((HIGH_MM - LOW_MM) / spacing).astype(int)
    lattice = Lattice((LOW_MM + HIGH_MM - spacing * (shape - 1)) / 2, spacing, tuple(shape.tolist()))
    findings: list[Finding] = []
    for _ in range(TRIES):
        draft = _draw_once(rng, lattice, sources)
        heart = replace(draft, labels=repair(finish(draft).labels, spacing))
        findings = faults(heart.labels, spacing)
        if not findings:
            return replace(heart, measures=heart.measures | _measure(heart))
    reasons = ", ".join(clause(fault) for fault in findings)
    raise AnatomyError(f"Twenty draws gave no plausible heart ({reasons}): are the templates whole hearts?")


def _draw_once(rng: np.random.Generator, lattice: Lattice, sources: HeartSources) -> Heart:
    """Draw measures, model and deformation; the labels may be implausible."""
    measures = draw_measures(rng)
    kind = draw_appendage(rng)
    if sources.templates and rng.random() < sources.template_share:
        model = read_template(sources.templates[int(rng.integers(len(sources.templates)))])
        replaced = rng.random() < NEW_APPENDAGE
    else:
        model, replaced = parametric_model(rng), True
    if replaced:
        model = replace_appendage(model, kind, rng)
    deformation = _fit_deformation(rng, model, measures, sources.deformation)
    labels = cut_grooves(deform_labels(model, deformation, lattice), lattice.spacing, rng)
    targets = {"systole": measures.systole, "body_surface_m2": measures.body_surface,
               "aorta_mm": measures.calibres["AO"], "pulmonary_mm": measures.calibres["PA"]}  # fmt: skip
    targets |= {f"{n}_{'diastole' if n in ('LV', 'RV') else 'systole'}_ml": v
                for n, v in measures.at_rest.items() if n != "MYO"}  # fmt: skip
    shape = kind if replaced else "template"
    return Heart(labels, lattice, model.name, measures.sex, measures.findings, shape, targets)


def _fit_deformation(rng: np.random.Generator, model: HeartModel, measures: Measures, strength: float) -> Deformation:
    """Draw a deformation under which the model has the target volumes and diameters."""
    target_ml = sum(measures.volumes.values())
    scale = float(np.clip((target_ml / sum(model.volume_ml(VALUE[n]) for n in measures.volumes)) ** (1 / 3), 0.8, 1.25))
    deformation = draw_deformation(rng, strength, scale, scale * model.bottom_z)
    if "elongated aorta" in measures.findings:
        deformation = elongate_arch(deformation, model, HIGH_MM[2] - ABOVE_ARCH_MM, rng)
    targets = {name: ml * GROOVES.get(name, 1.0) for name, ml in measures.volumes.items()}
    section_ratios = {name: (mm / (scale * model.calibres_mm[name])) ** 2 for name, mm in measures.calibres.items()}
    return grow(deformation, GrowthRates(model, targets, section_ratios, measures.septum), STEPS)


class GrowthRates:
    """Local growth rates with which a model reaches its target ``volumes`` (mL).

    ``section_ratios``: the vessels' target cross-sections, relative to the model's. ``septum``: logarithm of the extra
    thickening of the septum.
    """

    def __init__(
        self, model: HeartModel, volumes: dict[str, float], section_ratios: dict[str, float], septum: float
    ) -> None:
        self.model, self.targets, self.section_ratios, self.septum = model, volumes, section_ratios, septum

    def __call__(self, places: np.ndarray, left: int) -> np.ndarray:
        """Return the growth rates (I, J, K) on the coarse lattice for the next of ``left`` steps.

        ``places`` (I, J, K, 3) are the lattice's points in the model.
        """
        shares = self.model.shares_at(places)
        parts = {name: shares[VALUE[name] - 1] for name in (*NAMES[:5], "PA", "LAA")}
        front = 1.0 / (1.0 + np.exp((self.model.descending_y - places[..., 1]) / 5.0))
        parts["AO"] = shares[VALUE["AO"] - 1] * front
        parts["AO behind"] = shares[VALUE["AO"] - 1] - parts["AO"]
        source = np.zeros(COARSE.shape, dtype=np.float32)
        for name, share in parts.items():
            volume = max(float(share.sum(dtype=np.float64)) * COARSE.spacing**3 / 1000.0, 0.3)
            if name not in self.targets:  # a vessel of fixed length: its volume grows as its cross-section
                self.targets[name] = volume * self.section_ratios[name]
            rate = np.log(self.targets[name] / volume) / max(left - 1, 1)
            source += np.float32(np.clip(rate, -0.35, 0.35)) * share
        if self.septum:
            beside = ndimage.gaussian_filter(parts["RV"], 10.0 / COARSE.spacing)
            source += np.float32(1.6 * self.septum / STEPS) * (beside - 0.15) * parts["MYO"]
        return source


def deform_labels(model: HeartModel, deformation: Deformation, lattice: Lattice) -> np.ndarray:
    """Return the labels (uint8) of the deformed model on ``lattice``: the structure with the largest partial volume.

    Each structure is interpolated only in its own box, which is faster.
    """
    rough = model.shares_at(deformation.map_coarse_points())
    out = np.zeros(lattice.shape, dtype=np.uint8)
    best, total = np.zeros(lattice.shape, dtype=np.float32), np.zeros(lattice.shape, dtype=np.float32)
    for value, share in enumerate(rough, start=1):
        regions = ndimage.find_objects((share > 0.004).astype(np.uint8))
        if not regions:
            continue
        low, high = (COARSE.origin + COARSE.spacing * np.array(ends)
                     for ends in zip(*((s.start - 1.0, s.stop + 0.0) for s in regions[0]), strict=True))  # fmt: skip
        box = lattice.box(low, high)
        if min(s.stop - s.start for s in box) < 1:
            continue
        here = model.share_at(value, deformation(lattice.crop(box).points()))
        total[box] += here
        more = here > best[box]
        out[box][more] = value
        best[box][more] = here[more]
    out[best < 1.0 - total] = 0
    return out


def _measure(heart: Heart) -> dict[str, float]:
    """Return volumes (mL) and wall thickness (mm) of the final labels."""
    voxel_ml = heart.lattice.spacing**3 / 1000.0
    volumes = {f"{name}_ml": voxel_ml * len(heart.points(name)) for name in NAMES}
    return volumes | {"wall_mm": wall_thickness(heart)}


def wall_thickness(heart: Heart) -> float:
    """Return the median thickness (mm) of the left ventricle's wall, away from the base."""
    spacing = heart.lattice.spacing
    labels = np.pad(heart.labels[boxes_of(heart.labels)[VALUE["MYO"]]], 1)
    cavity, wall = labels == VALUE["LV"], labels == VALUE["MYO"]
    rim = ndimage.binary_dilation(cavity) & wall
    index = np.argwhere(rim)
    basal = index @ (heart.centre("MYO") - heart.centre("LA"))
    depth = ndimage.distance_transform_edt(cavity | wall, sampling=spacing)[rim]
    return float(np.median(depth[basal > np.quantile(basal, 0.3)]))

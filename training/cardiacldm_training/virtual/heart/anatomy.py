"""Virtual hearts: solids or template label maps, grown to drawn volumes and bent by random smooth invertible maps.

Coordinates are RAS millimetres with the heart's centre near the origin. Every heart that leaves this module has all
eight structures, each in one piece, touching what it should and nothing that it should not.
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
from .appendage import draw_appendage, with_appendage
from .deform import COARSE, Deformation, draw_deformation, grow
from .measures import Measures, draw_measures
from .model import Model
from .parametric import parametric_model
from .templates import read_template
from .topology import Box, boxes_of, faults, repair

#: Corners of the box around the heart in which labels are drawn, mm: the arch and the hila fit in.
LOW_MM, HIGH_MM = np.array([-115.0, -115.0, -110.0]), np.array([115.0, 115.0, 135.0])
#: Share of templates whose appendage is replaced: theirs are mostly invented.
NEW_APPENDAGE = 0.8
#: Small steps in which a heart grows to its measures.
STEPS = 8
#: How many draws are tried before the templates are blamed.
TRIES = 20


@dataclass(frozen=True)
class Heart:
    """Labels (uint8) on ``lattice``, where they came from (``parametric`` or the template's name) and whose they are.

    ``measures``: ``systole`` (0 end-diastole to 1 end-systole), ``body_surface_m2``, ``aorta_mm`` and ``pulmonary_mm``
    (widths asked for), ``wall_mm`` (median thickness of the left ventricle's wall), ``<structure>_ml`` (of the labels;
    the great vessels within the lattice), ``LV_diastole_ml``, ``RV_diastole_ml``, ``LA_systole_ml``,
    ``RA_systole_ml`` (that person's largest).
    """

    labels: np.ndarray
    lattice: Lattice
    source: str
    sex: str = "female"
    findings: tuple[str, ...] = ()
    appendage: str = ""
    measures: dict[str, float] = field(default_factory=dict)

    def centre(self, name: str) -> np.ndarray:
        """Centre of mass of a structure, mm."""
        return self.points(name).mean(0)

    def extreme(self, name: str, direction: np.ndarray, quantile: float = 0.99) -> np.ndarray:
        """Middle of the part of a structure that reaches furthest along ``direction``, mm."""
        points = self.points(name)
        along = points @ direction
        return points[along >= np.quantile(along, quantile)].mean(0)

    def points(self, name: str) -> np.ndarray:
        """(N, 3) voxel centres of a structure, mm; raises KeyError if there is none."""
        part = self.lattice.part(self._boxes[VALUE[name]])
        return part.origin + part.spacing * np.argwhere(self.labels[self._boxes[VALUE[name]]] == VALUE[name])

    @cached_property
    def _boxes(self) -> dict[int, Box]:
        return boxes_of(self.labels)


@dataclass(frozen=True)
class Anatomies:
    """Where hearts come from: the share drawn from template files, and how strongly all are bent (1: adult range)."""

    templates: list[Path] = field(default_factory=list)
    template_share: float = 0.7
    deformation: float = 1.0


# --- drawing -------------------------------------------------------------------------------------------------------


def draw_heart(
    rng: np.random.Generator,
    spacing: float,
    anatomies: Anatomies,
    finish: Callable[[Heart], Heart] = lambda heart: heart,
) -> Heart:
    """A sound random heart at ``spacing`` mm, from a template or from solids.

    ``finish`` may add to the labels (the aorta's course through the body) before they are repaired and judged. An
    unsound draw is thrown away and drawn again; raises :class:`AnatomyError` if twenty in a row fail.
    """
    shape = ((HIGH_MM - LOW_MM) / spacing).astype(int)
    lattice = Lattice((LOW_MM + HIGH_MM - spacing * (shape - 1)) / 2, spacing, tuple(shape.tolist()))
    wrong: list[Finding] = []
    for _ in range(TRIES):
        drawn = _draw_once(rng, lattice, anatomies)
        heart = replace(drawn, labels=repair(finish(drawn).labels, spacing))
        wrong = faults(heart.labels, spacing)
        if not wrong:
            return replace(heart, measures=heart.measures | _measured(heart))
    reasons = ", ".join(clause(fault) for fault in wrong)
    raise AnatomyError(f"No sound heart in twenty draws ({reasons}): are the templates whole hearts?")


def _draw_once(rng: np.random.Generator, lattice: Lattice, anatomies: Anatomies) -> Heart:
    measures = draw_measures(rng)
    kind = draw_appendage(rng)
    if anatomies.templates and rng.random() < anatomies.template_share:
        model = read_template(anatomies.templates[int(rng.integers(len(anatomies.templates)))])
        replaced = rng.random() < NEW_APPENDAGE
    else:
        model, replaced = parametric_model(rng), True
    if replaced:
        model = with_appendage(model, kind, rng)
    deformation = _grown(rng, model, measures, anatomies.deformation)
    labels = bend(model, deformation, lattice)
    asked = {"systole": measures.systole, "body_surface_m2": measures.body_surface,
             "aorta_mm": measures.calibres["AO"], "pulmonary_mm": measures.calibres["PA"]}  # fmt: skip
    asked |= {f"{n}_{'diastole' if n in ('LV', 'RV') else 'systole'}_ml": v
              for n, v in measures.at_rest.items() if n != "MYO"}  # fmt: skip
    return Heart(labels, lattice, model.name, measures.sex, measures.findings, kind if replaced else "template", asked)


def _grown(rng: np.random.Generator, model: Model, measures: Measures, strength: float) -> Deformation:
    """A random map under which the model has the drawn volumes and calibres."""
    asked = sum(measures.volumes.values())
    scale = float(np.clip((asked / sum(model.volume_ml(VALUE[n]) for n in measures.volumes)) ** (1 / 3), 0.8, 1.25))
    deformation = draw_deformation(rng, strength, scale, scale * model.bottom)
    wider = {name: (mm / (scale * model.calibre[name])) ** 2 for name, mm in measures.calibres.items()}
    return grow(deformation, Growth(model, dict(measures.volumes), wider, measures.septum), STEPS)


class Growth:
    """Where and how fast a model must grow to have its ``volumes`` (mL) and vessels ``wider`` (in area) than now."""

    def __init__(self, model: Model, volumes: dict[str, float], wider: dict[str, float], septum: float) -> None:
        self.model, self.targets, self.wider, self.septum = model, volumes, wider, septum

    def __call__(self, places: np.ndarray, left: int) -> np.ndarray:
        """Sources on the coarse lattice, whose points lie at ``places`` of the model, with ``left`` steps to go."""
        shares = self.model.shares_at(places)
        parts = {name: shares[VALUE[name] - 1] for name in (*NAMES[:5], "PA", "LAA")}
        front = 1.0 / (1.0 + np.exp((self.model.behind - places[..., 1]) / 5.0))
        parts["AO"] = shares[VALUE["AO"] - 1] * front
        parts["AO behind"] = shares[VALUE["AO"] - 1] - parts["AO"]
        source = np.zeros(COARSE.shape, dtype=np.float32)
        for name, share in parts.items():
            volume = max(float(share.sum(dtype=np.float64)) * COARSE.spacing**3 / 1000.0, 0.3)
            if name not in self.targets:  # a vessel: as much wider as its volume grows
                self.targets[name] = volume * self.wider[name]
            rate = np.log(self.targets[name] / volume) / max(left - 1, 1)
            source += np.float32(np.clip(rate, -0.35, 0.35)) * share
        if self.septum:
            beside = ndimage.gaussian_filter(parts["RV"], 10.0 / COARSE.spacing)
            source += np.float32(1.6 * self.septum / STEPS) * (beside - 0.15) * parts["MYO"]
        return source


def bend(model: Model, deformation: Deformation, lattice: Lattice) -> np.ndarray:
    """Labels (uint8) on ``lattice``: the structure with the largest share, each looked up in its own box only."""
    rough = model.shares_at(deformation.coarse())
    out = np.zeros(lattice.shape, dtype=np.uint8)
    best, total = np.zeros(lattice.shape, dtype=np.float32), np.zeros(lattice.shape, dtype=np.float32)
    for value, share in enumerate(rough, start=1):
        found = ndimage.find_objects((share > 0.004).astype(np.uint8))
        if not found:
            continue
        low, high = (COARSE.origin + COARSE.spacing * np.array(ends)
                     for ends in zip(*((s.start - 1.0, s.stop + 0.0) for s in found[0]), strict=True))  # fmt: skip
        box = lattice.box(low, high)
        if min(s.stop - s.start for s in box) < 1:
            continue
        here = model.share_at(value, deformation(lattice.part(box).points()))
        total[box] += here
        more = here > best[box]
        out[box][more] = value
        best[box][more] = here[more]
    out[best < 1.0 - total] = 0
    return out


def _measured(heart: Heart) -> dict[str, float]:
    """Volumes (mL) and wall thickness (mm) of the finished labels."""
    voxel_ml = heart.lattice.spacing**3 / 1000.0
    volumes = {f"{name}_ml": voxel_ml * len(heart.points(name)) for name in NAMES}
    return volumes | {"wall_mm": wall_thickness(heart)}


def wall_thickness(heart: Heart) -> float:
    """Median thickness in mm of the left ventricle's wall, away from the base."""
    spacing = heart.lattice.spacing
    labels = np.pad(heart.labels[boxes_of(heart.labels)[VALUE["MYO"]]], 1)
    cavity, wall = labels == VALUE["LV"], labels == VALUE["MYO"]
    rim = ndimage.binary_dilation(cavity) & wall
    index = np.argwhere(rim)
    basal = index @ (heart.centre("MYO") - heart.centre("LA"))
    depth = ndimage.distance_transform_edt(cavity | wall, sampling=spacing)[rim]
    return float(np.median(depth[basal > np.quantile(basal, 0.3)]))

"""Virtual hearts: solids or template label maps, grown to drawn volumes and bent by random smooth invertible maps.

Coordinates are RAS millimetres with the heart's centre near the origin. Every heart that leaves this module has all
eight structures, each in one piece, touching what it should and nothing that it should not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cc3d
import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import FORBIDDEN_CONTACTS, NAMES, NUM_CLASSES, REQUIRED_CONTACTS, VALUE

from .appendage import draw_appendage, with_appendage
from .deform import COARSE, Deformation, draw_deformation, grow
from .measures import Measures, draw_measures
from .model import Model
from .parametric import parametric_model
from .shapes import Lattice
from .templates import AnatomyError as AnatomyError
from .templates import read_template as read_template
from .templates import template_files as template_files

#: Half the side of the cube around the heart in which labels are drawn, mm: the arch and the hila fit in.
REACH_MM = 115.0
#: Distance below which two structures count as touching, mm (walls between blood pools are background).
CONTACT_MM = 2.0
#: What remains between two structures that must not touch, mm; a little more than a contact.
GAP_MM = 3.2
#: Fewest millilitres of each structure in a usable heart.
SMALLEST_ML = {"LA": 12, "LV": 25, "RA": 15, "RV": 30, "MYO": 40, "AO": 20, "PA": 12, "LAA": 1.0}
#: Largest share of the left ventricle's surface that may face background.
BARE_LV = 0.02
#: Share of templates whose appendage is replaced: theirs are mostly invented.
NEW_APPENDAGE = 0.8
#: How many draws are tried before the templates are blamed.
TRIES = 20

LV, MYO = VALUE["LV"], VALUE["MYO"]
#: Pairs kept apart by a wall, of which the first gives way.
SEPARATED = (("RA", "LA"), ("RA", "AO"), ("RV", "AO"), ("RV", "LA"), ("LA", "AO"), ("PA", "AO"), ("LA", "PA"),
             ("LAA", "PA"), ("LAA", "AO"), ("RA", "PA"), ("LAA", "RV"), ("LAA", "RA"))  # fmt: skip

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Heart:
    """Labels (uint8) on ``lattice``, where they came from (``parametric`` or the template's name) and whose heart it is.

    ``measures``: ``systole`` (0 end-diastole to 1 end-systole), ``body_surface_m2``, ``aorta_mm`` and ``pulmonary_mm``
    (widths asked for), ``wall_mm`` (median thickness of the left ventricle's wall), ``<structure>_ml`` (as drawn; the
    great vessels within the lattice), ``LV_diastole_ml``, ``RV_diastole_ml``, ``LA_systole_ml``, ``RA_systole_ml`` (that
    person's largest).
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
        return self._points(name).mean(0)

    def extreme(self, name: str, direction: np.ndarray, quantile: float = 0.99) -> np.ndarray:
        """Middle of the part of a structure that reaches furthest along ``direction``, mm."""
        points = self._points(name)
        along = points @ direction
        return points[along >= np.quantile(along, quantile)].mean(0)

    def _points(self, name: str) -> np.ndarray:
        return self.lattice.origin + self.lattice.spacing * np.argwhere(self.labels == VALUE[name])


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
    templates: list[Path] | Anatomies,
    strength: float = 1.0,
    finish: Callable[[Heart], Heart] = lambda heart: heart,
) -> Heart:
    """A sound random heart at ``spacing`` mm, from a template or from solids.

    ``finish`` may add to the labels (the aorta's course through the body) before they are repaired and judged. An
    unsound draw is thrown away and drawn again; raises :class:`AnatomyError` if twenty in a row fail.
    """
    anatomies = templates if isinstance(templates, Anatomies) else Anatomies(templates, 0.7, strength)
    side = int(2 * REACH_MM / spacing)
    lattice = Lattice(np.full(3, -spacing * (side - 1) / 2), spacing, (side, side, side))
    wrong: list[str] = []
    for _ in range(TRIES):
        drawn = _draw_once(rng, lattice, anatomies)
        heart = replace(drawn, labels=repair(finish(drawn).labels, spacing))
        wrong = faults(heart.labels, spacing)
        if not wrong:
            return replace(heart, measures=heart.measures | _measured(heart))
    raise AnatomyError(f"No sound heart in twenty draws ({', '.join(wrong)}): are the templates whole hearts?")


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
    grown = [VALUE[name] for name in measures.volumes]
    target = np.zeros(NUM_CLASSES)
    target[grown] = list(measures.volumes.values())
    scale = float(np.clip((target.sum() / model.volumes_ml[grown].sum()) ** (1 / 3), 0.8, 1.25))
    vessels = {VALUE[n]: 2 * np.log(mm / (scale * model.calibre[n])) for n, mm in measures.calibres.items()}
    deformation = draw_deformation(rng, strength, scale, scale * model.bottom)
    voxel_ml = COARSE.spacing**3 / 1000.0

    def sources(places: np.ndarray, left: int) -> np.ndarray:
        shares = model.shares_at(places)
        volume = shares.reshape(len(shares), -1).sum(1) * voxel_ml
        rate = np.zeros(len(shares))
        for value in grown:
            rate[value - 1] = np.log(target[value] / max(volume[value - 1], 0.3)) / max(left - 1, 1)
        for value, ratio in vessels.items():
            rate[value - 1] = ratio / STEPS
        source = np.tensordot(rate.clip(-0.35, 0.35).astype(np.float32), shares, 1)
        if measures.septum:
            beside = ndimage.gaussian_filter(shares[VALUE["RV"] - 1], 10.0 / COARSE.spacing)
            source += np.float32(1.6 * measures.septum / STEPS) * (beside - 0.15) * shares[MYO - 1]
        return source

    return grow(deformation, sources, STEPS)


#: Small steps in which a heart grows to its measures.
STEPS = 8


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
    count = np.bincount(heart.labels.ravel(), minlength=NUM_CLASSES) * heart.lattice.spacing**3 / 1000.0
    return {f"{name}_ml": float(count[VALUE[name]]) for name in NAMES} | {"wall_mm": wall_thickness(heart)}


def wall_thickness(heart: Heart) -> float:
    """Median thickness in mm of the left ventricle's wall, away from the base."""
    spacing = heart.lattice.spacing
    box = _grow(_boxes(heart.labels)[MYO], 1, heart.labels.shape)
    labels = heart.labels[box]
    whole = (labels == LV) | (labels == MYO)
    rim = ndimage.binary_dilation(labels == LV) & (labels == MYO)
    index = np.argwhere(rim)
    basal = index @ (heart.centre("MYO") - heart.centre("LA"))
    depth = ndimage.distance_transform_edt(whole, sampling=spacing)[rim]
    return float(np.median(depth[basal > np.quantile(basal, 0.3)]))


# --- repair --------------------------------------------------------------------------------------------------------


def near(mask: np.ndarray, distance_mm: float, spacing: float) -> np.ndarray:
    """Voxels within ``distance_mm`` of a mask, computed in the mask's box only."""
    out = np.zeros(mask.shape, dtype=bool)
    where = ndimage.find_objects(mask.astype(np.uint8))
    if not where:
        return out
    margin = int(distance_mm / spacing) + 2
    box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in where[0])
    out[box] = _within(mask[box], distance_mm, spacing)
    return out


def _within(mask: np.ndarray, distance_mm: float, spacing: float) -> np.ndarray:
    if distance_mm < 1.4 * spacing:  # the six neighbours
        return ndimage.binary_dilation(mask)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance_mm


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    found = ndimage.find_objects(labels, max_label=NUM_CLASSES - 1)
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _grow(box: Box, voxels: int, shape: tuple[int, ...]) -> Box:
    a, b, c = (slice(max(s.start - voxels, 0), min(s.stop + voxels, n)) for s, n in zip(box, shape, strict=True))
    return a, b, c


def _meeting(labels: np.ndarray, boxes: dict[int, Box], first: int, second: int, reach: int) -> Box | None:
    """The box in which voxels of ``first`` and ``second`` can lie within ``reach`` voxels of each other."""
    if first not in boxes or second not in boxes:
        return None
    ends = [(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(*(_grow(boxes[v], reach, labels.shape) for v in (first, second)), strict=True)]  # fmt: skip
    if any(stop <= start for start, stop in ends):
        return None
    return _grow((slice(*ends[0]), slice(*ends[1]), slice(*ends[2])), reach, labels.shape)


def _touching(labels: np.ndarray, boxes: dict[int, Box], first: int, second: int, mm: float, spacing: float) -> tuple[Box, np.ndarray] | None:
    """Voxels of ``first`` within ``mm`` of ``second``, as a box and the mask within it; None if there cannot be any."""
    box = _meeting(labels, boxes, first, second, int(mm / spacing) + 2)
    if box is None:
        return None
    one, other = labels[box] == first, labels[box] == second
    if not one.any() or not other.any():
        return None
    return box, one & _within(other, mm, spacing)


def repair(labels: np.ndarray, spacing: float) -> np.ndarray:
    """Mend a drawn heart: wall all around the LV, thin walls between other pools, one piece each, no holes."""
    out = labels.copy()
    boxes = _boxes(out)
    if LV in boxes:
        for name in ("RV", "RA", "PA", "LAA"):
            found = _touching(out, boxes, VALUE[name], LV, GAP_MM, spacing)
            if found:
                out[found[0]][found[1]] = MYO
        box = _grow(boxes[LV], 2, out.shape)
        here = out[box]
        here[(here == 0) & ndimage.binary_dilation(here == LV)] = MYO
    for first, second in SEPARATED:
        wide = (first, second) in FORBIDDEN_CONTACTS or (second, first) in FORBIDDEN_CONTACTS
        found = _touching(out, boxes, VALUE[first], VALUE[second], GAP_MM if wide else 1.01 * spacing, spacing)
        if found:
            out[found[0]][found[1]] = 0
    return _whole(out)


def _whole(labels: np.ndarray) -> np.ndarray:
    """The largest piece of each structure, its holes filled."""
    out = np.zeros_like(labels)
    for value, tight in _boxes(labels).items():
        box = _grow(tight, 1, labels.shape)
        piece = cc3d.largest_k(labels[box] == value, k=1, connectivity=6) > 0
        piece |= _holes(piece)
        out[box][piece & (out[box] == 0) & ((labels[box] == value) | (labels[box] == 0))] = value
    return out


def _holes(mask: np.ndarray) -> np.ndarray:
    """Voxels outside a mask that cannot reach the rim of its box."""
    pieces = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6)
    return ((pieces > 0) & (pieces != pieces[0, 0, 0]))[1:-1, 1:-1, 1:-1]


# --- judging -------------------------------------------------------------------------------------------------------


def faults(labels: np.ndarray, spacing: float) -> list[str]:
    """What is wrong with a heart; empty if it is sound.

    Every structure there, in one piece, without holes; contacts as they should be after 2 mm dilation; the left
    ventricle nowhere bare; left and right, front and back in order.
    """
    boxes = _boxes(labels)
    found = _broken(labels, boxes, spacing)
    if found:
        return found
    reach = max(CONTACT_MM, 1.01 * spacing)
    for pairs, wanted in ((REQUIRED_CONTACTS, True), (FORBIDDEN_CONTACTS, False)):
        for a, b in pairs:
            contact = _touching(labels, boxes, VALUE[b], VALUE[a], reach, spacing)
            if (contact is not None and bool(contact[1].any())) != wanted:
                found.append(f"{a} and {b} {'apart' if wanted else 'touch'}")
    if _bare(labels, boxes) > BARE_LV:
        found.append("LV bare")
    return found + _disorder(labels, boxes)


def _broken(labels: np.ndarray, boxes: dict[int, Box], spacing: float) -> list[str]:
    """Structures that are missing or too small, in pieces or with holes."""
    found = []
    for name in NAMES:
        mask = labels[boxes[VALUE[name]]] == VALUE[name] if VALUE[name] in boxes else np.zeros((1, 1, 1), bool)
        if mask.sum() * spacing**3 / 1000.0 < SMALLEST_ML[name]:
            found.append(f"{name} too small")
        elif cc3d.connected_components(mask, connectivity=26, return_N=True)[1] != 1:
            found.append(f"{name} in pieces")
        elif _holes(mask).any():
            found.append(f"{name} with holes")
    return found


def _bare(labels: np.ndarray, boxes: dict[int, Box]) -> float:
    """Share of the voxels just outside the left ventricle that are background."""
    here = labels[_grow(boxes[LV], 2, labels.shape)]
    rim = here[ndimage.binary_dilation(here == LV) & (here != LV)]
    return float((rim == 0).mean())


def _disorder(labels: np.ndarray, boxes: dict[int, Box]) -> list[str]:
    """Left ventricle and appendage lie left of the right atrium, the right ventricle in front of both left chambers."""
    centre = {name: np.argwhere(labels[boxes[VALUE[name]]] == VALUE[name]).mean(0)
              + [s.start for s in boxes[VALUE[name]]] for name in ("LA", "LV", "RA", "RV", "LAA")}  # fmt: skip
    found = [f"{name} not left of RA" for name in ("LV", "LAA") if centre[name][0] >= centre["RA"][0]]
    return found + [f"RV not in front of {name}" for name in ("LA", "LV") if centre["RV"][1] <= centre[name][1]]

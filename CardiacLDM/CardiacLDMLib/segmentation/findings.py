"""Remarks on label maps: their record, their wording, and the remarks on a segmented scan.

Every remark on labels is a :class:`Finding`, whichever module makes it. :func:`sentence` words it for users,
:func:`flag` for a table cell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from .. import anatomy
from ..image.grid import Volume
from ..text import join_words, plural, volume_text

#: ``value`` and ``limit`` of each rule, and what ``where`` holds:
#:
#: - ``no heart``: mL of heart, least mL of a heart; the edges of the scan at which a part of one may lie
#: - ``doubt``: none; why it may be no heart
#: - ``cut off``: none; the side of the scan that cuts the structures off
#: - ``missing``: none
#: - ``volume``: mL, and the limit that it exceeds or falls below; the sex whose limits hold, if it is known
#: - ``trace``: mL, least mL of a structure that can be seen and measured
#: - ``too small``: mL, smallest usable volume
#: - ``pieces``: number of pieces, most pieces allowed
#: - ``holes``: mL enclosed, 0
#: - ``islands``: number of islands, most islands allowed; how many in each structure
#: - ``contact`` (two structures are apart), ``forbidden contact`` (they touch): none, mm within which they touch
#: - ``order``: none; on which side of the second structure the first one should lie
#: - ``LV open``: share of the left ventricle's surface that faces background, largest share allowed
#: - ``agreement``: mean Dice with the segmenter's labels, least Dice allowed
#: - ``plate``: share of an axial slice's unlabelled voxels that is as bright as bone, largest share allowed
#: - ``seam``: HU by which the body changes from one axial slice to the next, most HU allowed
#: - ``surroundings``: median HU of a tissue around the heart, the limit that it exceeds or falls below; the tissue
#: - ``bone``: share of the body around the heart that is as bright as bone, largest share allowed
#: - ``lattice``: steps at one place of each latent voxel over those at others, most of it allowed
#: - ``fat``, ``lung vessels``: their share of the body and of the lungs, least share allowed
#: - ``own labels``: 1 - Dice of a structure with the package's own labels, most of it allowed
#: - ``difference``: mL of the largest part that the package labels otherwise, most mL allowed; whether the structure
#:   reaches ``beyond`` the package's or falls ``short of`` it
#: - ``moved``: mm by which a structure lies off the package's as a whole, most mm allowed
#: - ``surface``: mm by which a structure's surface lies ``outside`` or ``inside`` of the package's, most mm allowed
#: - ``mirrored``: 1 - Dice of a structure between mirrored passes, most of it allowed
#: - ``blood``: HU by which a pool is darker than muscle, most HU allowed
#: - ``pools``: how far a pool lies below the brightest one that holds the same blood, as a share of its contrast to
#:   muscle, largest share allowed
#: - ``tissue``: mL of a structure with the HU of another tissue, most mL allowed; the tissue
#: - ``border``: share of a layer ``inside`` the structure's border that holds another tissue, or ``outside`` that holds
#:   its own and is not labelled; largest share allowed
#: - ``unlabelled``: mL beside a structure that hold its tissue and no label, most mL allowed
#: - ``jump``: share of the largest area by which the area jumps in a slice, largest share allowed
#: - ``shift``: mm by which the centre jumps in a slice, most mm allowed
#: - ``appendage``: mm by which the appendage lies behind the left atrium's centre, most mm allowed
#: - ``ragged``: share of a structure's surface voxels that hang loose, largest share allowed
Rule = Literal[
    "no heart", "doubt", "cut off", "missing", "volume", "trace", "too small", "pieces", "holes", "islands", "contact",
    "forbidden contact", "order", "LV open", "agreement", "replica", "plate", "seam", "surroundings", "bone", "lattice",
    "fat", "lung vessels", "own labels", "difference", "moved", "surface",
    "mirrored", "blood", "pools", "tissue", "border", "unlabelled", "jump", "shift", "appendage", "ragged",
]  # fmt: skip

#: A point in RAS mm.
Place = tuple[float, float, float]

#: Heart voxels within this distance of the scan's edge, over this area, mean that the scan cuts the heart off.
EDGE_MM = 1.5
EDGE_MM2 = 50.0
#: Less of a structure is only a trace of it, mL: the smallest, the appendage, usually has more.
TRACE_ML = 1.0
#: The edges of a scan along the RAS axes, by the names that findings give them.
SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


@dataclass(frozen=True)
class Finding:
    """One remark on a label map: the ``rule`` that the ``structures`` break.

    :data:`Rule` explains ``value``, ``limit`` and ``where``. ``place``: where to look, None where there is no point.
    ``severity``: the share (0 to 1) of the smallest of the structures that is in doubt, so that findings of different
    rules can be sorted; 0 for a remark that puts no label in doubt. Two findings that differ in these two are equal.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": False, "extra": "forbid"}  # comes in messages

    rule: Rule
    structures: tuple[str, ...] = ()
    value: float | None = None
    limit: float | None = None
    where: str = ""
    place: Place | None = field(default=None, compare=False)
    severity: float = field(default=0.0, compare=False)


# --- words ---------------------------------------------------------------------------------------------------------


def sentence(finding: Finding) -> str:
    """Return the finding as a sentence for the user."""
    return f"{clause(finding)}."


def clause(finding: Finding) -> str:
    """Return the :func:`sentence` without its full stop, to be joined with others."""
    return _CLAUSES[finding.rule](finding)


def flag(finding: Finding) -> str:
    """Return a few words for a table cell, in the row of the structure."""
    if finding.rule == "volume":
        return f"unusually {'small' if _value(finding) < _limit(finding) else 'large'}"
    words = {"missing": "not found", "cut off": "cut off by the scan's edge", "trace": "only a trace"}
    return words.get(finding.rule) or clause(finding)


def _value(finding: Finding) -> float:
    return float("nan") if finding.value is None else finding.value


def _limit(finding: Finding) -> float:
    return float("nan") if finding.limit is None else finding.limit


def _names(finding: Finding) -> str:
    return join_words(finding.structures or ("no structure",))


def _cut_off(f: Finding) -> str:
    return f"The scan ends inside the heart ({f.where} edge): the volumes of {_names(f)} are incomplete"


def _no_heart(f: Finding) -> str:
    if f.where:
        sides = f.where.split(", ")
        edges = f"{join_words(sides)} edge{'s' if len(sides) > 1 else ''}"
        return f"No whole heart was found; what may be a part of one at the scan's {edges} was not labelled"
    return "No heart was found in the scan: nothing was labelled"


def _missing(f: Finding) -> str:
    if not f.structures:
        return "There is no label at all"
    return f"{_names(f)} {'was' if len(f.structures) == 1 else 'were'} not found"


def _volume(f: Finding) -> str:
    sex: anatomy.Sex | None = "male" if f.where == "male" else "female" if f.where == "female" else None
    low, high = anatomy.volume_limits_ml(f.structures[0], sex) or (0.0, float("inf"))
    return f"{_names(f)} measures {volume_text(_value(f))}, outside the usual {low:.0f} to {high:.0f} mL: check it"


def _border(f: Finding) -> str:
    if f.where == "inside":
        return f"{_value(f):.0%} of the rim of {_names(f)} holds another tissue: the label may reach too far"
    return f"At {_value(f):.0%} of its border the tissue of {_names(f)} goes on: the label may end too early"


def _surface(f: Finding) -> str:
    wide = f.where == "outside"
    if f.structures == ("MYO",):
        surface, doubt = "outer surface", f"its wall may be too {'thick' if wide else 'thin'}"
    else:
        surface, doubt = "surface", f"the label may be too {'large' if wide else 'small'}"
    return f"The {surface} of {_names(f)} lies {_value(f):.1f} mm {f.where} the package's own labels: {doubt}"


def _replica(f: Finding) -> str:
    distances = f"{_value(f):.3f} of the distance to others, below {_limit(f):.3f}"
    return f"The pair is too similar to a training case ({distances})"


_CLAUSES: dict[Rule, Callable[[Finding], str]] = {
    "no heart": _no_heart,
    "doubt": lambda f: f"Check whether this is a heart: {f.where}",
    "cut off": _cut_off,
    "missing": _missing,
    "volume": _volume,
    "trace": lambda f: f"Only {volume_text(_value(f))} of {_names(f)} was found: check it",
    "too small": lambda f: f"{_names(f)} measures {_value(f):.1f} mL, less than the {_limit(f):g} mL of a usable heart",
    "pieces": lambda f: f"{_names(f)} is in {plural(round(_value(f)), 'piece')}",
    "holes": lambda f: f"{_names(f)} encloses holes of {_value(f):.2g} mL",
    "islands": lambda f: f"The labels hold {plural(round(_value(f)), 'island')} ({f.where}), more than {_limit(f):g}",
    "contact": lambda f: f"{_names(f)} are apart",
    "forbidden contact": lambda f: f"{_names(f)} touch",
    "order": lambda f: f"{f.structures[0]} is not {f.where} {f.structures[1]}",
    "LV open": lambda f: f"{_value(f):.1%} of the LV's surface faces background, more than {_limit(f):.0%}",
    "agreement": lambda f: f"The labels do not match the image (Dice {_value(f):.2f}, below {_limit(f):.2f})",
    "replica": _replica,
    "plate": lambda f: f"{_value(f):.0%} of an axial slice is as bright as bone, more than {_limit(f):.0%}",
    "seam": lambda f: f"The tissue changes by {_value(f):.0f} HU from slice to slice, by more than {_limit(f):g} HU",
    "surroundings": lambda f: (
        f"The {f.where} around the heart has {_value(f):.0f} HU, beyond the usual {_limit(f):g} HU"
    ),
    "bone": lambda f: f"{_value(f):.0%} of the body around the heart is as bright as bone, more than {_limit(f):.0%}",
    "lattice": lambda f: f"Small blocks show in the image ({_value(f):.2f}, more than {_limit(f):g})",
    "fat": lambda f: f"Only {_value(f):.0%} of the body around the heart is fat, less than {_limit(f):.0%}",
    "lung vessels": lambda f: f"The lungs lack vessels ({_value(f):.1%} of them, less than {_limit(f):.1%})",
    "own labels": lambda f: f"{_names(f)} differs from the package's own labels (Dice {1 - _value(f):.2f})",
    "difference": lambda f: f"{_names(f)} is {volume_text(_value(f))} {f.where} the package's own labels in one place",
    "moved": lambda f: f"{_names(f)} lies {_value(f):.1f} mm off the package's own labels",
    "surface": _surface,
    "mirrored": lambda f: f"{_names(f)} differs between mirrored passes (Dice {1 - _value(f):.2f})",
    "blood": lambda f: f"{_names(f)} is {_value(f):.0f} HU darker than muscle: check the labels of both",
    "pools": lambda f: f"{_names(f)} is darker than the rest of the left heart (by {_value(f):.0%} of its contrast)",
    "tissue": lambda f: f"{volume_text(_value(f))} of {_names(f)} has the HU of {f.where}",
    "border": _border,
    "unlabelled": lambda f: f"{volume_text(_value(f))} beside {_names(f)} looks like it and has no label",
    "jump": lambda f: f"The area of {_names(f)} jumps from slice to slice (by {_value(f):.0%} of the largest one)",
    "shift": lambda f: f"The centre of {_names(f)} jumps by {_value(f):.1f} mm from slice to slice",
    "appendage": lambda f: f"{_names(f)} lies far behind, where the pulmonary vein runs: check that it is no vein",
    "ragged": lambda f: f"The border of {_names(f)} is ragged ({_value(f):.1%} of its voxels hang loose)",
}


# --- a segmented scan ----------------------------------------------------------------------------------------------


def findings(labels: Volume, volumes_ml: dict[str, float], sex: anatomy.Sex | None = None) -> list[Finding]:
    """Return remarks on a segmented scan: a heart that the scan cuts off, missing structures, unusual volumes.

    If the scan cuts the heart off, its volumes are incomplete and not compared with the usual limits. These are those
    of ``sex`` if it is given.
    """
    cut = cut_off(labels)
    remarks = [Finding("cut off", tuple(names), where=side) for side, names in cut.items()]
    incomplete = {name for names in cut.values() for name in names}
    others = volume_findings(volumes_ml, anatomy.NAMES if cut else (), sex)
    return remarks + [f for f in others if f.rule != "trace" or f.structures[0] not in incomplete]


def volume_findings(
    volumes_ml: dict[str, float], unjudged: Collection[str] = (), sex: anatomy.Sex | None = None
) -> list[Finding]:
    """Return one finding for all missing structures, and one for each unusual volume of the others.

    Volumes of ``unjudged`` structures are not compared with the usual limits, which are those of ``sex`` if it is
    given, and great vessels have no limits: of these only traces are remarked on.
    """
    missing = tuple(name for name in anatomy.NAMES if volumes_ml.get(name, 0.0) <= 0.0)
    remarks = [Finding("missing", missing, severity=1.0)] if missing else []
    for structure in anatomy.STRUCTURES:
        if structure.name in missing:
            continue
        volume = volumes_ml[structure.name]
        limits = anatomy.volume_limits_ml(structure.name, sex)
        if limits is None or structure.name in unjudged:
            if volume < TRACE_ML:
                remarks.append(Finding("trace", (structure.name,), volume, TRACE_ML, severity=1.0 - volume / TRACE_ML))
            continue
        low, high = limits
        if not low <= volume <= high:
            limit = low if volume < low else high
            doubt = 1.0 - min(volume, limit) / max(volume, limit)
            remarks.append(Finding("volume", (structure.name,), volume, limit, sex or "", severity=doubt))
    return remarks


def cut_off(labels: Volume) -> dict[str, list[str]]:
    """Return the heart's structures that reach each edge of the scan, as in ``{"inferior": ["LV", "RV"]}``."""
    touching: dict[str, list[str]] = {}
    spacing = labels.spacing
    for axis in range(3):
        depth = max(1, round(EDGE_MM / spacing[axis]))
        voxel_mm2 = float(np.prod(spacing) / spacing[axis])
        layers = np.moveaxis(labels.array, axis, 0)
        for at_end, layer in enumerate((layers[:depth], layers[-depth:])):
            areas = {name: np.count_nonzero((layer == anatomy.VALUE[name]).any(axis=0)) * voxel_mm2
                     for name in anatomy.HEART}  # fmt: skip
            names = [name for name, area in areas.items() if area >= EDGE_MM2]
            if names:
                touching[side(labels.affine[:3, axis], at_end)] = names
    return touching


def side(direction: np.ndarray, at_end: int) -> str:
    """Return the name of the scan's edge at the start (``at_end`` 0) or end (1) of an axis with RAS ``direction``."""
    world = int(np.abs(direction).argmax())
    return SIDES[world][at_end if direction[world] > 0 else 1 - at_end]

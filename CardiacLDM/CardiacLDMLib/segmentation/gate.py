"""Decide whether what the networks labelled is a heart: networks also see hearts in livers and bowels.

No single sign tells hearts from other organs: a heart between consolidated lungs has no lung around it, and a liver
below the lungs has some. So four signs are weighed, each with one limit (:class:`Signs`). The ranges at the limits are
those of the shipped package in 114 scans of *hearts* (three patients and 24 virtual ones, as they are, noisy, coarse or
cropped, and with lungs filled with consolidation or fluid), 61 of *parts* of them (scans that end in the heart), and
107 with *no heart* (livers, abdomens, phantoms of pelvis, head and legs, noise, a trunk without its heart). One virtual
heart with wrong labels is left out of the ranges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .. import anatomy
from ..image.grid import Grid, Volume
from ..image.labels import volumes_ml
from ..image.resample import dilate
from ..text import join_words
from .findings import EDGE_MM2, Finding, side
from .heart import HEART_VALUES, lung_share

#: Least share of lung around a heart. Hearts: 0.24 to 0.47, between filled lungs from 0. No heart: 0 to 0.17 in
#: abdomens, up to 0.54 in livers below the lungs.
MIN_LUNG_SHARE = 0.26
#: Least mean probability of the labels of chambers, wall and appendage. Hearts: 0.85 to 0.94, without contrast medium
#: between filled lungs from 0.70. No heart: 0.58 to 0.79, once 0.83 (fat in place of the heart) and 0.84 (vessels).
MIN_CERTAINTY = 0.85
#: Least share of the left ventricle's surface that lies against its wall. Hearts: 0.62 to 0.93, without contrast medium
#: between filled lungs from 0. No heart: 0 to 0.49.
MIN_WALL_SHARE = 0.6
#: Most faults of anatomy: structures absent, contacts absent, pairs in the wrong order. Hearts: at most 1; 2 or 3 in
#: mirrored scans. No heart: 2 to 7, or fewer where the scan's edge explains the others.
MAX_FAULTS = 1
#: Labels end up to this many of their voxels before the edge of the scan: networks are unsure there.
EDGE_VOXELS = 2

Verdict = Literal["heart", "doubt", "none"]


@dataclass(frozen=True)
class Signs:
    """What speaks for a heart: ``lung`` around it, ``certainty`` of the labels, ``wall`` around the left ventricle.

    These are shares, 0 to 1. ``faults``: number of faults of anatomy that the scan's end does not explain.
    ``faultless``: there are not even faults that it explains. ``cut``: structures at the scan's edge by side.
    """

    lung: float = 0.0
    certainty: float = 0.0
    wall: float = 0.0
    faults: int = 0
    faultless: bool = False
    cut: dict[str, list[str]] = field(default_factory=dict)

    def absent(self) -> list[str]:
        """Return words for the signs that are absent."""
        words = {
            "there is hardly any lung around it": self.lung < MIN_LUNG_SHARE,
            "the labels are uncertain": self.certainty < MIN_CERTAINTY,
            "the left ventricle lies open": self.wall < MIN_WALL_SHARE,
            "its parts do not lie as in a usual heart (is the scan mirrored?)": self.faults > MAX_FAULTS,
        }
        return [word for word, is_absent in words.items() if is_absent]

    def verdict(self) -> Verdict:
        """Return ``heart`` for labels between lungs that are sure, or faultless with a closed ventricle.

        A closed ventricle with faults around it is in doubt: the scan may be mirrored. Elsewhere the anatomy must speak
        for a heart, which is then in doubt: one sign may be absent, or two of a faultless heart.
        """
        closed = self.wall >= MIN_WALL_SHARE
        sure = self.certainty >= MIN_CERTAINTY or (closed and self.faultless)
        if self.lung >= MIN_LUNG_SHARE and sure and (not closed or self.faults <= MAX_FAULTS):
            return "heart"
        return "doubt" if len(self.absent()) <= (2 if self.faultless else 1) else "none"

    def doubts(self) -> list[Finding]:
        """Return a finding if it is in doubt whether this is a heart."""
        return [Finding("doubt", where=join_words(self.absent()))] if self.verdict() == "doubt" else []


def read_signs(image: np.ndarray, labels: Volume, probability: np.ndarray, scan: Grid) -> Signs:
    """Return the signs of ``labels`` (uint8, clean) on an isotropic RAS grid.

    ``image`` (HU) and the ``probability`` of the labels (0 to 1) have the same grid. ``scan``: the grid of the scan,
    whose edges excuse faults.
    """
    heart = np.isin(labels.array, HEART_VALUES)
    cut = cut_off_at(labels, scan)
    return Signs(
        lung=lung_share(image, heart, labels.spacing[0]),
        certainty=float(probability[heart].mean()) if heart.any() else 0.0,
        wall=wall_share(labels.array),
        faults=len(faults(labels, cut)),
        faultless=not faults(labels, {}),
        cut=cut,
    )


def wall_share(labels: np.ndarray) -> float:
    """Return the share (0 to 1) of the left ventricle's surface, in voxel faces, that lies against its wall."""
    ventricle, wall = labels == anatomy.VALUE["LV"], labels == anatomy.VALUE["MYO"]
    surface = walled = 0
    for axis in range(3):
        inside, around = np.moveaxis(ventricle, axis, 0), np.moveaxis(wall, axis, 0)
        surface += int(np.count_nonzero(inside[1:] != inside[:-1]))
        walled += int(np.count_nonzero(inside[1:] & around[:-1]) + np.count_nonzero(inside[:-1] & around[1:]))
    return walled / max(surface, 1)


def faults(labels: Volume, cut: dict[str, list[str]]) -> list[Finding]:
    """Return absent structures, absent contacts and wrong orders, but none that the end of the scan explains.

    The appendage is left out: it is small, and absent after surgery.
    """
    volumes = volumes_ml(labels.array, labels.grid.voxel_ml)
    present = {name for name in anatomy.NAMES if volumes[name] >= anatomy.SMALLEST_ML[name] / 2} - {"LAA"}
    at_edge = {name for names in cut.values() for name in names}
    near_edge = at_edge | {b for pair in anatomy.REQUIRED_CONTACTS if at_edge & {*pair} for b in pair}
    found = [Finding("missing", (name,)) for name in anatomy.NAMES if name not in present | near_edge | {"LAA"}]
    masks = {name: labels.array == anatomy.VALUE[name] for name in present}
    for a, b in anatomy.REQUIRED_CONTACTS:
        if {a, b} <= present and not at_edge & {a, b} and not (dilate(masks[a], 1) & masks[b]).any():
            found.append(Finding("contact", (a, b), limit=labels.spacing[0]))
    centres = {name: np.argwhere(mask).mean(0) for name, mask in masks.items()}
    for a, b, axis, where in anatomy.CENTROID_ORDER:
        if {a, b} <= present and not at_edge & {a, b} and centres[a][axis] <= centres[b][axis]:
            found.append(Finding("order", (a, b), where=where))
    return found


def cut_off_at(labels: Volume, scan: Grid) -> dict[str, list[str]]:
    """Return the heart's structures at each edge of ``scan``, as in ``{"inferior": ["LV", "RV"]}``.

    ``labels`` have an isotropic grid, which need not be parallel to the scan's.
    """
    places = np.argwhere(np.isin(labels.array, HEART_VALUES))
    values = labels.array[tuple(places.T)]
    matrix = np.linalg.inv(scan.affine) @ labels.affine
    index = places @ matrix[:3, :3].T + matrix[:3, 3]
    voxel_mm2 = float(labels.spacing[0]) ** 2
    touching: dict[str, list[str]] = {}
    for axis in range(3):
        reach = EDGE_VOXELS * labels.spacing[0] / scan.spacing[axis]
        for at_end, depth in enumerate((index[:, axis] + 0.5, scan.shape[axis] - 0.5 - index[:, axis])):
            areas = volumes_ml(values[depth <= reach], voxel_mm2)
            names = [name for name in anatomy.HEART if areas[name] >= EDGE_MM2]
            if names:
                touching[side(scan.affine[:3, axis], at_end)] = names
    return touching

"""What the user is told about labels: a heart that the scan cuts off, missing structures, unlikely volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import anatomy
from ..image.grid import Volume

if TYPE_CHECKING:
    pass


#: Heart that reaches this far into the outermost slices with this area means that the scan cuts it.
EDGE_MM = 1.5
EDGE_MM2 = 50.0
_SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


def findings(labels: Volume, volumes_ml: dict[str, float]) -> list[str]:
    """Sentences on a heart that the scan cuts off, on missing structures and on unlikely volumes.

    A heart that is cut off is measured in part only: nothing is said about its volumes then.
    """
    cut = cut_off(labels)
    sentences = [
        f"The scan ends inside the heart ({side} edge): the volumes of {_listed(names)} are incomplete."
        for side, names in cut.items()
    ]
    missing = [s.name for s in anatomy.STRUCTURES if volumes_ml[s.name] == 0.0]
    if missing:
        sentences.append(f"{_listed(missing)} {'was' if len(missing) == 1 else 'were'} not found.")
    for structure in anatomy.STRUCTURES:
        if structure.volume_limits_ml is None or structure.name in missing or cut:
            continue
        low, high = structure.volume_limits_ml
        volume = volumes_ml[structure.name]
        if not low <= volume <= high:
            sentences.append(
                f"{structure.name} measures {volume:.0f} mL, outside the usual {low:.0f} to {high:.0f} mL: check it."
            )
    return sentences


def cut_off(labels: Volume) -> dict[str, list[str]]:
    """Which heart structures reach which edge of the scan: ``{"inferior": ["LV", "RV"]}``."""
    touching: dict[str, list[str]] = {}
    spacing = labels.spacing
    for axis in range(3):
        depth = max(1, round(EDGE_MM / spacing[axis]))
        voxel_mm2 = float(np.prod(spacing) / spacing[axis])
        layers = np.moveaxis(labels.array, axis, 0)
        direction = labels.affine[:3, axis]
        world = int(np.abs(direction).argmax())
        for at_end, layer in enumerate((layers[:depth], layers[-depth:])):
            side = _SIDES[world][at_end if direction[world] > 0 else 1 - at_end]
            areas = {name: np.count_nonzero((layer == anatomy.VALUE[name]).any(axis=0)) * voxel_mm2
                     for name in anatomy.HEART}  # fmt: skip
            names = [name for name, area in areas.items() if area >= EDGE_MM2]
            if names:
                touching[side] = names
    return touching


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

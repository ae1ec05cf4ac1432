"""Compare two label maps of a case: Dice of each structure, and where they differ most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import anatomy
from ..image.grid import Grid, Volume
from ..image.labels import dice_per_structure, foreground_box


@dataclass(frozen=True)
class Difference:
    """How two label maps differ in a structure that at least one of them has.

    ``largest_ml``: of the largest connected part that only one of them gives the structure. ``place``: a voxel of that
    part, RAS mm, in the axial slice with most of it; None where the maps agree.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": False, "extra": "forbid"}  # comes in messages

    structure: str
    dice: float
    largest_ml: float
    place: tuple[float, float, float] | None = None


def on_grid(labels: Volume, grid: Grid) -> Volume:
    """Return labels on the voxels of ``grid``: as they are if it is theirs, otherwise those of the nearest voxels."""
    from ..image.resample import resample_labels

    if labels.grid.same_as(grid, tolerance_mm=0.1):
        return Volume(labels.array, grid.affine)
    return resample_labels(labels, grid)


def compare(labels: Volume, others: Volume) -> list[Difference]:
    """Return the differences of two label maps on one grid, the structure with the least Dice first."""
    box = foreground_box((labels.array > 0) | (others.array > 0))
    if box is None:
        return []
    start, stop = np.array([(s.start, s.stop) for s in box]).T
    affine = labels.grid.crop(start, stop).affine
    labels, others = (Volume(np.ascontiguousarray(each.array[box]), affine) for each in (labels, others))
    dice = dice_per_structure(labels.array, others.array)
    found = [
        _difference(labels, others, structure, float(value))
        for structure, value in zip(anatomy.STRUCTURES, dice, strict=True)
        if not np.isnan(value)
    ]
    return sorted(found, key=lambda each: each.dice)


def _difference(labels: Volume, others: Volume, structure: anatomy.Structure, dice: float) -> Difference:
    import cc3d

    differs = (labels.array == structure.value) ^ (others.array == structure.value)
    occupied = [np.flatnonzero(differs.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not occupied[0].size:
        return Difference(structure.name, dice, 0.0)
    start = np.array([each[0] for each in occupied])
    box = tuple(slice(each[0], each[-1] + 1) for each in occupied)
    parts = cc3d.connected_components(np.ascontiguousarray(differs[box]), connectivity=6)
    counts = np.bincount(parts.ravel())
    counts[0] = 0
    voxels = np.argwhere(parts == counts.argmax()) + start
    ml = float(counts.max() * np.prod(labels.spacing) / 1000.0)
    return Difference(structure.name, dice, ml, _worst_place(voxels, labels.affine))


def _worst_place(voxels: np.ndarray, affine: np.ndarray) -> tuple[float, float, float]:
    """Return the place (RAS mm) of the voxel nearest to the middle of the axial slice that holds most of ``voxels``."""
    axial = int(np.abs(affine[2, :3]).argmax())
    slices, counts = np.unique(voxels[:, axial], return_counts=True)
    within = voxels[voxels[:, axial] == slices[counts.argmax()]]
    nearest = within[np.abs(within - within.mean(0)).sum(1).argmin()]
    x, y, z = (round(float(v), 1) for v in affine[:3, :3] @ nearest + affine[:3, 3])
    return x, y, z

"""Measure the shape of structures from slice to slice, along their borders, and the place of the appendage."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..generation.plausibility import Labels
from .scene import Measure, share

#: Slices with less than this share of the largest area are not judged: there a structure begins or ends.
LEAST_AREA = 0.1
#: A voxel of a border hangs loose if at most this many of its six neighbours share its label.
LOOSE = 2


def measures(whole: Labels) -> Iterator[Measure]:
    """Yield the measures of shape of a label map.

    ``jump``: change of the area in one axial slice against the mean of both neighbours, as a share of the largest area.
    ``shift``: the same of the centre, in mm. ``ragged``: share of the voxels at the surface that hang loose.
    ``appendage``: mm by which the appendage's centre lies behind that of the left atrium.
    """
    loose = _loose(whole.array)
    for name, box in whole.boxes.items():
        mask = whole.mask(name)
        if mask.shape[2] >= 5:
            yield from _jumps(whole, name, mask)
        hanging = mask & loose[box][..., 0]
        yield Measure("ragged", name, share(hanging, mask & loose[box][..., 1]), "", hanging, box)
    if {"LA", "LAA"} <= whole.boxes.keys() and not {"LA", "LAA"} & whole.cut:
        centres = whole.centroids()
        behind = float(centres["LA"][1] - centres["LAA"][1])
        yield Measure("appendage", "LAA", behind, "", whole.mask("LAA"), whole.boxes["LAA"])


def _jumps(whole: Labels, name: str, mask: np.ndarray) -> Iterator[Measure]:
    """Yield the largest jump of area and of centre between axial slices, but those of the first and last two."""
    areas = np.count_nonzero(mask, axis=(0, 1)).astype(float)
    inner = np.ones(len(areas) - 2, dtype=bool)
    inner[[0, -1]] = False
    jumps = np.where(inner, np.abs(_bend(areas)), 0.0) / areas.max()
    worst = int(jumps.argmax()) + 1
    yield Measure("jump", name, float(jumps.max()), "", _slice(mask, worst), whole.boxes[name])
    sums = [np.einsum("ijk,i->k", mask, np.arange(mask.shape[0]) * whole.spacing[0], dtype=float),
            np.einsum("ijk,j->k", mask, np.arange(mask.shape[1]) * whole.spacing[1], dtype=float)]  # fmt: skip
    steps = np.hypot(*(_bend(total / np.maximum(areas, 1.0)) for total in sums))
    large = areas >= LEAST_AREA * areas.max()
    steps = np.where(inner & large[1:-1] & large[:-2] & large[2:], steps, 0.0)
    worst = int(steps.argmax()) + 1
    yield Measure("shift", name, float(steps.max()), "", _slice(mask, worst), whole.boxes[name])


def _bend(values: np.ndarray) -> np.ndarray:
    """Return by how much each value but the first and the last differs from the mean of its neighbours."""
    return np.asarray(values[1:-1] - (values[:-2] + values[2:]) / 2.0)


def _slice(mask: np.ndarray, k: int) -> np.ndarray:
    """Return the mask's slices ``k`` and beside it alone."""
    out = np.zeros_like(mask)
    out[:, :, k - 1 : k + 2] = mask[:, :, k - 1 : k + 2]
    return out


def _loose(array: np.ndarray) -> np.ndarray:
    """Return (I, J, K, 2) whether voxels hang loose, and whether they lie at a surface."""
    same = np.zeros(array.shape, dtype=np.uint8)
    for axis in range(3):
        lines, counts = np.moveaxis(array, axis, 0), np.moveaxis(same, axis, 0)
        alike = lines[1:] == lines[:-1]
        counts[1:] += alike
        counts[:-1] += alike
    return np.stack([same <= LOOSE, same < 6], axis=-1)

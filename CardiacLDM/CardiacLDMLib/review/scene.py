"""A case as the checks of HU and of agreement see it: cropped to its labels, along the RAS axes, in voxels of 2 mm.

Averages over blocks of voxels keep the noise of sharp kernels from looking like another tissue, and make a check of a
large scan a matter of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..anatomy import NAMES, VALUE
from ..image.grid import Volume, in_ras_order
from ..image.labels import Box
from ..image.resample import block_mean
from ..segmentation.findings import Rule

#: Voxels are averaged up to this size, mm, and over three voxels along axes on which they stay below the second size.
BLOCK_MM, SMOOTH_BELOW_MM = 1.6, 2.0
#: Values up to this are padding around the scanner's field.
OUTSIDE_HU = -1010.0
#: The scene reaches this far around the labels, mm, and the region of a structure this far around it, in voxels.
MARGIN_MM, REACH = 14.0, 6


@dataclass(frozen=True)
class Measure:
    """What a rule measures on a structure, before it is compared with the limit of good labels.

    ``doubt``: mask of the voxels that speak against the labels, in ``box`` of the labels that were measured; the place
    of the finding lies among them. ``layer`` tells measures of one rule, structure and ``where`` apart: each has its
    own limit.
    """

    rule: Rule
    name: str
    value: float
    where: str
    doubt: np.ndarray = field(repr=False)
    box: Box = field(repr=False)
    layer: str = ""

    @property
    def key(self) -> str:
        """Its name in the table of limits."""
        return " ".join(part for part in (self.name, self.where, self.layer) if part)


@dataclass(frozen=True)
class Scene:
    """``array``: labels (I, J, K; uint8), as ``own`` and ``mirrored``; ``hu``: float32, smoothed. None: not given.

    ``hu`` is NaN outside the scanner's field. ``affine``: (4, 4), indices -> RAS mm. ``boxes``: the region of each
    structure that is there.
    """

    array: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)
    spacing: np.ndarray
    boxes: dict[str, Box] = field(repr=False)
    hu: np.ndarray | None = field(repr=False)
    own: np.ndarray | None = field(repr=False)
    mirrored: np.ndarray | None = field(repr=False)

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0


def cropped(labels: Volume, others: Sequence[Volume | None]) -> tuple[Volume, list[Volume | None]]:
    """Return labels, which are not empty, and the ``others`` on their grid, cropped to the labels with a margin.

    What lies at an edge of the scan lies at an edge of the crop, and nothing else does.
    """
    margin = np.ceil(MARGIN_MM / labels.spacing).astype(int)
    occupied = [np.flatnonzero(labels.array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    start = np.maximum([o[0] for o in occupied] - margin, 0)
    stop = np.minimum([o[-1] + 1 for o in occupied] + margin, labels.array.shape)
    affine = labels.grid.crop(start, stop).affine
    box = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
    parts = [None if other is None else Volume(other.array[box], affine) for other in others]
    return Volume(labels.array[box], affine), parts


def read_scene(labels: Volume, image: Volume | None, own: Volume | None, mirrored: Volume | None) -> Scene:
    """Return the scene of a case that is :func:`cropped`."""
    turned = in_ras_order(labels)
    spacing = turned.spacing
    factors = np.maximum(np.rint(BLOCK_MM / spacing), 1).astype(int)
    whole_blocks = np.maximum(np.array(turned.array.shape) // factors, 1) * factors
    box = tuple(slice(0, n) for n in whole_blocks.tolist())
    middles = tuple(slice(n // 2, None, n) for n in factors.tolist())

    def chosen(volume: Volume | None) -> np.ndarray | None:
        return None if volume is None else np.ascontiguousarray(in_ras_order(volume).array[box][middles], np.uint8)

    array = np.ascontiguousarray(turned.array[box][middles], np.uint8)
    affine = turned.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((factors - 1) / 2.0)
    affine[:3, :3] *= factors
    hu = None
    if image is not None:
        means = block_mean(np.ascontiguousarray(in_ras_order(image).array[box]), factors).astype(np.float32)
        hu = smoothed(means, [axis for axis in range(3) if spacing[axis] * factors[axis] < SMOOTH_BELOW_MM])
        hu[grown(means <= OUTSIDE_HU)] = np.nan
    boxes = {name: region(array == VALUE[name]) for name in NAMES if (array == VALUE[name]).any()}
    return Scene(array, affine, spacing * factors, boxes, hu, chosen(own), chosen(mirrored))


def region(mask: np.ndarray) -> Box:
    """Return the region of a structure from its mask, which is not empty."""
    occupied = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(max(int(o[0]) - REACH, 0), int(o[-1]) + REACH + 1) for o in occupied)


def smoothed(array: np.ndarray, axes: list[int]) -> np.ndarray:
    """Return means over three voxels along ``axes``; at the ends over two."""
    out = array.copy()
    for axis in axes:
        lines = np.moveaxis(out, axis, 0)
        sums, counts = lines.copy(), np.full(len(lines), 3.0, dtype=np.float32)
        sums[1:] += lines[:-1]
        sums[:-1] += lines[1:]
        counts[[0, -1]] -= 1.0
        lines[...] = sums / counts.reshape(-1, 1, 1)
    return out


def share(part: np.ndarray, whole: np.ndarray, fewest: int = 1) -> float:
    """Return the number of voxels of a mask over that of another, which counts as ``fewest`` at least."""
    return float(np.count_nonzero(part)) / max(float(np.count_nonzero(whole)), float(fewest))


def grown(mask: np.ndarray, steps: int = 1, axes: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Return ``mask`` with its neighbours through faces along ``axes``, ``steps`` times."""
    for _ in range(steps):
        out = mask.copy()
        for axis in axes:
            before, after = np.moveaxis(mask, axis, 0), np.moveaxis(out, axis, 0)
            after[1:] |= before[:-1]
            after[:-1] |= before[1:]
        mask = out
    return mask


def shrunk(mask: np.ndarray, steps: int = 1) -> np.ndarray:
    """Return ``mask`` without its outer layer of voxels, ``steps`` times; the array's edge counts as inside."""
    return ~grown(~mask, steps)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest part of a mask whose voxels touch through faces."""
    import cc3d

    if not mask.any():
        return mask
    parts = cc3d.connected_components(mask, connectivity=6)
    counts = np.bincount(parts.ravel())
    counts[0] = 0
    return np.asarray(parts == counts.argmax())

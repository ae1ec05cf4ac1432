"""A canvas of tissue codes, onto which tubes and smooth solids are painted.

Solids are level sets: fields that are positive inside, in mm where a thickness is subtracted. They are computed every
4 mm and interpolated only at the voxels that they can reach, which is fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from ..shapes import Lattice, smooth_field, smooth_path
from ..tissue import Tissue, tissue_mask

#: Distance between the points at which smooth fields are computed, mm.
COARSE_MM = 4.0
#: Coarse steps around the canvas, so that solids that extend beyond it keep their shape at its border.
MARGIN = 4

Box = tuple[slice, slice, slice]


def interpolation_weights(at: np.ndarray, size: int) -> np.ndarray:
    """Return weights (len(at), size) of Keys' cubic interpolation at fractional indices; border values continue."""
    low = np.floor(at).astype(int)
    rows = np.arange(len(at))
    weights = np.zeros((len(at), size), dtype=np.float32)
    for k in range(-1, 3):
        d = np.abs(at - low - k)
        inner = 1.5 * d**3 - 2.5 * d**2 + 1.0
        outer = -0.5 * d**3 + 2.5 * d**2 - 4.0 * d + 2.0
        np.add.at(weights, (rows, np.clip(low + k, 0, size - 1)), np.where(d <= 1.0, inner, outer))
    return weights


def blur(mask: np.ndarray, sigma_mm: float, spacing: float) -> np.ndarray:
    """Return a mask or field smoothed by a Gaussian of ``sigma_mm`` (float32)."""
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma_mm / spacing, truncate=2.5)


def capsule_mask(
    lattice: Lattice, start: np.ndarray, end: np.ndarray, r0: float, r1: float, z_stretch: float = 1.0
) -> tuple[Box, np.ndarray]:
    """Return box, and mask within it, of a straight tube with round ends whose radius changes from ``r0`` to ``r1``.

    ``z_stretch`` stretches its section along z. It uses plain floats because thousands of tubes of a few voxels each
    are painted.
    """
    r, sp = max(r0, r1), lattice.spacing
    axes, slices = [], []
    for a in range(3):
        p, q, o, n = float(start[a]), float(end[a]), float(lattice.origin[a]), lattice.shape[a]
        reach = r * z_stretch if a == 2 else r
        low, high = max(ceil((min(p, q) - reach - o) / sp), 0), min(floor((max(p, q) + reach - o) / sp) + 1, n)
        if high <= low:
            return (slice(0, 0),) * 3, np.zeros((0, 0, 0), dtype=bool)
        slices.append(slice(low, high))
        x = np.arange(low, high, dtype=np.float32) * sp + np.float32(o - p)
        axes.append((x / z_stretch if a == 2 else x).reshape([-1 if d == a else 1 for d in range(3)]))
    dx, dy, dz = float(end[0] - start[0]), float(end[1] - start[1]), float(end[2] - start[2]) / z_stretch
    x, y, z = axes
    length = max(dx * dx + dy * dy + dz * dz, 1e-6)
    t = np.clip(x * (dx / length) + y * (dy / length) + z * (dz / length), 0.0, 1.0)
    distance = np.square(x - t * dx) + np.square(y - t * dy) + np.square(z - t * dz)
    return (slices[0], slices[1], slices[2]), distance <= np.square(r0 + t * (r1 - r0))


class LabelBoxes:
    """Labels (uint8, (I, J, K)) on the canvas with the bounding box of each structure."""

    def __init__(self, labels: np.ndarray) -> None:
        self.array = labels
        self._boxes = ndimage.find_objects(labels, max_label=len(VALUE))

    def box(self, names: tuple[str, ...], margin: int) -> Box | None:
        """Return the box around some structures, ``margin`` voxels wider; None if all of them are absent."""
        boxes = [b for n in names if (b := self._boxes[VALUE[n] - 1]) is not None]
        if not boxes:
            return None
        x, y, z = (slice(max(min(b[a].start for b in boxes) - margin, 0), max(b[a].stop for b in boxes) + margin)
                   for a in range(3))  # fmt: skip
        return x, y, z


class Canvas:
    """Tissue codes (uint8, (I, J, K)) on a lattice, with a coarse lattice around it for level sets."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.tissue = np.zeros(lattice.shape, dtype=np.uint8)
        step = max(COARSE_MM, lattice.spacing)
        shape = tuple(int(np.ceil((n - 1) * lattice.spacing / step)) + 1 + 2 * MARGIN for n in lattice.shape)
        self.coarse = Lattice(lattice.origin - MARGIN * step, step, shape)
        self.x, self.y, self.z = (self.coarse.axis(a) for a in range(3))

    def noise(self, rng: np.random.Generator, length_mm: float) -> np.ndarray:
        """Draw smooth noise of unit standard deviation on the coarse lattice."""
        return smooth_field(rng, self.coarse.shape, length_mm / self.coarse.spacing)

    def upsample(self, field: np.ndarray, lattice: Lattice | None = None, box: Box | None = None) -> np.ndarray:
        """Return a field on ``lattice`` (default: the coarse one), interpolated to the canvas or to a box of it."""
        lattice = lattice or self.coarse
        box = box or (slice(0, self.lattice.shape[0]), slice(0, self.lattice.shape[1]), slice(0, self.lattice.shape[2]))
        out = field.astype(np.float32, copy=False)
        weights = []
        for a in range(3):
            at = (self.lattice.axis(a).ravel()[box[a]] - lattice.origin[a]) / lattice.spacing
            low, high = max(int(at.min()) - 2, 0), min(int(at.max()) + 4, field.shape[a])
            low = min(low, high - 1)
            out = out[tuple(slice(low, high) if d == a else slice(None) for d in range(3))]
            weights.append(interpolation_weights(at - low, high - low))
        out = np.tensordot(weights[0], out, axes=(1, 0))
        out = np.matmul(weights[1], out)
        return np.matmul(out.reshape(-1, out.shape[2]), weights[2].T).reshape(out.shape[0], out.shape[1], -1)

    def positive_box(self, field: np.ndarray, lattice: Lattice | None = None) -> Box | None:
        """Return the box of voxels in which a level set may be positive; None if there is none."""
        lattice = lattice or self.coarse
        reach = field > 0
        spans = [np.flatnonzero(reach.any(axis=tuple(d for d in range(3) if d != a))) for a in range(3)]
        if not len(spans[0]):
            return None
        corner = np.array([[s[0] - 1, s[-1] + 1] for s in spans])
        box = self.lattice.box(lattice.origin + lattice.spacing * corner[:, 0],
                               lattice.origin + lattice.spacing * corner[:, 1])  # fmt: skip
        return box if all(s.stop > s.start for s in box) else None

    def tissue_mask(self, box: Box, tissues: Iterable[Tissue]) -> np.ndarray:
        """Return the mask of the voxels of a box that have one of ``tissues``."""
        return tissue_mask(self.tissue[box], tissues)

    def fill(
        self,
        field: np.ndarray,
        tissue: Tissue,
        over: Iterable[Tissue] | None = None,
        lattice: Lattice | None = None,
    ) -> None:
        """Paint ``tissue`` where a level set is positive, replacing only the tissues in ``over`` if they are given."""
        box = self.positive_box(field, lattice)
        if box is None:
            return
        mask = self.upsample(field, lattice, box) > 0
        if over is not None:
            mask &= self.tissue_mask(box, over)
        self.tissue[box][mask] = tissue

    def paint_capsule(
        self, start: np.ndarray, end: np.ndarray, r0: float, r1: float, tissue: Tissue,
        over: Iterable[Tissue] | None = None, z_stretch: float = 1.0,
    ) -> None:  # fmt: skip
        """Paint a straight piece of a tube, at least about a voxel thick so that it stays in one piece."""
        least = 0.55 * self.lattice.spacing
        box, mask = capsule_mask(self.lattice, start, end, max(r0, least), max(r1, least), z_stretch)
        if mask.size:
            if over is not None:
                mask &= self.tissue_mask(box, over)
            self.tissue[box][mask] = tissue

    def paint_tube(
        self, points: ArrayLike, radii: ArrayLike, tissue: Tissue, over: Iterable[Tissue] | None = None,
        z_stretch: float = 1.0,
    ) -> None:  # fmt: skip
        """Paint a tube along a smooth path through ``points`` (N, 3) with ``radii`` (N,), in mm."""
        path = smooth_path(points, radii, step=float(np.clip(1.2 * np.max(radii), 3.0, 8.0)))
        for a, b in pairwise(path):
            self.paint_capsule(a[:3], b[:3], float(a[3]), float(b[3]), tissue, over, z_stretch)

"""A canvas of tissue codes and brushes for it: tubes, and smooth bodies given as fields on a coarse lattice.

A smooth field is cheap where it is computed every 4 mm and only interpolated to the voxels in which it matters. Fields
are level sets: positive inside, in millimetres where a thickness is cut from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ..shapes import Lattice, smooth_field, smooth_path
from ..tissue import Tissue

#: Distance between the points at which smooth fields are computed, mm.
COARSE_MM = 4.0
#: Coarse steps kept around the canvas, so that what lies just outside it shapes what lies inside.
MARGIN = 4

Box = tuple[slice, slice, slice]


def interpolation(at: np.ndarray, size: int) -> np.ndarray:
    """(len(at), size) weights of Keys' cubic interpolation at fractional indices, the border continued."""
    low = np.floor(at).astype(int)
    rows = np.arange(len(at))
    weights = np.zeros((len(at), size), dtype=np.float32)
    for k in range(-1, 3):
        d = np.abs(at - low - k)
        inner = 1.5 * d**3 - 2.5 * d**2 + 1.0
        outer = -0.5 * d**3 + 2.5 * d**2 - 4.0 * d + 2.0
        np.add.at(weights, (rows, np.clip(low + k, 0, size - 1)), np.where(d <= 1.0, inner, outer))
    return weights


def blurred(mask: np.ndarray, sigma_mm: float, spacing: float) -> np.ndarray:
    """A mask or field smoothed by a Gaussian (float32)."""
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma_mm / spacing, truncate=2.5)


def inside_capsule(
    lattice: Lattice, start: np.ndarray, end: np.ndarray, r0: float, r1: float, tall: float = 1.0
) -> tuple[Box, np.ndarray]:
    """Voxels of a straight tube with round ends whose radius runs from ``r0`` to ``r1``: box and mask within it.

    ``tall`` stretches its section along z. Plain floats: thousands of these are drawn, most of a few voxels.
    """
    r, sp = max(r0, r1), lattice.spacing
    axes, slices = [], []
    for a in range(3):
        p, q, o, n = float(start[a]), float(end[a]), float(lattice.origin[a]), lattice.shape[a]
        reach = r * tall if a == 2 else r
        low, high = max(ceil((min(p, q) - reach - o) / sp), 0), min(floor((max(p, q) + reach - o) / sp) + 1, n)
        if high <= low:
            return (slice(0, 0),) * 3, np.zeros((0, 0, 0), dtype=bool)
        slices.append(slice(low, high))
        x = np.arange(low, high, dtype=np.float32) * sp + np.float32(o - p)
        axes.append((x / tall if a == 2 else x).reshape([-1 if d == a else 1 for d in range(3)]))
    dx, dy, dz = float(end[0] - start[0]), float(end[1] - start[1]), float(end[2] - start[2]) / tall
    x, y, z = axes
    length = max(dx * dx + dy * dy + dz * dz, 1e-6)
    t = np.clip(x * (dx / length) + y * (dy / length) + z * (dz / length), 0.0, 1.0)
    distance = np.square(x - t * dx) + np.square(y - t * dy) + np.square(z - t * dz)
    return (slices[0], slices[1], slices[2]), distance <= np.square(r0 + t * (r1 - r0))


class Canvas:
    """Tissue codes (uint8) on a lattice, a coarse lattice around it, and brushes."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.tissue = np.zeros(lattice.shape, dtype=np.uint8)
        step = max(COARSE_MM, lattice.spacing)
        shape = tuple(int(np.ceil((n - 1) * lattice.spacing / step)) + 1 + 2 * MARGIN for n in lattice.shape)
        self.coarse = Lattice(lattice.origin - MARGIN * step, step, shape)
        self.x, self.y, self.z = (self.coarse.axis(a) for a in range(3))

    def noise(self, rng: np.random.Generator, length_mm: float) -> np.ndarray:
        """Smooth noise of unit standard deviation on the coarse lattice."""
        return smooth_field(rng, self.coarse.shape, length_mm / self.coarse.spacing)

    def fine(self, field: np.ndarray, lattice: Lattice | None = None, box: Box | None = None) -> np.ndarray:
        """A field on ``lattice`` (default: the coarse one) interpolated to the canvas, or to a box of it."""
        lattice = lattice or self.coarse
        box = box or (slice(0, self.lattice.shape[0]), slice(0, self.lattice.shape[1]), slice(0, self.lattice.shape[2]))
        out = field.astype(np.float32, copy=False)
        weights = []
        for a in range(3):
            at = (self.lattice.axis(a).ravel()[box[a]] - lattice.origin[a]) / lattice.spacing
            low, high = max(int(at.min()) - 2, 0), min(int(at.max()) + 4, field.shape[a])
            low = min(low, high - 1)
            out = out[tuple(slice(low, high) if d == a else slice(None) for d in range(3))]
            weights.append(interpolation(at - low, high - low))
        out = np.tensordot(weights[0], out, axes=(1, 0))
        out = np.matmul(weights[1], out)
        return np.matmul(out.reshape(-1, out.shape[2]), weights[2].T).reshape(out.shape[0], out.shape[1], -1)

    def box_of(self, field: np.ndarray, lattice: Lattice | None = None) -> Box | None:
        """The part of the canvas in which a level set may be positive; none if nowhere."""
        lattice = lattice or self.coarse
        reach = field > 0
        spans = [np.flatnonzero(reach.any(axis=tuple(d for d in range(3) if d != a))) for a in range(3)]
        if not len(spans[0]):
            return None
        corner = np.array([[s[0] - 1, s[-1] + 1] for s in spans])
        box = self.lattice.box(lattice.origin + lattice.spacing * corner[:, 0],
                               lattice.origin + lattice.spacing * corner[:, 1])  # fmt: skip
        return box if all(s.stop > s.start for s in box) else None

    def over(self, box: Box, tissues: Iterable[Tissue]) -> np.ndarray:
        """Where a box holds one of these tissues."""
        allowed = np.zeros(256, dtype=bool)
        allowed[[int(t) for t in tissues]] = True
        return allowed[self.tissue[box]]

    def fill(
        self,
        field: np.ndarray,
        tissue: Tissue,
        over: Iterable[Tissue] | None = None,
        lattice: Lattice | None = None,
    ) -> None:
        """Paint where a level set is positive, only over certain tissues if they are named."""
        box = self.box_of(field, lattice)
        if box is None:
            return
        mask = self.fine(field, lattice, box) > 0
        if over is not None:
            mask &= self.over(box, over)
        self.tissue[box][mask] = tissue

    def capsule(
        self, start: np.ndarray, end: np.ndarray, r0: float, r1: float, tissue: Tissue,
        over: Iterable[Tissue] | None = None, tall: float = 1.0,
    ) -> None:  # fmt: skip
        """A straight piece of a tube; never thinner than a voxel, so that it does not break up."""
        least = 0.55 * self.lattice.spacing
        box, mask = inside_capsule(self.lattice, start, end, max(r0, least), max(r1, least), tall)
        if mask.size:
            if over is not None:
                mask &= self.over(box, over)
            self.tissue[box][mask] = tissue

    def tube(
        self, points: ArrayLike, radii: ArrayLike, tissue: Tissue, over: Iterable[Tissue] | None = None,
        tall: float = 1.0,
    ) -> None:  # fmt: skip
        """A tube along a smooth path."""
        path = smooth_path(points, radii, step=float(np.clip(1.2 * np.max(radii), 3.0, 8.0)))
        for a, b in pairwise(path):
            self.capsule(a[:3], b[:3], float(a[3]), float(b[3]), tissue, over, tall)

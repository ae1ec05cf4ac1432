"""Geometry of the virtual bodies: lattices, tubes and smooth random fields. Coordinates are in mm, RAS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage


@dataclass(frozen=True)
class Lattice:
    """A regular RAS grid: ``origin`` of voxel (0, 0, 0) and ``spacing`` in mm, ``shape`` in voxels."""

    origin: np.ndarray
    spacing: float
    shape: tuple[int, ...]

    def axis(self, a: int) -> np.ndarray:
        """Return the coordinates (mm, float32) along axis ``a``, shaped to broadcast over the grid."""
        x = (self.origin[a] + self.spacing * np.arange(self.shape[a])).astype(np.float32)
        return x.reshape([-1 if d == a else 1 for d in range(3)])

    def points(self) -> np.ndarray:
        """Return the coordinates of all voxel centres, (I, J, K, 3) float32."""
        return np.stack(np.broadcast_arrays(*(self.axis(a) for a in range(3))), axis=-1)

    def index(self, point: np.ndarray) -> np.ndarray:
        """Return the fractional voxel index of points (..., 3)."""
        return (np.asarray(point) - self.origin) / self.spacing

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """Return slices of the voxels between two corners (mm), clipped to the grid; they may be empty."""
        start = np.clip(np.floor(self.index(low)), 0, self.shape).astype(int)
        stop = np.clip(np.ceil(self.index(high)) + 1, start, self.shape).astype(int)
        return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))  # type: ignore[return-value]

    def crop(self, box: tuple[slice, slice, slice]) -> Lattice:
        """Return the lattice of a box of voxels."""
        start = np.array([s.start for s in box])
        return Lattice(self.origin + self.spacing * start, self.spacing, tuple(s.stop - s.start for s in box))


def unit(vector: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the unit vector in the direction of ``vector``."""
    vector = np.asarray(vector, dtype=np.float64)
    return vector / np.linalg.norm(vector)


def perpendicular(vector: Sequence[float] | np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return the unit vector perpendicular to the unit vector ``axis`` that is closest to ``vector``."""
    vector = np.asarray(vector, dtype=np.float64)
    return unit(vector - axis * (vector @ axis))


def rotation(angles_deg: np.ndarray) -> np.ndarray:
    """Return the 3x3 rotation by ``angles_deg`` about x, then y, then z."""
    cx, cy, cz = np.cos(np.deg2rad(angles_deg))
    sx, sy, sz = np.sin(np.deg2rad(angles_deg))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def smooth_path(points: ArrayLike, radii: ArrayLike, step: float = 2.0) -> np.ndarray:
    """Return a curve (N, 4) through ``points`` (mm), sampled about every ``step`` mm; column 4 is its radius.

    A point that repeats the one before it is ignored: landmarks of small or cut-off structures may coincide.
    """
    knots = np.column_stack([np.asarray(points, dtype=np.float64), np.asarray(radii, dtype=np.float64)])
    apart = np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1)
    knots = knots[np.append(True, apart > 1e-6)]
    along = np.append(0.0, np.cumsum(apart[apart > 1e-6]))
    at = np.linspace(0.0, along[-1], max(2, int(along[-1] / step) + 1))
    if len(knots) > 3:
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(along, knots)(at)
    return np.column_stack([np.interp(at, along, knots[:, c]) for c in range(4)])


def tube_mask(lattice: Lattice, path: np.ndarray) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Return the bounding box of a tube along ``path`` (N, 4) and its mask within that box."""
    radius = path[:, 3]
    box = lattice.box((path[:, :3] - radius[:, None]).min(0), (path[:, :3] + radius[:, None]).max(0))
    local = lattice.crop(box)
    mask = np.zeros(local.shape, dtype=bool)
    if not mask.size:
        return box, mask
    for point, s in zip(path[:, :3], radius, strict=True):
        ball = local.box(point - s, point + s)
        squared = sum(np.square(local.axis(a)[tuple(ball[d] if d == a else slice(None) for d in range(3))] - point[a])
                      for a in range(3))  # fmt: skip
        mask[ball] |= squared <= s * s
    return box, mask


def tube_distance(lattice: Lattice, path: np.ndarray, margin: float) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Return a box around a tube and the signed distance to it there (mm, negative inside, at most ``margin``)."""
    points, radius = path[:, :3], path[:, 3] + margin
    box = lattice.box((points - radius[:, None]).min(0), (points + radius[:, None]).max(0))
    local = lattice.crop(box)
    field = np.full(local.shape, margin, dtype=np.float32)
    for point, s in zip(points, radius, strict=True):
        ball = local.box(point - s, point + s)
        squared = sum(np.square(local.axis(a)[tuple(ball[d] if d == a else slice(None) for d in range(3))] - point[a])
                      for a in range(3))  # fmt: skip
        np.minimum(field[ball], np.sqrt(squared) - np.float32(s - margin), out=field[ball])
    return box, field


def sample(values: np.ndarray, lattice: Lattice, points: np.ndarray) -> np.ndarray:
    """Interpolate ``values`` (N, I, J, K) of ``lattice`` linearly at points (A, B, C, 3); return (N, A, B, C) float32.

    Border values continue beyond the lattice.
    """
    import torch
    from torch.nn.functional import grid_sample

    half = np.maximum((np.array(lattice.shape) - 1) * lattice.spacing / 2, 1e-6)
    scaled = (points - (lattice.origin + half).astype(np.float32)) / half.astype(np.float32)
    grid = torch.from_numpy(np.ascontiguousarray(scaled[..., ::-1], dtype=np.float32))
    source = torch.from_numpy(np.ascontiguousarray(values)).float()
    return grid_sample(source[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0].numpy()


def random_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Draw Gaussian noise of unit standard deviation, smoothed by ``sigma`` voxels (float32)."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if sigma > 0.3:
        noise = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=3.0)
    return noise / (noise.std() + 1e-6)


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Draw noise like :func:`random_field` on a coarse grid and interpolate it: far faster for a large ``sigma``."""
    import torch
    from torch.nn.functional import interpolate

    factor = max(1.0, sigma / 1.5)
    coarse = random_field(rng, tuple(int(np.ceil(n / factor)) + 2 for n in shape), sigma / factor)
    fine = interpolate(torch.from_numpy(coarse)[None, None], size=shape, mode="trilinear", align_corners=True)
    return fine[0, 0].numpy()

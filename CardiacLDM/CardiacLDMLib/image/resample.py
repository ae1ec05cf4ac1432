"""Resample volumes and labels: linear and nearest interpolation, block means. Also fast ``argmax`` and dilation.

All resampling goes through :func:`interpolate` or :func:`nearest`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import anatomy
from .grid import AIR_HU, Grid, Volume, in_ras_order, index_bounds

#: Number of values interpolated at once on oblique grids: large enough to be fast, small enough for little memory.
SLAB_VALUES = 4_000_000
#: Share of a voxel added before voxels are counted from the patient's origin. Centres often lie on whole and half
#: voxels, where rounding of the file would decide; none lies here.
_BLOCK_PHASE = 0.3


def _parallel_axes(linear: np.ndarray) -> list[int] | None:
    """Return the source axis parallel to each target axis, from a matrix (3, 3); None for grids at an oblique angle."""
    axes = np.abs(linear).argmax(axis=0)
    rest = linear.copy()
    rest[axes, np.arange(3)] = 0.0
    if len(set(axes.tolist())) != 3 or np.abs(rest).max() > 1e-6:
        return None
    return axes.tolist()


def _between(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices below and above ``places`` on an axis of ``size`` voxels, and the weights of those above."""
    places = np.clip(places, 0, size - 1)
    lower = np.minimum(np.floor(places).astype(np.intp), max(size - 2, 0))
    return lower, np.minimum(lower + 1, size - 1), (places - lower).astype(np.float32)


def _blend(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray | np.float32) -> np.ndarray:
    """Return ``lower + weight * (upper - lower)``, with a single temporary array."""
    out = upper - lower
    out *= weight
    out += lower
    return out


def _parallel(
    source: np.ndarray, matrix: np.ndarray, axes: list[int], shape: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """Interpolate slice by slice between parallel grids.

    Each source slice is interpolated in its plane once; then neighbouring slices are blended. The innermost axis of the
    arrays is the target's first, so that slices of arrays in Fortran order are contiguous.
    """
    i, j, k = axes
    source = np.ascontiguousarray(source.transpose(0, 1 + k, 1 + j, 1 + i))
    planes, rows, columns = (
        _between(matrix[a, d] * np.arange(shape[d]) + matrix[a, 3], source.shape[3 - d])
        for d, a in ((2, k), (1, j), (0, i))
    )
    passes = [(2, *columns), (1, *rows[:2], rows[2][:, None])]
    if shape[1] * source.shape[3] < shape[0] * source.shape[2]:  # start with the axis that shrinks more
        passes.reverse()
    stretched: dict[int, np.ndarray] = {}
    for n, (lower, upper, weight) in enumerate(zip(*planes, strict=True)):
        for index in {*stretched} - {lower, upper}:
            del stretched[index]
        for index in {lower, upper} - {*stretched}:
            values = source[:, index]
            for axis, low, high, share in passes:
                values = _blend(values.take(low, axis), values.take(high, axis), share)
            stretched[index] = values
        yield n, _blend(stretched[lower], stretched[upper], weight).transpose(0, 2, 1)[..., None]


def _general(source: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate between oblique grids with torch."""
    import torch
    from torch.nn.functional import grid_sample

    index = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij", sparse=True)
    grid = np.empty((*shape, 3), dtype=np.float32)
    for position, a in enumerate((2, 1, 0)):  # grid_sample wants the last axis first, in -1..1 between voxel centres
        x = matrix[a, 0] * index[0] + matrix[a, 1] * index[1] + matrix[a, 2] * index[2] + matrix[a, 3]
        grid[..., position] = 2.0 * x / max(source.shape[1 + a] - 1, 1) - 1.0
    values = torch.from_numpy(np.ascontiguousarray(source))[None]
    places = torch.from_numpy(grid)[None]
    return grid_sample(values, places, mode="bilinear", padding_mode="border", align_corners=True)[0].numpy()


def interpolate(source: np.ndarray, source_affine: np.ndarray, target: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """Interpolate ``source`` (C, I, J, K; float32) linearly at the voxels of ``target``, in slabs.

    ``source_affine``: 4x4, IJK -> RAS mm. Yields ``(k, values)`` with values (C, I, J, n) for the target's slices k to
    k + n. Outside the source the border values continue; :func:`fill_outside` replaces them.
    """
    matrix = np.linalg.inv(source_affine) @ target.affine
    axes = _parallel_axes(matrix[:3, :3])
    if axes is not None:
        yield from _parallel(source, matrix, axes, target.shape)
        return
    thickness = max(1, SLAB_VALUES // (target.shape[0] * target.shape[1] * source.shape[0]))
    for k in range(0, target.shape[2], thickness):
        offset = matrix.copy()
        offset[:3, 3] += k * matrix[:3, 2]
        yield k, _general(source, offset, (*target.shape[:2], min(thickness, target.shape[2] - k)))


def nearest(source: np.ndarray, source_affine: np.ndarray, target: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the value of the voxel of ``source`` (I, J, K) nearest to each voxel of ``target``, in slabs.

    Slabs are ``(k, values)`` as in :func:`interpolate`, with values (I, J, n).
    """
    matrix = np.linalg.inv(source_affine) @ target.affine
    axes = _parallel_axes(matrix[:3, :3])
    across = np.meshgrid(np.arange(target.shape[0]), np.arange(target.shape[1]), indexing="ij", sparse=True)

    def voxels(a: int, k: int) -> np.ndarray:
        """Return the indices along axis ``a`` of ``source``, with length 1 along axes on which they do not depend."""
        place = np.full((1, 1), matrix[a, 2] * k + matrix[a, 3])
        for along in (0, 1):
            if axes is None or axes[along] == a:
                place = place + matrix[a, along] * across[along]
        return np.clip(np.rint(place), 0, source.shape[a] - 1).astype(np.intp)

    for k in range(target.shape[2]):
        values = source[voxels(0, k), voxels(1, k), voxels(2, k)]
        yield k, np.broadcast_to(values, target.shape[:2])[..., None]


def largest(values: np.ndarray) -> np.ndarray:
    """Return the index (uint8) of the largest of ``values`` (C, ...) along the first axis, the first of equals.

    Comparing channel by channel is many times faster than ``argmax`` along an outer axis.
    """
    best = values[0].copy()
    index = np.zeros_like(best, dtype=np.uint8)
    for c in range(1, len(values)):
        np.maximum(index, (values[c] > best).view(np.uint8) * np.uint8(c), out=index)
        np.maximum(best, values[c], out=best)
    return index


def dilate(mask: np.ndarray, voxels: int | np.ndarray) -> np.ndarray:
    """Return a copy of ``mask`` (bool, any dimension), dilated by a box that reaches ``voxels`` to each side.

    ``voxels``: one number, or one for each axis.

    Shifts of growing length are combined, which is ten times as fast as a maximum filter.
    """
    out = mask.copy()
    for axis, (size, most) in enumerate(zip(mask.shape, np.broadcast_to(voxels, mask.ndim).tolist(), strict=True)):
        lines, reach = np.moveaxis(out, axis, 0), 0
        while reach < min(most, size - 1):
            step = min(reach + 1, most - reach)  # not 2 * reach + 1: voxels shifted out of the array are lost
            before = lines.copy(order="K")
            lines[step:] |= before[:-step]
            lines[:-step] |= before[step:]
            reach += step
    return out


def block_mean(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the means (float32) of blocks of ``factors`` (3,) voxels. Incomplete blocks at the far ends are left out.

    Averaging before interpolation prevents aliasing of noise and thin structures, without a full-size float copy.
    """
    factors = np.minimum(np.asarray(factors, dtype=int), array.shape)
    if (factors == 1).all():
        return array.astype(np.float32)
    order = np.argsort(-np.abs(array.strides), kind="stable")  # read the memory in order, whatever its layout
    source, (f, g, h) = array.transpose(order), factors[order]
    n, m, q = np.array(source.shape) // (f, g, h)
    out = np.empty((n, m, q), dtype=np.float32)
    for i in range(n):
        plane = source[i * f, : m * g, : q * h].astype(np.float32)
        for other in range(i * f + 1, (i + 1) * f):
            plane += source[other, : m * g, : q * h]
        rows = plane.reshape(m, g, -1).sum(axis=1)
        out[i] = sum(rows[:, part::h] for part in range(h))
    out /= f * g * h
    return out.transpose(np.argsort(order))


def _average_blocks(volume: Volume, factors: np.ndarray) -> Volume:
    """Return the volume averaged over blocks of ``factors`` (3,) voxels."""
    factors = np.minimum(factors, volume.array.shape)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((factors - 1) / 2.0)
    affine[:3, :3] *= factors
    return Volume(block_mean(volume.array, factors), affine)


def _block_factors(grid: Grid, target: Grid) -> np.ndarray:
    """Return the sides (3,), in voxels of ``grid``, of the largest blocks no larger than voxels of ``target``."""
    factors = np.maximum(np.floor(_target_spacing_along(grid, target) / grid.spacing + 1e-6), 1).astype(int)
    return np.minimum(factors, grid.shape)


def _block_start(grid: Grid, start: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return where the block begins that holds voxel ``start`` (3,), or the next one if the scan cuts that block off.

    Blocks are counted from the patient's origin, so that a crop of a scan is averaged over the same blocks.
    """
    along = (grid.affine[:3, :3] / grid.spacing).T @ grid.affine[:3, 3] / grid.spacing
    first = np.floor(along + _BLOCK_PHASE).astype(int)
    begin = start - (start + first) % factors
    begin = np.where(begin < 0, begin + factors, begin)
    return np.where(begin + factors <= grid.shape, begin, 0)


def resample(volume: Volume, target: Grid, fill: float | None = AIR_HU) -> Volume:
    """Return ``volume`` on the grid ``target`` (float32): block means where voxels get larger, then interpolation.

    Voxels outside the volume get ``fill``, or with None the value at its border. Only the part of the volume near the
    target is read.
    """
    volume = in_ras_order(volume)
    margin = np.max(target.spacing) + np.max(volume.spacing)
    start, stop = index_bounds(volume.grid, target.bounds_ras() + np.array([[-margin], [margin]]))
    if (stop <= start).any():
        return Volume(np.full(target.shape, fill, dtype=np.float32), target.affine)
    factors = _block_factors(volume.grid, target)
    start = _block_start(volume.grid, start, factors)
    crop = Volume(volume.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))],
                  volume.grid.crop(start, stop).affine)  # fmt: skip
    small = _average_blocks(crop, factors)
    out = np.empty(target.shape, dtype=np.float32, order="F")
    for k, values in interpolate(small.array[None], small.affine, target):
        out[:, :, k : k + values.shape[3]] = values[0]
    if fill is not None:
        fill_outside(out, target, volume.grid, fill)
    return Volume(out, target.affine)


def _target_spacing_along(grid: Grid, target: Grid) -> np.ndarray:
    """Return the target's spacing (3,) in mm along each axis of ``grid``."""
    axes = np.abs((grid.affine[:3, :3] / grid.spacing).T @ (target.affine[:3, :3] / target.spacing))
    return target.spacing[axes.argmax(axis=1)]


def fill_outside(out: np.ndarray, target: Grid, grid: Grid, fill: float) -> None:
    """Set to ``fill`` the voxels of ``out`` (on the grid ``target``) whose centres lie outside ``grid``."""
    matrix = np.linalg.inv(grid.affine) @ target.affine
    index = [np.arange(n, dtype=np.float64) for n in target.shape]
    for a in range(3):
        low, high = -0.5 - 1e-6, grid.shape[a] - 0.5 + 1e-6
        along = np.flatnonzero(np.abs(matrix[a, :3]) > 1e-9)
        if len(along) == 1:  # parallel axes: whole slices lie outside
            x = matrix[a, along[0]] * index[along[0]] + matrix[a, 3]
            np.moveaxis(out, along[0], 0)[(x < low) | (x > high)] = fill
            continue
        x = matrix[a, 0] * index[0][:, None] + matrix[a, 1] * index[1][None, :] + matrix[a, 3]
        for k in range(target.shape[2]):
            here = x + matrix[a, 2] * k
            out[:, :, k][(here < low) | (here > high)] = fill


def resample_labels(labels: Volume, target: Grid) -> Volume:
    """Return labels (uint8, 0 to 8) on ``target``: the class with the largest interpolated share; 0 outside."""
    best = np.zeros(target.shape, dtype=np.float32, order="F")
    out = np.zeros(target.shape, dtype=np.uint8, order="F")
    for value in range(anatomy.NUM_CLASSES):
        share = resample(Volume((labels.array == value).view(np.uint8), labels.affine), target, fill=float(value == 0))
        more = share.array > best
        out[more] = value
        np.maximum(best, share.array, out=best)
    return Volume(out, target.affine)

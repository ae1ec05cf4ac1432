"""Moving values between grids: linear and nearest interpolation, block means, dilation.

:func:`interpolate` is the one place that moves values between grids, in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import anatomy
from .grid import AIR_HU, Grid, Volume, index_bounds

#: Values interpolated at once on oblique grids: bounds memory, keeps the operations long enough to be fast.
SLAB_VALUES = 4_000_000


# --- moving values between grids -----------------------------------------------------------------------------------


def _parallel_axes(linear: np.ndarray) -> list[int] | None:
    """For each target axis the source axis it runs along, or None if the grids are oblique to each other."""
    axes = np.abs(linear).argmax(axis=0)
    rest = linear.copy()
    rest[axes, np.arange(3)] = 0.0
    if len(set(axes.tolist())) != 3 or np.abs(rest).max() > 1e-6:
        return None
    return axes.tolist()


def _between(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The voxels below and above each of ``places`` on an axis of ``size`` voxels, and the weight of the upper one."""
    places = np.clip(places, 0, size - 1)
    lower = np.minimum(np.floor(places).astype(np.intp), max(size - 2, 0))
    return lower, np.minimum(lower + 1, size - 1), (places - lower).astype(np.float32)


def _blend(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray | np.float32) -> np.ndarray:
    out = upper - lower
    out *= weight
    out += lower
    return out


def _parallel(
    source: np.ndarray, matrix: np.ndarray, axes: list[int], shape: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """Slice after slice for parallel grids: each source slice is stretched in its plane once, then neighbours blend.

    The innermost array axis is the target's first, so that slices go to and come from arrays in Fortran order whole.
    """
    i, j, k = axes
    source = np.ascontiguousarray(source.transpose(0, 1 + k, 1 + j, 1 + i))
    planes, rows, columns = (
        _between(matrix[a, d] * np.arange(shape[d]) + matrix[a, 3], source.shape[3 - d])
        for d, a in ((2, k), (1, j), (0, i))
    )
    passes = [(2, *columns), (1, *rows[:2], rows[2][:, None])]
    if shape[1] * source.shape[3] < shape[0] * source.shape[2]:  # the axis that shrinks most first
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
    """Linear interpolation at any place, for oblique grids."""
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
    """Linear interpolation of ``source`` (C, I, J, K) float32, placed by ``source_affine``, on ``target``, in slabs.

    Yields ``(k, values)`` with values (C, I, J, n) for the target's slices k to k + n. Beyond the source the border
    value continues; the caller knows what lies outside.
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
    """For each voxel of ``target`` the value of the nearest one of ``source`` (I, J, K), in slabs.

    Yields ``(k, values)`` as :func:`interpolate` does, with values (I, J, n).
    """
    matrix = np.linalg.inv(source_affine) @ target.affine
    axes = _parallel_axes(matrix[:3, :3])
    across = np.meshgrid(np.arange(target.shape[0]), np.arange(target.shape[1]), indexing="ij", sparse=True)

    def voxels(a: int, k: int) -> np.ndarray:
        """Index into axis ``a`` of ``source``, as small as broadcasting allows."""
        place = np.full((1, 1), matrix[a, 2] * k + matrix[a, 3])
        for along in (0, 1):
            if axes is None or axes[along] == a:
                place = place + matrix[a, along] * across[along]
        return np.clip(np.rint(place), 0, source.shape[a] - 1).astype(np.intp)

    for k in range(target.shape[2]):
        values = source[voxels(0, k), voxels(1, k), voxels(2, k)]
        yield k, np.broadcast_to(values, target.shape[:2])[..., None]


def largest(values: np.ndarray) -> np.ndarray:
    """Index (uint8) of the largest of ``values`` (C, ...) along the first axis, the first of equals.

    Comparing class by class is many times faster than ``argmax`` along an outer axis.
    """
    best = values[0].copy()
    index = np.zeros_like(best, dtype=np.uint8)
    for c in range(1, len(values)):
        np.maximum(index, (values[c] > best).view(np.uint8) * np.uint8(c), out=index)
        np.maximum(best, values[c], out=best)
    return index


def dilated(mask: np.ndarray, voxels: int) -> np.ndarray:
    """``mask`` (bool, any dimension) grown by a cube of ``voxels`` to each side, as a copy.

    Shifts of growing length: an order of magnitude faster than a maximum over each voxel's neighbourhood.
    """
    out = mask.copy()
    for axis, size in enumerate(mask.shape):
        lines, reach = np.moveaxis(out, axis, 0), 0
        while reach < min(voxels, size - 1):
            step = min(reach + 1, voxels - reach)  # no longer: what grew beyond the array cannot come back
            before = lines.copy(order="K")
            lines[step:] |= before[:-step]
            lines[:-step] |= before[step:]
            reach += step
    return out


def block_mean(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mean of blocks of ``factors`` voxels (float32); what does not fill a block at the far end is left out.

    Averaging before interpolation keeps noise and thin structures from aliasing, without a full-size float copy.
    """
    factors = np.minimum(np.asarray(factors, dtype=int), array.shape)
    if (factors == 1).all():
        return array.astype(np.float32)
    order = np.argsort(-np.abs(array.strides), kind="stable")  # walk through the memory once, whatever its layout
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


def _reduced(volume: Volume, spacing_mm: np.ndarray) -> Volume:
    """The volume averaged over whole blocks so that its spacing comes close to, never above, ``spacing_mm``."""
    factors = np.maximum(np.floor(np.asarray(spacing_mm) / volume.spacing + 1e-6), 1).astype(int)
    factors = np.minimum(factors, volume.array.shape)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((factors - 1) / 2.0)
    affine[:3, :3] *= factors
    return Volume(block_mean(volume.array, factors), affine)


def resample(volume: Volume, target: Grid, fill: float = AIR_HU) -> Volume:
    """``volume`` on ``target``: averaged where it shrinks, linear in between, ``fill`` outside. Float32.

    Only the part of the volume under the target is touched, so a small target on a huge scan is cheap.
    """
    margin = np.max(target.spacing) + np.max(volume.spacing)
    start, stop = index_bounds(volume.grid, target.bounds_ras() + np.array([[-margin], [margin]]))
    if (stop <= start).any():
        return Volume(np.full(target.shape, fill, dtype=np.float32), target.affine)
    crop = Volume(volume.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))],
                  volume.grid.crop(start, stop).affine)  # fmt: skip
    small = _reduced(crop, _target_spacing_along(volume.grid, target))
    out = np.empty(target.shape, dtype=np.float32, order="F")
    for k, values in interpolate(small.array[None], small.affine, target):
        out[:, :, k : k + values.shape[3]] = values[0]
    fill_outside(out, target, volume.grid, fill)
    return Volume(out, target.affine)


def _target_spacing_along(grid: Grid, target: Grid) -> np.ndarray:
    """The target's spacing as seen along each axis of ``grid``."""
    axes = np.abs((grid.affine[:3, :3] / grid.spacing).T @ (target.affine[:3, :3] / target.spacing))
    return target.spacing[axes.argmax(axis=1)]


def fill_outside(out: np.ndarray, target: Grid, grid: Grid, fill: float) -> None:
    """Set the voxels of ``out`` (on ``target``) whose centre lies outside the voxels of ``grid`` to ``fill``."""
    matrix = np.linalg.inv(grid.affine) @ target.affine
    index = [np.arange(n, dtype=np.float64) for n in target.shape]
    for a in range(3):
        low, high = -0.5 - 1e-6, grid.shape[a] - 0.5 + 1e-6
        along = np.flatnonzero(np.abs(matrix[a, :3]) > 1e-9)
        if len(along) == 1:  # parallel: whole slices lie outside
            x = matrix[a, along[0]] * index[along[0]] + matrix[a, 3]
            np.moveaxis(out, along[0], 0)[(x < low) | (x > high)] = fill
            continue
        x = matrix[a, 0] * index[0][:, None] + matrix[a, 1] * index[1][None, :] + matrix[a, 3]
        for k in range(target.shape[2]):
            here = x + matrix[a, 2] * k
            out[:, :, k][(here < low) | (here > high)] = fill


def resample_labels(labels: Volume, target: Grid) -> Volume:
    """Label values (uint8, 0 to 8) on ``target``: each class interpolated, the largest share wins; 0 outside."""
    best = np.zeros(target.shape, dtype=np.float32, order="F")
    out = np.zeros(target.shape, dtype=np.uint8, order="F")
    for value in range(anatomy.NUM_CLASSES):
        share = resample(Volume((labels.array == value).view(np.uint8), labels.affine), target, fill=float(value == 0))
        more = share.array > best
        out[more] = value
        np.maximum(best, share.array, out=best)
    return Volume(out, target.affine)

"""Volumes in patient space: geometry, resampling, reading and writing.

A :class:`Volume` is an array in IJK order with the affine that takes voxel indices to RAS millimetres (nibabel's
convention). Networks work on axis-aligned RAS grids (:func:`ras_grid`); :func:`interpolate` is the one place that moves
values between grids, in either direction. torch and SimpleITK are imported where they are used, since Slicer imports
this file at start-up.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import anatomy

#: Hounsfield units of air: what lies outside a scan.
AIR_HU = -1024.0
#: Larger than any CT series (1024 x 1024 x 2048); beyond it a header is wrong or the memory will not do.
MAX_VOXELS = 1024 * 1024 * 2048
#: Cosine between two axes above which a grid counts as sheared.
MAX_SHEAR = 1e-3
#: Values interpolated at once on oblique grids: bounds memory, keeps the operations long enough to be fast.
SLAB_VALUES = 4_000_000

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class VolumeError(ValueError):
    """A volume that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: ``shape`` (i, j, k) and ``affine`` (4x4, IJK -> RAS mm). Refuses sheared or empty grids."""

    shape: tuple[int, int, int]
    affine: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) != 3:
            raise VolumeError(f"A 3D volume is needed, this one has {len(self.shape)} dimensions.")
        if min(self.shape) < 1:
            raise VolumeError("The volume is empty.")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise VolumeError("The volume's geometry holds values that are not numbers.")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() < 1e-4:
            raise VolumeError("The volume's voxel spacing is zero.")
        axes = affine[:3, :3] / spacing
        if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_SHEAR:
            raise VolumeError("The volume's axes are sheared (a tilted gantry?): resample it to right angles first.")

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along i, j, k."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def size_mm(self) -> np.ndarray:
        """Extent in mm along i, j, k, outer voxel faces included."""
        return self.spacing * np.array(self.shape)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    def bounds_ras(self) -> np.ndarray:
        """(2, 3): the axis-aligned box in RAS mm around the outer voxel faces, lower and upper corner."""
        low, high = np.full(3, -0.5), np.array(self.shape) - 0.5
        corners = np.array([[(low, high)[b][axis] for axis, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
        world = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([world.min(0), world.max(0)])

    def crop(self, start: np.ndarray, stop: np.ndarray) -> Grid:
        """The part of the grid from index ``start`` (inclusive) to ``stop`` (exclusive)."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
        return Grid(tuple(np.asarray(stop) - np.asarray(start)), affine)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same voxels at the same places."""
        if self.shape != other.shape:
            return False
        corner = np.append(np.array(self.shape) - 1.0, 1.0)
        difference = self.affine - other.affine
        return bool(np.abs(difference[:, 3]).max() < tolerance_mm and np.abs(difference @ corner).max() < tolerance_mm)


@dataclass(frozen=True)
class Volume:
    """``array`` in IJK order on the grid given by ``affine`` (4x4, IJK -> RAS mm). No patient identity, ever."""

    array: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        if self.array.dtype.kind not in "iufb":
            raise VolumeError(f"Voxels must be numbers, these are {self.array.dtype}.")
        object.__setattr__(self, "affine", self.grid.affine)

    @property
    def grid(self) -> Grid:
        return Grid(self.array.shape, self.affine)

    @property
    def spacing(self) -> np.ndarray:
        return self.grid.spacing


def ras_grid(bounds: np.ndarray, spacing_mm: float) -> Grid:
    """The axis-aligned RAS grid of isotropic ``spacing_mm`` that covers ``bounds`` (2, 3) in RAS mm, centred on it."""
    low, high = np.asarray(bounds, dtype=np.float64)
    shape = np.maximum(np.ceil((high - low) / spacing_mm - 1e-6), 1).astype(int)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - spacing_mm * (shape - 1) / 2
    return Grid(tuple(shape), affine)


def index_bounds(grid: Grid, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop index of the voxels of ``grid`` that the RAS box ``bounds`` (2, 3) touches; may be empty."""
    inverse = np.linalg.inv(grid.affine)
    corners = np.array([[bounds[b][axis] for axis, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    index = corners @ inverse[:3, :3].T + inverse[:3, 3]
    start = np.clip(np.floor(index.min(0) + 0.5), 0, grid.shape).astype(int)
    stop = np.clip(np.ceil(index.max(0) + 0.5), start, grid.shape).astype(int)
    return start, stop


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


# --- files ---------------------------------------------------------------------------------------------------------


class _KeepAlive:
    """Lets numpy share a SimpleITK image's memory and hold on to it: the library's own view dangles with its image."""

    def __init__(self, image: Any) -> None:
        import SimpleITK as sitk

        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def from_sitk(image: Any) -> Volume:
    """A SimpleITK image (LPS) as a volume that shares its memory.

    Raises :class:`VolumeError` for images that are not 3D with one number per voxel.
    """
    import SimpleITK as sitk

    _check_image(image.GetDimension(), image.GetSize(), image.GetNumberOfComponentsPerPixel())
    if image.GetDimension() == 4:
        image = sitk.Extract(image, [*image.GetSize()[:3], 0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(np.asarray(_KeepAlive(image)).transpose(2, 1, 0), _LPS_TO_RAS @ affine)


def to_sitk(volume: Volume) -> Any:
    """The volume as a SimpleITK image (LPS). A left-handed grid keeps its own axes: ITK takes any orthonormal ones."""
    import SimpleITK as sitk

    array = volume.array.view(np.uint8) if volume.array.dtype == bool else volume.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = _LPS_TO_RAS @ volume.affine
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _check_image(dimension: int, size: tuple[int, ...], components: int) -> None:
    if dimension not in (3, 4) or (dimension == 4 and size[3] != 1):
        raise VolumeError(f"A 3D volume is needed, this one has {dimension} dimensions of size {tuple(size)}.")
    if components != 1:
        raise VolumeError(f"One number per voxel is needed, this volume has {components}: it is a colour image.")
    if np.prod([float(n) for n in size]) > MAX_VOXELS:
        raise VolumeError(f"The volume is too large ({' x '.join(map(str, size))} voxels): crop it to the chest first.")


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read NIfTI, NRRD or MHA/MHD, whatever its orientation, with the voxel type of the file.

    Raises :class:`VolumeError` with one sentence when the file is missing, damaged, not 3D, or sheared.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
        raise VolumeError(f"There is no file {path.name}.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        _check_image(reader.GetDimension(), reader.GetSize(), reader.GetNumberOfComponents())
        _check_length(path, reader)
        return _with_nan(path, reader, from_sitk(reader.Execute()))
    except RuntimeError as error:
        raise VolumeError(_reading_failed(path, str(error))) from error


def _check_length(path: Path, reader: Any) -> None:
    """Refuse a NIfTI file that ends too early: ITK would take the rest for zeros without a word."""
    if not reader.HasMetaDataKey("vox_offset"):
        return
    voxels = math.prod(reader.GetSize())
    needed = int(float(reader.GetMetaData("vox_offset"))) + voxels * int(reader.GetMetaData("bitpix")) // 8
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(-4, os.SEEK_END)
        stated = int.from_bytes(file.read(), "little")  # gzip ends with the length of its data, modulo 2^32
    if packed and stated == needed % 2**32:
        return
    # Otherwise it is cut short, in several parts, or has something behind the voxels: only unpacking tells.
    if (_unpacked_length(path) if packed else path.stat().st_size) < needed:
        raise VolumeError(f"{path.name} cannot be read: the file is damaged or cut short.")


def _with_nan(path: Path, reader: Any, volume: Volume) -> Volume:
    """Put back what is no number in a NIfTI file of floats: ITK takes it for 0, which would be water."""
    kinds = {"16": "f4", "64": "f8"}
    if not path.name.endswith((".nii", ".nii.gz")) or not reader.HasMetaDataKey("datatype"):
        return volume
    if reader.GetMetaData("datatype") not in kinds:
        return volume
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    array = None
    with gzip.open(path) if packed else path.open("rb") as file:
        order = "<" if int.from_bytes(file.read(4), "little") == 348 else ">"
        kind = np.dtype(order + kinds[reader.GetMetaData("datatype")])
        file.seek(int(float(reader.GetMetaData("vox_offset"))))
        for start in range(0, volume.array.size, 1 << 20):
            values = np.frombuffer(file.read(min(1 << 20, volume.array.size - start) * kind.itemsize), kind)
            bad = ~np.isfinite(values)
            if bad.any():
                array = np.array(volume.array.T, order="C") if array is None else array
                array.reshape(-1)[start : start + len(values)][bad] = np.nan
    return volume if array is None else Volume(array.T, volume.affine)


def _unpacked_length(path: Path) -> int:
    """How many bytes a gzip file really holds."""
    length = 0
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(path) as file:
        while block := file.read(1 << 20):
            length += len(block)
    return length


def _reading_failed(path: Path, error: str) -> str:
    if "orthonormal" in error:
        return f"The axes of {path.name} are sheared (a tilted gantry?): resample it to right angles first."
    if path.stat().st_size == 0:
        return f"{path.name} is an empty file."
    if "Unable to determine ImageIO reader" in error:
        return f"{path.name} is not a NIfTI, NRRD or MHA volume."
    return f"{path.name} cannot be read: the file is damaged or cut short."


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write as NIfTI, NRRD or MHA by the file's ending, compressed; whole or not at all.

    Raises :class:`VolumeError` when the folder cannot be written to or the disk is full.
    """
    import SimpleITK as sitk

    with written_aside(path) as part:
        try:
            sitk.WriteImage(to_sitk(volume), str(part), True)
            _check_written(part)
        except (RuntimeError, VolumeError) as error:
            raise VolumeError(f"{Path(path).name} could not be written: is the disk full or read-only?") from error


def _check_written(path: Path) -> None:
    """Refuse a NIfTI file that ends too early: ITK says nothing of a disk that is full."""
    import SimpleITK as sitk

    if path.name.endswith((".nii", ".nii.gz")):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_length(path, reader)


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; move it into place once it is whole and on the disk.

    The temporary name keeps the ending, since writers choose the format by it. Nothing stays behind on an error.
    """
    path = Path(path)
    ending = "".join(path.suffixes[-2:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=ending, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise VolumeError(f"{path.name} could not be written: {error.strerror or error}.") from error
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp makes it private; a result is as readable as any other file
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise VolumeError(f"{path.name} could not be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)

"""Volumes in patient space and their grids.

A :class:`Volume` is an array in IJK order with the affine that takes voxel indices to RAS millimetres (nibabel's
convention). Networks work on axis-aligned RAS grids (:func:`ras_grid`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from ..errors import VolumeError

#: Hounsfield units of air, assumed outside a scan.
AIR_HU = -1024.0
#: Cosine between two axes above which a grid counts as sheared.
MAX_SHEAR = 1e-3
SHEARED = (
    "The volume's axes are sheared, as by a tilted gantry: segment the DICOM series, which is resampled as it is read, "
    "or resample the volume first (in 3D Slicer: Resample Scalar/Vector/DWI Volume; elsewhere: nib-conform)."
)
#: Number of voxels above that of any CT series: with more, the header is wrong or the memory too small.
MAX_VOXELS = 1024 * 1024 * 2048
#: Share of a voxel by which bounds may miss a face of the lattice: files round origins to 1e-5 mm.
_ROUNDING = 1e-3
#: Takes the coordinates of DICOM and ITK (left, posterior, superior) to RAS, and back.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Place of voxels in the patient: ``shape`` (i, j, k) and ``affine`` (4x4, IJK -> RAS mm).

    Raises :class:`VolumeError` for empty or sheared grids.
    """

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
            raise VolumeError(SHEARED)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size (3,) in mm along i, j, k."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def size_mm(self) -> np.ndarray:
        """Extent (3,) in mm along i, j, k, from outer voxel face to outer voxel face."""
        return self.spacing * np.array(self.shape)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    def bounds_ras(self) -> np.ndarray:
        """Return lower and upper corner (2, 3), in RAS mm, of the axis-aligned box around the outer voxel faces."""
        corners = _corners(np.array([np.full(3, -0.5), np.array(self.shape) - 0.5]))
        world = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([world.min(0), world.max(0)])

    def crop(self, start: np.ndarray, stop: np.ndarray) -> Grid:
        """Return the part of the grid from index ``start`` (inclusive) to ``stop`` (exclusive)."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
        return Grid(tuple(np.asarray(stop) - np.asarray(start)), affine)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Return whether both grids have the same shape and voxel centres."""
        if self.shape != other.shape:
            return False
        corner = np.append(np.array(self.shape) - 1.0, 1.0)
        difference = self.affine - other.affine
        return bool(np.abs(difference[:, 3]).max() < tolerance_mm and np.abs(difference @ corner).max() < tolerance_mm)


@dataclass(frozen=True)
class Volume:
    """``array`` in IJK order on the grid given by ``affine`` (4x4, IJK -> RAS mm). It names no patient.

    Raises :class:`VolumeError` for voxels that are no numbers, and as :class:`Grid` does.
    """

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


def check_size(shape: tuple[int, ...]) -> None:
    """Raise :class:`VolumeError` for more voxels than a CT series has, before they are read."""
    if np.prod([float(n) for n in shape]) > MAX_VOXELS:
        raise VolumeError(
            f"The volume is too large ({' x '.join(map(str, shape))} voxels): crop it to the chest first."
        )


def ras_grid(bounds: np.ndarray, spacing_mm: float) -> Grid:
    """Return the axis-aligned grid of isotropic ``spacing_mm`` that covers ``bounds`` (2, 3; RAS mm), centred there."""
    low, high = np.asarray(bounds, dtype=np.float64)
    shape = np.maximum(np.ceil((high - low) / spacing_mm - 1e-6), 1).astype(int)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - spacing_mm * (shape - 1) / 2
    return Grid(tuple(shape), affine)


def lattice_grid(bounds: np.ndarray, spacing_mm: float, step: int = 1) -> Grid:
    """Return the axis-aligned grid of isotropic ``spacing_mm`` on the patient's lattice that covers ``bounds`` (2, 3).

    Faces between voxels lie at multiples of ``spacing_mm`` in RAS mm, whatever the bounds; the grid starts and ends at
    multiples of ``step`` voxels. So crops of a scan, and the scan stored with other axes, share their voxels.
    """
    low, high = np.asarray(bounds, dtype=np.float64) / (spacing_mm * step)
    start = np.floor(low + _ROUNDING / step)
    stop = np.maximum(np.ceil(high - _ROUNDING / step), start + 1)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (start * step + 0.5) * spacing_mm
    return Grid(tuple(((stop - start) * step).astype(int)), affine)


def in_ras_order(volume: Volume) -> Volume:
    """Return a view of ``volume`` whose axes run to the right, the front and the top, or as near to it as they can."""
    directions = volume.affine[:3, :3] / volume.spacing
    order = max(permutations(range(3)), key=lambda axes: _nearness(directions[:, axes]))
    array, affine = volume.array.transpose(order), volume.affine[:, [*order, 3]]
    for axis in np.flatnonzero(np.diag(affine) < 0).tolist():
        array = np.flip(array, axis)
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1.0
    return Volume(array, affine)


def _nearness(directions: np.ndarray) -> float:
    """Return how near axes (3, 3) lie to RAS, without their signs; of two orders alike, one is nearer by a trifle."""
    signed = directions * np.where(np.diag(directions) < 0, -1.0, 1.0)
    return float(np.trace(signed) + 1e-3 * (signed[0, 1] + signed[1, 2] + signed[2, 0]))


def index_bounds(grid: Grid, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and stop index (3,) of the voxels of ``grid`` that the box ``bounds`` (2, 3; RAS mm) touches.

    Start and stop are equal along an axis where the box touches none.
    """
    inverse = np.linalg.inv(grid.affine)
    index = _corners(bounds) @ inverse[:3, :3].T + inverse[:3, 3]
    start = np.clip(np.floor(index.min(0) + 0.5), 0, grid.shape).astype(int)
    stop = np.clip(np.ceil(index.max(0) + 0.5), start, grid.shape).astype(int)
    return start, stop


def _corners(bounds: np.ndarray) -> np.ndarray:
    """Return the eight corners (8, 3) of the box ``bounds`` (2, 3)."""
    return np.array([[bounds[b][axis] for axis, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])

"""Check whether a scan can be segmented, and map its voxels to the input of a network."""

from __future__ import annotations

import numpy as np

from ..errors import SegmenterError
from ..image.grid import AIR_HU, Volume
from ..text import plural

#: The smallest scan: slices along any axis, and extent.
MIN_SLICES = 4
MIN_EXTENT_MM = 20.0
#: Largest scan. A longer one has its spacing in other units, and its grids would not fit in memory.
MAX_EXTENT_MM = 2500.0
#: Slices further apart than this lose small structures.
THICK_MM = 5.0


def check_scan(volume: Volume) -> tuple[Volume, list[str]]:
    """Return the volume, with air in place of voxels that are not finite, and warnings for the user.

    Raises :class:`SegmenterError` for a scan that is too thin or too long, blank, or no CT in Hounsfield units.
    """
    warnings: list[str] = []
    grid = volume.grid
    thinnest = int(grid.size_mm.argmin())
    if min(grid.shape) < MIN_SLICES:
        raise SegmenterError(f"The scan has only {plural(min(grid.shape), 'slice')}: a whole heart is needed.")
    if grid.size_mm[thinnest] < MIN_EXTENT_MM:
        raise SegmenterError(f"The scan is only {grid.size_mm[thinnest]:.0f} mm thick: a whole heart is needed.")
    if grid.size_mm.max() > MAX_EXTENT_MM:
        raise SegmenterError(
            f"The scan would be {grid.size_mm.max() / 1000:.1f} m long: its voxel spacing cannot be in millimetres."
        )
    if grid.spacing.max() > THICK_MM:
        warnings.append(f"The slices are {grid.spacing.max():.1f} mm apart: small structures may be wrong.")
    check_values(volume.array)
    return _replace_missing(volume, warnings), warnings


def check_values(array: np.ndarray) -> None:
    """Refuse values that no chest CT has: no finite ones, all equal, no air, lung or fat, or no soft tissue."""
    step = max(1, round((array.size / 1_000_000) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise SegmenterError("The scan holds no numbers at all.")
    if sample.min() == sample.max():
        raise SegmenterError("Every voxel of the scan has the same value.")
    low, high = np.percentile(sample, [0.5, 99.5])
    light = np.mean((sample > -1100.0) & (sample < -200.0))  # any crop of a chest holds lung, air or both
    tissue = np.mean((sample > -150.0) & (sample < 1500.0))
    if light < 0.002 or tissue < 0.01:
        raise SegmenterError(
            f"The values (mostly {low:.5g} to {high:.5g}) are not Hounsfield units of a chest: is this a CT?"
        )


def _replace_missing(volume: Volume, warnings: list[str]) -> Volume:
    """Return the volume, or a float32 copy with air in place of values that are not finite; add a warning then."""
    array = volume.array
    if array.dtype.kind != "f":
        return volume
    slowest = int(np.argmax(np.abs(array.strides)))
    slabs = np.moveaxis(array, slowest, 0)
    if all(np.isfinite(slab).all() for slab in slabs):
        return volume
    copy = np.empty_like(array, dtype=np.float32)
    bad = 0
    for source, target in zip(slabs, np.moveaxis(copy, slowest, 0), strict=True):
        good = np.isfinite(source)
        bad += good.size - np.count_nonzero(good)
        np.copyto(target, np.where(good, source, AIR_HU))
    share = 100.0 * bad / array.size
    warnings.append(f"{plural(bad, 'voxel')} ({share:.2g} %) held no number: air was assumed there.")
    return Volume(copy, volume.affine)


def to_window(image: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """Clip HU to the window of a network and map them to 0..1 (float32)."""
    low, high = window_hu
    out = (np.ascontiguousarray(image, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(out, 0.0, 1.0, out=out)

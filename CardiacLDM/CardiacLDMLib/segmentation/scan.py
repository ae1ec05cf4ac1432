"""Check whether a scan can be segmented, and map its voxels to the input of a network."""

from __future__ import annotations

import numpy as np

from ..errors import SegmenterError
from ..image.grid import AIR_HU, Volume
from ..image.resample import dilate
from ..text import plural

#: The smallest scan: slices along any axis, and extent.
MIN_SLICES = 4
MIN_EXTENT_MM = 20.0
#: Largest scan. A longer one has its spacing in other units, and its grids would not fit in memory.
MAX_EXTENT_MM = 2500.0
#: Offsets with which CT numbers are stored as numbers without a sign.
OFFSETS = (1024, 32768)
#: HU of lung, the lowest HU of lung, and the lower limit of values that leaves lung visible.
LUNG_HU, LOWEST_LUNG_HU, HIDDEN_LUNG_HU = -850.0, -950.0, -600.0
#: Lower limit of values that leaves fat visible.
HIDDEN_FAT_HU = -100.0
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
    if round(grid.spacing.max(), 1) > THICK_MM:  # headers are rounded
        warnings.append(f"The slices are {grid.spacing.max():.1f} mm apart: small structures may be wrong.")
    floor = check_values(volume.array)
    volume = _replace_missing(volume, warnings)
    if floor is not None:
        volume = _show_lung(volume, floor)
        alike = ", though fat looks the same" if floor > HIDDEN_FAT_HU else ""
        warnings.append(
            f"The scan is clipped at {floor:g} HU: lung was assumed there{alike}. Prefer the original scan."
        )
    return volume, warnings


def check_values(array: np.ndarray) -> float | None:
    """Refuse values that no chest CT has: no finite ones, all equal, no air, lung or fat, or no soft tissue.

    Returns the value in HU to which lower ones were raised, if that hides the lung; else None. Raises
    :class:`SegmenterError`.
    """
    step = max(1, round((array.size / 1_000_000) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise SegmenterError("The scan holds no numbers at all.")
    if sample.min() == sample.max():
        raise SegmenterError("Every voxel of the scan has the same value.")
    negative = np.mean((sample > -900.0) & (sample < -100.0))  # lung of an ordinary scan; padding may be lower
    for offset in OFFSETS:
        if negative < 0.01 and _is_ct(sample - offset):
            raise SegmenterError(
                f"The values look like CT stored with an offset of {offset}: subtract {offset} to get Hounsfield units."
            )
    floor = _floor(sample)
    light = np.mean((sample > -1100.0) & (sample < -200.0))  # any crop of a chest holds lung, air or both
    tissue = np.mean((sample > -150.0) & (sample < 1500.0))
    if floor is None and (light < 0.002 or tissue < 0.01):
        low, high = np.percentile(sample, [0.5, 99.5])
        raise SegmenterError(
            f"The values (mostly {low:.5g} to {high:.5g}) are not Hounsfield units of a chest: is this a CT?"
        )
    return floor


def _is_ct(hu: np.ndarray) -> bool:
    """Return whether values have the two peaks of a chest CT, soft tissue and air or lung, and little between them."""
    soft, between, air = (np.mean((hu > low) & (hu < high)) for low, high in ((-150, 150), (-700, -250), (-1100, -700)))
    return bool(soft > 0.05 and air > 0.02 and between < soft / 2)


def _floor(sample: np.ndarray) -> float | None:
    """Return the value in HU to which lower ones were raised, if it hides the lung; None for other values.

    Air beyond the scan may be lower. A floor below 0 is that of a CT: grey values and MR have none.
    """
    inside = sample[sample > LOWEST_LUNG_HU]
    counts = np.bincount(np.rint(inside[inside <= 0.0] - LOWEST_LUNG_HU).astype(np.int64), minlength=1)
    floor = float(counts.argmax() + LOWEST_LUNG_HU)
    rest = inside[inside > floor + 1.0]
    below, there = np.count_nonzero(inside < floor - 1.0), np.count_nonzero(np.abs(inside - floor) <= 1.0)
    if floor <= HIDDEN_LUNG_HU or there < 0.02 * inside.size or below > 0.05 * there or not rest.size:
        return None
    if floor == 0.0:
        return floor if there > 0.4 * inside.size and _is_ct_above_0(rest) else None
    middle, top = np.percentile(rest, [50.0, 99.9])
    return floor if -100.0 < middle < 300.0 and top > 127.0 else None  # 127: the largest number of 8 bits


def _is_ct_above_0(rest: np.ndarray) -> bool:
    """Return whether positive values are those of a CT whose air, lung and fat were raised to 0, and not MR.

    They have a peak of muscle. They reach far up to bone, or end at the round number above 8 bits of a window. In three
    patients 1.6 to 5.7 times as many voxels lay within the peak as above it, and bone had 16 to 39 times the median.
    """
    middle, top = np.percentile(rest, [50.0, 99.9])
    muscle, above = (np.count_nonzero((rest > low) & (rest < high)) for low, high in ((30, 70), (90, 130)))
    end = rest.max()
    window = end > 255.0 and end % 50.0 == 0.0 and np.count_nonzero(rest == end) > 0.003 * rest.size
    return bool(20.0 < middle < 150.0 and muscle > 1.3 * above and (window or top > max(1000.0, 10.0 * middle)))


def _show_lung(volume: Volume, floor: float) -> Volume:
    """Return a copy with lung in place of the value ``floor``, where it fills cubes of three voxels: fat is noisy."""
    array = volume.array.astype(np.result_type(volume.array.dtype, np.int16), order="K")
    lowest = (array > LOWEST_LUNG_HU) & (array <= floor + 1.0)
    array[dilate(~dilate(~lowest, 1), 1)] = LUNG_HU
    return Volume(array, volume.affine)


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

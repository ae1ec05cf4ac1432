"""Read the voxels of a DICOM series."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import VolumeError
from ..files import from_sitk
from ..grid import AIR_HU, Volume
from .encoding import gdcm_files, is_compressed, read_head
from .stacks import Series

#: HU that make up most of a CT: air and lung, fat and soft tissue.
CT_RANGES = ((-1100.0, -700.0), (-200.0, 200.0))
#: By so much more of its voxels in the ranges a reading that guesses where the scale begins is preferred.
GUESS_MARGIN = 0.25


def read_series(series: Series) -> Volume:
    """Read the voxels of a series without a ``problem``, in Hounsfield units. Raises :class:`VolumeError`."""
    import SimpleITK as sitk

    assert series.affine is not None
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    if len({header.coding for header in series.headers}) > 1:  # else the first file's type would hold all of them
        reader.SetOutputPixelType(sitk.sitkFloat32)
    with gdcm_files(series.files) as names:
        reader.SetFileNames(names)
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise VolumeError(_why_unreadable(series)) from error
    volume = from_sitk(image)
    if volume.array.shape != series.shape:
        raise VolumeError("The DICOM slices cannot be read: they differ in size.")
    # ITK takes the slice distance from two slices and cannot express a tilt; this geometry comes from all headers.
    volume = Volume(volume.array, series.affine)
    marked = np.array([header.mirror is not None for header in series.headers])
    if marked.any():
        mirror = np.array([header.mirror for header in series.headers if header.mirror is not None])
        array = volume.array.copy()
        array[:, :, marked] = _right_polarity(array[:, :, marked], mirror)
        volume = Volume(array, volume.affine)
    return _straighten(volume, series.tilt) if any(series.tilt) else volume


def _why_unreadable(series: Series) -> str:
    if any(is_compressed(read_head(path)) for path in series.files):
        return (
            "The compressed DICOM slices cannot be read: if no file is damaged, convert them with dcm2niix or "
            "gdcmconv --raw first."
        )
    return "The DICOM slices cannot be read: a file is damaged or cut short."


def _right_polarity(array: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Return the voxels (i, j, k) of images marked MONOCHROME1, as read or inverted, whichever is like CT.

    ``mirror`` (k,): sum of a voxel's HU and of its HU when inverted. The mark is about display alone (DICOM PS3.3,
    C.7.6.3.1.2), and ITK inverts such voxels in reading. But some programs store inverted values, about the largest
    that the bits can hold or about the largest of the scan or of each slice.
    """
    slices = (0, 1)
    readings: list[tuple[int, np.ndarray]] = [
        (1, np.zeros(1)),
        (-1, mirror),
        (1, AIR_HU - array.min(keepdims=True)[0, 0]),
        (-1, AIR_HU + array.max(keepdims=True)[0, 0]),
        (1, AIR_HU - array.min(axis=slices)),
        (-1, AIR_HU + array.max(axis=slices)),
    ]
    some = array[::3, ::3].astype(np.float32)
    inner = (some > array.min()) & (some < array.max())  # a guess could take padding for air
    shares = [_ct_share((sign * some + offset)[... if n < 2 else inner]) for n, (sign, offset) in enumerate(readings)]
    exact, guess = int(np.argmax(shares[:2])), int(np.argmax(shares))
    sign, offset = readings[guess if shares[guess] > shares[exact] + GUESS_MARGIN else exact]
    values = sign * array.astype(np.float32) + offset.astype(np.float32)
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(values), limits.min, limits.max).astype(np.int16) if array.dtype.kind in "iu" else values


def _ct_share(values: np.ndarray) -> float:
    """Return the share of the voxels that are within the ranges, without padding below them."""
    within = sum(int(((low < values) & (values < high)).sum()) for low, high in CT_RANGES)
    return within / max(int((values > CT_RANGES[0][0]).sum()), 1)


def _straighten(volume: Volume, tilt: tuple[float, float]) -> Volume:
    """Return a volume of a tilted gantry at right angles: slice k is moved by ``k * tilt`` (2,) mm along i and j.

    The grid grows so that no voxel is lost; what no slice covers is air.
    """
    import SimpleITK as sitk

    array, spacing = volume.array, volume.spacing
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    reach = np.array(tilt) * (array.shape[2] - 1) / spacing[:2]
    start = np.floor(np.minimum(reach, 0.0)).astype(int)
    stop = np.ceil(np.maximum(reach, 0.0)).astype(int) + array.shape[:2]
    shear = sitk.AffineTransform(3)
    slope = -np.array(tilt) / spacing[2]
    shear.SetMatrix([1.0, 0.0, float(slope[0]), 0.0, 1.0, float(slope[1]), 0.0, 0.0, 1.0])
    size = [*(stop - start).tolist(), array.shape[2]]
    origin = [*(start * spacing[:2]).tolist(), 0.0]
    moved = _resample(image, size, shear, origin)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ start
    values = from_sitk(moved).array
    return Volume(np.rint(values).astype(array.dtype) if array.dtype.kind in "iu" else values, affine)


def _resample(image: Any, size: list[int], transform: Any, origin: list[float]) -> Any:
    """Return the image on the grid of ``size`` from ``origin`` on, by linear interpolation, with air outside."""
    import SimpleITK as sitk

    return sitk.Resample(
        image, size, transform, sitk.sitkLinear, origin, image.GetSpacing(), image.GetDirection(), AIR_HU,
        sitk.sitkFloat32,
    )  # fmt: skip

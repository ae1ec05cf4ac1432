"""Read the voxels of a DICOM series."""

from __future__ import annotations

from ...errors import VolumeError
from ..files import from_sitk
from ..grid import Volume
from .stacks import Series


def read_series(series: Series) -> Volume:
    """Read the voxels of a series without a ``problem``, in Hounsfield units. Raises :class:`VolumeError`."""
    import SimpleITK as sitk

    assert series.affine is not None
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(p) for p in series.files])
    try:
        volume = from_sitk(reader.Execute())
    except RuntimeError as error:
        raise VolumeError("The DICOM slices cannot be read: a file is damaged or cut short.") from error
    if volume.array.shape != series.shape:
        raise VolumeError("The DICOM slices cannot be read: they differ in size.")
    # ITK takes the slice distance from two slices and cannot express a tilt; this geometry comes from all headers.
    return Volume(volume.array, series.affine)

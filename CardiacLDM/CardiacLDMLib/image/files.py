"""Volumes as files: NIfTI, NRRD and MHA, read and written by SimpleITK."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, VolumeError
from ..files import replace_file
from .grid import Volume

#: Larger than any CT series (1024 x 1024 x 2048); beyond it a header is wrong or the memory will not do.
MAX_VOXELS = 1024 * 1024 * 2048

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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

    Raises :class:`OutputError` when the folder cannot be written to or the disk is full.
    """
    import SimpleITK as sitk

    with replace_file(path) as part:
        try:
            sitk.WriteImage(to_sitk(volume), str(part), True)
            _check_written(part)
        except (RuntimeError, VolumeError) as error:
            raise OutputError(f"{Path(path).name} could not be written: is the disk full or read-only?") from error


def _check_written(path: Path) -> None:
    """Refuse a NIfTI file that ends too early: ITK says nothing of a disk that is full."""
    import SimpleITK as sitk

    if path.name.endswith((".nii", ".nii.gz")):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_length(path, reader)

"""Volumes as files: NIfTI, NRRD and MHA, read and written by SimpleITK."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, VolumeError
from ..files import replace_file
from .grid import LPS_TO_RAS, Volume

#: Number of voxels above that of any CT series: with more, the header is wrong or the memory too small.
MAX_VOXELS = 1024 * 1024 * 2048


class _KeepAlive:
    """Share the memory of a SimpleITK image with numpy and keep the image alive, unlike SimpleITK's own view."""

    def __init__(self, image: Any) -> None:
        import SimpleITK as sitk

        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def from_sitk(image: Any) -> Volume:
    """Return a SimpleITK image (LPS) as a volume that shares its memory.

    Raises :class:`VolumeError` for images that are not 3D with one number per voxel.
    """
    import SimpleITK as sitk

    _check_image(image.GetDimension(), image.GetSize(), image.GetNumberOfComponentsPerPixel())
    if image.GetDimension() == 4:
        image = sitk.Extract(image, [*image.GetSize()[:3], 0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(np.asarray(_KeepAlive(image)).transpose(2, 1, 0), LPS_TO_RAS @ affine)


def to_sitk(volume: Volume) -> Any:
    """Return a copy of the volume as a SimpleITK image (LPS). It may be left-handed: ITK takes any orthonormal axes."""
    import SimpleITK as sitk

    array = volume.array.view(np.uint8) if volume.array.dtype == bool else volume.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = LPS_TO_RAS @ volume.affine
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
    """Read a NIfTI, NRRD or MHA/MHD file of any orientation; the voxel type is that of the file.

    Raises :class:`VolumeError` when the file is missing, damaged, not 3D, or sheared.
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
        return _restore_nan(path, reader, from_sitk(reader.Execute()))
    except RuntimeError as error:
        raise VolumeError(_why_unreadable(path, str(error))) from error


def _check_length(path: Path, reader: Any) -> None:
    """Refuse a NIfTI file that ends too early: ITK reads the missing voxels as zeros without an error."""
    if not reader.HasMetaDataKey("vox_offset"):
        return
    voxels = math.prod(reader.GetSize())
    needed = int(float(reader.GetMetaData("vox_offset"))) + voxels * int(reader.GetMetaData("bitpix")) // 8
    packed = _is_gzip(path)
    if packed and gzip_length(path) == needed % 2**32:
        return
    # It is cut short, has several gzip members, or more data behind the voxels: only unpacking tells which.
    if (_unpacked_length(path) if packed else path.stat().st_size) < needed:
        raise VolumeError(f"{path.name} cannot be read: the file is damaged or cut short.")


def _restore_nan(path: Path, reader: Any, volume: Volume) -> Volume:
    """Restore values of a NIfTI file that are not finite, as NaN: ITK reads them as 0, which would be water."""
    kinds = {"16": "f4", "64": "f8"}
    if not path.name.endswith((".nii", ".nii.gz")) or not reader.HasMetaDataKey("datatype"):
        return volume
    if reader.GetMetaData("datatype") not in kinds:
        return volume
    array = None
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
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


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def gzip_length(path: Path) -> int:
    """Return the length of a gzip file's data modulo 2^32, as its last four bytes state it."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(), "little")


def _unpacked_length(path: Path) -> int:
    """Return how many bytes a gzip file holds, up to where it is damaged."""
    length = 0
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(path) as file:
        while block := file.read(1 << 20):
            length += len(block)
    return length


def _why_unreadable(path: Path, error: str) -> str:
    """Return the sentence for the user about an error of ITK's readers."""
    if "orthonormal" in error:
        return f"The axes of {path.name} are sheared (a tilted gantry?): resample it to right angles first."
    if path.stat().st_size == 0:
        return f"{path.name} is an empty file."
    if "Unable to determine ImageIO reader" in error:
        return f"{path.name} is not a NIfTI, NRRD or MHA volume."
    return f"{path.name} cannot be read: the file is damaged or cut short."


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write a compressed NIfTI, NRRD or MHA file, by the ending of ``path``, whole or not at all.

    Raises :class:`OutputError` when the folder cannot be written to or the disk is full.
    """
    import SimpleITK as sitk

    with replace_file(path) as part, itk_errors(Path(path).name):
        sitk.WriteImage(to_sitk(volume), str(part), True)
        _check_written(part)


@contextlib.contextmanager
def itk_errors(name: str, question: str = "is the disk full or read-only?") -> Iterator[None]:
    """Turn an error of ITK's writers or of a check after them into an :class:`OutputError` about the file ``name``.

    ``question`` ends the message: it names the likely cause.
    """
    try:
        yield
    except (RuntimeError, VolumeError) as error:
        raise OutputError(f"{name} could not be written: {question}") from error


def _check_written(path: Path) -> None:
    """Refuse a NIfTI file that ends too early: ITK's writer does not notice a full disk."""
    import SimpleITK as sitk

    if path.name.endswith((".nii", ".nii.gz")):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_length(path, reader)

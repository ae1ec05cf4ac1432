"""Volumes as files: NIfTI, NRRD and MHA. SimpleITK writes them all and reads all but NIfTI (see :mod:`.nifti`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, VolumeError
from ..files import replace_file
from ..plain_paths import plain_path
from .grid import LPS_TO_RAS, Volume, check_size
from .headers import check_header
from .nifti import check_complete, is_nifti, keep_sform, read_nifti


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
    check_size(size)


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a volume as :func:`read_with_notes` does, without the notes."""
    return read_with_notes(path)[0]


def read_with_notes(path: str | os.PathLike[str]) -> tuple[Volume, tuple[str, ...]]:
    """Read a NIfTI, NRRD or MHA/MHD file of any orientation; the voxel type is that of the file.

    Returns the volume, and sentences for the user if the file leaves the place of the voxels in doubt. Raises
    :class:`VolumeError` when the file is missing, damaged, not 3D, or sheared.
    """
    path = Path(path)
    if not path.is_file():
        raise VolumeError(f"There is no file {path.name}.")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path.name} is an empty file.")
    if is_nifti(path):
        return read_nifti(path)
    return _read_with_itk(path)


def _read_with_itk(path: Path) -> tuple[Volume, tuple[str, ...]]:
    """Read an NRRD or MetaImage file, and return notes on its place. Raises :class:`VolumeError`."""
    import SimpleITK as sitk

    kind, notes = check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with plain_path(path) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
            _check_image(reader.GetDimension(), reader.GetSize(), reader.GetNumberOfComponents())
            return from_sitk(reader.Execute()), notes
    except RuntimeError as error:
        raise VolumeError(_why_unreadable(path, str(error))) from error


def _why_unreadable(path: Path, error: str) -> str:
    """Return the sentence for the user about an error of ITK's readers."""
    if "nrrd spacing" in error:
        return f"The header of {path.name} names a space but no space directions: save it again as NIfTI."
    if "number of domain axes" in error:
        return f"{path.name} has a fourth axis: save the 3D volume by itself."
    if "Unable to determine ImageIO reader" in error:
        return f"{path.name} is not a NIfTI, NRRD or MHA volume."
    return f"{path.name} cannot be read: the file is damaged or cut short."


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write a compressed NIfTI, NRRD or MHA file, by the ending of ``path``, whole or not at all.

    Raises :class:`OutputError` when the folder cannot be written to or the disk is full.
    """
    with replace_file(path) as part, itk_errors(Path(path).name):
        write_image(to_sitk(volume), part, True)
        if is_nifti(part):
            check_complete(part)  # ITK's writer does not notice a full disk
            keep_sform(part, volume.affine)


def write_image(image: Any, path: str | os.PathLike[str], *options: Any) -> None:
    """Write a SimpleITK image with the ``options`` of ``SimpleITK.WriteImage``. Raises ``RuntimeError`` as it does."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # of sheared axes, which `keep_sform` mends
    with plain_path(path) as name:
        sitk.WriteImage(image, name, *options)


@contextlib.contextmanager
def itk_errors(name: str, question: str = "is the disk full or read-only?") -> Iterator[None]:
    """Turn an error of ITK's writers or of a check after them into an :class:`OutputError` about the file ``name``.

    ``question`` ends the message: it names the likely cause.
    """
    try:
        yield
    except (RuntimeError, VolumeError) as error:
        raise OutputError(f"{name} could not be written: {question}") from error

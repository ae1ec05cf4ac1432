"""Find DICOM files, and read from their headers what tells images apart and where they lie."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import VolumeError, explain
from .encoding import gdcm_files, is_compressed, is_decodable, looks_like_dicom, read_head, transfer_syntax

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

#: Largest difference of the products of two direction cosines from 0 and 1: headers are rounded.
MAX_ODDNESS = 0.05
#: What can tell the stacks of one series apart, the surest first: the name for the user and the DICOM tag.
MARKS = {
    "acquisition": "0020|0012",
    "frame of reference": "0020|0052",
    "temporal position": "0020|0100",
    "temporal index": "0020|9128",
    "cardiac phase": "0020|9241",
    "trigger time": "0018|1060",
    "echo": "0018|0086",
    "tube voltage": "0018|0060",
    "kernel": "0018|1210",
    "contrast": "0018|0010",
    "slice thickness": "0018|0050",
    "patient position": "0018|5100",
    "image type": "0008|0008",
    "acquisition time": "0008|0032",
    "acquisition moment": "0008|002a",
    "content time": "0008|0033",
    "series time": "0008|0031",
    "creation time": "0008|0013",
}


@dataclass(frozen=True)
class Header:
    """Place and kind of one DICOM image."""

    path: Path
    study: str
    patient: str = field(repr=False)  # tells patients apart, and names nobody
    uid: str  # of the series
    image: str  # UID of the image
    number: str
    instance: int | None
    kind: str  # modality, or "scout"
    derived: bool
    mirror: float | None  # of MONOCHROME1, which shows low values white: sum of a voxel's HU and its inverted HU
    size: tuple[int, int]
    colour: bool
    frames: int
    axes: tuple[float, ...] | None  # direction cosines of a row and of a column, LPS
    position: tuple[float, ...] | None  # centre of the first voxel, LPS mm
    precision: tuple[float, ...]  # the last decimal of each number in ``position``, mm
    spacing: tuple[float, ...] | None  # between rows, between columns, mm
    coding: tuple[str, ...]  # slope and intercept, bits stored, signed or not
    marks: Mapping[str, str] = field(hash=False)  # by the names of MARKS


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM object, by its ending or by its first bytes."""
    if path.name.upper() == "DICOMDIR":
        return False
    return path.suffix.lower() in DICOM_ENDINGS or looks_like_dicom(read_head(path))


def read_headers(files: Iterable[Path]) -> tuple[list[Header], list[Path]]:
    """Return the headers of DICOM files, and the files without a readable image.

    A file that is reached by several ways, through links, is read once. Raises :class:`VolumeError` if no image can be
    read because of the way in which they are compressed.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    headers: list[Header] = []
    unread: list[Path] = []
    paths = _without_links(files)
    with gdcm_files(paths) as names:
        for path, name in zip(paths, names, strict=True):
            reader.SetFileName(name)
            try:
                reader.ReadImageInformation()
            except RuntimeError as error:  # the file is damaged, or no image: a report, a presentation state
                if explain(error).kind == "memory":
                    raise
                unread.append(path)
                continue
            if _is_cut(path, reader):  # GDCM would fill up the image with zeros
                unread.append(path)
            else:
                headers.append(_header(path, reader))
    if unread and not headers:
        _check_compression(unread)
    return headers, unread


def _is_cut(path: Path, reader: Any) -> bool:
    """Return whether a file is shorter than the voxels that its header states."""
    bits = reader.GetMetaData("0028|0100") if reader.HasMetaDataKey("0028|0100") else ""
    values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    needed = values * (int(bits) if bits.strip().isdecimal() else 0) // 8
    return path.stat().st_size < needed and not is_compressed(read_head(path))


def _without_links(files: Iterable[Path]) -> list[Path]:
    """Return each file once, by the first of the paths that lead to it."""
    places: dict[object, Path] = {}
    for file in files:
        status = file.stat()
        places.setdefault((status.st_dev, status.st_ino) if status.st_ino else file, file)
    return list(places.values())


def _check_compression(files: list[Path]) -> None:
    for head in map(read_head, files):
        if not is_decodable(head):
            raise VolumeError(
                f"The DICOM images are compressed in a way that cannot be read here (transfer syntax "
                f"{transfer_syntax(head)}): convert them with dcm2niix or gdcmconv --raw first."
            )


def _header(path: Path, reader: Any) -> Header:
    keys = set(reader.GetMetaDataKeys())

    def text(tag: str) -> str:
        return str(reader.GetMetaData(tag)).strip(" \0") if tag in keys else ""

    image_type, instance = text("0008|0008").upper().split("\\"), text("0020|0013")
    return Header(
        path=path,
        study=text("0020|000d"),
        patient=_digest(text("0010|0020")),
        uid=text("0020|000e"),
        image=text("0008|0018"),
        number=text("0020|0011"),
        instance=int(instance) if instance.isdecimal() else None,
        kind="scout" if "LOCALIZER" in image_type else text("0008|0060") or "of unknown kind",
        derived="DERIVED" in image_type,
        mirror=_mirror(text) if text("0028|0004").upper() == "MONOCHROME1" else None,
        size=(int(reader.GetSize()[0]), int(reader.GetSize()[1])),
        colour=reader.GetNumberOfComponents() != 1,
        frames=int(reader.GetSize()[2]) if reader.GetDimension() > 2 else 1,
        axes=_axes(text("0020|0037")),
        position=_numbers(text("0020|0032"), 3),
        precision=_precision(text("0020|0032")),
        spacing=_numbers(text("0028|0030"), 2),
        coding=tuple(map(text, ("0028|1053", "0028|1052", "0028|0101", "0028|0103"))),
        marks=_marks(text),
    )


def _marks(text: Callable[[str], str]) -> dict[str, str]:
    marks = {name: value for name, tag in MARKS.items() if (value := text(tag))}
    if "acquisition moment" in marks:
        marks["acquisition moment"] = marks["acquisition moment"][8:]  # without its date
    return marks


def _mirror(text: Callable[[str], str]) -> float:
    """Return the HU of the lowest value that the bits can hold plus that of the highest."""
    slope, intercept, bits, signed = (
        (_numbers(text(tag), 1) or (default,))[0]
        for tag, default in (("0028|1053", 1.0), ("0028|1052", 0.0), ("0028|0101", 16.0), ("0028|0103", 0.0))
    )
    return 2 * intercept + slope * (-1.0 if signed else 2.0**bits - 1.0)


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(x) for x in text.split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


@functools.lru_cache(maxsize=64)  # the slices of a stack share it
def _axes(text: str) -> tuple[float, ...] | None:
    """Return the six direction cosines; None if they are missing or no unit vectors at right angles."""
    axes = _numbers(text, 6)
    if axes is None:
        return None
    vectors = np.array(axes).reshape(2, 3)
    return axes if np.abs(vectors @ vectors.T - np.eye(2)).max() <= MAX_ODDNESS else None


def _precision(text: str) -> tuple[float, ...]:
    """Return the value of the last decimal of each number; 0 for numbers with an exponent."""
    numbers = text.lower().split("\\")
    return tuple(0.0 if "e" in number else 10.0 ** -len(number.strip().partition(".")[2]) for number in numbers)


def _digest(text: str) -> str:
    """Return a text by which equal ones are recognised and which does not reveal them; empty for an empty one."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16] if text else ""

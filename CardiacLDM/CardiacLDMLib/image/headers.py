"""What the headers of NRRD and MetaImage files (MHA, MHD) say about a volume that ITK's readers do not tell.

http://teem.sourceforge.net/nrrd/format.html and https://itk.org/Wiki/ITK/MetaIO/Documentation describe the formats.
"""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path

from ..errors import VolumeError
from ..text import plural

#: Sentence about a file whose header does not say where the patient's left is.
UNKNOWN_PLACE = "The file does not tell how the patient lies: left and right, or front and back, may be swapped."
#: Sentence about a file whose header does not give the voxel size.
UNKNOWN_SIZE = "The file does not tell how large a voxel is: 1 mm was assumed, and the volumes depend on it."
#: Ends of sentences about voxels that are no single numbers.
COMPLEX = "holds complex numbers, such as raw MR data: export the CT itself."
COLOUR = "is a colour image: one number per voxel is needed."
#: Bytes within which a header ends.
_LONGEST = 1 << 20
#: NRRD spaces that ITK takes to the patient, in short and in long form.
_SPACES = ("ras", "las", "lps", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior")
#: Names of the voxel type of colours.
_BYTES = ("uchar", "unsigned char", "uint8", "uint8_t")
#: Fields of a MetaImage header that give the direction of the axes.
_DIRECTIONS = ("transformmatrix", "rotation", "orientation")
#: Directions that ITK assumes if no field gives them: from right to left, anterior to posterior, inferior to superior.
_ASSUMED = "RAI"


def check_header(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the name of ITK's reader for an NRRD or MetaImage file, and sentences for the user on its voxels' place.

    The content decides: ITK's own choice knows no endings in capitals. The name is empty for a file of another format.
    Raises :class:`VolumeError` if the file holds something else than a 3D volume with one number per voxel.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST)
    if start.startswith(b"NRRD0"):
        return "NrrdImageIO", _check_nrrd(path.name, _nrrd_fields(start))
    fields = _meta_fields(start)
    return ("MetaImageIO", _check_meta(path.name, fields)) if "ndims" in fields else ("", ())


def is_segmentation(path: Path) -> bool:
    """Return whether a file is a segmentation of Slicer's (``.seg.nrrd``), by its content."""
    with path.open("rb") as file:
        start = file.read(_LONGEST)
    return start.startswith(b"NRRD0") and any(key.endswith("_labelvalue") for key in _nrrd_fields(start))


# --- NRRD ----------------------------------------------------------------------------------------------------------


def _nrrd_fields(start: bytes) -> dict[str, str]:
    """Return the fields and key/value pairs of a header, which ends at an empty line; names in lower case."""
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0].decode("utf-8", "replace")
    lines = [line for line in header.splitlines()[1:] if not line.startswith("#")]
    parts = [re.split(r":=|:", line, maxsplit=1) for line in lines]
    return {part[0].strip().lower(): part[1].strip() for part in parts if len(part) == 2}


def _check_nrrd(name: str, fields: dict[str, str]) -> tuple[str, ...]:
    if fields.get("encoding", "").lower() in ("bz2", "bzip2"):
        raise VolumeError(f"{name} is compressed with bzip2, which cannot be read: save it with gzip or without.")
    sizes = _integers(fields.get("sizes", ""))
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()]
    axes = re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())
    kinds += ["domain"] * (len(sizes) - len(kinds))
    axes += [""] * (len(sizes) - len(axes))
    for axis, size in enumerate(sizes):
        beyond = axes[axis] == "none" or kinds[axis] not in ("domain", "space", "none", "???")
        beyond = beyond or (axis > 2 and not any(a == "none" for a in axes))
        if size > 1 and len(sizes) > 3 and beyond:
            raise VolumeError(_fourth_axis(name, kinds[axis], size, fields))
    directed = any(axis.startswith("(") for axis in axes)
    notes = [] if directed and fields.get("space", "").lower() in _SPACES else [UNKNOWN_PLACE]
    if not directed and not re.search(r"\d", fields.get("spacings", "")):
        notes.append(UNKNOWN_SIZE)
    return tuple(notes)


def _fourth_axis(name: str, kind: str, size: int, fields: dict[str, str]) -> str:
    """Return the sentence about an axis of this ``kind`` and ``size`` that is not one of the three of space."""
    if kind == "complex":
        return f"{name} {COMPLEX}"
    if "color" in kind or (kind == "vector" and size in (3, 4) and fields.get("type") in _BYTES):
        return f"{name} {COLOUR}"
    if kind in ("list", "time", "domain", "space", "none", "???", "stub"):
        sequence = "axis 0 index type" in fields or ".seq." in name.lower()
        return series_sentence(name, size, "Slicer sequence" if sequence else "4D series")
    return vector_sentence(name, size)


def series_sentence(name: str, volumes: int, kind: str = "4D series") -> str:
    """Return the sentence about a file of several volumes."""
    save = " (in 3D Slicer: the Sequences module)" if kind == "Slicer sequence" else ""
    return (
        f"{name} is a {kind} of {volumes} volumes, and a single 3D volume is needed: save one of them by itself{save}."
    )


def vector_sentence(name: str, values: int) -> str:
    """Return the sentence about a file with several numbers per voxel that are no colours."""
    what = "complex numbers or vectors" if values == 2 else "vectors"
    return f"{name} holds {plural(values, 'number')} per voxel ({what}?): one is needed, as in a CT."


# --- MetaImage -----------------------------------------------------------------------------------------------------


def _meta_fields(start: bytes) -> dict[str, str]:
    """Return the fields of a header, whose last one names the data; names in lower case. Empty for other files."""
    header = re.split(rb"(?im)^\s*ElementDataFile\s*=", start, maxsplit=1)[0]
    lines = header.decode("utf-8", "replace").splitlines() if b"NDims" in header else []
    parts = [line.split("=", 1) for line in lines]
    return {part[0].strip().lower(): part[1].strip() for part in parts if len(part) == 2}


def _check_meta(name: str, fields: dict[str, str]) -> tuple[str, ...]:
    sizes = _integers(fields.get("dimsize", ""))
    channels = math.prod(_integers(fields.get("elementnumberofchannels", "1")))
    if channels in (3, 4) and "CHAR" in fields.get("elementtype", "").upper():
        raise VolumeError(f"{name} {COLOUR}")
    if channels > 1:
        raise VolumeError(vector_sentence(name, channels))
    if math.prod(sizes[3:]) > 1:
        raise VolumeError(series_sentence(name, math.prod(sizes[3:])))
    stated = any(key in fields for key in _DIRECTIONS) or fields.get("anatomicalorientation", "").upper() == _ASSUMED
    notes = [] if stated else [UNKNOWN_PLACE]
    if "elementspacing" not in fields and "elementsize" not in fields:
        notes.append(UNKNOWN_SIZE)
    return tuple(notes)


def _integers(text: str) -> list[int]:
    """Return the whole numbers in ``text``; an empty list if it holds anything else."""
    with contextlib.suppress(ValueError):
        return [int(word) for word in text.split()]
    return []

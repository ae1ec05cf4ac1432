"""Read NIfTI files: NIfTI-1 and NIfTI-2 in one file, of either byte order, compressed or not, whatever their ending.

The place of the voxels follows nibabel: the sform if its code is not 0, else the qform, else the voxel size alone. ITK
takes the voxel size from ``pixdim`` in any case, refuses an sform whose axes are not quite at right angles, and reads
what is not finite or lies behind the end of a cut file as 0; so this module reads header and voxels itself.

https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h describes the header, ``nifti2.h`` beside it that of NIfTI-2.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ..errors import VolumeError
from .grid import Volume, check_size
from .headers import COLOUR, COMPLEX, UNKNOWN_PLACE, series_sentence, vector_sentence

_GZIP = b"\x1f\x8b"
#: Most bytes that a byte of a gzip file can hold.
_DEFLATE_MOST = 1032


def _header_type(size: int, places: dict[str, tuple[str, int]]) -> np.dtype[Any]:
    formats, offsets = [kind for kind, _ in places.values()], [offset for _, offset in places.values()]
    return np.dtype({"names": list(places), "formats": formats, "offsets": offsets, "itemsize": size})


#: The fields that are used, with their places in the header.
_NIFTI1 = _header_type(
    348,
    {
        "dim": ("8i2", 40), "datatype": ("i2", 70), "pixdim": ("8f4", 76), "vox_offset": ("f4", 108),
        "scl_slope": ("f4", 112), "scl_inter": ("f4", 116), "xyzt_units": ("u1", 123), "qform_code": ("i2", 252),
        "sform_code": ("i2", 254), "quatern": ("3f4", 256), "qoffset": ("3f4", 268), "srow": ("(3,4)f4", 280),
    },
)  # fmt: skip
_NIFTI2 = _header_type(
    540,
    {
        "dim": ("8i8", 16), "datatype": ("i2", 12), "pixdim": ("8f8", 104), "vox_offset": ("i8", 168),
        "scl_slope": ("f8", 176), "scl_inter": ("f8", 184), "xyzt_units": ("i4", 500), "qform_code": ("i4", 344),
        "sform_code": ("i4", 348), "quatern": ("3f8", 352), "qoffset": ("3f8", 376), "srow": ("(3,4)f8", 400),
    },
)  # fmt: skip
#: Voxel types by their code.
_KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COMPLEX_KINDS, _COLOUR_KINDS = (32, 1792, 2048), (128, 2304)
#: Codes that say what space a form leads to; nibabel takes any other code for 0.
_FORM_CODES = range(1, 6)
#: Millimetres of the units of length other than the millimetre, and their names.
_UNITS = {1: (1000.0, "metres"), 3: (0.001, "micrometres")}
#: Extents, in mm, of volumes whose unit is believed: anything from a coronary vessel to a whole body.
_BELIEVABLE_MM = (10.0, 3000.0)
#: Distance of the last voxel from its place, in mm, that is due to rounding: headers hold single precision.
SAME_MM = 1e-3
#: Distance between the places that two forms give a voxel, in voxels, from which the user is told.
TELLING_VOXELS = 0.1


@dataclass(frozen=True)
class Header:
    """What is used of the header of the file ``name``.

    ``record``: its fields. ``order``: the byte order, ``<`` or ``>``. ``start``: the first byte of the voxels.
    """

    name: str
    record: Any = field(repr=False)
    order: str
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each dimension, without dimensions of one voxel beyond the third."""
        rank = int(self.record["dim"][0])
        shape = [int(n) for n in self.record["dim"][1 : rank + 1]]
        while len(shape) > 3 and shape[-1] == 1:
            del shape[-1]
        return tuple(shape)

    @property
    def kind(self) -> np.dtype[Any]:
        """Type of a voxel as it is stored. Raises :class:`VolumeError` if that is no single number."""
        code = int(self.record["datatype"])
        if code in _COMPLEX_KINDS:
            raise VolumeError(f"{self.name} {COMPLEX}")
        if code in _COLOUR_KINDS:
            raise VolumeError(f"{self.name} {COLOUR}")
        if code not in _KINDS:
            raise VolumeError(f"{self.name} stores its voxels in a way that is not read (NIfTI type {code}).")
        return np.dtype(self.order + _KINDS[code])

    @property
    def byte_count(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.kind.itemsize


def is_nifti(path: Path) -> bool:
    """Return whether a file is a NIfTI file, by its content."""
    start = _first_bytes(path, 348)
    return start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")


def read_nifti(path: Path) -> tuple[Volume, tuple[str, ...]]:
    """Return the volume in a NIfTI file, and sentences for the user on its place.

    The voxel type is that of the file, or float32 (float64 for values of more than 16 bits) if values are scaled.
    Raises :class:`VolumeError` when the file is damaged, not 3D with one number per voxel, or sheared.
    """
    header = read_header(path)
    _check_shape(header)
    with np.errstate(over="ignore", invalid="ignore"):  # a Grid refuses what is not finite
        affine, notes = locate(header)
    voxels = _read_bytes(path, header.start, header.byte_count).view(header.kind)
    array = _scale(_native(voxels), header).reshape(header.shape, order="F")
    return Volume(array, affine), tuple(notes)


def check_complete(path: Path) -> None:
    """Raise :class:`VolumeError` unless a NIfTI file holds all its voxels."""
    header = read_header(path)
    needed = header.start + header.byte_count
    if not _is_gzip(path):
        length = path.stat().st_size
    elif gzip_length(path) == needed % 2**32:
        return
    else:  # it is cut short, has several gzip members, or more data behind the voxels: only unpacking tells which
        try:
            with path.open("rb") as file:
                length = sum(len(data) for data in _unpack(file))
        except zlib.error as error:
            raise _damaged(path.name) from error
    if length < needed:
        raise _damaged(path.name)


def keep_sform(path: Path, affine: np.ndarray) -> None:
    """Write ``affine`` into a NIfTI-1 file that ITK wrote: its sform has right angles, even if the axes are sheared.

    The qform stays: with it, ITK reads a slightly sheared file too.
    """
    header = read_header(path)
    corner = [*header.shape, 1]
    if np.abs((affine - _sform(header.record)) @ corner).max() < SAME_MM:
        return
    packed = _is_gzip(path)
    with path.open("rb") as file:
        data = bytearray(b"".join(_unpack(file)) if packed else file.read())
    data[280:328] = affine[:3].astype(f"{header.order}f4").tobytes()
    path.write_bytes(gzip.compress(data, 1) if packed else data)


# --- header --------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """Read the header of a NIfTI file. Raises :class:`VolumeError` if it cannot be used."""
    start = _first_bytes(path, 540)
    second = start[4:8] in (b"n+2\0", b"ni2\0")
    if start[4:8] == b"ni2\0" or (not second and start[344:348] == b"ni1\0"):
        raise VolumeError(f"{path.name} is half of a pair of files: save the scan as one .nii file.")
    kind = _NIFTI2 if second else _NIFTI1
    if len(start) < kind.itemsize:
        raise _damaged(path.name)
    order: Literal["<", ">"]
    for order in ("<", ">"):
        record = np.frombuffer(start, kind.newbyteorder(order), 1)[0]
        if 1 <= record["dim"][0] <= 7:  # the other order gives 256 or more
            break
    else:
        raise _damaged(path.name)
    offset = float(record["vox_offset"])
    least = kind.itemsize + 4  # four bytes say whether extensions follow
    return Header(path.name, record, order, int(offset) if np.isfinite(offset) and offset > least else least)


def _check_shape(header: Header) -> None:
    """Raise :class:`VolumeError` unless a volume is 3D."""
    shape = header.shape
    _ = header.kind
    if min(shape) < 1:
        raise _damaged(header.name)
    if len(shape) < 3:
        raise VolumeError(f"{header.name} is no 3D volume: it has {len(shape)} dimensions.")
    if len(shape) == 4:
        raise VolumeError(series_sentence(header.name, shape[3]))
    if len(shape) > 4:
        raise VolumeError(vector_sentence(header.name, math.prod(shape[4:])))
    check_size(shape)


# --- place ---------------------------------------------------------------------------------------------------------


def locate(header: Header) -> tuple[np.ndarray, list[str]]:
    """Return the affine (4x4, IJK -> RAS mm) by nibabel's rules, and sentences for the user where it is in doubt.

    Sizes in metres or micrometres, which nibabel takes for millimetres, are converted.
    """
    record, shape = header.record, np.array(header.shape)
    sform = _sform(record) if int(record["sform_code"]) in _FORM_CODES else None
    qform = _qform(record) if int(record["qform_code"]) in _FORM_CODES else None
    notes = []
    if sform is not None and not (np.isfinite(sform).all() and np.linalg.det(sform)):  # a code, but zeros or NaN
        sform = None
    if sform is not None:
        affine = sform
        notes += _disagreement(sform, qform, np.abs(record["pixdim"][1:4]).astype(float), shape)
    elif qform is not None:
        affine = qform
        if (record["pixdim"][1:4] < 0).any():
            notes.append("The header states a negative voxel size: the sign was ignored.")
    else:
        affine = _centred(record, shape)
        notes.append(UNKNOWN_PLACE)
    return _in_mm(affine, shape, int(record["xyzt_units"]), notes), notes


def _sform(record: Any) -> np.ndarray:
    return np.vstack([record["srow"].astype(float), [0.0, 0.0, 0.0, 1.0]])


def _qform(record: Any) -> np.ndarray:
    """Return the affine of the quaternion, whose first part follows from the others."""
    b, c, d = (float(x) for x in record["quatern"])
    rest = 1.0 - (b * b + c * c + d * d)
    if rest < 1e-7:  # a half turn; rounding may make the others longer than 1
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
        rest = 0.0
    a = np.sqrt(rest)
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    spacing = np.abs(record["pixdim"][1:4].astype(float))
    if record["pixdim"][0] == -1:
        spacing[2] = -spacing[2]
    affine[:3, :3] *= spacing
    affine[:3, 3] = record["qoffset"]
    return affine


def _centred(record: Any, shape: np.ndarray) -> np.ndarray:
    """Return the affine of the voxel size alone: the first axis points left, the origin is the volume's centre."""
    affine = np.diag([*np.abs(record["pixdim"][1:4].astype(float)), 1.0])
    affine[0, 0] *= -1.0
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def _disagreement(sform: np.ndarray, qform: np.ndarray | None, pixdim: np.ndarray, shape: np.ndarray) -> list[str]:
    """Return a sentence if the qform, or else the voxel size, is not that of the sform."""
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if qform is not None:
        corners = np.array([[*index, 1] for index in np.ndindex(2, 2, 2)]) * [*(shape - 1), 1]
        apart = np.linalg.norm(corners @ (sform - qform)[:3].T, axis=1).max()
        if not apart <= TELLING_VOXELS * spacing.min():
            return [
                f"The file gives its voxels two places, up to {apart:.3g} mm apart: its sform was used, not its qform. "
                "Programs that read the other one show the scan elsewhere."
            ]
    if not (np.abs(spacing - pixdim) * (shape - 1) <= TELLING_VOXELS * spacing).all():
        used, other = (" x ".join(f"{x:.4g}" for x in sizes) for sizes in (spacing, pixdim))
        return [
            f"The file gives its voxels two sizes: {used} mm in its sform was used, not {other} mm in its pixdim. "
            "Programs that read the other one show other volumes."
        ]
    return []


def _in_mm(affine: np.ndarray, shape: np.ndarray, units: int, notes: list[str]) -> np.ndarray:
    """Return the affine in mm, and add a note if the header gives sizes in another unit."""
    if units & 7 not in _UNITS:
        return affine
    factor, name = _UNITS[units & 7]
    extent = float((np.linalg.norm(affine[:3, :3], axis=0) * shape).max())
    low, high = _BELIEVABLE_MM
    if not low <= extent * factor <= high and low <= extent <= high:
        notes.append(f"The file says that its sizes are in {name}, which cannot be: they were taken for millimetres.")
        return affine
    notes.append(f"The file gives its sizes in {name}: they were converted to millimetres.")
    return np.diag([factor, factor, factor, 1.0]) @ affine


# --- voxels --------------------------------------------------------------------------------------------------------


def _native(voxels: np.ndarray) -> np.ndarray:
    """Return voxels in the byte order of this computer."""
    if voxels.dtype.isnative:
        return voxels
    return voxels.byteswap(inplace=True).view(voxels.dtype.newbyteorder("="))


def _scale(voxels: np.ndarray, header: Header) -> np.ndarray:
    """Return slope times voxels plus intercept; the voxels themselves if there is no slope, as nibabel does."""
    slope, inter = float(header.record["scl_slope"]), float(header.record["scl_inter"])
    if slope == 0 or not np.isfinite([slope, inter]).all() or (slope, inter) == (1.0, 0.0):
        return voxels
    short = voxels.dtype.itemsize <= 2 or voxels.dtype == np.float32
    scaled = np.empty(len(voxels), np.float32 if short else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(voxels), 1 << 16):  # as much as the processor's cache holds
            part = slice(start, start + (1 << 16))
            scaled[part] = voxels[part].astype(np.float64) * slope + inter
    return scaled


def _read_bytes(path: Path, start: int, count: int) -> np.ndarray:
    """Return ``count`` bytes from ``start`` of the unpacked file. Raises :class:`VolumeError` if it ends earlier."""
    most = path.stat().st_size * (_DEFLATE_MOST if _is_gzip(path) else 1)
    if most < start + count:
        raise _damaged(path.name)  # before the memory is taken
    out = np.empty(count, np.uint8)
    view, at = memoryview(out.data), -start
    with path.open("rb") as file, contextlib.suppress(zlib.error):
        if not _is_gzip(path):
            file.seek(start)
            at = file.readinto(view)
        else:
            for data in _unpack(file):
                low, high = min(max(at, 0), count), min(max(at + len(data), 0), count)
                view[low:high] = data[low - at : high - at]
                at += len(data)
        if at >= count:
            return out
    raise _damaged(path.name)


def _unpack(file: BinaryIO) -> Iterator[bytes]:
    """Yield the data of a gzip file of one or more members. Raises ``zlib.error`` where it is damaged.

    Python's gzip module takes a third more time.
    """
    unpacker = zlib.decompressobj(31)
    while packed := unpacker.unused_data or file.read(1 << 16):
        if unpacker.eof:
            if not packed.startswith(_GZIP[:1]):
                return  # zeros that fill the last block, or other data
            unpacker = zlib.decompressobj(31)
        yield unpacker.decompress(packed)
    if not unpacker.eof:
        raise zlib.error("The file is cut short.")


def _first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of the unpacked file; fewer if it is shorter or damaged."""
    with path.open("rb") as file:
        start = file.read(1 << 14)
    if not start.startswith(_GZIP):
        return start[:count]
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(start, count)
    return b""


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def gzip_length(path: Path) -> int:
    """Return the length of a gzip file's data modulo 2^32, as its last four bytes state it."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(), "little")


def _damaged(name: str) -> VolumeError:
    return VolumeError(f"{name} cannot be read: the file is damaged or cut short.")

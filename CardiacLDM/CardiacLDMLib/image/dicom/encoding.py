"""How DICOM files are written: their first bytes, files without the usual start, and quiet decoding."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import VolumeError
from ...plain_paths import plain_paths

#: Bytes that show how a file is written: the preamble and the group about the file.
HEAD_BYTES = 2048
_PREAMBLE = b"\0" * 128 + b"DICM"
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
#: Transfer syntaxes that GDCM decodes: JPEG, JPEG-LS, JPEG 2000, RLE, deflated.
_DECODED = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)) + (
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.1.99",
)
#: Value representations with two spare bytes and a length of four bytes (DICOM PS3.5, 7.1.2).
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def looks_like_dicom(head: bytes) -> bool:
    """Return whether a file begins as DICOM does: with the mark ``DICM``, or, as older files do, with data elements."""
    return head[128:132] == b"DICM" or head[:4] == b"DICM" or _count_elements(head) >= 3


def _count_elements(head: bytes) -> int:
    """Return how many data elements in rising order the bytes begin with, from group 2 or 8 on; it counts to 3."""
    order = ">" if head[:2] == b"\0\x08" else "<"
    place, count, before = 0, 0, (0, -1)
    while count < 3 and place + 12 <= len(head):
        tag = struct.unpack_from(f"{order}HH", head, place)
        if tag <= before or tag[0] not in ((2, 8) if count == 0 else (2, 8, 16, 24, 32, 40)):
            break
        kind = head[place + 4 : place + 6]
        if kind in _LONG:
            (length,) = struct.unpack_from(f"{order}I", head, place + 8)
            place += 12 + length
        elif kind.isalpha() and kind.isupper():
            (length,) = struct.unpack_from(f"{order}H", head, place + 6)
            place += 8 + length
        else:
            (length,) = struct.unpack_from(f"{order}I", head, place + 4)
            place += 8 + length
        if length % 2:
            break
        before, count = tag, count + 1
    return count


def transfer_syntax(head: bytes) -> str:
    """Return the UID that says how the voxels are encoded: implicit little endian, the default, if none is given."""
    place = head.find(b"\x02\0\x10\0UI")
    if place < 0:
        return _IMPLICIT
    (length,) = struct.unpack_from("<H", head, place + 6)
    return head[place + 8 : place + 8 + length].strip(b"\0 ").decode("ascii", "replace")


def is_compressed(head: bytes) -> bool:
    return transfer_syntax(head) not in (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN)


def _usual_start(head: bytes) -> tuple[int, bytes] | None:
    """Return how many bytes of a file to replace by which, so that it begins as it should; None if it does.

    GDCM reads files without a group about the file in the wrong byte order if the elements name no types.
    """
    start = 132 if head[128:132] == b"DICM" else 4 if head[:4] == b"DICM" else 0
    group, kind = head[start : start + 2], head[start + 4 : start + 6]
    if group == b"\x02\0":
        return None if start == 132 else (start, _PREAMBLE)
    if group not in (b"\x08\0", b"\0\x08"):
        return None
    explicit = kind.isalpha() and kind.isupper()
    uid = _IMPLICIT if not explicit else _EXPLICIT if group == b"\x08\0" else _BIG_ENDIAN
    value = uid.encode() + b"\0" * (len(uid) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    return start, _PREAMBLE + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element)) + element


def is_decodable(head: bytes) -> bool:
    """Return whether GDCM knows the way in which the voxels are encoded."""
    return not is_compressed(head) or transfer_syntax(head) in _DECODED


@contextlib.contextmanager
def gdcm_files(paths: Sequence[Path]) -> Iterator[list[str]]:
    """Give file names that GDCM reads rightly: those of ``paths``, or of copies with the usual start.

    While it lasts GDCM prints nothing: for some compressed images it tries one decoder after the other, and each
    complains. Raises :class:`VolumeError` if there is no room for the copies.
    """
    with contextlib.ExitStack() as stack:
        names, folder, compressed = [], None, False
        for number, path in enumerate(paths):
            head = read_head(path)
            compressed = compressed or is_compressed(head)
            start = _usual_start(head)
            if start is None:
                names.append(str(path))
                continue
            try:
                if folder is None:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cardiacldm-"))
                copy = Path(folder, f"{number:06d}.dcm")
                copy.write_bytes(start[1] + path.read_bytes()[start[0] :])
            except OSError as error:
                raise VolumeError("The DICOM files cannot be copied: is the temporary folder full?") from error
            names.append(str(copy))
        names = stack.enter_context(plain_paths(names))
        if compressed:
            stack.enter_context(_quiet_stderr())
        yield names


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send what C code writes to the process's standard error nowhere: its libraries have no switch for that."""
    try:
        kept = os.dup(2)
    except OSError:  # a program with windows only may have none
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

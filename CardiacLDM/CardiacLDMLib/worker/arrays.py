"""The voxels of a job's volumes as .npy files in its private folder."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ..errors import OutputError
from ..image.grid import Volume

#: Bytes per piece of an upload. The window responds between two pieces.
PIECE_BYTES = 8 << 20


class ArrayUpload:
    """Writes an array (I, J, K) to a .npy file piece by piece, in the order of its memory (C or Fortran)."""

    def __init__(self, array: np.ndarray, path: Path) -> None:
        strides = np.abs(array.strides)
        fortran = bool(strides[0] < strides[-1])
        self._slabs = array.T if fortran else array
        self._file: BinaryIO = path.open("wb")
        header = {"descr": array.dtype.str, "fortran_order": fortran, "shape": array.shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._next = 0
        self._step = max(1, PIECE_BYTES // max(self._slabs[0].nbytes, 1))

    def write_piece(self) -> bool:
        """Write the next piece and return whether there is more."""
        piece = self._slabs[self._next : self._next + self._step]
        self._file.write(np.ascontiguousarray(piece).data)
        self._next += len(piece)
        if self._next < len(self._slabs):
            return True
        self.close()
        return False

    def close(self) -> None:
        """Close the file, complete or not."""
        self._file.close()


def array_file(folder: Path, name: str) -> Path:
    """Return the path of the .npy file for the volume ``name``."""
    return folder / f"{name}.npy"


def save_volumes(folder: Path, volumes: Mapping[str, Volume]) -> dict[str, Any]:
    """Write the voxels of ``volumes`` to ``folder``; return their affine matrices as nested lists by name.

    Raises :class:`OutputError` if the disk is full.
    """
    for name, volume in volumes.items():
        with explain_full_disk(), array_file(folder, name).open("wb") as file:
            # Fortran order, as Slicer stores voxels. Not memory-mapped: writing to a full disk would be a crash.
            np.save(file, np.asfortranarray(volume.array))
    return {name: volume.affine.tolist() for name, volume in volumes.items()}


def map_volumes(folder: Path, affines: Mapping[str, Any], mode: Literal["r", "c"]) -> dict[str, Volume]:
    """Return the volumes in ``folder`` by name, with their affine matrices (4x4). The voxels are memory-mapped.

    ``mode``: ``r`` for read-only voxels, ``c`` for voxels whose changes stay in memory. Raises ``OSError`` or
    ``ValueError`` for a file that cannot be read.
    """
    return {
        name: Volume(np.load(array_file(folder, name), mmap_mode=mode, allow_pickle=False), np.array(affine))
        for name, affine in affines.items()
    }


@contextlib.contextmanager
def explain_full_disk() -> Iterator[None]:
    """Turn the error of a full disk into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OutputError("The disk that holds temporary files is full: free some space and try again.") from error

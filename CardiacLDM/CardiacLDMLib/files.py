"""Files and folders: where the program's resources are, and how a file is replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import VolumeError

#: The folder of model packages, panels, icons and terminology that ships with the module.
RESOURCES = Path(__file__).resolve().parents[1] / "Resources"


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; move it into place once it is whole and on the disk.

    The temporary name keeps the ending, since writers choose the format by it. Nothing stays behind on an error.
    """
    path = Path(path)
    ending = "".join(path.suffixes[-2:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=ending, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise VolumeError(f"{path.name} could not be written: {error.strerror or error}.") from error
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp makes it private; a result is as readable as any other file
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise VolumeError(f"{path.name} could not be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)

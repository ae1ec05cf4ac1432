"""Paths for libraries that cannot open one that is not valid Unicode. ITK's binding even ends the process.

Linux allows any bytes in a name, and old archives have names in Latin-1. Such a path is replaced by a link of a plain
name in a temporary folder. Only the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import VolumeError

#: Endings of headers whose voxels lie in a file beside them.
DETACHED_ENDINGS = (".nhdr", ".mhd")
#: Where temporary folders can be if the usual place has a bad name itself.
PLAIN_PLACES = ("/tmp", "/var/tmp")


@contextlib.contextmanager
def plain_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a name of the file ``path`` that is valid Unicode, for reading or writing. Raises :class:`VolumeError`."""
    with plain_paths([path]) as (name,):
        yield name


@contextlib.contextmanager
def plain_paths(paths: Sequence[str | os.PathLike[str]]) -> Iterator[list[str]]:
    """Yield names of the files ``paths`` that are valid Unicode, as long as it lasts. Raises :class:`VolumeError`."""
    names = [os.fspath(path) for path in paths]
    if all(map(is_unicode, names)):
        yield names
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_temporary_folder())
            links = [name if is_unicode(name) else _link(Path(name), Path(folder)) for name in names]
        except OSError as error:
            raise VolumeError(
                f"{os.path.basename(names[0])} has a name or folder that is no valid Unicode: rename it."
            ) from error
        yield links


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new temporary folder of a plain name. Raises ``OSError`` if there is no room for one."""
    usual = tempfile.gettempdir()
    place = next((path for path in (usual, *PLAIN_PLACES) if is_unicode(path) and os.path.isdir(path)), None)
    if place is None:
        raise FileNotFoundError("There is no temporary folder of a plain name.")
    return tempfile.TemporaryDirectory(prefix="cardiacldm-", dir=place, ignore_cleanup_errors=True)


def is_unicode(name: str) -> bool:
    """Return whether the name is the same bytes on the disk and in UTF-8, which libraries are given."""
    try:
        return name.encode() == os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _link(path: Path, folder: Path) -> str:
    """Link to ``path``, or to its folder if only that has a bad name, from within ``folder``; return the new path."""
    path = Path(os.path.abspath(path))
    if is_unicode(path.name):
        place = folder / hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]
        if not place.is_symlink():
            place.symlink_to(path.parent, target_is_directory=True)
        return str(place / path.name)
    place = Path(tempfile.mkdtemp(dir=folder))
    plain = "".join(c if is_unicode(c) else "_" for c in path.name)[-200:]
    if plain.lower().endswith(DETACHED_ENDINGS):
        for other in path.parent.iterdir():
            (place / other.name).symlink_to(other)
        plain = f"link-{plain}"
    (place / plain).symlink_to(path)
    return str(place / plain)

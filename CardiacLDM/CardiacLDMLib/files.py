"""Files and folders: the program's resources, and one way each to replace, remove, lock and hash.

A file or folder is written under a temporary name beside its place, flushed to the disk and renamed into place. Readers
see the old content or the new, never a mixture, also when the process is killed or the power fails. (A folder that is
replaced is absent for a moment; if the process is killed then, :func:`sweep` puts it back.) Failed writing raises
:class:`~CardiacLDMLib.errors.OutputError`. Only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import OutputError

#: The folder of model packages, panels, icons and terminology that ships with the module.
RESOURCES = Path(__file__).resolve().parents[1] / "Resources"

#: Beginnings of temporary names: of files and folders that are being written, and of folders that are being removed.
PART, REMOVED = ".part-", ".removed-"
#: Longest ending of a file's name, in characters.
LONGEST_ENDING = 20
#: Within a temporary folder: the folder that is being replaced, under its own name.
_REPLACED = ".replaced"
#: Age at which a temporary file or folder was left by a killed process, where the system cannot tell by a lock: writing
#: never takes that long.
ABANDONED_SECONDS = 3600.0
#: Age below which a temporary file or folder is left alone: its process may not have locked it yet.
_YOUNG_SECONDS = 1.0
#: Longest time for which a claimed folder is waited for.
_CLAIM_SECONDS = 8.0
#: Errors of systems that cannot flush a folder's entries.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}


# --- files ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` to write to; flush it and rename it to ``path`` at the end.

    The temporary name keeps the ending, since writers choose the format by it. The file gets the permissions that the
    umask gives. Missing parent folders are made. After an error the old file is as it was and nothing else stays.
    Raises :class:`OutputError`, also for an ``OSError`` of the caller's block.
    """
    path = Path(path)
    make_folder(path.parent)
    with output_errors(path):
        handle, name = tempfile.mkstemp(prefix=PART, suffix=_ending(path), dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            with _own(part):
                yield part
                umask = os.umask(0)
                os.umask(umask)
                part.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner may read
                sync_file(part)
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)


def _ending(path: Path) -> str:
    """Return the ending of a file's name, as in ".nii.gz". What lies between two dots of a long name is no ending."""
    ending = "".join(path.suffixes[-2:]).lower()  # ITK's writers do not know endings in capitals
    return ending if len(ending) <= LONGEST_ENDING else path.suffix[:LONGEST_ENDING].lower()


@contextlib.contextmanager
def replace_files(
    folder: Path, names: Sequence[str], temporary: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield an empty folder within ``folder``; at the end move the files ``names`` from it into ``folder``.

    All are flushed first. The last of several ``names`` completes the set: the old one is removed before the others are
    replaced, and the new one comes last, so a folder that has it has all of them. ``temporary``: see
    :func:`temporary_folder`. Raises :class:`OutputError`, also for an ``OSError`` of the caller's block.
    """
    with temporary_folder(folder, temporary) as part, output_errors(folder):
        yield part
        for name in names:
            sync_file(part / name)
        if len(names) > 1:
            (folder / names[-1]).unlink(missing_ok=True)
            sync_folder(folder)
        for name in names:
            (part / name).replace(folder / name)
        sync_folder(folder)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace ``path`` by a text file in UTF-8 with the line ends of ``text``. Raises :class:`OutputError`."""
    with replace_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], content: Any, *, sort_keys: bool = False) -> None:
    """Replace ``path`` by ``content`` as JSON, one entry a line. Raises :class:`OutputError`."""
    write_text(path, json.dumps(content, indent=1, sort_keys=sort_keys) + "\n")


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits. Raises ``OSError``, also for what is no file."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for without end
        raise OSError(errno.EINVAL, "It is no file", os.fspath(path))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- folders -------------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents unless they exist. Raises :class:`OutputError`, also if a file is in the way."""
    with output_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"A folder is needed, but {folder.name} is a file.")
        if folder.is_symlink() and not folder.exists():
            raise OutputError(f"A folder is needed, but {folder.name} is a link that leads nowhere.")
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path, path: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield an empty folder in ``parent``, whose content can be renamed into place, and remove it at the end.

    ``parent`` is made if missing. ``path`` names the folder, so that another process can find and remove it: it must be
    a new name in ``parent`` that begins with :data:`PART`. Raises :class:`OutputError`.
    """
    make_folder(parent)
    with output_errors(parent):
        if path is None:
            folder = Path(tempfile.mkdtemp(prefix=PART, dir=parent))
        else:
            folder = Path(path)
            folder.mkdir()
    try:
        with _own(folder):
            yield folder
    finally:
        if _restore(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replace_folder(
    target: Path, *, replace: bool = False, temporary: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield an empty folder of the same name to fill; put it in the place of ``target`` at the end.

    ``temporary``: see :func:`temporary_folder`; an existing ``target``: see :func:`move_folder`. Raises
    :class:`OutputError`, also for an ``OSError`` of the caller's block.
    """
    target = Path(target)
    if not replace:
        _refuse_existing(target)
    with temporary_folder(target.parent, temporary) as part, output_errors(target):
        content = part / target.name
        content.mkdir()
        yield content
        move_folder(content, target, replace=replace)


def move_folder(content: Path, target: Path, *, replace: bool = False) -> None:
    """Flush the folder ``content`` and rename it to ``target``.

    ``content`` lies in a :func:`temporary_folder` beside ``target``. With ``replace`` an existing ``target`` is moved
    aside first, and back again if ``content`` cannot be put in its place. If the process is killed in between,
    :func:`sweep` puts it back. Raises :class:`OutputError`, also for an existing ``target`` without ``replace``.
    """
    with output_errors(target):
        sync_tree(content)
        if os.path.lexists(target):
            if not replace:
                _refuse_existing(target)
            old = content.parent / _REPLACED / target.name
            old.parent.mkdir()
            target.rename(old)
        try:
            content.rename(target)
        except OSError:
            _restore(content.parent)
            raise
        sync_folder(target.parent)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise OutputError(f"{target.name} exists already: choose another name.")


def _restore(temporary: Path) -> bool:
    """Put a replaced folder back unless its place is taken again. Return False if that failed."""
    try:
        replaced = list((temporary / _REPLACED).iterdir())
    except OSError:
        return True
    for old in replaced:
        place = temporary.parent / old.name
        if not os.path.lexists(place):
            try:
                old.rename(place)
            except OSError:
                return False
    return True


def remove_folder(path: Path) -> None:
    """Remove a folder. It is renamed first, so that readers see it whole or not at all. Raises ``OSError``."""
    aside = Path(tempfile.mkdtemp(prefix=REMOVED, dir=path.parent))
    try:
        with _own(aside):
            path.rename(aside / "removed")
            sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path, older_than: float = ABANDONED_SECONDS) -> None:
    """Remove temporary files and folders that killed processes left in ``folder``.

    Those that no process owns any more are removed, and those older than ``older_than`` seconds. A folder whose
    replacement was interrupted between the two renames is put back. Errors are ignored.
    """
    for path in (*folder.glob(f"{PART}*"), *folder.glob(f"{REMOVED}*")):
        with contextlib.suppress(OSError):
            age = time.time() - path.lstat().st_mtime
            if age < older_than and (age < _YOUNG_SECONDS or not _is_unowned(path)):
                continue
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif path.name.startswith(REMOVED) or _restore(path):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` this process's own: refuse it, with :class:`OutputError`, if another process has claimed it.

    The claim ends with the process, also with a killed one. Processes that a killed one had forked hold it for some
    seconds more, so it is waited for. Does nothing on systems that cannot lock folders.
    """
    make_folder(folder)
    handle = _open_to_lock(folder)
    try:
        end = time.monotonic() + _CLAIM_SECONDS
        while handle is not None and not _lock_if_possible(handle):
            if time.monotonic() > end:
                raise OutputError(
                    f"Another command writes to {folder.name}: wait for its end, or choose another folder."
                )
            time.sleep(0.1)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock_if_possible(handle: int) -> bool:
    """Return False if another process holds the lock; a file system without locks counts as locked."""
    try:
        return lock(handle)
    except OSError:
        return True


@contextlib.contextmanager
def _own(path: Path) -> Iterator[None]:
    """Lock a temporary file or folder, so that :func:`sweep` of other processes leaves it alone while this one lives.

    Does nothing on systems that cannot lock folders; there the age decides.
    """
    handle = _open_to_lock(path)
    try:
        if handle is not None:
            with contextlib.suppress(OSError):
                lock(handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _is_unowned(path: Path) -> bool:
    """Return whether no living process owns a temporary file or folder; False if the system cannot tell."""
    handle = _open_to_lock(path)
    if handle is None:
        return False
    try:
        return lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)


def _open_to_lock(path: Path) -> int | None:
    if sys.platform == "win32":  # an open file could be neither renamed nor removed
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None


# --- the disk ------------------------------------------------------------------------------------------------------


def sync_file(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries are on the disk. Does nothing on systems that cannot flush a folder."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def sync_tree(folder: Path) -> None:
    """Wait until every file in ``folder`` and its sub-folders, and all entries, are on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def lock(file: int) -> bool:
    """Lock the open file with the descriptor ``file``; return False if another process holds the lock.

    The lock is held until the file is closed. Raises ``OSError`` where the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond the content: other processes cannot read a locked byte
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an ``OSError`` into an :class:`OutputError` that names ``path`` without its folder."""
    try:
        yield
    except OSError as error:
        name = Path(path).absolute().name or str(path)
        raise OutputError(f"{name} could not be written: {error.strerror or error}.") from error

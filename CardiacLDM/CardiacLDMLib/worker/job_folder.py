"""A private temporary folder for the arrays of one job."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from ..files import lock

_PREFIX, _OWNER = "cardiacldm-job-", "owner"
#: A folder without an owner file is abandoned from this age on; a younger one may belong to a process that starts.
_UNOWNED_SECONDS = 3600.0


class JobFolder:
    """A folder that only this user can open, for the arrays of one job. This process holds a lock on it until it ends.

    The folder is deleted by :meth:`remove`, with this object, or when the process ends; after a crash by :func:`sweep`.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)  # mode 0700
        self.path = Path(self._folder.name)
        self._owner = (self.path / _OWNER).open("wb")
        if not lock(self._owner.fileno()):
            raise OSError("the temporary folder cannot be locked")

    def remove(self) -> bool:
        """Remove the folder and return whether it is gone. Windows keeps files that are mapped: call again later."""
        self._owner.close()
        self._folder.cleanup()
        return not self.path.exists()


def sweep() -> None:
    """Remove the private folders of processes that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def remove_job_folder(folder: Path) -> None:
    """Remove a folder that a :class:`JobFolder` of another process made. Any other folder is left alone."""
    if folder.name.startswith(_PREFIX) and (folder / _OWNER).is_file() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        if sys.platform != "win32" and folder.stat().st_uid != os.getuid():
            return False
        if not (folder / _OWNER).exists():
            return time.time() - folder.stat().st_mtime > _UNOWNED_SECONDS
        with (folder / _OWNER).open("rb+") as owner:
            return lock(owner.fileno())
    except OSError:
        return False

"""What the worker process and its client share: the protocol's version and lines, progress, and a job's private folder.

Only the standard library: the client lives in Slicer, and the worker must be able to say what it lacks.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

#: Raised with every change that an older partner would misunderstand.
PROTOCOL = 1
#: No honest message is longer, in bytes; more is the stray output of a library.
MAX_LINE = 1 << 20

#: ``fast``: fewer windows, coarser edges. ``flips``: windows are looked at mirrored too, at four times the work.
Quality = Literal["fast", "full", "flips"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)

#: What a stage is called in front of the user.
STAGES = {
    "start": "starting",
    "load": "loading the model",
    "read": "reading",
    "prepare": "preparing",
    "locate": "finding the heart",
    "segment": "segmenting",
    "sample": "drawing from noise",
    "decode": "decoding",
    "resample": "labelling the scan's voxels",
    "clean": "cleaning up",
    "check": "checking the pair",
    "write": "writing",
}

#: Folders beside results in which these are made before they are moved into place.
ASIDE = ".part-"
_PREFIX, _OWNER = "cardiacldm-job-", "owner"
#: A folder without an owner's file is being made, or was left by a process that died while making it.
_UNOWNED_SECONDS = 3600.0


class Cancelled(Exception):  # noqa: N818 - not an error: the user asked for it
    """The job was stopped between two steps because the caller asked for it."""


@dataclass(frozen=True)
class Progress:
    """``step`` of ``total`` over the whole job (never falls), the stage's name, seconds since the job began."""

    step: int
    total: int
    stage: str
    seconds: float


@dataclass(frozen=True)
class Preview:
    """How a pair looks at ``step`` of ``total`` while it is drawn: a grey picture (PGM) in the job's folder."""

    step: int
    total: int
    file: str


def remaining(progress: Progress) -> float | None:
    """Seconds that are likely left; None as long as too little was done to tell."""
    if progress.step < 3 or progress.seconds < 0.5:
        return None
    return progress.seconds * (progress.total - progress.step) / progress.step


# --- messages ------------------------------------------------------------------------------------------------------


class Lines:
    """Cuts a stream of bytes into lines, whatever the pieces it comes in.

    Of a line longer than ``MAX_LINE`` only the beginning is kept, so that garbage cannot fill the memory.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(bytes(self._rest).removesuffix(b"\r"))
            self._rest.clear()
        self._keep(rest)
        return lines

    def _keep(self, data: bytes) -> None:
        self._rest += data[: MAX_LINE - len(self._rest)]


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line. ASCII, so that paths that are no valid Unicode survive."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The message in a line; None if it holds none."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


# --- private folders -----------------------------------------------------------------------------------------------


class JobFolder:
    """A folder that only this user can open, for the arrays of one job. Its process holds a lock as long as it lives.

    It goes with :meth:`remove`, with the object or with the process; after a crash :func:`sweep` finds it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)  # mode 0700
        self.path = Path(self._folder.name)
        self._owner = (self.path / _OWNER).open("wb")
        if not _locked(self._owner.fileno()):
            raise OSError("the temporary folder cannot be locked")

    def remove(self) -> bool:
        """Remove the folder; whether it is gone. Windows keeps what is still mapped: call again later."""
        self._owner.close()
        self._folder.cleanup()
        return not self.path.exists()


def sweep() -> None:
    """Remove the private folders of processes that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def remove_job_folder(folder: Path) -> None:
    """Remove a folder that a :class:`JobFolder` of another process made; nothing else is ever touched."""
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
        if sys.platform == "win32":
            (folder / _OWNER).unlink()  # fails as long as its process holds it open
            return True
        with (folder / _OWNER).open("rb+") as owner:
            return _locked(owner.fileno())
    except OSError:
        return False


def _locked(file: int) -> bool:
    """Take the lock on an open file, if nobody else has it. On Windows being open is lock enough."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- processes -----------------------------------------------------------------------------------------------------


def end_process_group(pid: int) -> None:
    """End a worker and all that it started, now. ``pid`` is what it said of itself; that it is gone already is fine."""
    if sys.platform == "win32":
        import subprocess

        command = ["taskkill", "/T", "/F", "/PID", str(pid)]
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return
    import contextlib
    import signal

    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)

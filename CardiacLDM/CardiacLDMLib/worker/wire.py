"""What the worker process and its client share: the protocol's version and lines, progress, and a job's private folder.

Only the standard library: the client lives in Slicer, and the worker must be able to say what it lacks.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

#: Raised with every change that an older partner would misunderstand.
PROTOCOL = 1
#: No honest message is longer, in bytes; more is the stray output of a library.
MAX_LINE = 1 << 20


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

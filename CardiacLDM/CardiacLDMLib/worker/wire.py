"""The wire between client and worker: protocol version, messages as lines of JSON, and the end of a process group.

Only the standard library: the client lives in Slicer, and the worker must be able to say what it lacks.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

#: Version of the messages. Raised with every change that an older client or worker would misunderstand.
PROTOCOL = 2
#: No message is longer, in bytes; a longer line was printed by a library.
MAX_LINE = 1 << 20


# --- messages ------------------------------------------------------------------------------------------------------


class Lines:
    """Cuts a stream of bytes into lines. A line longer than ``MAX_LINE`` is cut off, so it cannot fill the memory."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their line ends."""
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
    """Return a message as one line; paths become strings. ASCII, so that paths that are not valid Unicode survive."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False, default=os.fspath).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the message in a line, None if there is none."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


# --- processes -----------------------------------------------------------------------------------------------------


def end_process_group(pid: int) -> None:
    """End the worker ``pid`` and all processes that it started, now. No error if it has ended already."""
    if sys.platform == "win32":
        import subprocess

        command = ["taskkill", "/T", "/F", "/PID", str(pid)]
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return
    import contextlib
    import signal

    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)

"""One worker process as the client sees it: its transport, its output, and the reason why it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .wire import Lines, end_process_group

#: Lines of output that are kept for the details of a failure.
TAIL_LINES = 200
#: Hangup, interrupt, kill and terminate: sent by a person, by a program or, when memory is short, by the system.
ENDING_SIGNALS = (1, 2, 9, 15)


class Transport(Protocol):
    """Starts and ends a process. Operating systems and event loops differ, so the caller brings its own."""

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        ...

    def start(
        self,
        program: list[str],
        environment: dict[str, str],
        on_output: Callable[[bytes], None],
        on_error_output: Callable[[bytes], None],
        on_end: Callable[[int | None, str], None],
    ) -> None:
        """Start ``program`` with ``environment`` on top of this process's own.

        ``on_end`` is called exactly once, after all output was delivered, with the exit code (negative for a signal;
        None if the process never ran) and the operating system's reason.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send ``data`` to the process's input."""
        ...

    def stop(self) -> None:
        """End the process group now."""
        ...


class WorkerProcess:
    """One worker process, from its start to its end. ``pid`` is None until it has said hello."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.lines = Lines()
        self.error_lines = Lines()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.pid: int | None = None

    def keep_lines(self, lines: list[bytes]) -> None:
        """Add lines of output to the tail."""
        self.tail.extend(line.decode("utf-8", "replace") for line in lines)

    def stop(self) -> None:
        """End the process and everything it started."""
        if self.transport.running:
            if self.pid is not None:
                end_process_group(self.pid)  # the transport may have started a launcher, whose end leaves it alive
            self.transport.stop()


def worker_program(python: str) -> list[str]:
    """Return the command that starts a worker with the interpreter ``python`` (PythonSlicer in Slicer)."""
    return [python, str(Path(__file__).with_name("worker.py"))]


def reason_of_end(has_started: bool, code: int | None, reason: str) -> str:
    """Return a sentence for a process that ended during a job. ``has_started``: it had said hello."""
    if code is None:
        return f"The worker could not be started: {reason.rstrip('.') or 'no reason was given'}."
    number = -code if code < 0 else code - 128 if code < 256 else 0  # Windows has larger exit codes
    if number in ENDING_SIGNALS:
        return (
            f"The worker was ended by the system or by hand (signal {number}): try again; "
            "if it ends again, the computer's memory may be too small."
        )
    if not has_started:
        return f"The worker could not be started (exit code {code}): see the details."
    if number > 0:
        return f"The worker ended unexpectedly (signal {number}): try again, or choose the device CPU."
    return f"The worker ended unexpectedly (exit code {code}): see the details."

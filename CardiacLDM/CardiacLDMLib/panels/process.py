"""Qt's event loop for the worker's client: a process whose output arrives as signals, timers, and work in slices.

Nothing here waits or polls: threads starve while Qt idles, and a window that waits is a window that hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import qt

#: How long a slice of work may hold the window. Half of what a user begins to feel, since one step may overrun it.
SLICE_SECONDS = 0.03

_timers: set[Any] = set()  # a QTimer that nobody references never fires


def later(seconds: float, call: Callable[[], None]) -> Any:
    """Call once after some seconds, unless the timer that is returned is stopped before."""
    timer = qt.QTimer()
    timer.setSingleShot(True)

    def fire() -> None:
        _timers.discard(timer)
        call()

    timer.timeout.connect(fire)
    _timers.add(timer)
    timer.start(round(seconds * 1000))
    return timer


class Sliced:
    """Runs an iterator a slice at a time, so that the window lives on between two of its steps.

    ``on_end`` is called once: with ``None``, or with what the iterator raised. Not after :meth:`stop`.
    """

    def __init__(self, work: Iterator[None], on_end: Callable[[Exception | None], None]) -> None:
        self._work, self._on_end = work, on_end
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._slice)
        self._timer.start()

    def stop(self) -> None:
        """Do no further step."""
        self._timer.stop()

    def _slice(self) -> None:
        until = time.perf_counter() + SLICE_SECONDS
        try:
            while time.perf_counter() < until:
                next(self._work)
        except StopIteration:
            self._end(None)
        except Exception as error:  # told to the caller: Qt would only print it
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self.stop()
        self._on_end(error)


class QtTransport:
    """A process on QProcess, as :class:`~CardiacLDMLib.client.Transport` asks for it."""

    def __init__(self) -> None:
        self._process: Any = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None

    def start(
        self,
        program: list[str],
        environment: dict[str, str],
        on_output: Callable[[bytes], None],
        on_error_output: Callable[[bytes], None],
        on_end: Callable[[int | None, str], None],
    ) -> None:
        """Start ``program`` with ``environment`` on top of Slicer's own; ``on_end`` comes once, after all output."""
        process = qt.QProcess()
        variables = qt.QProcessEnvironment.systemEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        process.setProcessEnvironment(variables)

        def read() -> None:
            for channel, tell in (
                (process.readAllStandardOutput, on_output),
                (process.readAllStandardError, on_error_output),
            ):
                data = channel().data()
                if data:
                    tell(data)

        def end(code: int | None, reason: str) -> None:
            if self._process is process:  # a process that cannot start may say so twice
                read()
                self._process = None
                on_end(code, reason)

        def finished() -> None:
            crashed = process.exitStatus() == qt.QProcess.CrashExit
            end(-process.exitCode() if crashed else process.exitCode(), "")

        def failed() -> None:
            if process.error() == qt.QProcess.FailedToStart:
                end(None, process.errorString())

        process.connect("readyReadStandardOutput()", read)
        process.connect("readyReadStandardError()", read)
        process.connect("finished(int,QProcess::ExitStatus)", finished)
        process.connect("errorOccurred(QProcess::ProcessError)", failed)
        self._process = process
        process.start(program[0], program[1:])

    def write(self, data: bytes) -> None:
        """Send ``data`` to the process's input."""
        if self._process is not None:
            self._process.write(data)

    def stop(self) -> None:
        """End the process now. What it started itself, it or the client ends."""
        if self._process is not None:
            self._process.closeWriteChannel()  # a worker behind a launcher sees the end of its input
            self._process.kill()

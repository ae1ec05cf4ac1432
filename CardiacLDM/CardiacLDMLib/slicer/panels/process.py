"""Qt's event loop for the worker's client: a process whose output arrives as signals, timers, and work in slices.

Nothing waits, but for :meth:`Dispatcher.wait_a_little`, which scripts need: a window that waits hangs. And no threads:
they starve while Qt idles.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import qt
from slicer.i18n import tr as _

import slicer

from ...errors import ClientError
from ...worker.client import Failure, WorkerClient, worker_program

#: How long a slice of work may hold the window before its last step, which may be a long one: making nodes takes 60 ms.
SLICE_SECONDS = 0.01
#: After a step that took this long the window has its turn.
LONG_STEP_SECONDS = 0.01

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
        self._work = iter(())  # whatever it holds is free now

    def _slice(self) -> None:
        now = time.perf_counter()
        until = now + SLICE_SECONDS
        try:
            while now < until:
                began = now
                next(self._work)
                now = time.perf_counter()
                if now - began > LONG_STEP_SECONDS:
                    break  # who knows how long the next one takes
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
        running = False
        if environment:
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
                process.deleteLater()
                on_end(code, reason)

        def started() -> None:
            nonlocal running
            running = True

        def finished() -> None:
            crashed = process.exitStatus() == qt.QProcess.CrashExit
            end(-process.exitCode() if crashed else process.exitCode(), "")

        def failed() -> None:
            if not running:  # of one that ran, finished() tells
                end(None, process.errorString())

        process.connect("started()", started)
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

    def wait(self, seconds: float) -> None:
        """Wait for output of the process, at most so long; whoever listens is told."""
        if self._process is not None:
            self._process.waitForReadyRead(round(seconds * 1000))

    def wait_for_end(self, seconds: float) -> None:
        """Wait until a process that was stopped is gone, at most so long: Qt complains of one that it has to end."""
        if self._process is not None:
            self._process.waitForFinished(round(seconds * 1000))


class Dispatcher:
    """Owns the client and its worker, and gives it one job at a time; ``busy_changed`` is called when that changes.

    Listing the devices is done on the side: a job that comes meanwhile waits for its end, which is what the worker
    needs anyway to be ready.
    """

    def __init__(self, busy_changed: Callable[[], None]) -> None:
        self._busy_changed = busy_changed
        self._client: WorkerClient | None = None
        self._transport: QtTransport | None = None
        self._waiting: tuple[Callable[[WorkerClient], object], Callable[[Failure], None]] | None = None
        self._listing = False

    @property
    def client(self) -> WorkerClient:
        """The client; its worker is started with the first job."""
        if self._client is None:
            python = shutil.which("PythonSlicer") or sys.executable
            self._client = WorkerClient(
                self._new_transport, worker_program(python), later=later, busy_changed=self._busy_changed
            )
        return self._client

    def _new_transport(self) -> QtTransport:
        self._transport = QtTransport()
        return self._transport

    @property
    def busy(self) -> bool:
        """Whether a job is on its way or waits."""
        return self._waiting is not None or (self._client is not None and self._client.busy and not self._listing)

    def submit(self, begin: Callable[[WorkerClient], object], failed: Callable[[Failure], None]) -> None:
        """Soon call ``begin``, which gives the client a job, or ``failed`` if the client cannot take it.

        Raises :class:`ClientError` while there is another job.
        """
        if self.busy:
            raise ClientError(_("The worker is busy: wait for the other job, or cancel it."))
        self._waiting = (begin, failed)
        if not self._listing:
            later(0.0, self._begin_now)
        self._busy_changed()

    def ended(self) -> None:
        """To be called when a job has ended."""
        self._busy_changed()

    def cancel(self) -> bool:
        """Stop the job; false if it had not begun, so that nobody will hear of it."""
        if self._waiting is not None:
            self._waiting = None
            return False
        if self._client is not None and not self._listing:
            self._client.cancel()
        return True

    def list_devices(self, found: Callable[[list[Any]], None]) -> None:
        """Ask the worker for the devices, unless it has something else to do; failing that, nothing is called."""
        if self.busy or self._listing:
            return

        def ended(*devices: Any) -> None:
            self._listing = False
            if devices and isinstance(devices[0], list):
                found(devices[0])
            self._begin_now()

        self._listing = True
        try:
            self.client.devices(on_done=ended, on_failed=ended, on_cancelled=ended)
        except ClientError:
            self._listing = False

    def wait_a_little(self) -> None:
        """For scripts that wait for a job: let Slicer handle its events, and wait for the worker if it is its turn."""
        slicer.app.processEvents()
        if self._client is not None and self._client.busy and self._transport is not None:
            self._transport.wait(0.02)

    def close(self) -> None:
        """End the worker."""
        self._waiting = None
        if self._client is not None:
            self._client.shutdown()
        if self._transport is not None:
            self._transport.wait_for_end(1.0)

    def _begin_now(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            begin, failed = waiting
            try:
                begin(self.client)
            except ClientError as error:
                failed(Failure(str(error), "", "internal"))
        self._busy_changed()

"""The worker's client on Qt's event loop: a process whose output arrives as signals, timers, and work in slices.

Nothing blocks the window; only :meth:`Dispatcher.process_events` waits, for scripts. There are no threads: they starve
while Qt idles.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import qt
from slicer.i18n import tr as _

import slicer

from ...errors import ClientError, UserError
from ...worker.client import WorkerClient
from ...worker.job import Failure, JobListener, ignore
from ...worker.process import worker_program

if TYPE_CHECKING:
    from ...worker.device import Device
    from ...worker.messages import Reply, Request

    ReplyT = TypeVar("ReplyT", bound=Reply)

#: A slice of work begins no further step after this time. Its last step may take longer: making nodes takes 60 ms.
SLICE_SECONDS = 0.01
#: A slice also ends after a step that took this long.
LONG_STEP_SECONDS = 0.01

_timers: set[Any] = set()  # a QTimer without a Python reference never fires


def later(seconds: float, call: Callable[[], None]) -> Any:
    """Call once after some seconds. Return the timer, which can be stopped or started again before."""
    timer = qt.QTimer()
    timer.setSingleShot(True)

    def fire() -> None:
        _timers.discard(timer)
        timer.deleteLater()  # its connection would keep alive what the call holds
        call()

    timer.timeout.connect(fire)
    _timers.add(timer)
    timer.start(round(seconds * 1000))
    return timer


class Sliced:
    """Runs an iterator in slices, so that the window can respond in between.

    ``on_end`` is called once, with None or the error that the iterator raised; never after :meth:`stop`.
    """

    def __init__(self, work: Iterator[None], on_end: Callable[[Exception | None], None]) -> None:
        self._work, self._on_end = work, on_end
        self._stopped = False
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._slice)
        self._timer.start()

    def stop(self) -> None:
        """Do no further step."""
        if not self._stopped:
            self._stopped = True
            self._timer.stop()
            self._timer.deleteLater()  # its connection would keep this object alive, and what the caller holds
        self._work = iter(())  # releases what it holds

    def _slice(self) -> None:
        now = time.perf_counter()
        until = now + SLICE_SECONDS
        try:
            while now < until:
                began = now
                next(self._work)
                now = time.perf_counter()
                if now - began > LONG_STEP_SECONDS:
                    break
        except StopIteration:
            self._end(None)
        except Exception as error:  # reported to the caller: Qt would only print it
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        if not self._stopped:  # a step may have stopped this
            self.stop()
            self._on_end(error)


class QtTransport:
    """A process on QProcess, as :class:`~CardiacLDMLib.worker.process.Transport` describes it."""

    def __init__(self) -> None:
        self._process: Any = None
        self._has_started = False
        self._on_output: Callable[[bytes], None]
        self._on_error_output: Callable[[bytes], None]
        self._on_end: Callable[[int | None, str], None]

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
        self._on_output, self._on_error_output, self._on_end = on_output, on_error_output, on_end
        process = self._process = qt.QProcess()
        if environment:
            variables = qt.QProcessEnvironment.systemEnvironment()
            for name, value in environment.items():
                variables.insert(name, value)
            process.setProcessEnvironment(variables)
        process.connect("started()", self._started)
        process.connect("readyReadStandardOutput()", self._read)
        process.connect("readyReadStandardError()", self._read)
        process.connect("finished(int,QProcess::ExitStatus)", self._handle_finished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._failed)
        process.start(program[0], program[1:])

    def _started(self) -> None:
        self._has_started = True

    def _read(self) -> None:
        if self._process is None:
            return
        for channel, deliver in (
            (self._process.readAllStandardOutput, self._on_output),
            (self._process.readAllStandardError, self._on_error_output),
        ):
            data = channel().data()
            if data:
                deliver(data)

    def _handle_finished(self, *_unused: Any) -> None:
        if self._process is not None:
            crashed = self._process.exitStatus() == qt.QProcess.CrashExit
            code = self._process.exitCode()
            self._end(-code if crashed else code, "")

    def _failed(self, *_unused: Any) -> None:
        if self._process is not None and not self._has_started:  # otherwise finished() follows
            self._end(None, self._process.errorString())

    def _end(self, code: int | None, reason: str) -> None:
        """Report the end once: a process that cannot start may signal it twice."""
        process = self._process
        self._read()
        if self._process is process:
            self._process = None
            process.deleteLater()
            self._on_end(code, reason)

    def write(self, data: bytes) -> None:
        """Send ``data`` to the process's input."""
        if self._process is not None:
            self._process.write(data)

    def stop(self) -> None:
        """End the process now. Its own child processes are ended by it or by the client."""
        if self._process is not None:
            self._process.closeWriteChannel()  # a worker behind a launcher sees the end of its input
            self._process.kill()

    def wait(self, seconds: float) -> None:
        """Wait for output of the process, at most this long, and deliver it."""
        if self._process is not None:
            self._process.waitForReadyRead(round(seconds * 1000))

    def wait_for_end(self, seconds: float) -> None:
        """Wait until a stopped process is gone, at most this long: Qt warns about a process that it has to end."""
        if self._process is not None:
            self._process.waitForFinished(round(seconds * 1000))


class Dispatcher:
    """Owns the client and its worker and submits one job at a time; ``busy_changed`` is called when that changes.

    The list of devices is fetched and a segmenter is loaded in the background, while no job runs. A job that is
    submitted meanwhile waits for that, no longer than the worker takes to start. Whatever fails in the background fails
    in silence: the job that needs it meets the same error and reports it.
    """

    def __init__(self, busy_changed: Callable[[], None], options: tuple[str, ...] = ()) -> None:
        self._busy_changed = busy_changed
        self._options = options
        self._client: WorkerClient | None = None
        self._transport: QtTransport | None = None
        self._waiting: tuple[Request[Any], JobListener[Any]] | None = None
        self._background: dict[str, tuple[Request[Any], Callable[[Any], None]]] = {}  # by the job's name
        self._sent_background = False  # the client got a request of the background, which has not ended

    @property
    def client(self) -> WorkerClient:
        """The client; its worker is started with the first job."""
        if self._client is None:
            python = shutil.which("PythonSlicer") or sys.executable
            self._client = WorkerClient(
                self._new_transport,
                [*worker_program(python), *self._options],
                later=later,
                busy_changed=self._client_changed,
            )
        return self._client

    def _new_transport(self) -> QtTransport:
        self._transport = QtTransport()
        return self._transport

    @property
    def _preparing(self) -> bool:
        """Whether the client carries out a request of the background."""
        return self._sent_background and self._client is not None and self._client.busy

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._waiting is not None or (self._client is not None and self._client.busy and not self._preparing)

    @property
    def has_worker(self) -> bool:
        """Whether a worker runs. It ends after some idle minutes."""
        return self._transport is not None and self._transport.running

    def submit(self, request: Request[ReplyT], listener: JobListener[ReplyT]) -> None:
        """Begin a job soon. ``listener.failed`` is called if the client cannot begin it.

        Raises :class:`ClientError` while there is another job.
        """
        if self.busy:
            raise ClientError(_("Another job is running: wait for it, or cancel it."))
        self._waiting = (request, listener)
        if not self._preparing:
            later(0.0, self._submit_waiting)
        self._busy_changed()

    def report_end(self) -> None:
        """Note that a job has ended. Whoever submitted it must call this."""
        self._client_changed()

    def cancel(self) -> bool:
        """Stop the job. Return false if it had not begun: its listener is not called then."""
        if self._waiting is not None:
            self._waiting = None
            return False
        if self._client is not None and not self._preparing:
            self._client.cancel()
        return True

    def list_devices(self, show: Callable[[list[Device]], None]) -> None:
        """Ask the worker for the devices, in the background, and pass them to ``show``."""
        with contextlib.suppress(ImportError):  # pydantic is not installed yet
            from ...worker.messages import ListDevices

            self._prepare(ListDevices(), lambda reply: show(reply.devices))

    def load_segmenter(self, package: str | None, device: str) -> None:
        """Load a package in the worker, in the background, so that its first scan takes no longer than the next one."""
        with contextlib.suppress(ImportError):
            from ...worker.messages import LoadSegmenter

            self._prepare(LoadSegmenter(package=package, device=device), ignore)

    def _prepare(self, request: Request[ReplyT], done: Callable[[ReplyT], None]) -> None:
        """Submit a request when the worker is free. It takes the place of one for the same job that still waits."""
        self._background[request.job] = (request, done)
        later(0.0, self._submit_background)

    def _submit_background(self) -> None:
        if not self._background or self.busy or self._preparing:
            return
        request, done = self._background.pop(next(iter(self._background)))

        def end() -> None:
            self._sent_background = False
            self._submit_waiting()

        def succeed(reply: Any) -> None:
            done(reply)
            end()

        def fail(_failure: Failure) -> None:
            self._background.clear()
            end()

        self._sent_background = True
        try:
            self.client.submit(request, JobListener(done=succeed, failed=fail, cancelled=end))
        except ClientError:
            self._sent_background = False

    def _client_changed(self) -> None:
        later(0.0, self._submit_background)  # a panel that has just ended a job may begin the next one before
        self._busy_changed()

    def process_events(self) -> None:
        """Handle Slicer's events and wait a little for the worker. For scripts that wait for a job."""
        slicer.app.processEvents()
        if self._client is not None and self._client.busy and self._transport is not None:
            self._transport.wait(0.02)

    def close(self) -> None:
        """End the worker."""
        self._waiting = None
        self._background.clear()
        if self._client is not None:
            self._client.shutdown()
        if self._transport is not None:
            self._transport.wait_for_end(1.0)

    def _submit_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            request, listener = waiting
            try:
                self.client.submit(request, listener)
            except UserError as error:
                listener.failed(Failure.from_error(error))
        self._busy_changed()

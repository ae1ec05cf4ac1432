"""Submits jobs to a worker process. Knows neither Qt nor Slicer: the process and the timer are passed in.

Everything happens on the calling thread, by callbacks. A job ends with exactly one of the callbacks done, failed and
cancelled, after :meth:`WorkerClient.submit` has returned and its temporary files have been removed. If the process
dies, the next job starts a new one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from ..errors import ClientError, Kind
from ..progress import Preview, Progress
from .arrays import ArrayUpload, array_file, map_volumes
from .job import Failure, Job, JobListener, ignore
from .job_folder import JobFolder, sweep
from .process import Transport, WorkerProcess, reason_of_end
from .wire import PROTOCOL, decode, encode

if TYPE_CHECKING:
    from .messages import Reply, Request

    ReplyT = TypeVar("ReplyT", bound=Reply)

#: How long a cancelled job may go on before its process is ended.
CANCEL_SECONDS = 2.0
#: How long a process may take to say hello: virus scanners inspect a new Python for a while.
HELLO_SECONDS = 120.0
#: torch's threads sleep while they wait: spinning threads would take the processor from Slicer and from each other.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class WorkerClient:
    """Runs jobs, one at a time, in a worker process that is started when needed and kept for the next job.

    ``transport`` returns a new transport, which starts ``program`` (see :func:`~.process.worker_program`).
    ``environment`` is added to this process's own. ``later(seconds, call)`` calls once on this thread after that time:
    in Slicer it is a single-shot QTimer. ``busy_changed`` is called when a job has been accepted, and at its end before
    the job's own callback.
    """

    def __init__(
        self,
        transport: Callable[[], Transport],
        program: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        later: Callable[[float, Callable[[], None]], object],
        busy_changed: Callable[[], None] = ignore,
    ) -> None:
        self._transport = transport
        self._program = list(program)
        self._environment = {**ENVIRONMENT, **(environment or {})}
        self._later = later
        self._busy_changed = busy_changed
        self._process: WorkerProcess | None = None
        self._job: Job | None = None
        self._number = 0
        self._undeleted: list[JobFolder] = []
        sweep()

    # --- what callers use ---

    @property
    def busy(self) -> bool:
        """Whether a job was submitted and has not ended."""
        return self._job is not None

    def submit(self, request: Request[ReplyT], listener: JobListener[ReplyT]) -> Job:
        """Begin a job. Raises :class:`ClientError` while another job runs or if the temporary folder cannot be used."""
        if self._job is not None:
            raise ClientError("A job is running already: wait for it, or cancel it.")
        self._number += 1
        job = Job(self._number, request, listener)
        if request.volumes() or request.reply_type().volume_names():
            try:
                job.folder = JobFolder()
                for name, volume in request.volumes().items():
                    job.uploads.append(ArrayUpload(volume.array, array_file(job.folder.path, name)))
            except OSError as error:
                raise ClientError(f"The temporary folder cannot be used: {error.strerror or error}.") from error
        self._job = job
        if self._process is not None:
            self._process.tail.clear()  # of earlier jobs
        self._undeleted = [folder for folder in self._undeleted if not folder.remove()]
        self._later(0.0, lambda: self._advance(job))
        self._busy_changed()
        return job

    def cancel(self) -> None:
        """Stop the job, if there is one, at its next step. A job that takes too long to stop ends with its process."""
        job = self._job
        if job is None or job.cancelling:
            return
        job.cancelling = True
        if not job.sent or self._process is None:
            self._later(0.0, lambda: self._end_as_cancelled(job))
            return
        self._process.transport.write(encode({"job": "cancel", "id": job.number}))
        self._later(CANCEL_SECONDS, lambda: self._enforce_cancel(job))

    def shutdown(self) -> None:
        """End the worker and cancel its job. The next job would start a new worker."""
        job = self._job
        self._stop_process()
        if job is not None:
            self._end_as_cancelled(job)
        self._undeleted = [folder for folder in self._undeleted if not folder.remove()]

    # --- from submission to the worker ---

    def _advance(self, job: Job) -> None:
        """Take the next step towards the worker: start one, write a piece of a volume, or send the request."""
        if job is not self._job or job.sent or job.cancelling:
            return
        if self._process is None:
            self._start()
            if job is not self._job:
                return
            job.listener.progress(Progress(0, 100, "start", 0.0))
        if job.uploads:
            try:
                more = job.uploads[0].write_piece()
            except OSError as error:
                self._fail(job, "output", f"The temporary folder cannot be written to: {error.strerror or error}.")
                return
            if not more:
                del job.uploads[0]
            self._later(0.0, lambda: self._advance(job))
        elif self._process is not None and self._process.pid is not None:
            job.sent = True
            self._process.transport.write(encode(job.message()))

    # --- events of the job ---

    def _handle_event(self, job: Job, message: dict[str, Any]) -> None:
        """Handle one event of the running job. Unknown events are ignored."""
        job.has_answered = True
        event = message["event"]
        if event == "progress" and not job.cancelling:
            with contextlib.suppress(KeyError):
                job.listener.progress(Progress(*(message[f.name] for f in fields(Progress))))
        elif event == "preview" and not job.cancelling:
            with contextlib.suppress(KeyError):
                job.listener.preview(Preview(*(message[f.name] for f in fields(Preview))))
        elif event == "cancelled":
            self._end_as_cancelled(job)
        elif event == "error":
            self._handle_error(
                job, _kind(message.get("kind")), str(message.get("message")), bool(message.get("ending"))
            )
        elif event == "result":
            self._handle_result(job, message)

    def _handle_error(self, job: Job, kind: Kind, message: str, ending: bool) -> None:
        """End the job with a failure. If the worker ends with it, wait for the traceback in the other pipe."""
        if not ending:
            self._fail(job, kind, message)
            return
        job.failure = (kind, message)
        self._later(CANCEL_SECONDS, lambda: self._fail_without_traceback(job))

    def _fail_without_traceback(self, job: Job) -> None:
        if job is self._job and job.failure is not None:
            tail = self._process.tail if self._process is not None else None
            self._stop_process()
            self._fail(job, *job.failure, tail)

    def _handle_result(self, job: Job, message: dict[str, Any]) -> None:
        if job.cancelling:
            self._end_as_cancelled(job)
            return
        try:
            names = job.request.reply_type().volume_names()
            affines = {name: message["volumes"][name] for name in names}
            volumes = map_volumes(job.folder.path, affines, "c") if job.folder is not None else {}
            reply = job.request.read_reply(message["fields"], volumes)
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._fail(job, "internal", f"The worker's answer cannot be read, please report it: {error}")
            return
        self._finish(job)
        job.listener.done(reply)

    # --- ends of the job ---

    def _finish(self, job: Job) -> None:
        """Remove the job's temporary files. The caller then calls its listener."""
        self._job = None
        for upload in job.uploads:
            upload.close()
        if job.folder is not None and not job.folder.remove():
            self._undeleted.append(job.folder)
        if job.request.aside is not None:
            shutil.rmtree(job.request.aside, ignore_errors=True)
        self._busy_changed()

    def _end_as_cancelled(self, job: Job) -> None:
        if job is self._job:
            self._finish(job)
            job.listener.cancelled()

    def _enforce_cancel(self, job: Job) -> None:
        if job is self._job:
            self._stop_process()
            self._end_as_cancelled(job)

    def _fail(self, job: Job, kind: Kind, message: str, tail: deque[str] | None = None) -> None:
        if tail is None:
            tail = self._process.tail if self._process is not None else deque()
        details = "\n".join(tail)
        if job.cancelling:
            self._end_as_cancelled(job)
        elif job is self._job:
            self._finish(job)
            job.listener.failed(Failure(message, details, kind))

    # --- the process ---

    def _start(self) -> None:
        process = self._process = WorkerProcess(self._transport())
        process.transport.start(
            self._program,
            self._environment,
            lambda data: self._handle_output(process, data),
            lambda data: process.keep_lines(process.error_lines.feed(data)),
            lambda code, reason: self._handle_end(process, code, reason),
        )
        self._later(HELLO_SECONDS, lambda: self._check_hello(process))

    def _stop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def _check_hello(self, process: WorkerProcess) -> None:
        """End a process that has not said hello in time."""
        if process is self._process and process.pid is None:
            self._abandon_process(f"The worker did not start within {HELLO_SECONDS:.0f} seconds.")

    def _abandon_process(self, message: str) -> None:
        """End an unusable process; the job fails with ``message``."""
        tail = self._process.tail if self._process is not None else None
        self._stop_process()
        if self._job is not None:
            self._fail(self._job, "internal", message, tail)

    def _handle_output(self, process: WorkerProcess, data: bytes) -> None:
        for line in process.lines.feed(data):
            if process is not self._process:
                return
            message = decode(line)
            if message is None or "event" not in message:
                process.keep_lines([line] if line else [])  # printed by a library
            elif message["event"] == "hello":
                self._handle_hello(process, message)
            elif self._job is not None and self._job.sent and message.get("id") == self._job.number:
                self._handle_event(self._job, message)

    def _handle_hello(self, process: WorkerProcess, message: dict[str, Any]) -> None:
        if message.get("protocol") != PROTOCOL or not isinstance(message.get("pid"), int):
            self._abandon_process(
                "The worker is of another version than this module: restart Slicer to use the new one."
            )
            return
        process.pid = message["pid"]
        if self._job is not None:
            self._advance(self._job)

    def _handle_end(self, process: WorkerProcess, code: int | None, reason: str) -> None:
        if process is not self._process:
            return
        self._process = None
        job = self._job
        if job is None:
            return
        if code == 0 and process.pid is not None and not job.has_answered and not job.cancelling:
            job.sent = False  # the worker ended its idle time just as the job came: start another one
            self._advance(job)
            return
        kind, message = job.failure or ("crash", reason_of_end(process.pid is not None, code, reason))
        self._fail(job, kind, message, process.tail)


def _kind(text: object) -> Kind:
    """Return ``text`` if it is a kind of error, otherwise ``internal``."""
    return cast("Kind", text) if text in get_args(Kind) else "internal"

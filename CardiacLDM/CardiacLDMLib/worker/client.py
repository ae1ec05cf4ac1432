"""Talks to a worker process. Knows neither Qt nor Slicer: how a process is started and how time passes is passed in.

Everything happens on the thread that calls, by callbacks: output of the process comes in, and what became of the job
goes out. A job ends in exactly one of done, failed and cancelled, never before the call that began it has returned;
what it left in the temporary folder is removed by then. If the process dies, the next job starts a new one.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from ..errors import ClientError
from ..image.grid import Volume
from ..progress import Preview, Progress, Quality
from .job_folder import ASIDE, JobFolder, sweep
from .wire import PROTOCOL, Lines, decode, encode, end_process_group

#: How long a cancelled job may go on before its process is ended.
CANCEL_SECONDS = 2.0
#: How long a process may take to say hello: virus scanners look at a new Python for a while.
HELLO_SECONDS = 120.0
#: Lines of output that are kept for the details of a failure.
TAIL_LINES = 200
#: Bytes of an array that are written at once, so that a window stays awake in between.
PIECE_BYTES = 8 << 20
#: Threads of torch that wait sleep: spinning ones would take the processor from Slicer, and from each other.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class Transport(Protocol):
    """A process to be started. Windows and launchers differ, and so do event loops."""

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

        ``on_end`` is called exactly once, after all output was delivered, with the exit code (that of a signal is
        negative; None if the process never ran) and what the system says about it.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send ``data`` to the process's input."""
        ...

    def stop(self) -> None:
        """End the process group now."""
        ...


# --- what comes back -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """Why a job failed: one sentence, and the end of the process's output (at most ``TAIL_LINES`` lines).

    ``kind``: ``input``, ``package``, ``exists`` (the package to be imported), ``rejected`` (no pair that may be kept),
    ``memory``, ``missing`` (a library), ``device`` (the GPU), ``crash`` (the process is gone) or ``internal``.
    """

    message: str
    details: str
    kind: str


@dataclass(frozen=True)
class Labelled:
    """What is said of every segmented scan.

    ``seconds`` in all, from the request to the labels on disk; ``stage_seconds`` of each stage; ``network_seconds`` of
    them in the networks. ``package``: name, version and sha256.
    """

    warnings: list[str]
    seconds: float
    stage_seconds: dict[str, float]
    network_seconds: float
    device: str
    quality: Quality
    heart_found: bool
    volumes_ml: dict[str, float]
    package: dict[str, str]


@dataclass(frozen=True)
class SegmentationReply(Labelled):
    """A segmented volume: ``labels`` (uint8) on its grid, in memory mapped from a file that is gone already."""

    labels: Volume


@dataclass(frozen=True)
class FileReply(Labelled):
    """A segmented file: the ``files`` written (labels, report)."""

    name: str
    files: list[Path]


@dataclass(frozen=True)
class PairReply:
    """A synthetic pair: ``image`` (int16 HU) and ``labels`` (uint8), in memory mapped from files that are gone already.

    ``provenance``: as the generator wrote it. ``seconds``: from the request to the arrays on disk.
    """

    image: Volume
    labels: Volume
    provenance: dict[str, Any]
    device: str
    seconds: float


@dataclass(frozen=True)
class FoundCases:
    """What a folder holds: ``cases`` as (name, source), and what is no case as (name, reason)."""

    cases: list[tuple[str, Path]]
    refused: list[tuple[str, str]]


@dataclass(frozen=True)
class Device:
    """A device as a job names it. Memory in bytes, None where it is not known (the CPU)."""

    device: str
    name: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class DeviceReply:
    """The check of a device; ``text`` is all of it, to be pasted. ``problem`` is a sentence, None if all is well."""

    ok: bool
    problem: str | None
    device: str
    seconds: float | None
    versions: dict[str, str]
    devices: list[Device]
    text: str


@dataclass(frozen=True)
class VerifyReply:
    """A package of which every file and tensor was checked."""

    name: str
    version: str
    sha256: str
    size_bytes: int


OnProgress = Callable[[Progress], None]
OnPreview = Callable[[Preview], None]
OnFailed = Callable[[Failure], None]
OnCancelled = Callable[[], None]


def _ignore(*_: object) -> None:
    pass


def worker_program(python: str) -> list[str]:
    """The command that starts a worker with the interpreter ``python`` (PythonSlicer in Slicer)."""
    return [python, str(Path(__file__).with_name("worker.py"))]


# --- the inner works -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Job:
    """A job on its way; :meth:`WorkerClient.cancel` stops it."""

    request: dict[str, Any]
    on_result: Callable[[dict[str, Any]], Callable[[], None]] = field(repr=False)
    on_failed: OnFailed = field(repr=False)
    on_progress: OnProgress = field(repr=False, default=_ignore)
    on_cancelled: OnCancelled = field(repr=False, default=_ignore)
    folder: JobFolder | None = field(repr=False, default=None)
    uploads: list[_Upload] = field(repr=False, default_factory=list)
    on_preview: OnPreview = field(repr=False, default=_ignore)
    sent: bool = False
    heard_of: bool = False
    cancelling: bool = False
    failure: tuple[str, str] | None = None  # kind and sentence, while the process is still ending


class _Upload:
    """Writes an array to a .npy file piece by piece, in the order in which it lies in memory."""

    def __init__(self, array: np.ndarray, path: Path) -> None:
        strides = np.abs(array.strides)
        fortran = bool(strides[0] < strides[-1])
        self._slabs = array.T if fortran else array
        self.path = path
        self._file: BinaryIO = path.open("wb")
        header = {"descr": array.dtype.str, "fortran_order": fortran, "shape": array.shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._next = 0
        self._step = max(1, PIECE_BYTES // max(self._slabs[0].nbytes, 1))

    def write_piece(self) -> bool:
        """Write the next piece; whether there is more."""
        piece = self._slabs[self._next : self._next + self._step]
        self._file.write(np.ascontiguousarray(piece).data)
        self._next += len(piece)
        if self._next < len(self._slabs):
            return True
        self.close()
        return False

    def close(self) -> None:
        self._file.close()


class _Process:
    """One worker process, from its start to its end."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.lines = Lines()
        self.error_lines = Lines()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.pid: int | None = None  # once it has said hello

    def keep(self, lines: list[bytes]) -> None:
        self.tail.extend(line.decode("utf-8", "replace") for line in lines)

    def stop(self) -> None:
        if self.transport.running:
            if self.pid is not None:
                end_process_group(self.pid)  # what the transport started may be a launcher, which would leave it alive
            self.transport.stop()


class WorkerClient:
    """Runs jobs, one at a time, in a worker process that is started when needed and kept for the next job.

    ``transport`` makes a process to be started by ``program`` (see :func:`worker_program`) with ``environment`` added
    to the own one. ``later(seconds, call)`` calls once on this thread after that time: a single-shot QTimer in Slicer.
    ``busy_changed`` is called when a job was taken, and when it is over, before its own callback.
    """

    def __init__(
        self,
        transport: Callable[[], Transport],
        program: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        later: Callable[[float, Callable[[], None]], object],
        busy_changed: Callable[[], None] = _ignore,
    ) -> None:
        self._transport = transport
        self._program = list(program)
        self._environment = {**ENVIRONMENT, **(environment or {})}
        self._later = later
        self._busy_changed = busy_changed
        self._process: _Process | None = None
        self._job: Job | None = None
        self._number = 0
        self._remains: list[JobFolder] = []
        sweep()

    # --- jobs ---

    def segment(
        self,
        volume: Volume,
        *,
        package: str | None = None,
        device: str = "auto",
        quality: Quality = "full",
        on_progress: OnProgress = _ignore,
        on_done: Callable[[SegmentationReply], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Label ``volume``. ``package``: a name or a folder, None for the one that ships."""
        folder, uploads = self._job_folder(image=volume.array)
        out = folder.path / "labels.npy"
        request = {
            "job": "segment", "folder": str(folder.path), "image": str(uploads[0].path),
            "affine": volume.affine.tolist(), "out": str(out), "package": package, "device": device, "quality": quality,
        }  # fmt: skip

        def done(result: dict[str, Any]) -> Callable[[], None]:
            labels = np.load(out, mmap_mode="c", allow_pickle=False)
            if labels.shape != volume.array.shape or labels.dtype != np.uint8:
                raise ValueError("the labels are not those of the volume")
            reply = SegmentationReply(**{**result, "labels": Volume(labels, volume.affine)})
            return lambda: on_done(reply)

        return self._submit(Job(request, done, on_failed, on_progress, on_cancelled, folder, uploads))

    def segment_file(
        self,
        source: Path,
        out: Path,
        *,
        name: str | None = None,
        overwrite: bool = False,
        package: str | None = None,
        device: str = "auto",
        quality: Quality = "full",
        on_progress: OnProgress = _ignore,
        on_done: Callable[[FileReply], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Label the volume file or DICOM folder ``source``; NAME.labels.nii.gz and NAME.report.json go to ``out``.

        ``name``: without it the one of the file or folder. Earlier results are refused unless ``overwrite``.
        """
        request = {
            "job": "segment_file", "source": str(source), "out": str(out), "name": name, "overwrite": overwrite,
            "aside": str(Path(out) / f"{ASIDE}{uuid.uuid4().hex}"), "package": package, "device": device,
            "quality": quality,
        }  # fmt: skip

        def done(result: dict[str, Any]) -> Callable[[], None]:
            reply = FileReply(**{**result, "files": [Path(file) for file in result["files"]]})
            return lambda: on_done(reply)

        return self._submit(Job(request, done, on_failed, on_progress, on_cancelled))

    def find_cases(
        self,
        source: Path,
        *,
        on_done: Callable[[FoundCases], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Find the volume files and DICOM series in a folder, for :meth:`segment_file`."""

        def done(result: dict[str, Any]) -> Callable[[], None]:
            reply = FoundCases(
                [(case["name"], Path(case["source"])) for case in result["cases"]],
                [(case["name"], case["reason"]) for case in result["refused"]],
            )
            return lambda: on_done(reply)

        request = {"job": "find_cases", "source": str(source)}
        return self._submit(Job(request, done, on_failed, on_cancelled=on_cancelled))

    def generate(
        self,
        seed: int,
        index: int,
        *,
        package: str | None = None,
        steps: int | None = None,
        conditions: Mapping[str, str | float] | None = None,
        check: bool = True,
        device: str = "auto",
        on_progress: OnProgress = _ignore,
        on_preview: OnPreview = _ignore,
        on_done: Callable[[PairReply], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Draw pair ``index`` of ``seed``. ``package``: a name or a folder, None for the one that ships.

        With ``check`` it is drawn again until it may be kept; if it never may, the failure is of the kind ``rejected``.
        ``on_preview``: the picture's file is there as long as the call lasts.
        """
        folder, _ = self._job_folder()
        request = {
            "job": "generate", "folder": str(folder.path), "package": package, "seed": seed, "index": index,
            "steps": steps, "conditions": dict(conditions or {}), "check": check, "device": device,
        }  # fmt: skip

        def done(result: dict[str, Any]) -> Callable[[], None]:
            affine = np.array(result.pop("affine"))
            arrays = {
                name: np.load(folder.path / f"{name}.npy", mmap_mode="c", allow_pickle=False)
                for name in ("image", "labels")
            }
            if arrays["image"].shape != arrays["labels"].shape:
                raise ValueError("the labels are not those of the image")
            reply = PairReply(**{**result, **{name: Volume(array, affine) for name, array in arrays.items()}})
            return lambda: on_done(reply)

        return self._submit(Job(request, done, on_failed, on_progress, on_cancelled, folder, on_preview=on_preview))

    def save_pair(
        self,
        image: Volume,
        labels: Volume,
        provenance: Mapping[str, Any],
        out: Path,
        *,
        on_done: Callable[[Path], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Write a pair to the new folder ``out``: ct.nii.gz, labels.nii.gz and provenance.json."""
        folder, uploads = self._job_folder(image=image.array, labels=labels.array)
        request = {
            "job": "save_pair", "folder": str(folder.path), "image": str(uploads[0].path),
            "labels": str(uploads[1].path), "affine": image.affine.tolist(), "provenance": dict(provenance),
            "out": str(out), "aside": str(out.parent / f"{ASIDE}{uuid.uuid4().hex}"),
        }  # fmt: skip

        def done(result: dict[str, Any]) -> Callable[[], None]:
            written = Path(result["out"])
            return lambda: on_done(written)

        return self._submit(Job(request, done, on_failed, on_cancelled=on_cancelled, folder=folder, uploads=uploads))

    def check_device(
        self,
        device: str = "auto",
        *,
        on_done: Callable[[DeviceReply], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Look at the libraries and compute something on ``device``. Works, and says so, where torch is missing."""

        def done(result: dict[str, Any]) -> Callable[[], None]:
            reply = DeviceReply(**{**result, "devices": [Device(**device) for device in result["devices"]]})
            return lambda: on_done(reply)

        request = {"job": "check_device", "device": device}
        return self._submit(Job(request, done, on_failed, on_cancelled=on_cancelled))

    def devices(
        self,
        *,
        on_done: Callable[[list[Device]], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """List the GPUs, with the memory that is free now, and the CPU."""

        def done(result: dict[str, Any]) -> Callable[[], None]:
            reply = [Device(**device) for device in result["devices"]]
            return lambda: on_done(reply)

        return self._submit(Job({"job": "devices"}, done, on_failed, on_cancelled=on_cancelled))

    def verify(
        self,
        package: str,
        *,
        on_done: Callable[[VerifyReply], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Check every file and every tensor of a package, by name or folder."""

        def done(result: dict[str, Any]) -> Callable[[], None]:
            reply = VerifyReply(**result)
            return lambda: on_done(reply)

        return self._submit(Job({"job": "verify", "package": package}, done, on_failed, on_cancelled=on_cancelled))

    def import_package(
        self,
        source: str,
        *,
        replace: bool = False,
        on_done: Callable[[VerifyReply], None],
        on_failed: OnFailed,
        on_cancelled: OnCancelled = _ignore,
    ) -> Job:
        """Install a package for this user from a zip or folder, after checking all of it.

        A failure of the kind ``exists``: a package of that name is installed, and was not to be replaced.
        """

        def done(result: dict[str, Any]) -> Callable[[], None]:
            reply = VerifyReply(**result)
            return lambda: on_done(reply)

        request = {"job": "import_package", "source": source, "replace": replace}
        return self._submit(Job(request, done, on_failed, on_cancelled=on_cancelled))

    # --- steering ---

    @property
    def busy(self) -> bool:
        """Whether a job is on its way."""
        return self._job is not None

    def cancel(self) -> None:
        """Stop the job, if there is one: at its next step, or with its process if that takes too long."""
        job = self._job
        if job is None or job.cancelling:
            return
        job.cancelling = True
        if not job.sent or self._process is None:
            self._later(0.0, lambda: self._cancelled(job))
            return
        self._process.transport.write(encode({"job": "cancel", "id": job.request["id"]}))
        self._later(CANCEL_SECONDS, lambda: self._end_cancelled(job))

    def shutdown(self) -> None:
        """End the worker; a job on its way counts as cancelled. The next job would start a new worker."""
        job = self._job
        self._stop_process()
        if job is not None:
            self._cancelled(job)
        self._remains = [folder for folder in self._remains if not folder.remove()]

    # --- a job's way ---

    def _refuse_if_busy(self) -> None:
        if self._job is not None:
            raise ClientError("A job is running already: wait for it, or cancel it.")

    def _job_folder(self, **arrays: np.ndarray) -> tuple[JobFolder, list[_Upload]]:
        """A private folder, and what will write each array to NAME.npy there."""
        self._refuse_if_busy()
        try:
            folder = JobFolder()
            return folder, [_Upload(array, folder.path / f"{name}.npy") for name, array in arrays.items()]
        except OSError as error:
            raise ClientError(f"The temporary folder cannot be used: {error.strerror or error}.") from error

    def _submit(self, job: Job) -> Job:
        self._refuse_if_busy()
        self._number += 1
        job.request = {"id": self._number, **job.request}
        self._job = job
        if self._process is not None:
            self._process.tail.clear()  # of earlier jobs
        self._remains = [folder for folder in self._remains if not folder.remove()]
        self._later(0.0, lambda: self._advance(job))
        self._busy_changed()
        return job

    def _advance(self, job: Job) -> None:
        """Bring the job a step nearer to the worker: start one, write a piece of the array, send the request."""
        if job is not self._job or job.sent or job.cancelling:
            return
        if self._process is None:
            self._start()
            if job is not self._job:
                return
            job.on_progress(Progress(0, 100, "start", 0.0))
        if job.uploads:
            try:
                more = job.uploads[0].write_piece()
            except OSError as error:
                self._fail(job, "input", f"The temporary folder cannot be written to: {error.strerror or error}.")
                return
            if not more:
                del job.uploads[0]
            self._later(0.0, lambda: self._advance(job))
        elif self._process is not None and self._process.pid is not None:
            job.sent = True
            self._process.transport.write(encode(job.request))

    def _finish(self, job: Job) -> None:
        """The job is over: whatever it left is removed before anybody hears of it."""
        self._job = None
        for upload in job.uploads:
            upload.close()
        if job.folder is not None and not job.folder.remove():
            self._remains.append(job.folder)
        if "aside" in job.request:
            shutil.rmtree(job.request["aside"], ignore_errors=True)
        self._busy_changed()

    def _cancelled(self, job: Job) -> None:
        if job is self._job:
            self._finish(job)
            job.on_cancelled()

    def _end_cancelled(self, job: Job) -> None:
        if job is self._job:
            self._stop_process()
            self._cancelled(job)

    def _fail(self, job: Job, kind: str, message: str, tail: deque[str] | None = None) -> None:
        if tail is None:
            tail = self._process.tail if self._process is not None else deque()
        details = "\n".join(tail)
        if job.cancelling:
            self._cancelled(job)
        elif job is self._job:
            self._finish(job)
            job.on_failed(Failure(message, details, kind))

    # --- the process ---

    def _start(self) -> None:
        process = self._process = _Process(self._transport())
        process.transport.start(
            self._program,
            self._environment,
            lambda data: self._output(process, data),
            lambda data: process.keep(process.error_lines.feed(data)),
            lambda code, reason: self._ended(process, code, reason),
        )
        self._later(HELLO_SECONDS, lambda: self._hurry(process))

    def _stop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def _hurry(self, process: _Process) -> None:
        if process is self._process and process.pid is None:
            self._give_up(f"The worker did not start within {HELLO_SECONDS:.0f} seconds.")

    def _give_up(self, message: str) -> None:
        """End a process of which nothing good is to be expected."""
        tail = self._process.tail if self._process is not None else None
        self._stop_process()
        if self._job is not None:
            self._fail(self._job, "internal", message, tail)

    def _output(self, process: _Process, data: bytes) -> None:
        for line in process.lines.feed(data):
            if process is not self._process:
                return
            message = decode(line)
            if message is None or "event" not in message:
                process.keep([line] if line else [])  # a library's
            elif message["event"] == "hello":
                self._greeted(process, message)
            elif self._job is not None and self._job.sent and message.get("id") == self._job.request["id"]:
                self._heard(self._job, message)

    def _greeted(self, process: _Process, message: dict[str, Any]) -> None:
        if message.get("protocol") != PROTOCOL or not isinstance(message.get("pid"), int):
            self._give_up("The worker is of another version than this module: restart Slicer to use the new one.")
            return
        process.pid = message["pid"]
        if self._job is not None:
            self._advance(self._job)

    def _heard(self, job: Job, message: dict[str, Any]) -> None:
        """Something became of the job. Of what is not understood nothing comes: the process's end will tell."""
        job.heard_of = True
        event = message["event"]
        if event == "progress" and not job.cancelling:
            with contextlib.suppress(KeyError):
                job.on_progress(Progress(*(message[f.name] for f in fields(Progress))))
        elif event == "preview" and not job.cancelling:
            with contextlib.suppress(KeyError):
                job.on_preview(Preview(*(message[f.name] for f in fields(Preview))))
        elif event == "cancelled":
            self._cancelled(job)
        elif event == "error":
            self._refused(job, str(message.get("kind")), str(message.get("message")), bool(message.get("ending")))
        elif event == "result":
            self._succeeded(job, {name: value for name, value in message.items() if name not in ("event", "id")})

    def _refused(self, job: Job, kind: str, message: str, ending: bool) -> None:
        """Pass on a failure. From a worker that ends with it the traceback comes first, by another pipe."""
        if not ending:
            self._fail(job, kind, message)
            return
        job.failure = (kind, message)
        self._later(CANCEL_SECONDS, lambda: self._end_failed(job))

    def _end_failed(self, job: Job) -> None:
        if job is self._job and job.failure is not None:
            tail = self._process.tail if self._process is not None else None
            self._stop_process()
            self._fail(job, *job.failure, tail)

    def _succeeded(self, job: Job, result: dict[str, Any]) -> None:
        if job.cancelling:
            self._cancelled(job)
            return
        try:
            tell = job.on_result(result)
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._fail(job, "internal", f"The worker's answer cannot be read, please report it: {error}")
            return
        self._finish(job)
        tell()

    def _ended(self, process: _Process, code: int | None, reason: str) -> None:
        if process is not self._process:
            return
        self._process = None
        job = self._job
        if job is None:
            return
        if code == 0 and process.pid is not None and not job.heard_of and not job.cancelling:
            job.sent = False  # it had idled too long just as the job came
            self._advance(job)
            return
        kind, message = job.failure or _why_ended(process.pid is not None, code, reason)
        self._fail(job, kind, message, process.tail)


def _why_ended(had_started: bool, code: int | None, reason: str) -> tuple[str, str]:
    """Kind and sentence for a process that ended in the middle of a job."""
    if code is None:
        return "crash", f"The worker could not be started: {reason.rstrip('.') or 'no reason was given'}."
    if not had_started:
        return "crash", f"The worker could not be started (exit code {code}): see the details."
    if code in (-9, 137):
        return "crash", "The worker ended unexpectedly (signal 9): most likely the computer's memory was full."
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        return "crash", f"The worker ended unexpectedly (signal {number}): try again, or choose the device CPU."
    return "crash", f"The worker ended unexpectedly (exit code {code}): see the details."

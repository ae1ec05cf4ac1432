"""Real worker processes for tests: a transport on pipes with the event loop it needs, and workers that misbehave.

Run as a program (``python worker.py KIND``), this file is such a worker.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CardiacLDM"))

from CardiacLDMLib.worker.client import WorkerClient
from CardiacLDMLib.worker.job import JobListener
from CardiacLDMLib.worker.process import worker_program
from CardiacLDMLib.worker.wire import PROTOCOL, encode, end_process_group


class EventLoop:
    """Stands in for Qt's event loop: runs calls of other threads and timers on its own thread."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.longest = 0.0  # seconds that a single call took

    def post(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def run(self, until: Callable[[], object], seconds: float = 240.0) -> None:
        """Work until ``until()`` is true; fails the test if that takes longer."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "nothing happened in time"
            self._step()

    def _step(self) -> None:
        if self._timers and self._timers[0][0] <= time.monotonic():
            call = heapq.heappop(self._timers)[2]
        else:
            try:
                call = self._calls.get(timeout=0.005)
            except queue.Empty:
                return
        began = time.perf_counter()
        call()
        self.longest = max(self.longest, time.perf_counter() - began)


class PipeTransport:
    """A process on pipes, as ``process.Transport`` describes it. At most ``chunk`` bytes are delivered at once."""

    def __init__(self, loop: EventLoop, chunk: int = 1 << 16) -> None:
        self._loop, self._chunk = loop, chunk
        self.process: subprocess.Popen[bytes] | None = None
        self._ended = False

    @property
    def running(self) -> bool:
        return self.process is not None and not self._ended

    def start(
        self,
        program: list[str],
        environment: dict[str, str],
        on_output: Callable[[bytes], None],
        on_error_output: Callable[[bytes], None],
        on_end: Callable[[int | None, str], None],
    ) -> None:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                program, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | environment, start_new_session=True
            )
        except OSError as error:
            reason = error.strerror or str(error)
            self._loop.post(lambda: on_end(None, reason))
            return
        self.process = process
        readers = [
            threading.Thread(target=self._read, args=(stream, deliver), daemon=True)
            for stream, deliver in ((process.stdout, on_output), (process.stderr, on_error_output))
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(process, readers, on_end), daemon=True).start()

    def _read(self, stream: Any, deliver: Callable[[bytes], None]) -> None:
        while data := os.read(stream.fileno(), self._chunk):
            self._loop.post(lambda data=data: deliver(data))

    def _wait(self, process: Any, readers: list[threading.Thread], on_end: Callable[[int | None, str], None]) -> None:
        code = process.wait()
        for reader in readers:
            reader.join()

        def end() -> None:
            self._ended = True
            for stream in (process.stdin, process.stdout, process.stderr):
                stream.close()
            on_end(code, "")

        self._loop.post(end)

    def write(self, data: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError:  # the process is gone, and on_end follows
            pass

    def stop(self) -> None:
        if self.process is not None:
            end_process_group(self.process.pid)


class Outcome:
    """Progress and end of a job."""

    def __init__(self) -> None:
        self.progress: list[Any] = []
        self.previews: list[bytes] = []
        self.done: Any = None
        self.failure: Any = None
        self.cancelled = False
        self.ends = 0  # number of end callbacks

    def __bool__(self) -> bool:
        return self.ends > 0

    def listener(self) -> JobListener[Any]:
        """Return callbacks that record progress and end here."""

        def end(name: str, value: Any) -> None:
            setattr(self, name, value)
            self.ends += 1

        return JobListener(
            done=lambda reply: end("done", reply),
            failed=lambda failure: end("failure", failure),
            cancelled=lambda: end("cancelled", True),
            progress=self.progress.append,
            preview=lambda preview: self.previews.append(Path(preview.file).read_bytes()),
        )


class Bench:
    """A client, its event loop and the processes it started."""

    def __init__(self, program: list[str] | None = None, environment: dict[str, str] | None = None) -> None:
        self.loop = EventLoop()
        self.transports: list[PipeTransport] = []
        self.chunk = 1 << 16
        self.client = WorkerClient(
            self._transport, program or worker_program(sys.executable), environment, later=self.loop.later
        )

    def _transport(self) -> PipeTransport:
        self.transports.append(PipeTransport(self.loop, self.chunk))
        return self.transports[-1]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The latest process."""
        process = self.transports[-1].process
        assert process is not None
        return process

    @property
    def output(self) -> str:
        """The output of the process besides messages."""
        return "\n".join(self.client._process.tail) if self.client._process else ""

    def wait(self, outcome: Outcome, seconds: float = 240.0) -> Outcome:
        self.loop.run(lambda: outcome, seconds)
        return outcome


# --- workers that misbehave ----------------------------------------------------------------------------------------


def bad_worker(kind: str) -> list[str]:
    """Return the command of a worker of that kind, see ``KINDS``."""
    return [sys.executable, str(Path(__file__).resolve()), kind]


def _work(find_cases: Callable[..., Any]) -> None:
    """Run a worker without torch whose handler for finding and segmenting is ``find_cases``."""
    from CardiacLDMLib.worker import handlers, jobs, messages, worker

    for request in (messages.FindCases, messages.SegmentVolume):
        handlers.HANDLERS[request] = find_cases
    jobs.Jobs.load = lambda self: self._loaded.set()  # type: ignore[method-assign]
    worker.main(sys.argv[2:])


def _no_cases() -> Any:
    from CardiacLDMLib.worker.messages import FoundCases

    return FoundCases(cases=[], refused=[])


def _noisy() -> None:
    """Print from Python, C and a child process during a job, without line ends."""
    print("before the first message", end="", flush=True)

    def find_cases(*_: Any) -> dict[str, Any]:
        print("from Python" * 1000, end="", flush=True)
        os.write(1, b"\xff\x00 from the system\n{")
        libc = ctypes.CDLL(None)
        libc.puts(b'{"event": "result", "id": 1}')
        libc.fflush(None)
        subprocess.run(["echo", "from a child"], check=True)
        assert sys.stdin.read() == ""
        return _no_cases()

    _work(find_cases)


def _raising(error: Exception) -> Callable[[], None]:
    def find_cases(*_: Any) -> None:
        raise error

    return lambda: _work(find_cases)


def _endless() -> None:
    """Never check whether the job should stop."""

    def find_cases(*_: Any) -> None:
        print("begun", file=sys.stderr, flush=True)
        time.sleep(1000)

    _work(find_cases)


def _slow() -> None:
    """Work until the job should stop."""

    def find_cases(request: Any, job: Any) -> None:
        print("begun", file=sys.stderr, flush=True)
        while True:
            job.step(0, "read")
            time.sleep(0.02)

    _work(find_cases)


def _crash_in_c() -> None:
    _work(lambda *_: ctypes.string_at(0))


def _write_lines(*lines: bytes) -> Callable[[], None]:
    """Write ``lines`` to stdout and wait, without being a worker."""

    def run() -> None:
        for line in lines:
            os.write(1, line)
        time.sleep(1000)

    return run


def _without_torch() -> None:
    from CardiacLDMLib.worker import worker

    sys.modules["torch"] = None  # type: ignore[assignment]
    worker.main([])


def _hello(protocol: int) -> bytes:
    return encode({"event": "hello", "protocol": protocol, "version": "0", "pid": os.getpid()})


def _garbage() -> None:
    """Say hello among garbage, and answer a request with garbage and half a reply."""
    os.write(
        1, b"\x80\xff{\n[1, 2]\n" + b"[" * 100_000 + b"\n\n" + _hello(PROTOCOL) + b'{"event": 1}\n{"id": 1}\nnull\n'
    )
    sys.stdin.readline()
    os.write(1, b'{"event": "progress", "id": 1}\n{"event": "result", "id": 1, "cases": 3}\n')
    time.sleep(1000)


KINDS: dict[str, Callable[[], None]] = {
    "good": lambda: _work(lambda *_: _no_cases()),
    "noisy": _noisy,
    "endless": _endless,
    "slow": _slow,
    "crash": _crash_in_c,
    "memory": _raising(MemoryError()),
    "cuda": _raising(RuntimeError("CUDA error: an illegal memory access was encountered\nmore")),
    "import": _raising(ImportError("DLL load failed", name="torch._C")),
    "unforeseen": _raising(KeyError("no such thing")),
    "newer": _write_lines(_hello(PROTOCOL + 1)),
    "garbage": _garbage,
    "without torch": _without_torch,
    "mute": _write_lines(),
    "leaving": lambda: sys.exit(3),
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()

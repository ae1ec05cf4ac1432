"""The worker process: jobs in, progress and results out.

torch starts slowly and can crash its process, so it runs here and not in Slicer. A request is a line of JSON on stdin;
an event is a line of JSON on the original stdout; arrays lie in files. Everything that libraries print goes to stderr,
also from C. docs/develop/worker.md describes the messages.

One job runs at a time, on the main thread, and checks between steps whether it should stop. Other threads read the
requests, import torch ahead of the first job, and watch the parent: without it, or after idling, the process ends.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

if not __package__:  # run as a file: import the package from its folder, never its modules by themselves
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CardiacLDMLib import __version__
from CardiacLDMLib.errors import explain
from CardiacLDMLib.files import PART
from CardiacLDMLib.progress import Cancelled, Preview, Progress
from CardiacLDMLib.worker.job_folder import remove_job_folder
from CardiacLDMLib.worker.jobs import Jobs
from CardiacLDMLib.worker.wire import PROTOCOL, Lines, decode, encode

#: Seconds without a job after which the worker ends.
IDLE_SECONDS = 600.0
#: Seconds between two checks of the parent.
WATCH_SECONDS = 1.0
#: How long a job may take to stop when the worker ends.
STOP_SECONDS = 5.0


class Wire:
    """The channel to the client. Several threads may send."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Send one event. If the client is gone, it is dropped: the end of stdin then ends the worker."""
        data = memoryview(encode(message))
        with self._lock, contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._file, data) :]


class Worker:
    """Reads requests from the file ``source`` and answers on ``wire`` until it idles, must quit or loses its parent."""

    def __init__(self, source: int, wire: Wire, idle_seconds: float = IDLE_SECONDS, light: bool = False) -> None:
        self._source = source
        self._wire = wire
        self._idle_seconds = idle_seconds
        self._parent = os.getppid()  # before hello: afterwards the parent may end at any time
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._request: dict[str, Any] = {}
        self._cancelled: set[Any] = set()
        self._ending = threading.Event()
        self._jobs = Jobs()
        self._load = self._jobs.skip_loading if light else self._jobs.load

    def run(self) -> None:
        """Say hello and work; returns when the process should end."""
        self._wire.send(event="hello", protocol=PROTOCOL, version=__version__, pid=os.getpid())
        for target in (self._read, self._watch, self._load):
            threading.Thread(target=target, daemon=True).start()
        while not self._ending.is_set():
            try:
                request = self._requests.get(timeout=self._idle_seconds)
            except queue.Empty:
                return
            if request is None or not self._run_job(request):
                return

    # --- on the main thread ---

    def _run_job(self, request: dict[str, Any]) -> bool:
        """Run a job and send its result or error; return whether the worker can take another one."""
        self._request = request
        number = request.get("id")
        try:
            self._stop_if_cancelled()
            result = self._jobs.run(request, self._report, self._is_cancelled)
            self._wire.send(event="result", id=number, **result)
        except Cancelled:
            self._wire.send(event="cancelled", id=number)
        except Exception as error:
            failure = explain(error)
            if not failure.expected:
                traceback.print_exc()
            self._wire.send(
                event="error", id=number, kind=failure.kind, message=failure.message, ending=not failure.expected
            )
            return failure.expected
        finally:
            if self._ending.is_set():
                _remove_leftovers(request)
            self._request = {}
            self._cancelled.discard(number)
        return True

    def _report(self, step: Progress | Preview) -> None:
        event = "preview" if isinstance(step, Preview) else "progress"
        self._wire.send(event=event, id=self._request.get("id"), **asdict(step))

    def _is_cancelled(self) -> bool:
        return self._ending.is_set() or self._request.get("id") in self._cancelled

    def _stop_if_cancelled(self) -> None:
        if self._is_cancelled():
            raise Cancelled

    # --- on other threads ---

    def _read(self) -> None:
        """Read requests until the client is gone."""
        lines = Lines()
        with contextlib.suppress(OSError):
            while data := os.read(self._source, 1 << 16):
                for line in lines.feed(data):
                    request = decode(line)
                    if request is not None:
                        self._take(request)
        self._end()

    def _take(self, request: dict[str, Any]) -> None:
        if request.get("job") == "cancel":
            self._cancelled.add(request.get("id"))
        elif request.get("job") == "quit":
            self._end()
        else:
            self._requests.put(request)

    def _watch(self) -> None:
        """End when the parent is gone. Its pipe may still be open, for instance if a launcher was killed."""
        while not self._ending.wait(WATCH_SECONDS):
            if os.getppid() != self._parent:
                self._end()

    def _end(self) -> NoReturn:
        """Let the job stop at its next step; if that takes too long, end the process."""
        self._ending.set()
        self._requests.put(None)
        time.sleep(STOP_SECONDS)
        _remove_leftovers(self._request)
        os._exit(1)


def _remove_leftovers(request: dict[str, Any]) -> None:
    """Remove the temporary folders of a job whose client may be gone."""
    if request.get("folder"):
        remove_job_folder(Path(request["folder"]))
    if request.get("aside") and Path(request["aside"]).name.startswith(PART):
        shutil.rmtree(request["aside"], ignore_errors=True)


def take_over_streams() -> tuple[int, Wire]:
    """Keep stdin and stdout for the protocol; all other code reads nothing from now on and prints to stderr."""
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    os.write(target, b"\n")  # ends a line that was printed before
    return source, Wire(target)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a worker on this process's stdin and stdout."""
    parser = argparse.ArgumentParser(description="Worker of CardiacLDM: started by the Slicer module.")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="end after this long without a job")
    parser.add_argument("--light", action="store_true", help="do not import torch ahead: for jobs that need none")
    options = parser.parse_args(arguments)
    source, wire = take_over_streams()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in Slicer's terminal: Slicer decides
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # it leads a group already
            os.setpgid(0, 0)
    Worker(source, wire, options.idle_seconds, options.light).run()
    sys.stderr.flush()
    os._exit(0)  # nothing to save, and libraries may crash while they are unloaded


if __name__ == "__main__":
    main()

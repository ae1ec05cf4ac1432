"""The event loop, run by hand, and a heartbeat that measures how long it was blocked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from PySide6 import QtCore


def pump(seconds: float = 0.1, until: Callable[[], object] | None = None) -> bool:
    """Run the event loop for ``seconds`` or until ``until()`` is true; return whether it became true."""
    end = time.monotonic() + seconds
    while True:
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        QtCore.QCoreApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 20)
        if until is not None and until():
            return True
        if time.monotonic() >= end:
            return until is None
        time.sleep(0.001)


class Heartbeat:
    """A timer of ``every_ms`` that notes its longest pause, in ``with Heartbeat() as beat``.

    ``clock`` is in seconds; ``time.thread_time`` leaves out the time of other programs.
    """

    def __init__(self, every_ms: int = 10, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.longest_ms = 0.0
        self.beats = 0
        self._every_ms = every_ms
        self._last = 0.0
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)

    def __enter__(self) -> Heartbeat:
        self._last = self._clock()
        self._timer.start(self._every_ms)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()
        self._beat()

    def _beat(self) -> None:
        now = self._clock()
        self.longest_ms = max(self.longest_ms, 1000.0 * (now - self._last))
        self._last = now
        self.beats += 1


def held_ms(run: Callable[[], object], limit_ms: float, tries: int = 3) -> float:
    """Return the longest computation of this thread between two beats of ``run()``, in ms.

    It is the shortest of up to ``tries`` runs, which stop below ``limit_ms``: other programs slow single runs, a fault
    of this program slows all.
    """
    longest = math.inf
    for _ in range(tries):
        with Heartbeat(clock=time.thread_time) as beat:
            run()
        longest = min(longest, beat.longest_ms)
        if longest < limit_ms:
            break
    return longest

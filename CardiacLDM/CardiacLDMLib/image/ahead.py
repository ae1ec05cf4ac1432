"""Read the scans of a batch: the next one already while the last one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from .cases import Case, read_case_with_notes
from .dicom.encoding import is_compressed, read_head
from .grid import Volume

#: A volume, and sentences for the user on its place.
Scan = tuple[Volume, tuple[str, ...]]


class ReadAhead:
    """Reads cases in their order on a thread of its own, at most one ahead of the case that was asked for last.

    The first one is read at once. To be closed at the end.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._waiting = deque(cases)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead: tuple[Case, Future[Scan]] | None = None
        self._begin()

    def close(self) -> None:
        """End the thread, once it has read what it began."""
        self.stop()
        self._thread.shutdown()

    def read(self, case: Case) -> Scan:
        """Return what :func:`~.cases.read_case_with_notes` does, and begin to read the next case.

        Raises the error of reading this case, not of the next one.
        """
        ahead, self._ahead = self._ahead, None
        try:
            return ahead[1].result() if ahead is not None and ahead[0] is case else read_case_with_notes(case)
        finally:
            del ahead  # or this scan would stay in memory with the next one
            while self._waiting and self._waiting[0] is case:
                self._waiting.popleft()
            self._begin()

    def stop(self) -> bool:
        """Give up the scan that is held or being read, and read none ahead from now on; return whether there was one.

        For a computer whose memory cannot hold two scans.
        """
        ahead, self._ahead = self._ahead, None
        self._waiting.clear()
        if ahead is None:
            return False
        if not ahead[1].cancel():
            ahead[1].exception()  # waits
        return True

    def _begin(self) -> None:
        if self._waiting and not _needs_silence(self._waiting[0]):
            case = self._waiting.popleft()
            self._ahead = case, self._thread.submit(read_case_with_notes, case)


def _needs_silence(case: Case) -> bool:
    """Return whether reading the case silences the whole process, as compressed DICOM does: not beside other work."""
    return case.series is not None and any(is_compressed(read_head(path)) for path in case.series.files)

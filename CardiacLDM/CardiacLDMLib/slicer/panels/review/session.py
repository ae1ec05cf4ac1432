"""A reader's way through a list of cases: which are shown, which comes next, what to say of the rest. Knows no Qt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from slicer.i18n import tr as _

from ....errors import OutputError
from ....review.verdicts import JournalError
from ....review.worklist import Filter, Order, Worklist
from ..parts import duration

if TYPE_CHECKING:
    from ....review.readers import Disagreement
    from ....review.verdicts import Opinion, Verdict
    from ....review.worklist import Status

#: What the list shows: the filters of a worklist, and cases on which readers disagree.
Choice = Filter | Literal["settle"]


class Stopwatch:
    """Counts the seconds in which a case is looked at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._since: float | None = None

    def restart(self) -> None:
        """Begin at 0."""
        self._seconds, self._since = 0.0, self._clock()

    def pause(self) -> None:
        """Stand still until :meth:`go_on`."""
        if self._since is not None:
            self._seconds += self._clock() - self._since
            self._since = None

    def go_on(self) -> None:
        """Run again after a pause."""
        if self._since is None:
            self._since = self._clock()

    def lap(self) -> float:
        """Return the seconds since the last lap, and begin the next one."""
        running = self._since is not None
        self.pause()
        seconds, self._seconds = self._seconds, 0.0
        if running:
            self.go_on()
        return round(seconds, 1)


class Session:
    """A worklist in an order that stays while the reader works.

    ``trouble``: a sentence while verdicts could not be written; they count, and are written later. Or what happened to
    those that were written before.
    """

    def __init__(self, worklist: Worklist) -> None:
        self.worklist = worklist
        self.names: list[str] = []
        self.trouble = ""
        self.watch = Stopwatch()
        self._badness: dict[str, tuple[float, ...]] = {}
        self._statuses: dict[str, Status] = {}  # until a verdict changes them, or the list is arranged anew
        self._at: str | None = None  # where the reader stands in the list
        self.arrange("all", "worst")

    # --- order ---

    def arrange(self, which: Choice, order: Order) -> None:
        """Show the cases of a filter in an order. The next case is the first of them."""
        self._at = None
        self._statuses.clear()
        shown = self.worklist.shown("all" if which == "settle" else which)
        self.names = [case.name for case in shown]
        if which == "settle":
            disputed = {each.case for each in self.unsettled()}
            self.names = [name for name in self.names if name in disputed]
        if order == "worst":
            self.names.sort(key=self._badness_of, reverse=True)

    def _badness_of(self, name: str) -> tuple[float, ...]:
        if name not in self._badness:
            self._badness[name] = self.worklist.badness(name)
        return self._badness[name]

    def forget(self, name: str) -> None:
        """Take note that other findings or labels of a case are known now."""
        self._badness.pop(name, None)
        self._statuses.pop(name, None)

    def beside(self, name: str | None, step: int) -> str | None:
        """Return the case ``step`` places after ``name`` in the list, None beyond its ends."""
        if name not in self.names:
            return self.names[0] if self.names else None
        place = self.names.index(name) + step
        return self.names[place] if 0 <= place < len(self.names) else None

    def stand_at(self, name: str) -> None:
        """Go on after this case of the list."""
        self._at = name
        self._statuses.pop(name, None)  # its labels may have changed

    def next_open(self, name: str | None) -> str | None:
        """Return the first case after ``name`` without a verdict on its labels, then from the top; None without any.

        In a list that was arranged anew it is the first one from the top.
        """
        start = self.names.index(name) + 1 if name in self.names and name == self._at else 0
        around = [*self.names[start:], *self.names[:start]]
        return next((each for each in around if each != name and not self._status(each).is_done), None)

    def _status(self, name: str) -> Status:
        if name not in self._statuses:
            self._statuses[name] = self.worklist.status(name)
        return self._statuses[name]

    def first(self) -> str | None:
        """Return where to go on: the first case without a verdict, or the first one."""
        return self.next_open(None) or (self.names[0] if self.names else None)

    # --- verdicts ---

    def judge(
        self, name: str, opinion: Opinion, structure: str, reason: str, place: Sequence[float] | None
    ) -> None:  # fmt: skip
        """Give a verdict. What cannot be written stays in memory; ``trouble`` says so."""
        seconds = self.watch.lap()
        self._write(
            lambda: self.worklist.judge(
                name, opinion, structure, reason=reason, place=place, seconds=seconds
            )
        )  # fmt: skip

    def take(self, verdict: Verdict) -> None:
        """Write a verdict that could not be written to another folder."""
        self._write(lambda: self.worklist.journal.add(verdict))

    def settle(self, disagreement: Disagreement, outcome: Opinion, reason: str, labels_sha256: str = "") -> None:
        """Note on what readers agreed. ``labels_sha256``: which are right of different labels that they accepted."""
        self._write(lambda: self.worklist.settle(disagreement, outcome, reason, labels_sha256))

    def note_correction(self, name: str, labels_sha256: str) -> None:
        """Note that the reader corrected labels."""
        seconds = self.watch.lap()
        self._write(lambda: self.worklist.note_correction(name, labels_sha256, seconds))

    def undo(self) -> Verdict | None:
        """Take the reader's last verdict back and return it; None without one."""
        return self._write(self.worklist.undo)

    def read_again(self) -> None:
        """Take note of what other readers have said meanwhile."""
        with contextlib.suppress(JournalError):  # what is known stays
            self.worklist.journal.refresh()
            self._statuses.clear()

    def write_again(self) -> None:
        """Try to write what could not be written before."""
        self._write(self.worklist.journal.save)

    def _write(self, call: Callable[[], Any]) -> Verdict | None:
        """Write to the journal; ``trouble`` tells whether something waits. Return what ``call`` returns."""
        before, told = self.worklist.journal.verdicts[-1:], len(self.worklist.journal.notes)
        result = None
        try:
            result = call()
            self.trouble = "\n".join(self.worklist.journal.notes[told:])
        except OutputError as error:
            count = len(self.worklist.journal.unsaved)
            kept = _("1 verdict is") if count == 1 else _("{n} verdicts are").format(n=count)
            self.trouble = _("{error} {kept} kept in memory and written as soon as it works.").format(
                error=str(error), kept=kept
            )
            added = self.worklist.journal.verdicts[-1:]
            result = self._undone(added[0]) if added != before and added and added[0].verdict == "undo" else None
        for verdict in self.worklist.journal.verdicts[-1:]:
            self._statuses.pop(verdict.case, None)
        return result

    def _undone(self, undo: Verdict) -> Verdict | None:
        return next((each for each in self.worklist.journal.verdicts if each.id == undo.undoes), None)

    def unsettled(self, name: str | None = None) -> list[Disagreement]:
        """Return the disagreements that have no outcome yet, of all cases or of one."""
        return [each for each in self.worklist.disagreements(name) if each.settled is None]

    # --- words ---

    def progress(self) -> tuple[int, int, str]:
        """Return how many cases are done, of how many, and both in words with the time for the rest."""
        advance = self.worklist.advance(self._statuses)
        words = _("{done} of {total}").format(done=advance.done, total=advance.total)
        if advance.done == advance.total:
            words = _("All {total} judged").format(total=advance.total)
        elif advance.seconds_left is not None:
            words += ", " + _("{time} left").format(time=duration(advance.seconds_left))
        return advance.done, advance.total, words

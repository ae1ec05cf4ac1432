"""Compare the labels of all cases with those of the installed package, in the background."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from ....errors import UserError
from ....review.own import can_be_compared, installed_package, name_of
from ....worker.job import Failure, JobListener
from ..parts import duration
from ..process import Dispatcher, later
from .loading import CaseLoader
from .session import Session

if TYPE_CHECKING:
    from ....packages.store import ModelPackage
    from ....worker.review_messages import CheckedReview


class PackageBox:
    """The box "Compare with the package's labels" of Review.ui.

    It has a process of its own: cases are shown and checked while one is segmented. ``checked`` is called with a case
    whose findings are known now, ``looked_at`` returns the one that comes first.
    """

    def __init__(self, ui: Any, checked: Callable[[str], None], looked_at: Callable[[], str | None]) -> None:
        self._ui, self._checked, self._looked_at = ui, checked, looked_at
        self._dispatcher = Dispatcher(self._go_on)
        self._session: Session | None = None
        self._loader: CaseLoader | None = None
        self._package: ModelPackage | None = None
        self._failures: dict[str, str] = {}
        self._seconds: list[float] = []  # that cases took
        self._waiting: list[str] = []
        self._running = ""
        self._is_closed = False
        self._number = 0  # of the review: a job of the one before may still end
        ui.withPackage.connect("clicked()", self._switch)
        self.refresh()

    def begin(self, session: Session | None, loader: CaseLoader | None) -> None:
        """Compare the cases of this review if the user asks for it; None ends that."""
        self._stop()
        self._session, self._loader = session, loader
        self._number += 1
        self._failures.clear()
        self._ui.withPackage.checked = False
        is_possible = loader is not None and not loader.is_of_scene
        self._package = installed_package() if is_possible else None
        self._ui.withPackage.enabled = self._package is not None
        self.refresh()

    def close(self) -> None:
        """End the process."""
        self.begin(None, None)
        self._is_closed = True
        self._dispatcher.close()

    # --- one case after the other ---

    def _switch(self, *_unused: Any) -> None:
        self._stop()
        if self._ui.withPackage.checked and self._session is not None:
            self._failures.clear()
            names = dict.fromkeys([*self._session.names, *(case.name for case in self._session.worklist.cases)])
            self._waiting = [name for name in names if self._needs(name)]
        self._go_on()

    def _stop(self) -> None:
        self._waiting = []
        if self._running:
            self._running = ""
            self._dispatcher.cancel()

    def _needs(self, name: str) -> bool:
        """Return whether a case can be compared, and is not yet."""
        session, package = self._session, self._package
        if session is None or package is None or name in self._failures:
            return False
        worklist = session.worklist
        return can_be_compared(worklist[name], worklist.labels_of(name), name_of(package)) and not (
            worklist.is_compared(name, package.sha256)
        )

    def again(self, name: str) -> None:
        """Take note of other labels of a case, which may have to be compared too."""
        if self._ui.withPackage.checked and name not in (*self._waiting, self._running) and self._needs(name):
            self._waiting.append(name)
            self._go_on()

    def _go_on(self) -> None:
        if self._is_closed:  # the widgets may be gone
            return
        waiting = self._waiting
        while waiting and not self._running and not self._dispatcher.busy:
            looked_at = self._looked_at()
            name = looked_at if looked_at in waiting else waiting[0]
            waiting.remove(name)
            if self._needs(name):
                self._compare(name)
        self.refresh()

    def _compare(self, name: str) -> None:
        from ....worker.review_messages import CheckWithPackage

        assert self._session is not None
        assert self._loader is not None
        assert self._package is not None
        request = CheckWithPackage(
            **self._loader.files(name), package=self._package.folder, review=self._session.worklist.folder
        )
        began, number = time.monotonic(), self._number

        def end(call: Callable[[Any], None], value: Any) -> None:
            if number == self._number and self._running == name:
                self._running = ""
                call(value)
            self._dispatcher.report_end()
            later(0.0, self._go_on)

        def done(reply: CheckedReview) -> None:
            self._seconds.append(time.monotonic() - began)
            self._keep(name, reply)

        def failed(failure: Failure) -> None:
            self._failures[name] = failure.message

        self._running = name
        try:
            self._dispatcher.submit(request, JobListener(
                done=lambda reply: end(done, reply), failed=lambda failure: end(failed, failure),
                cancelled=lambda: end(lambda _unused: None, None),
            ))  # fmt: skip
        except UserError as error:
            self._running = ""
            self._failures[name] = str(error)

    def _keep(self, name: str, reply: CheckedReview) -> None:
        assert self._session is not None
        assert self._loader is not None
        worklist = self._session.worklist
        if worklist.labels_hash(name) == reply.labels_sha256:
            worklist.keep(name, reply.findings, save=False, package=reply.package)
            self._loader.save_later()
            self._checked(name)
        else:  # the labels have changed meanwhile
            self.again(name)

    # --- words ---

    def refresh(self) -> None:
        """Say how far it is."""
        label = self._ui.packageLabel
        label.text = self._words() if self._ui.withPackage.checked else ""
        label.visible = bool(label.text)

    def _words(self) -> str:
        lines = []
        left = len(self._waiting) + bool(self._running)
        if left and self._seconds:
            seconds = statistics.median(self._seconds)
            lines.append(
                _("Cases left: {n}, {time}; {each:.0f} s a case.").format(
                    n=left, time=duration(seconds * left), each=seconds
                )
            )
        elif left:
            lines.append(_("The package segments the first case; cases in all: {n}.").format(n=left))
        else:
            lines.append(_("All cases are compared that have a CT and labels of another origin."))
        if self._failures:
            name, why = next(iter(self._failures.items()))
            count = len(self._failures)
            lines.append(_("Not compared: {n}. {name}: {why}").format(n=count, name=name, why=why))
        return "\n".join(lines)

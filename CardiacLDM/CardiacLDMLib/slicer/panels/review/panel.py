"""The Review panel: which cases are reviewed, by whom, in which order, how far it is, and the keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

import slicer

from .... import anatomy
from ....errors import UserError
from ....worker.job import JobListener
from ..install import ensure_dependencies
from ..parts import ATTENTION, TROUBLE
from ..process import Dispatcher, later
from . import opening
from .desk import Desk
from .keys import KEYS, ReviewKeys
from .loading import CaseLoader
from .package import PackageBox
from .saving import SaveBox
from .session import Session

if TYPE_CHECKING:
    from ....worker.review_messages import FoundScan

#: Lists of up to this many cases are checked as soon as they are open, longer ones on request.
AT_ONCE = 50


class ReviewPanel:
    """Connects Review.ui to a list of cases. ``ui``: the form's children. ``page``: the tab's page, which has keys."""

    def __init__(self, ui: Any, page: Any) -> None:
        self.ui = ui
        self._session: Session | None = None
        self._loader: CaseLoader | None = None
        self._source: Path | None = None  # of the cases
        self._in_batch = self._is_closed = False
        self._dispatcher = Dispatcher(self._worker_changed, ("--light",))  # a process of its own, which needs no torch
        self.desk = Desk(ui, self._say, self.refresh)
        self._save = SaveBox(ui, self._say)
        self._package = PackageBox(ui, self.desk.checked, lambda: self.desk.name)
        self._keys = ReviewKeys(page, self._act)
        self._actions: dict[str, Callable[[], None]] = {
            "next_finding": lambda: self.desk.findings.step(1), "previous_finding": lambda: self.desk.findings.step(-1),
            "next_case": lambda: self.desk.step(1), "previous_case": lambda: self.desk.step(-1),
            "accept": lambda: self.desk.judge("accept"), "fix": lambda: self.desk.judge("fix"),
            "reject": lambda: self.desk.judge("reject"), "undo": self.desk.undo,
            "comment": self.desk.verdicts.write_comment,
            **{f"structure_{n}": lambda n=n: self._structure(n) for n in range(anatomy.NUM_CLASSES)},  # type: ignore[misc]
        }  # fmt: skip
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        ui = self.ui
        ui.readerName.text = opening.stored_reader()
        for label, colour in ((ui.troubleLabel, TROUBLE), (ui.stateLabel, ATTENTION)):
            label.styleSheet = f"color: {colour}"
        for value, words in (("all", _("all cases")), ("unseen", _("without a verdict")), ("flagged", _("flagged")),
                             ("mine", _("judged by me")), ("settle", _("to settle"))):  # fmt: skip
            ui.show.addItem(words, value)
        for value, words in (("worst", _("worst first")), ("given", _("in their order"))):
            ui.order.addItem(words, value)
        for combo in (ui.show, ui.order):
            combo.connect("activated(int)", self._arrange)
        for button, slot in (
            (ui.openCases, self._open_cases), (ui.openScene, self._open_scene), (ui.closeReview, self.close),
            (ui.chooseTable, self._choose_table), (ui.checkAll, self._check_chosen),
            (ui.previousCase, lambda: self.desk.step(-1)), (ui.nextCase, lambda: self.desk.step(1)),
            (ui.undo, self.desk.undo), (ui.correct, self.desk.correct),
        ):  # fmt: skip
            button.connect("clicked()", slot)
        ui.readerName.connect("textChanged(QString)", self.refresh)
        ui.casesPath.connect("currentPathChanged(QString)", self.refresh)
        ui.keysLabel.text = keys_in_words()

    # --- what the module calls ---

    def enter(self) -> None:
        """The tab is looked at: take its keys, and what the user has corrected meanwhile."""
        self._keys.watch()
        if self._session is not None:
            self._session.watch.go_on()
            self._session.read_again()
            self.refresh()
        self.desk.take_over()

    def leave(self) -> None:
        """Another tab or module is looked at."""
        self._keys.stop()
        if self._session is not None:
            self._session.watch.pause()

    def scene_closes(self) -> None:
        """Let go of the nodes of the scene. A review of the scene's own segmentations ends with it."""
        self.desk.scene_closes()
        if self._loader is not None and self._loader.is_of_scene:
            self._end()
        self._say(_("The scene was closed. Click a case to go on.") if self._session is not None else "")
        self.refresh()

    def cleanup(self) -> None:
        """End the review before the widgets are deleted."""
        self._is_closed = True
        self._keys.stop()
        self._end()
        self._dispatcher.close()
        self._package.close()

    @property
    def unsaved(self) -> int:
        """How many verdicts could not be written yet."""
        return len(self._session.worklist.journal.unsaved) if self._session is not None else 0

    def loss(self) -> str:
        """Return what would be lost if Slicer were closed now, in a sentence; empty if nothing."""
        if self._session is not None:
            self._session.write_again()
        if self.unsaved:
            return _("{n} verdicts of the review could not be written yet.").format(n=self.unsaved)
        if self.desk.has_changes:
            return _("Corrected labels of the review are not saved yet: open the Review tab to save them.")
        return ""

    # --- opening and closing ---

    @property
    def _reader(self) -> str:
        return " ".join(str(self.ui.readerName.text).split())

    def _open_cases(self) -> None:
        ui = self.ui
        ui.casesPath.addCurrentPathToHistory()
        if not ensure_dependencies():
            return
        cases, verdicts, folder = ui.casesPath.currentPath, ui.verdictsPath.currentPath, ui.scansPath.currentPath

        def find(scans: list[FoundScan]) -> None:
            self._open(lambda: opening.open_files(cases, self._reader, verdicts, folder, scans))

        if folder:
            ui.scansPath.addCurrentPathToHistory()
            self._find_scans(Path(folder), find)
        else:
            find([])

    def _find_scans(self, folder: Path, then: Callable[[list[FoundScan]], None]) -> None:
        """Look for scans in the other process: headers of hundreds of DICOM slices are read."""
        from ....worker.review_messages import FindScans, FoundScans

        def done(reply: FoundScans) -> None:
            later(0.0, lambda: None if self._is_closed else then(reply.scans))  # once this job has ended

        request = FindScans(source=folder.absolute())
        self._say(_("Looking for scans in {folder}").format(folder=folder.name))
        if self._loader is not None:
            self._loader.ask(request, done, lambda failure: self._say(failure.message))
            return

        def end(call: Callable[[Any], None], value: Any) -> None:
            self._dispatcher.report_end()
            call(value)

        listener: JobListener[FoundScans] = JobListener(
            done=lambda reply: end(done, reply), failed=lambda failure: end(self._say, failure.message),
            cancelled=lambda: end(self._say, ""),
        )  # fmt: skip
        if not self._dispatcher.busy:  # otherwise Open was pressed twice
            self._dispatcher.submit(request, listener)

    def _open_scene(self) -> None:
        self._open(lambda: opening.open_scene(self._reader, self.ui.verdictsPath.currentPath))

    def _open(self, find: Callable[[], opening.Opened]) -> None:
        if ensure_dependencies():
            self.desk.after_corrections(lambda: self._open_now(find))

    def _open_now(self, find: Callable[[], opening.Opened]) -> None:
        try:
            opened = find()
        except UserError as error:
            self._say(str(error))
            return
        unsaved = list(self._session.worklist.journal.unsaved) if self._session is not None else []
        if unsaved and (opened.source is None or opened.source != self._source):
            if not self._may_lose(_("Open other cases?")):
                opened.worklist.journal.close()
                return
            unsaved = []
        self._end()
        opening.store_reader(self._reader)
        self._session, self._source = Session(opened.worklist), opened.source
        for verdict in unsaved:  # of a folder that cannot be written to
            self._session.take(verdict)
        self._loader = CaseLoader(self._dispatcher, opened.worklist, opened.in_scene, self.desk.loaded, self._checked)
        self._save.begin(opened.worklist, self._loader, opened.source, opened.scans)
        self.ui.source.collapsed = True
        self.ui.show.currentIndex = self.ui.order.currentIndex = 0
        self._say("\n".join(opened.notes))
        self._package.begin(self._session, self._loader)
        self.desk.begin(self._session, self._loader)
        if len(opened.worklist.cases) <= AT_ONCE:
            self._check_all(by_user=False)
        self.refresh()

    def close(self) -> None:
        """End the review."""
        if self._session is None:
            return
        if self._may_lose(_("Close the review?")):
            self.desk.after_corrections(self._close_now)

    def _may_lose(self, question: str) -> bool:
        """Return whether verdicts may be lost that cannot be written, after asking; true without any."""
        if self._session is not None:
            self._session.write_again()
        if not self.unsaved:
            return True
        text = _("Not written, and lost if you go on: {n} of your verdicts. To keep them, choose another folder under "
                 "Verdicts and open the same cases. {question}")  # fmt: skip
        may = bool(slicer.util.confirmOkCancelDisplay(text.format(n=self.unsaved, question=question)))
        self.refresh()
        return may

    def _close_now(self) -> None:
        self._end()
        self._say("")
        self.ui.source.collapsed = False
        self.refresh()

    def _end(self) -> None:
        session, self._session, self._loader = self._session, None, None
        self._save.begin(None, None, None)
        self._package.begin(None, None)
        if session is not None:
            session.write_again()
        self.desk.end()
        if session is not None:
            session.worklist.journal.close()

    def _choose_table(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self.ui.openCases, _("A table of cases"), "", _("Tables (*.csv)"))
        if path:
            self.ui.casesPath.currentPath = str(path)

    def _worker_changed(self) -> None:
        if self._loader is not None:
            self._loader.go_on()

    def _checked(self, name: str) -> None:
        self.desk.checked(name)
        self._package.again(name)

    # --- the list ---

    def _arrange(self, *_unused: Any) -> None:
        if self._session is not None:
            self._session.read_again()
            self._session.arrange(self.ui.show.currentData, self.ui.order.currentData)
            if not self._session.names:  # a turn of the mouse wheel is enough to get here
                self._say(_('No case is in the list "{list}".').format(list=self.ui.show.currentText))
            self.desk.cases.fill(self._session.worklist, self._session.names)
            self.desk.cases.mark(self.desk.name)
            self.desk.look_ahead()
            self.refresh()

    def _check_chosen(self) -> None:
        self._check_all(by_user=True)

    def _check_all(self, by_user: bool) -> None:
        if self._session is not None and self._loader is not None:
            going_on = self._loader.left > 0
            self._loader.check_all([] if going_on else [case.name for case in self._session.worklist.cases])
            self._in_batch = not going_on
            if not going_on and not self._loader.left and by_user:
                self._say(_("All cases are checked."))
            self.refresh()

    # --- keys and words ---

    def _act(self, name: str) -> None:
        if self._session is not None:
            self._actions[name]()

    def _structure(self, number: int) -> None:
        if self.desk.on_screen:
            self.desk.verdicts.choose(number)

    def _say(self, words: str) -> None:
        self.ui.messageLabel.text = words
        self.ui.messageLabel.visible = bool(words)

    def refresh(self, *_unused: Any) -> None:
        """Enable what is possible now, and show how far the review is."""
        ui, session, loader = self.ui, self._session, self._loader
        hint = self._hint()
        ui.openHint.text = hint
        ui.openHint.visible = bool(hint)
        ui.openCases.enabled = bool(self._reader and ui.casesPath.currentPath)
        ui.openScene.enabled = bool(self._reader)
        ui.closeReview.enabled = session is not None
        ui.work.visible = session is not None
        if session is None or loader is None:
            return
        done, total, words = session.progress()
        ui.progress.maximum, ui.progress.value = max(total, 1), done
        ui.progress.format = words
        ui.troubleLabel.text = session.trouble
        ui.troubleLabel.visible = bool(session.trouble)
        self._package.refresh()
        left = loader.left
        ui.checkAll.text = _("Stop chec&king ({n} left)").format(n=left) if left else _("Chec&k all")
        if self._in_batch and not left:  # now the worst are known
            self._in_batch = False
            self._arrange()
        self.desk.refresh()

    def _hint(self) -> str:
        if not self._reader:
            return _("Enter your name or initials: every verdict carries them.")
        return "" if self.ui.casesPath.currentPath else _("Choose the folder or table of the cases, or this scene.")


def keys_in_words() -> str:
    """Return the list of all keys for the panel."""
    structures = ", ".join(f"{s.value} {s.name}" for s in anatomy.STRUCTURES)
    lines = [f"{key}: {words}" for key, _name, words in KEYS if words]
    return "\n".join([
        *lines[:2], _("1 to 8: one structure ({structures}); the next verdict is on it").format(structures=structures),
        _("0: all structures; the next verdict is on the case"), *lines[2:],
    ])  # fmt: skip

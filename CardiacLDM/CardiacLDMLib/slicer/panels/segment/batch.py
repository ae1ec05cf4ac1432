"""Segment a folder of scans, one after the other. A scan that fails is marked and skipped. Results can be opened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import qt
from slicer.i18n import tr as _

import slicer

from .... import anatomy
from ....errors import UserError
from ....progress import Progress
from ....worker.job import Failure, JobListener, ignore
from ..install import ensure_dependencies
from ..parts import TROUBLE, duration
from ..process import Dispatcher
from ..scene_jobs import Listener, OpenJob, Settings

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

    from ....worker.messages import FoundCase, FoundCases, Reply, Request, SegmentedFile

    ReplyT = TypeVar("ReplyT", bound=Reply)

SCAN, STATE, HEART, NOTES = range(4)


@dataclass
class _Run:
    """One pass over a folder. ``waiting``: row and case of those that have not begun.

    ``replace``: replace results that are there; otherwise ``there`` counts the cases that have them.
    """

    out: Path
    settings: Settings
    replace: bool
    waiting: list[tuple[int, FoundCase]]
    done: int = 0
    there: int = 0
    failed: int = 0
    cancelled: bool = False
    began: float = 0.0


@dataclass(frozen=True)
class _Result:
    """A case whose results, in the folder ``out``, can be opened."""

    case: FoundCase
    out: Path


class BatchPanel:
    """Connects the batch part of Segment.ui to the worker.

    ``settings`` returns package, device and quality. ``show`` is called with the segmentation of a case that the user
    has opened.
    """

    def __init__(
        self,
        ui: Any,
        dispatcher: Dispatcher,
        settings: Callable[[], Settings],
        show: Callable[[vtkMRMLSegmentationNode], None],
    ) -> None:
        self._ui, self._dispatcher, self._settings, self._show = ui, dispatcher, settings, show
        self._run: _Run | None = None
        self._results: dict[int, _Result] = {}  # by row
        self._opened: dict[int, vtkMRMLSegmentationNode] = {}
        self._opening: OpenJob | None = None
        self._wanted: int | None = None  # the row to open when the case that runs has ended
        header = ui.batchTable.horizontalHeader()
        for column in (SCAN, STATE, HEART):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        ui.batchTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)  # reasons wrap
        ui.batchTable.horizontalHeaderItem(HEART).setToolTip(_("Volume of the heart without its great vessels"))
        ui.batchApply.connect("clicked()", self._run_or_cancel)
        ui.batchOpen.connect("clicked()", self._open_selected)
        ui.batchTable.connect("cellDoubleClicked(int,int)", lambda row, _column: self._open(row))
        ui.batchTable.connect("itemSelectionChanged()", self.refresh)
        for edit in (ui.batchInput, ui.batchOutput):
            edit.connect("currentPathChanged(QString)", self.refresh)
        self.refresh()

    @property
    def running(self) -> bool:
        """Whether a batch runs."""
        return self._run is not None

    def refresh(self, *_unused: Any) -> None:
        """Enable what is possible now."""
        ui = self._ui
        ready = Path(ui.batchInput.currentPath or "?").is_dir() and bool(ui.batchOutput.currentPath)
        ui.batchApply.text = _("Cancel &batch") if self.running else _("Run &batch")
        ui.batchApply.enabled = self.running or (ready and not self._dispatcher.busy)
        for widget in (ui.batchInput, ui.batchOutput, ui.batchReplace):
            widget.enabled = not self.running
        free = self.running or not self._dispatcher.busy
        ui.batchOpen.enabled = free and self._opening is None and ui.batchTable.currentRow() in self._results

    def cleanup(self) -> None:
        """Stop everything that could call the widgets, before they are deleted."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        run, self._run = self._run, None
        if run is not None:
            self._dispatcher.cancel()

    # --- a run ---

    def _run_or_cancel(self) -> None:
        if self._run is not None:
            self._cancel(self._run)
        elif ensure_dependencies():
            self._start()

    def _cancel(self, run: _Run) -> None:
        run.cancelled = True
        self._ui.batchLabel.text = _("Cancelling")
        if not self._dispatcher.cancel():  # the case had not begun: no callback follows
            self._next(run)

    def _start(self) -> None:
        self._results.clear()
        self._opened.clear()
        self._wanted = None
        self._ui.batchTable.rowCount = 0
        self._ui.batchTable.visible = self._ui.batchOpen.visible = True
        for edit in (self._ui.batchInput, self._ui.batchOutput):
            edit.addCurrentPathToHistory()
        self._ui.batchLabel.text = _("Looking for scans")
        out, replace = Path(self._ui.batchOutput.currentPath), bool(self._ui.batchReplace.checked)
        run = _Run(out, self._settings(), replace, [], began=time.monotonic())
        self._run = run
        from ....worker.messages import FindCases

        listener: JobListener[FoundCases] = JobListener(
            done=lambda found: self._start_cases(run, found),
            failed=lambda failure: self._stop(run, failure.message),
            cancelled=lambda: self._stop(run, _("Cancelled.")),
        )
        self._submit(run, FindCases(source=Path(self._ui.batchInput.currentPath)), listener)
        self.refresh()

    def _submit(self, run: _Run, request: Request[ReplyT], listener: JobListener[ReplyT]) -> None:
        try:
            self._dispatcher.submit(request, listener)
        except UserError as error:
            self._stop(run, str(error))

    def _start_cases(self, run: _Run, found: FoundCases) -> None:
        from ....results.case_files import is_complete  # needs packages that are installed before the run

        if run is not self._run:
            return
        for refused in found.refused:
            self._mark_failed(self._row(refused.name), refused.reason)
            run.failed += 1
        for case in found.cases:
            row = self._row(case.name)
            if not run.replace and is_complete(run.out, case.name):
                run.there += 1
                self._results[row] = _Result(case, run.out)
                self._show_earlier(row, run.out, case.name)
            else:
                self._write(row, _("waiting"))
                run.waiting.append((row, case))
        self._next(run)

    def _show_earlier(self, row: int, out: Path, name: str) -> None:
        """Show what the report of an earlier run says."""
        from ....results.case_files import REPORT, read_report

        try:
            report = read_report(out / f"{name}{REPORT}")
            heart_ml = sum(report.volumes_ml[structure] for structure in anatomy.HEART)
        except (OSError, ValueError, KeyError):  # of an earlier version
            self._write(row, _("already there"))
            return
        self._write(row, _("already there"), heart_ml if report.heart_found else None, " ".join(report.warnings))

    def _next(self, run: _Run) -> None:
        """Begin the next case, or end the run."""
        if run is not self._run:
            return
        if self._wanted is not None:
            self._open_now(self._wanted)
            return
        if run.cancelled or not run.waiting:
            for row, _case in run.waiting:
                self._write(row, _("cancelled"))
            self._stop(run, self._so_far(run))
            return
        self._ui.batchLabel.text = self._so_far(run)
        row, case = run.waiting.pop(0)
        self._write(row, _("starting"))
        self._ui.batchTable.scrollToItem(self._ui.batchTable.item(row, SCAN))

        from ....results.case_files import is_unfinished
        from ....worker.messages import SegmentFile

        request = SegmentFile(
            source=case.source, out=run.out, name=case.name, study=case.study, quality=run.settings.quality,
            package=run.settings.package, device=run.settings.device,
            overwrite=run.replace or is_unfinished(run.out, case.name),
        )  # fmt: skip
        listener: JobListener[SegmentedFile] = JobListener(
            done=lambda reply: self._done(run, row, case, reply),
            failed=lambda failure: self._failed(run, row, failure),
            cancelled=lambda: self._cancelled(run, row),
            progress=lambda progress: self._progress(run, row, progress),
        )
        self._submit(run, request, listener)

    def _progress(self, run: _Run, row: int, progress: Progress) -> None:
        if run is self._run:
            self._write(row, _("{percent} %").format(percent=round(100 * progress.step / progress.total)))

    def _done(self, run: _Run, row: int, case: FoundCase, reply: SegmentedFile) -> None:
        if run is self._run:
            run.done += 1
            self._results[row] = _Result(case, run.out)
            heart_ml = sum(reply.volumes_ml[name] for name in anatomy.HEART)
            self._write(row, _("done"), heart_ml if reply.heart_found else None, " ".join(reply.warnings))
            self._next(run)

    def _failed(self, run: _Run, row: int, failure: Failure) -> None:
        if run is self._run:
            run.failed += 1
            self._mark_failed(row, failure.message)
            self._next(run)

    def _cancelled(self, run: _Run, row: int) -> None:
        if run is self._run:
            self._write(row, _("cancelled"))
            run.cancelled = True
            self._next(run)

    def _stop(self, run: _Run, text: str) -> None:
        if run is self._run:
            self._run = None
            self._ui.batchLabel.text = text
            self._dispatcher.report_end()

    def _so_far(self, run: _Run) -> str:
        words = [_("{n} done").format(n=run.done)] if run.done or not run.there else []
        if run.there:
            words.append(_("{n} already there").format(n=run.there))
        if run.failed:
            words.append(_("{n} failed").format(n=run.failed))
        if run.cancelled:
            words.append(_("cancelled"))
        elif run.waiting:
            words.append(_("{n} to go").format(n=len(run.waiting) + 1))
            if run.done:
                seconds = (time.monotonic() - run.began) / (run.done + run.failed) * (len(run.waiting) + 1)
                words.append(_("{time} left").format(time=duration(seconds)))
        return ", ".join(words) + "."

    # --- opening ---

    def _open_selected(self) -> None:
        self._open(self._ui.batchTable.currentRow())

    def _open(self, row: int) -> None:
        """Load the scan of a row with its results, or show it again. A case that runs is finished before."""
        node = self._opened.get(row)
        if row not in self._results or self._opening is not None:
            return
        if node is not None and slicer.mrmlScene.IsNodePresent(node):
            self._show(node)
        elif self.running:
            self._wanted = row
            words = _("{name} opens when the scan that runs is done.").format(name=self._results[row].case.name)
            self._ui.batchLabel.text = words
        else:
            self._open_now(row)

    def _open_now(self, row: int) -> None:
        result, self._wanted = self._results[row], None
        # Those that are closed leave the memory.
        self._opened = {each: node for each, node in self._opened.items() if slicer.mrmlScene.IsNodePresent(node)}
        self._ui.batchLabel.text = _("Opening {name}").format(name=result.case.name)

        def done(node: vtkMRMLSegmentationNode) -> None:
            self._opened[row] = node
            self._opening_ended("")
            self._show(node)

        def failed(failure: Failure) -> None:
            self._ui.batchTable.item(row, NOTES).setText(failure.message)
            self._ui.batchTable.item(row, NOTES).setToolTip(failure.message)
            self._opening_ended(failure.message)

        listener = Listener(ignore, done, failed, lambda: self._opening_ended(""))
        try:
            self._opening = OpenJob(self._dispatcher, slicer.mrmlScene, result.case, result.out, listener)
        except UserError as error:
            failed(Failure.from_error(error))
        self.refresh()

    def _opening_ended(self, text: str) -> None:
        self._opening = None
        self._ui.batchLabel.text = text
        self.refresh()
        if self._run is not None:
            self._next(self._run)

    # --- the table ---

    def _row(self, name: str) -> int:
        table = self._ui.batchTable
        row = table.rowCount
        table.rowCount = row + 1
        for column in range(4):
            table.setItem(row, column, qt.QTableWidgetItem(name if column == SCAN else ""))
        table.item(row, HEART).setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        return row

    def _write(self, row: int, state: str, heart_ml: float | None = None, notes: str = "") -> None:
        table = self._ui.batchTable
        table.item(row, STATE).setText(state)
        table.item(row, HEART).setText("" if heart_ml is None else str(round(heart_ml)))
        table.item(row, NOTES).setText(notes)
        table.item(row, NOTES).setToolTip(notes)

    def _mark_failed(self, row: int, reason: str) -> None:
        self._write(row, _("failed"), None, reason)
        red = qt.QBrush(qt.QColor(TROUBLE))
        for column in range(4):
            self._ui.batchTable.item(row, column).setForeground(red)

"""What comes out of a review: a table of verdicts, a report, accepted cases for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from ....errors import UserError
from ....files import write_text
from ....review.verdicts import standing
from ....tables import csv_text
from ....worker.job import Failure
from .loading import CaseLoader

if TYPE_CHECKING:
    from ....review.worklist import Worklist
    from ....worker.review_messages import ExportedCases, WrittenReport

COLUMNS = (
    "case", "reader", "structure", "verdict", "outcome", "comment", "outdated", "seconds", "time", "package",
    "labels_sha256", "scan_sha256",
)  # fmt: skip


class SaveBox:
    """The buttons under the list of cases. ``say`` shows a sentence."""

    def __init__(self, ui: Any, say: Callable[[str], None]) -> None:
        self._ui, self._say = ui, say
        self._worklist: Worklist | None = None
        self._loader: CaseLoader | None = None
        self._source: Path | None = None
        self._scans: Path | None = None
        for button, slot in (
            (ui.saveTable, self._save_table), (ui.saveReport, self._report), (ui.exportCases, self._export),
        ):  # fmt: skip
            button.connect("clicked()", slot)

    def begin(
        self, worklist: Worklist | None, loader: CaseLoader | None, source: Path | None, scans: Path | None = None
    ) -> None:
        """Save this review from now on; ``source``: the folder or table of its cases, None for those of the scene.

        ``scans``: the folder of its scans, if it is another one.
        """
        self._worklist, self._loader, self._source, self._scans = worklist, loader, source, scans
        for button in (self._ui.saveReport, self._ui.exportCases):
            button.enabled = source is not None

    def _save_table(self) -> None:
        path = qt.QFileDialog.getSaveFileName(
            self._ui.saveTable, _("Save the verdicts as a table"), "verdicts.csv", _("Tables (*.csv)")
        )
        if not path or self._worklist is None:
            return
        try:
            count = save_verdicts(self._worklist, Path(str(path)))
        except UserError as error:
            self._say(str(error))
            return
        self._say(_("{n} verdicts are in {file}.").format(n=count, file=Path(str(path)).name))

    def _report(self) -> None:
        from ....worker.review_messages import ReportReview

        if self._worklist is None or self._loader is None or self._source is None:
            return

        def done(reply: WrittenReport) -> None:
            self._say(_("The report is {page}, with tables beside it.").format(page=reply.page))
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(reply.page)))

        self._worklist.cache.save()
        request = ReportReview(
            source=self._source, review=self._worklist.folder, scans=self._scans, hidden=hidden_cases(self._worklist)
        )
        self._ask(request, done, _("Writing the report"))

    def _export(self) -> None:
        from ....worker.review_messages import ExportReview

        folder = qt.QFileDialog.getExistingDirectory(self._ui.exportCases, _("Export accepted cases into this folder"))
        if not folder or self._worklist is None or self._source is None:
            return

        def done(reply: ExportedCases) -> None:
            words = [_("Accepted cases in {folder}: {n}.").format(n=reply.count, folder=out)]
            words += [f"{name}: {why}" for name, why in reply.left_out.items()]
            self._say("\n".join(words))

        out = unused_folder(Path(str(folder)))
        request = ExportReview(source=self._source, review=self._worklist.folder, scans=self._scans, out=out)
        self._ask(request, done, _("Exporting the accepted cases"))

    def _ask(self, request: Any, done: Callable[[Any], None], words: str) -> None:
        def failed(failure: Failure) -> None:
            self._say(failure.message)

        if self._loader is not None:
            self._say(words)
            self._loader.ask(request, done, failed)


def unused_folder(parent: Path) -> Path:
    """Return a folder in ``parent`` that does not exist: "reviewed", "reviewed-2", ..."""
    number, folder = 1, parent / "reviewed"
    while folder.exists():
        number += 1
        folder = parent / f"reviewed-{number}"
    return folder


def hidden_cases(worklist: Worklist) -> list[str]:
    """Return the cases with verdicts that the reader may not see."""
    names = [case.name for case in worklist.cases]
    return [name for name in names if len(worklist.seen(name)) < len(standing(worklist.journal.of(name)))]


def save_verdicts(worklist: Worklist, path: Path) -> int:
    """Write the verdicts that count and that the reader may see; return their number. Raises :class:`OutputError`."""
    rows = []
    for case in worklist.cases:
        for each in worklist.seen(case.name):
            is_outdated = each.labels_sha256 != worklist.labels_hash(case.name)
            rows.append((
                each.case, each.reader, each.structure, each.verdict, each.outcome, each.reason,
                "yes" if is_outdated else "no", f"{each.seconds:g}", each.time, each.package, each.labels_sha256,
                each.scan_sha256,
            ))  # fmt: skip
    text = csv_text([COLUMNS, *rows])
    write_text(path, "\ufeff" + text)  # Excel takes a file without this mark for another encoding
    return len(rows)

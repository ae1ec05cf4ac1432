"""The Models & device panel: the installed model packages with their cards, and a check of this computer.

Packages are listed in this process, in slices. Importing, verifying and the device check load torch and run in the
worker. If Slicer lacks Python packages, the panel opens too and offers to install them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import qt
from slicer.i18n import tr as _

import slicer

from ....errors import UserError
from ....files import RESOURCES
from ....worker.device import check_device
from ....worker.job import JobListener
from ... import dependencies
from ..install import ensure_dependencies
from ..parts import TROUBLE
from ..process import Dispatcher, Sliced

if TYPE_CHECKING:
    from ....packages.cards import Row
    from ....worker.job import Failure
    from ....worker.messages import CheckedDevice, CheckedPackage, Reply, Request

    ReplyT = TypeVar("ReplyT", bound=Reply)

_UI = RESOURCES / "UI" / "Models.ui"
_NAME, _SIZE, _STATE = range(3)


class ModelsPanel:
    """Adds itself to ``parent``. The functions in ``packagesChanged`` are called after an import or a removal.

    ``logic``: a ``CardiacLDMLogic``, whose worker does the work. :meth:`cleanup` ends a running job.
    """

    def __init__(self, parent: Any, logic: Any) -> None:
        self.packagesChanged: list[Callable[[], None]] = []
        self._dispatcher: Dispatcher = logic.dispatcher
        self._widget = slicer.util.loadUI(str(_UI))
        parent.layout().addWidget(self._widget)
        self.ui = slicer.util.childWidgetVariables(self._widget)
        self._rows: list[Row] = []
        self._listing: Sliced | None = None
        self._running = False
        self._device_text = ""
        self._connect()
        self._show_message("")
        self._show_running(False)
        self.refresh()

    def cleanup(self) -> None:
        """Stop the job of this panel before its widgets are deleted."""
        if self._listing is not None:
            self._listing.stop()
        if self._running:
            self._running = False
            self._dispatcher.cancel()

    def refresh(self, chosen: str = "") -> None:
        """List the packages again, in slices, and select the one named ``chosen``."""
        if self._listing is not None:
            self._listing.stop()
        chosen = chosen or self._chosen_name()
        missing = dependencies.missing()
        self.ui.installBox.visible = bool(missing)
        self.ui.installLabel.text = _missing_text([requirement.name for requirement in missing])
        self._rows = []
        self.ui.packageTable.rowCount = 0
        self._listing = Sliced(self._read_rows(), lambda error: self._show_rows(chosen, error))

    # --- the list ---

    def _connect(self) -> None:
        ui = self.ui
        header = ui.packageTable.horizontalHeader()
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        for column in (_SIZE, _STATE):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        ui.packageTable.connect("itemSelectionChanged()", self._show_chosen)
        for button, slot in (
            (ui.installButton, self._install),
            (ui.importZipButton, self._import_zip),
            (ui.importFolderButton, self._import_folder),
            (ui.verifyButton, self._verify),
            (ui.removeButton, self._remove),
            (ui.openFolderButton, self._open_folder),
            (ui.deviceButton, self._check_device),
            (ui.copyButton, self._copy),
            (ui.cancelButton, self._cancel),
        ):
            button.connect("clicked()", slot)

    def _read_rows(self) -> Iterator[None]:
        from ....packages.cards import rows  # raises ImportError where pydantic is missing

        for row in rows():
            self._rows.append(row)
            self._add(row)
            yield

    def _add(self, row: Row) -> None:
        from ....text import size_text

        table, line = self.ui.packageTable, len(self._rows) - 1
        table.rowCount = len(self._rows)
        for column, text in ((_NAME, row.title), (_SIZE, size_text(row.size_bytes)), (_STATE, _state(row))):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(f"{row.title}\n{row.problem or row.folder}")
            if row.problem:
                item.setForeground(qt.QBrush(qt.QColor(TROUBLE)))
            table.setItem(line, column, item)

    def _show_rows(self, chosen: str, error: Exception | None) -> None:
        self._listing = None
        for line, title in enumerate(distinct_titles(self._rows)):
            self.ui.packageTable.item(line, _NAME).setText(title)
        if isinstance(error, ImportError):
            self.ui.cardBrowser.setHtml(_("<p>The packages are listed once the Python packages are installed.</p>"))
        elif error is not None:
            self._show_message(_("The packages could not be listed: {why}").format(why=error), bad=True)
        names = [row.name for row in self._rows]
        if names:
            self.ui.packageTable.selectRow(names.index(chosen) if chosen in names else 0)
        self._show_chosen()

    def _chosen(self) -> Row | None:
        line = self.ui.packageTable.currentRow()
        return self._rows[line] if 0 <= line < len(self._rows) else None

    def _chosen_name(self) -> str:
        row = self._chosen()
        return row.name if row else ""

    def _show_chosen(self) -> None:
        row = self._chosen()
        self._enable()
        if row is not None:
            from ....packages.cards import card

            self.ui.cardBrowser.setHtml(card(row))

    def _enable(self) -> None:
        """Enable the buttons that are usable now."""
        row, free = self._chosen(), not self._running
        self.ui.installButton.enabled = free
        self.ui.importZipButton.enabled = self.ui.importFolderButton.enabled = free
        self.ui.verifyButton.enabled = free and row is not None
        self.ui.removeButton.enabled = free and row is not None and not row.shipped
        self.ui.openFolderButton.enabled = row is not None
        self.ui.deviceButton.enabled = free

    # --- what the buttons do ---

    def _install(self) -> None:
        if ensure_dependencies():
            self._show_message(_("Everything that is needed is installed."))
        self.refresh()
        self._notify()

    def _import_zip(self) -> None:
        title = _("Import a model package")
        path = qt.QFileDialog.getOpenFileName(self._widget, title, "", _("Model packages (*.zip)"))
        if path:
            self._import(path)

    def _import_folder(self) -> None:
        path = qt.QFileDialog.getExistingDirectory(self._widget, _("Import a model package from its folder"))
        if path:
            self._import(path)

    def _import(self, source: str, replace: bool = False) -> None:
        def imported(package: CheckedPackage) -> None:
            self._show_message(_("{name} was checked and installed.").format(name=package.name))
            self.refresh(package.name)
            self._notify()

        def failed(failure: Failure) -> None:
            question = _("A package of this name is installed already. Replace it?")
            if failure.kind == "exists" and slicer.util.confirmOkCancelDisplay(question, windowTitle=_title()):
                self._import(source, True)
            elif failure.kind != "exists":
                self._failed(failure)

        if not ensure_dependencies():
            return
        from ....worker.messages import ImportPackage

        what = _("Importing {name}: checking every file and number.").format(name=Path(source).name)
        self._start(what, ImportPackage(source=Path(source), replace=replace), imported, failed)

    def _verify(self) -> None:
        row = self._chosen()
        if row is None:
            return

        def verified(_package: CheckedPackage) -> None:
            self._show_message(_("{name} is intact: every file and every number was checked.").format(name=row.name))

        if not ensure_dependencies():
            return
        from ....worker.messages import VerifyPackage

        what = _("Checking every file and number of {name}.").format(name=row.name)
        self._start(what, VerifyPackage(package=str(row.folder)), verified, self._failed)

    def _remove(self) -> None:
        row = self._chosen()
        if row is None or row.shipped:
            return
        question = _("Delete the package {name} from this computer? It can be imported again.").format(name=row.name)
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_title()):
            return
        from ....packages.cards import remove

        try:
            remove(row)
        except UserError as error:
            self._show_message(str(error), bad=True)
        else:
            self._show_message(_("{name} was removed.").format(name=row.name))
        self.refresh()
        self._notify()

    def _open_folder(self) -> None:
        row = self._chosen()
        if row is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(row.folder)))

    def _check_device(self) -> None:
        """Check the device in the worker; in this process if the messages to the worker cannot be made."""
        try:
            from ....worker.messages import CheckDevice
        except ImportError:  # pydantic is missing: the check ends before it imports torch
            self._show_device(check_device().text)
            return

        def checked(reply: CheckedDevice) -> None:
            self._show_device(reply.check.text)

        def failed(failure: Failure) -> None:
            self._show_device(f"{failure.message}\n{failure.details}".strip())

        self._start(_("Checking this computer."), CheckDevice(), checked, failed)

    def _show_device(self, text: str) -> None:
        self._device_text = without_folders(f"Slicer: {slicer.app.applicationVersion}\n{text}")
        self.ui.deviceText.plainText = self._device_text
        self.ui.copyButton.enabled = True

    def _copy(self) -> None:
        qt.QApplication.clipboard().setText(self._device_text)

    def _cancel(self) -> None:
        if self._running and not self._dispatcher.cancel():  # it had not begun: no callback follows
            self._ended(self._cancelled)()

    # --- jobs ---

    def _start(
        self,
        what: str,
        request: Request[ReplyT],
        on_done: Callable[[ReplyT], None],
        on_failed: Callable[[Failure], None],
    ) -> None:
        """Give the worker a job; one of the two is called when it has ended, unless it was cancelled."""
        listener = JobListener(
            done=self._ended(on_done), failed=self._ended(on_failed), cancelled=self._ended(self._cancelled)
        )
        try:
            self._dispatcher.submit(request, listener)
        except UserError as error:
            self._show_message(str(error), bad=True)
            return
        self._show_message(what)
        self._show_running(True)

    def _cancelled(self) -> None:
        self._show_message(_("Cancelled."))
        self.refresh()

    def _ended(self, then: Callable[..., None]) -> Callable[..., None]:
        """Return a callback that ends the job in the panel and then calls ``then``, unless the panel was cleaned up."""

        def call(*result: Any) -> None:
            if self._running:
                self._show_running(False)
                self._show_message("")
                self._dispatcher.report_end()
                then(*result)

        return call

    def _show_running(self, running: bool) -> None:
        self._running = running
        self.ui.workBar.visible = self.ui.cancelButton.visible = running
        self._enable()

    def _failed(self, failure: Failure) -> None:
        self._show_message(failure.message, bad=True)

    def _show_message(self, text: str, bad: bool = False) -> None:
        self.ui.messageLabel.text = text
        self.ui.messageLabel.styleSheet = f"color: {TROUBLE}" if bad else ""
        self.ui.messageLabel.visible = bool(text)

    def _notify(self) -> None:
        for call in self.packagesChanged:
            call()


def _title() -> str:
    return _("CardiacLDM - Model packages")


def distinct_titles(rows: list[Row]) -> list[str]:
    """Return the titles of the rows; those of equal title end with the name of their package."""
    counts = Counter(row.title for row in rows)
    return [row.title if counts[row.title] == 1 else f"{row.title}, {row.name}, {_state(row)}" for row in rows]


def _state(row: Row) -> str:
    return {"shipped": _("shipped"), "imported": _("imported"), "unusable": _("unusable")}[row.origin]


def _missing_text(names: list[str]) -> str:
    return _("CardiacLDM needs Python packages that this Slicer does not have: {names}.").format(names=", ".join(names))


def without_folders(text: str) -> str:
    """Remove the names of the user's and the program's folders, which tracebacks contain, from a text."""
    for folder, name in (
        (str(RESOURCES.parent.parent), "..."),
        (sys.prefix, "..."),
        (str(Path.home()), "~"),
    ):
        text = text.replace(folder, name)
    return text

"""The tables of the Review panel: cases, findings of a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from ....review.readers import opinion
from ....segmentation.findings import sentence
from ..parts import ATTENTION, TROUBLE
from ..process import Sliced

if TYPE_CHECKING:
    from ....review.worklist import Status, Worklist
    from ....segmentation.findings import Finding

CASE, FOUND, VERDICT = range(3)
GOOD = "#2e9d4d"
#: Colours of verdicts, readable on light and dark windows.
COLOURS = {"accept": GOOD, "fix": ATTENTION, "reject": TROUBLE}


class CaseTable:
    """The list of cases; ``choose`` is called with the name of a row that the user clicks or activates."""

    def __init__(self, table: Any, choose: Callable[[str], None]) -> None:
        self._table, self._choose = table, choose
        self.names: list[str] = []
        self._rows: dict[str, int] = {}
        self._filling: Sliced | None = None
        header = table.horizontalHeader()
        header.setSectionResizeMode(CASE, qt.QHeaderView.Stretch)
        header.resizeSection(FOUND, header.sectionSizeHint(FOUND))
        table.connect("cellClicked(int,int)", self._clicked)
        table.connect("cellActivated(int,int)", self._clicked)

    def fill(self, worklist: Worklist, names: list[str]) -> None:
        """List these cases: their names now, the rest in steps, so that a long list does not hold the window."""
        self.stop()
        self.names, self._rows = list(names), {name: row for row, name in enumerate(names)}
        self._table.rowCount = 0  # rows that are replaced one by one take longer
        self._table.rowCount = len(names)
        for row, name in enumerate(names):
            item = qt.QTableWidgetItem(name)
            item.setToolTip(name)
            self._table.setItem(row, CASE, item)
        self._filling = Sliced(self._details(worklist), self._filled)

    def stop(self) -> None:
        """Fill in no further details."""
        if self._filling is not None:
            self._filling.stop()
            self._filling = None

    def _details(self, worklist: Worklist) -> Iterator[None]:
        for name in list(self.names):
            self.update(worklist, name)
            yield

    def _filled(self, error: Exception | None) -> None:
        self._filling = None
        if error is not None:
            raise error

    def update(self, worklist: Worklist, name: str) -> None:
        """Show the findings and the verdict of a case."""
        if name not in self._rows:
            return
        found = worklist.known_findings(name)
        doubts = None if found is None else sum(finding.severity > 0.0 for finding in found)
        item = qt.QTableWidgetItem("?" if doubts is None else str(doubts) if doubts else "-")
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        item.setToolTip(_("Not checked yet") if found is None else "\n".join(map(sentence, found)) or _("No findings"))
        self._table.setItem(self._rows[name], FOUND, item)
        words, colour = verdict_words(worklist.status(name))
        item = qt.QTableWidgetItem(words)
        item.setToolTip(words)
        if colour:
            item.setForeground(qt.QBrush(qt.QColor(colour)))
        self._table.setItem(self._rows[name], VERDICT, item)

    def mark(self, name: str | None) -> None:
        """Select the row of a case."""
        if name in self._rows:
            row = self._rows[name]
            self._table.selectRow(row)
            self._table.scrollToItem(self._table.item(row, CASE))
        else:
            self._table.clearSelection()

    def _clicked(self, row: int, _column: int) -> None:
        if row < len(self.names):
            self._choose(self.names[row])


class FindingTable:
    """The findings of a case; ``go_to`` is called with the one that the user clicks or steps to."""

    def __init__(self, table: Any, go_to: Callable[[Finding], None]) -> None:
        self._table, self._go_to = table, go_to
        self.findings: list[Finding] = []
        table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)  # sentences wrap
        table.connect("cellClicked(int,int)", lambda row, _column: self.choose(row))
        table.connect("cellActivated(int,int)", lambda row, _column: self.choose(row))

    def show(self, findings: list[Finding]) -> None:
        """List these findings, none of them chosen."""
        self.findings = list(findings)
        self._table.rowCount = len(findings)
        for row, finding in enumerate(findings):
            item = qt.QTableWidgetItem(sentence(finding))
            item.setToolTip(sentence(finding))
            if finding.severity <= 0.0:
                item.setForeground(qt.QBrush(qt.QColor("#888888")))  # puts no label in doubt
            self._table.setItem(row, 0, item)
        self._table.setCurrentCell(-1, -1)

    @property
    def chosen(self) -> Finding | None:
        """The finding of the selected row, None without one."""
        row = self._table.currentRow()
        return self.findings[row] if 0 <= row < len(self.findings) else None

    def mark(self, finding: Finding) -> None:
        """Select the row of a finding, if there is one, and stay where the views are."""
        if finding in self.findings:
            self._table.setCurrentCell(self.findings.index(finding), 0)

    def step(self, by: int) -> None:
        """Go to the next or the previous finding; after the last one comes the first."""
        if self.findings:
            row = self._table.currentRow()
            self.choose((row + by) % len(self.findings) if row >= 0 else 0 if by > 0 else len(self.findings) - 1)

    def choose(self, row: int) -> None:
        """Select a finding and go to it."""
        if 0 <= row < len(self.findings):
            self._table.setCurrentCell(row, 0)
            self._go_to(self.findings[row])


def verdict_words(status: Status) -> tuple[str, str]:
    """Return what the reader said of a case, in words and with a colour: "fix (LAA reject)", "accept, outdated"."""
    said = status.judgement
    parts = {name: opinion(verdict) for name, verdict in said.structures.items()}
    worse = ", ".join(f"{name} {_(word)}" for name, word in parts.items() if word != "accept" or said.whole is None)
    outcome = said.outcome
    words = _(outcome) if outcome is not None else ""
    if worse:
        words = f"{words} ({worse})" if words else worse
    if status.is_outdated:
        return _("{verdict}, outdated").format(verdict=words), ""
    return words, COLOURS.get(outcome or "", "")

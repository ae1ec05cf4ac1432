"""The table of the synthetic pairs in the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .... import anatomy
from ...pairs import SyntheticPair

PAIR, HEART, AGREEMENT, ATTEMPTS = range(4)


class PairTable:
    """Fills ``table``, a QTableWidget; ``show`` is called with the pair of a row that the user clicks or activates."""

    def __init__(self, table: Any, show: Callable[[SyntheticPair], None]) -> None:
        self._table, self._show = table, show
        self.pairs: list[SyntheticPair] = []
        header = table.horizontalHeader()
        header.setSectionResizeMode(PAIR, qt.QHeaderView.Stretch)
        for column in (HEART, AGREEMENT, ATTEMPTS):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        table.connect("cellClicked(int,int)", self._show_row)
        table.connect("cellActivated(int,int)", self._show_row)

    def fill(self, pairs: list[SyntheticPair]) -> None:
        """Show these pairs. Rows that are unchanged at the beginning of the table are kept."""
        table, same = self._table, 0
        while same < min(len(pairs), len(self.pairs)) and pairs[same] == self.pairs[same]:
            same += 1
        table.rowCount = len(pairs)
        for row in range(same, len(pairs)):
            for column, item in enumerate(_cells(pairs[row])):
                table.setItem(row, column, item)
        self.pairs = pairs

    def select_last(self) -> None:
        """Select the last row."""
        self._table.selectRow(len(self.pairs) - 1)

    @property
    def chosen(self) -> SyntheticPair | None:
        """The pair of the selected row, or else the last; None without pairs."""
        row = self._table.currentRow()
        return self.pairs[row] if 0 <= row < len(self.pairs) else next(reversed(self.pairs), None)

    def _show_row(self, row: int, _column: int) -> None:
        if row < len(self.pairs):
            self._show(self.pairs[row])


def _cells(pair: SyntheticPair) -> list[Any]:
    """Return the four cells of a pair."""
    record = pair.provenance
    volumes, acceptance = record.get("volumes_ml", {}), record.get("acceptance", {})
    heart = sum(volumes.get(name, 0.0) for name in anatomy.HEART)
    agreement = acceptance.get("agreement")
    texts = (
        pair.volume.GetName().removesuffix(" CT"),
        f"{heart:.0f}",
        "" if agreement is None else f"{agreement:.2f}",
        _("{n}x").format(n=acceptance.get("attempts", 1)),
    )
    items = [qt.QTableWidgetItem(text) for text in texts]
    conditions = ", ".join(f"{name}: {value}" for name, value in record.get("conditions", {}).items())
    remarks = [text.partition(": ")[2] for text in acceptance.get("remarks", [])]
    for item in items:
        item.setToolTip("\n".join([conditions or _("no conditions"), *remarks]))
    for item in items[1:]:
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return items

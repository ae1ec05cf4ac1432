"""What the reader may see of other readers' verdicts on a case, and disagreements to settle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from ....review.readers import judgement, readers_of
from .session import Session
from .tables import verdict_words

if TYPE_CHECKING:
    from ....review.readers import Disagreement
    from ....review.verdicts import Opinion

STRUCTURE, READERS = range(2)


class OthersBox:
    """The lower part of a case in Review.ui. ``settled`` is called after a disagreement has been settled."""

    def __init__(self, ui: Any, settle: Callable[[Disagreement, Opinion], None]) -> None:
        self._ui, self._settle = ui, settle
        self._disputes: list[Disagreement] = []
        ui.disagreements.horizontalHeader().setSectionResizeMode(STRUCTURE, qt.QHeaderView.ResizeToContents)
        ui.disagreements.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.settleAccept.connect("clicked()", lambda: self._settle_chosen("accept"))
        ui.settleFix.connect("clicked()", lambda: self._settle_chosen("fix"))
        ui.settleReject.connect("clicked()", lambda: self._settle_chosen("reject"))

    def show(self, session: Session | None, name: str | None) -> None:
        """Show what may be seen of a case: nothing of readers whose verdicts are hidden."""
        lines: list[str] = []
        self._disputes = []
        if session is not None and name is not None:
            lines = _lines(session, name)
            self._disputes = session.unsettled(name)
        self._ui.othersLabel.text = "\n".join(lines)
        self._ui.othersLabel.visible = bool(lines)
        self._ui.settleBox.visible = bool(self._disputes)
        table = self._ui.disagreements
        table.rowCount = len(self._disputes)
        for row, each in enumerate(self._disputes):
            said = ", ".join(f"{reader}: {_(opinion)}" for reader, opinion in each.opinions.items())
            for column, text in enumerate((each.structure or _("case"), said)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(row, column, item)
        if self._disputes:
            table.selectRow(0)

    def _settle_chosen(self, outcome: Opinion) -> None:
        row = self._ui.disagreements.currentRow()
        if 0 <= row < len(self._disputes):
            self._settle(self._disputes[row], outcome)


def _lines(session: Session, name: str) -> list[str]:
    """Return a line for each reader whose verdicts may be seen, but for this one's own verdicts without a comment."""
    worklist, lines = session.worklist, []
    seen = worklist.seen(name)
    for reader in readers_of(seen):
        is_own = reader == worklist.journal.reader
        said = judgement(seen, reader, name)
        comments = "; ".join(v.reason for v in [*said.structures.values(), *([said.whole] if said.whole else [])]
                             if v.reason)  # fmt: skip
        if is_own and not comments:
            continue
        words, _colour = verdict_words(worklist.status(name)) if is_own else _words_of(said)
        words = f"{words}: {comments}" if comments else words
        lines.append(_("{reader}: {words}").format(reader=_("You") if is_own else reader, words=words))
    settled = {v.structure: v for v in seen if v.verdict == "settled"}
    lines += [
        _("Settled, {structure}: {outcome}").format(structure=structure or _("case"), outcome=_(verdict.outcome))
        for structure, verdict in settled.items()
    ]
    return lines


def _words_of(said: Any) -> tuple[str, str]:
    from ....review.worklist import Status

    return verdict_words(Status(said, said.is_done, False))

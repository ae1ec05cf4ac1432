"""What the reader may see of other readers' verdicts on a case, and disagreements to settle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from ....review.readers import judgement, readers_of
from ....text import join_words
from .session import Session
from .tables import verdict_words

if TYPE_CHECKING:
    from ....review.readers import Disagreement
    from ....review.verdicts import Opinion

STRUCTURE, READERS = range(2)


class OthersBox:
    """The lower part of a case in Review.ui.

    ``settle`` is called with a disagreement, its outcome, and the SHA-256 of the labels that are right where readers
    accepted different ones.
    """

    def __init__(self, ui: Any, settle: Callable[[Disagreement, Opinion, str], None]) -> None:
        self._ui, self._settle = ui, settle
        self._disputes: list[tuple[Disagreement, str]] = []
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
            self._disputes = [choice for each in session.unsettled(name) for choice in _choices(each)]
        self._ui.othersLabel.text = "\n".join(lines)
        self._ui.othersLabel.visible = bool(lines)
        self._ui.settleBox.visible = bool(self._disputes)
        table = self._ui.disagreements
        table.rowCount = len(self._disputes)
        for row, (each, digest) in enumerate(self._disputes):
            said = ", ".join(f"{reader}: {_(opinion)}" for reader, opinion in each.opinions.items())
            if digest:
                own = [reader for reader, labels in each.labels.items() if labels == digest]
                said = _("labels of {reader}").format(reader=join_words(own))
            for column, text in enumerate((each.structure or _("case"), said)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(row, column, item)
        if self._disputes:
            table.selectRow(0)

    def _settle_chosen(self, outcome: Opinion) -> None:
        row = self._ui.disagreements.currentRow()
        if 0 <= row < len(self._disputes):
            disagreement, digest = self._disputes[row]
            self._settle(disagreement, outcome, digest)


def _choices(disagreement: Disagreement) -> list[tuple[Disagreement, str]]:
    """Return what there is to settle: one opinion, or which of different labels are right."""
    different = list(dict.fromkeys(disagreement.labels.values()))
    return [(disagreement, digest) for digest in different] if len(different) > 1 else [(disagreement, "")]


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

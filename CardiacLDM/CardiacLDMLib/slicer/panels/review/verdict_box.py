"""The structures, the comment and the buttons of a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from .... import anatomy
from ....review.readers import opinion
from .tables import COLOURS

if TYPE_CHECKING:
    from ....review.readers import Judgement
    from ....review.verdicts import Opinion

#: Letters behind a structure that has a verdict of its own.
LETTERS = {"accept": "A", "fix": "F", "reject": "R"}


class VerdictBox:
    """The middle part of Review.ui. ``structure``: what the next verdict is on, empty for the whole case.

    ``judge`` is called with a verdict, ``show_structure`` with the structure that was chosen.
    """

    def __init__(
        self, ui: Any, judge: Callable[[Opinion], None], show_structure: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._ui, self._show_structure = ui, show_structure
        self.structure = ""
        self._buttons = [getattr(ui, f"structure{number}") for number in range(anatomy.NUM_CLASSES)]
        for number, button in enumerate(self._buttons):
            button.connect("clicked()", lambda number=number: self.choose(number))
        for value, button in self._verdict_buttons().items():
            button.connect("clicked()", lambda value=value: judge(value))
        ui.comment.connect("returnPressed()", self.end_comment)
        self.show(None, False)

    def _verdict_buttons(self) -> dict[Opinion, Any]:
        return {"accept": self._ui.accept, "fix": self._ui.fix, "reject": self._ui.reject}

    def begin(self) -> None:
        """Let the next verdict be on the whole case."""
        self.structure = ""

    def choose(self, number: int) -> None:
        """Choose what the next verdict is on: the structure with this label value, the whole case for 0."""
        self.structure = anatomy.BY_VALUE[number].name if number else ""
        self._show_structure(self.structure)

    def take_comment(self) -> str:
        """Return the comment and clear it: it belongs to one verdict."""
        words = " ".join(str(self._ui.comment.text).split())
        self._ui.comment.text = ""
        return words

    def write_comment(self) -> None:
        """Let the user type a comment."""
        self._ui.comment.setFocus()

    def end_comment(self) -> None:
        """Give the keys back to the panel; the comment stays until the next verdict."""
        self._ui.comment.clearFocus()

    def show(self, said: Judgement | None, enabled: bool, may_accept: bool = True) -> None:
        """Show what the reader said of the case, and what the next verdict is on."""
        marks = {} if said is None else {name: opinion(verdict) for name, verdict in said.structures.items()}
        for number, button in enumerate(self._buttons):
            name = anatomy.BY_VALUE[number].name if number else ""
            mark = marks.get(name, "") if name else ""
            button.text = f"{number} {name or _('All')}" + (f": {LETTERS[mark]}" if mark else "")
            button.styleSheet = f"color: {COLOURS[mark]}" if mark else ""
            button.checked = name == self.structure
            button.enabled = enabled
        what = f" {self.structure}" if self.structure else ""
        self._ui.accept.text = _("&Accept") + what
        self._ui.fix.text = _("Fi&x") + what
        self._ui.reject.text = _("Re&ject") + what
        for value, button in self._verdict_buttons().items():
            button.enabled = enabled and (may_accept or value != "accept")
        self._ui.comment.enabled = enabled

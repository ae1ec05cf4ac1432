"""The keys of the Review panel.

They are shortcuts of the tab's page: Qt fires them while the page can be seen, whatever has the focus in its window,
also a view. Text fields take them first. Slicer's own buttons have Ctrl with an arrow, to move through its history of
modules, and two shortcuts on one key would cancel each other: they lend their keys to the tab while it is open. An
event filter is no way out: PythonQt passes it the event that comes before a shortcut without its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

import slicer

#: Key, the name of its action, and what it does, in the order of the list in the panel.
KEYS: tuple[tuple[str, str, str], ...] = (
    ("N", "next_finding", _("next finding")),
    ("P", "previous_finding", _("previous finding")),
    *((str(n), f"structure_{n}", "") for n in range(9)),
    ("A", "accept", _("accept")),
    ("F", "fix", _("to be fixed")),
    ("R", "reject", _("reject")),
    ("U", "undo", _("undo the last verdict")),
    ("C", "comment", _("write a comment; Enter ends it")),
    ("Ctrl+Right", "next_case", _("next case")),
    ("Ctrl+Left", "previous_case", _("previous case")),
)
#: Classes of Qt that may have a shortcut.
OWNERS = ("QAction", "QAbstractButton")
#: Classes of Qt in which a key is typed.
TYPING = ("QLineEdit", "QAbstractSpinBox", "QTextEdit", "QPlainTextEdit")


class ReviewKeys:
    """Calls ``act`` with the name of an action while ``page``, the tab's page, is visible."""

    def __init__(self, page: Any, act: Callable[[str], None]) -> None:
        self._page, self._act = page, act
        self._lenders: list[tuple[Any, str]] = []  # what has one of the keys otherwise, and that key
        self._shortcuts = [self._shortcut(key, name) for key, name, _words in KEYS]

    def _shortcut(self, key: str, name: str) -> Any:
        shortcut = qt.QShortcut(self._page)
        shortcut.setKey(qt.QKeySequence(key))
        shortcut.autoRepeat = False  # a key that is held gives one verdict
        shortcut.connect("activated()", lambda: self._fire(name))
        return shortcut

    def _fire(self, name: str) -> None:
        if not is_typing():
            self._act(name)

    def watch(self) -> None:
        """Borrow the keys from other parts of the window that the page is in now."""
        window = slicer.util.mainWindow() or self._page.window()
        ours = {qt.QKeySequence(key).toString() for key, _name, _words in KEYS}
        for owner in (each for kind in OWNERS for each in window.findChildren(kind)):
            key = owner.shortcut.toString()
            if key in ours:
                owner.shortcut = qt.QKeySequence()
                self._lenders.append((owner, key))

    def stop(self) -> None:
        """Give them back."""
        for owner, key in self._lenders:
            if owner:  # false where it is deleted already
                owner.shortcut = qt.QKeySequence(key)
        self._lenders.clear()


def is_typing() -> bool:
    """Return whether the user types into a field that takes text."""
    widget = qt.QApplication.focusWidget()
    if not widget or not any(widget.inherits(kind) for kind in TYPING):
        return False
    return widget.inherits("QAbstractSpinBox") or not widget.readOnly

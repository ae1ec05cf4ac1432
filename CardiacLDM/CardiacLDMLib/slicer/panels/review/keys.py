"""The keys of the Review panel.

Plain keys are shortcuts of the tab's page: Qt fires them while the page can be seen, whatever has the focus in its
window, also a view. Text fields take them first. Ctrl with an arrow moves through Slicer's history of modules: two
shortcuts on one key would cancel each other, so a filter on the window takes these two keys before Qt looks for a
shortcut.
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
)
#: Classes of Qt in which a key is typed.
TYPING = ("QLineEdit", "QAbstractSpinBox", "QTextEdit", "QPlainTextEdit")


class ReviewKeys(qt.QObject):  # type: ignore[misc]  # has no types
    """Calls ``act`` with the name of an action while ``page``, the tab's page, is visible.

    ``act`` gets ``next_case`` and ``previous_case`` for the two keys of the filter.
    """

    def __init__(self, page: Any, act: Callable[[str], None]) -> None:
        super().__init__()
        self._page, self._act = page, act
        self._window: Any = None
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
        """Take the keys with Ctrl in the window that the page is in now."""
        window = slicer.util.mainWindow() or self._page.window()
        if window is not self._window:
            self.stop()
            self._window = window
            window.installEventFilter(self)

    def stop(self) -> None:
        """Take them no longer."""
        if self._window:  # false also where the window is deleted already
            self._window.removeEventFilter(self)
        self._window = None

    def eventFilter(self, _window: Any, event: Any) -> bool:  # noqa: N802 - Qt's way of naming
        """Return whether the event is stopped here."""
        kind = event.type()
        if kind not in (qt.QEvent.ShortcutOverride, qt.QEvent.KeyPress):
            return False
        name = {qt.Qt.Key_Right: "next_case", qt.Qt.Key_Left: "previous_case"}.get(event.key())
        if name is None or not _has_only_ctrl(event) or not self._page.visible or is_typing():
            return False
        event.accept()
        if kind == qt.QEvent.KeyPress and not event.isAutoRepeat():
            self._act(name)
        return True


def _has_only_ctrl(event: Any) -> bool:
    modifiers = event.modifiers()
    others = (qt.Qt.ShiftModifier, qt.Qt.AltModifier, qt.Qt.MetaModifier)
    return bool(modifiers & qt.Qt.ControlModifier) and not any(bool(modifiers & other) for other in others)


def is_typing() -> bool:
    """Return whether the user types into a field that takes text."""
    widget = qt.QApplication.focusWidget()
    if not widget or not any(widget.inherits(kind) for kind in TYPING):
        return False
    return widget.inherits("QAbstractSpinBox") or not widget.readOnly

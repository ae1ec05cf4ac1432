"""Ask before Slicer is closed if something would be lost: a job that runs, verdicts that are not on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

import slicer


class CloseGuard(qt.QObject):  # type: ignore[misc]  # has no types
    """Watches Slicer's main window until :meth:`remove`.

    ``loss`` returns a sentence on what would be lost, empty if nothing is. ``closes`` is called before the window
    closes and its layout is remembered for the next start.

    Only closing the window can be stopped. ``slicer.app.exit`` ends Slicer without a question, and so do tests and
    scripts that end by themselves, where nobody can answer.
    """

    def __init__(self, loss: Callable[[], str], closes: Callable[[], None]) -> None:
        super().__init__()
        self._loss, self._closes = loss, closes
        self._window = slicer.util.mainWindow()
        if self._window:
            self._window.installEventFilter(self)

    def remove(self) -> None:
        """Watch no longer."""
        if self._window:  # false also where the window is deleted already
            self._window.removeEventFilter(self)
        self._window = None

    def eventFilter(self, _window: Any, event: Any) -> bool:  # noqa: N802 - Qt's way of naming
        """Return whether the event is stopped here."""
        if event.type() != qt.QEvent.Close:
            return False
        loss = self._loss()
        if not loss or _is_automated() or _confirms(loss):
            self._closes()
            return False
        event.ignore()
        return True


def _confirms(loss: str) -> bool:
    question = _("{loss} Close it?").format(loss=loss)
    return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle=_("CardiacLDM - Close Slicer")))


def _is_automated() -> bool:
    """Return whether Slicer runs a test or a script that ends it."""
    return bool(slicer.app.testingEnabled() or slicer.app.commandOptions().runPythonAndExit)

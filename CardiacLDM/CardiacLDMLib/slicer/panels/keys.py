"""Keys for the buttons that begin a job. Letters with Alt are in their texts: "&Apply"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

#: Ctrl with each of the two Enter keys.
APPLY_KEYS = ("Ctrl+Return", "Ctrl+Enter")


def add_apply_keys(button: Any, is_running: Callable[[], bool]) -> None:
    """Let Ctrl+Enter press ``button`` where it can be seen and pressed, but not while it would cancel a job.

    Two panels may use the same keys, since only one of them is visible.
    """

    def press() -> None:
        if not is_running():
            button.click()

    for key in APPLY_KEYS:
        shortcut = qt.QShortcut(button)
        shortcut.setKey(qt.QKeySequence(key))
        shortcut.autoRepeat = False
        shortcut.connect("activated()", press)

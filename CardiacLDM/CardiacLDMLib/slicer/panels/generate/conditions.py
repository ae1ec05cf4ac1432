"""The conditions of a generator as rows of a form. An unset condition is chosen at random for each pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

#: Endings of condition names that are units.
_UNITS = ("mm", "ml", "kg", "hu")


class Conditions:
    """The rows in ``box``, a collapsible button with a form layout. ``changed`` is called when the user edits one."""

    def __init__(self, box: Any, changed: Callable[[], None]) -> None:
        self._box, self._changed = box, changed
        self._offer: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
        self._widgets: dict[str, Any] = {}
        box.visible = False

    def offer(self, choices: Mapping[str, list[str]], numbers: Mapping[str, tuple[float, float]]) -> None:
        """Offer the conditions of a package: lists of values, and ranges of numbers. Values that fit are kept."""
        if (choices, numbers) == self._offer:
            return
        values_before = self.values
        form = self._box.layout()
        for _row in self._widgets:
            form.removeRow(0)
        self._widgets.clear()
        self._offer = (choices, numbers)
        for name, values in choices.items():
            self._add(form, name, _combo(values), "currentIndexChanged(int)")
        for name, limits in numbers.items():
            self._add(form, name, _edit(*limits), "textChanged(QString)")
        self._box.visible = bool(self._widgets)
        self.set(values_before)

    def set(self, values: Mapping[str, str | float]) -> None:
        """Show these values. Unknown conditions and values are ignored."""
        if dict(values) == self.values:
            return
        choices, _numbers = self._offer
        for name, widget in self._widgets.items():
            value = values.get(name, "")
            widget.blockSignals(True)
            if name in choices:
                widget.currentIndex = 1 + choices[name].index(value) if value in choices[name] else 0
            else:
                widget.text = f"{value:g}" if isinstance(value, (int, float)) else ""
            widget.blockSignals(False)

    @property
    def values(self) -> dict[str, str | float]:
        """The conditions that are set, by name, without invalid numbers; see :attr:`problem`."""
        choices, numbers = self._offer
        chosen: dict[str, str | float] = {}
        for name in choices:
            if self._widgets[name].currentData:
                chosen[name] = self._widgets[name].currentData
        for name, limits in numbers.items():
            value = _number(self._widgets[name].text, *limits)
            if value is not None and not math.isnan(value):
                chosen[name] = value
        return chosen

    @property
    def problem(self) -> str:
        """A sentence about the first invalid number; empty if there is none."""
        for name, (low, high) in self._offer[1].items():
            if _number(self._widgets[name].text, low, high) is None:
                text = _("{name} must be a number from {low:g} to {high:g}, or empty for any.")
                return text.format(name=title(name), low=low, high=high)
        return ""

    def enable(self, enabled: bool) -> None:
        """Enable or disable all rows."""
        for widget in self._widgets.values():
            widget.enabled = enabled

    def _add(self, form: Any, name: str, widget: Any, signal: str) -> None:
        label = qt.QLabel(_("{name}:").format(name=title(name)))
        label.setBuddy(widget)
        label.toolTip = widget.toolTip
        form.addRow(label, widget)
        self._widgets[name] = widget
        widget.connect(signal, lambda *_value: self._changed())


def title(name: str) -> str:
    """Return the label of a condition: "Spacing (mm)" for ``spacing_mm``."""
    words = name.split("_")
    unit = f" ({words.pop()})" if len(words) > 1 and words[-1] in _UNITS else ""
    return f"{' '.join(words).capitalize()}{unit}"


def _combo(values: list[str]) -> Any:
    combo = qt.QComboBox()
    combo.addItem(_("any"), "")
    for value in values:
        combo.addItem(value, value)
    combo.toolTip = _("A fixed value, or any: chosen at random for each pair")
    combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
    combo.minimumContentsLength = 6
    return combo


def _edit(low: float, high: float) -> Any:
    edit = qt.QLineEdit()
    limits = _("{low:g} to {high:g}").format(low=low, high=high) if low < high else f"{low:g}"
    edit.placeholderText = _("any, or {limits}").format(limits=limits)
    edit.toolTip = _("A number from {low:g} to {high:g}; empty: chosen at random for each pair").format(
        low=low, high=high
    )
    return edit


def _number(text: str, low: float, high: float) -> float | None:
    """Return the number in ``text``, NaN for an empty text, None for an invalid one."""
    if not text.strip():
        return math.nan
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if low <= value <= high else None

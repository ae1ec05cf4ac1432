"""Parts that panels share: combo boxes, the error box, progress and time in words."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

import slicer

from ...progress import STAGES, Progress, remaining_seconds
from ...worker.device import Device
from ...worker.job import Failure

#: Colours of text, readable on light and dark windows: for warnings and for errors.
ATTENTION, TROUBLE = "#c77700", "#d9363e"


class Choice:
    """A combo box for a text of the parameter node. An unavailable value stays and is marked as not found."""

    def __init__(self, combo: Any, on_choice: Callable[[str], None]) -> None:
        self._combo, self._on_choice = combo, on_choice
        self._labels: dict[str, str] = {}
        combo.connect("currentIndexChanged(int)", self._changed)

    @property
    def value(self) -> str:
        """The chosen value, empty before :meth:`offer`."""
        return self._combo.currentData or ""

    @property
    def is_available(self) -> bool:
        """Whether the chosen value is available."""
        return self.value in self._labels

    def offer(self, labels: dict[str, str]) -> None:
        """Offer these values under these labels. The choice is kept."""
        value = self.value or next(iter(labels), "")
        self._labels = dict(labels)
        self._show(value)

    def add(self, value: str, label: str) -> None:
        """Offer one more value and choose it, without a signal."""
        self._labels[value] = label
        self._show(value)

    def set(self, value: str) -> None:
        """Choose ``value``, without a signal."""
        if value != self.value:
            self._show(value)

    def _show(self, value: str) -> None:
        missing = {} if value in self._labels else {value: _("{name} (not found)").format(name=value)}
        labels = _distinct({**self._labels, **missing})
        self._combo.blockSignals(True)
        self._combo.clear()
        for each, label in labels.items():
            self._combo.addItem(label, each)
        self._combo.currentIndex = list(labels).index(value)
        self._combo.blockSignals(False)

    def _changed(self) -> None:
        self._on_choice(self.value)


def _distinct(labels: dict[str, str]) -> dict[str, str]:
    """Return the labels by value; a folder whose label another value has too is told apart by where it lies."""
    counts = Counter(labels.values())
    return {
        value: _("{name} in {folder}").format(name=label, folder=os.path.dirname(value))
        if counts[label] > 1 and os.path.isabs(value)
        else label
        for value, label in labels.items()
    }


class ErrorBox:
    """Shows a failure: its sentence, and the worker's output under "Details".

    ``ui``: the form's children. ``cause``: returns what a failure depends on, such as the settings and the scan. A
    failure is hidden when that has changed.
    """

    def __init__(self, ui: Any, cause: Callable[[], Any]) -> None:
        self._ui, self._cause = ui, cause
        self._caused: Any = None
        ui.errorLabel.styleSheet = f"color: {TROUBLE}"
        ui.copyDetails.connect("clicked()", self._copy)

    def show(self, failure: Failure) -> None:
        """Show a failure."""
        self._caused = self._cause()
        self._ui.errorLabel.text = failure.message
        self._ui.detailsText.setPlainText(failure.details)
        self._ui.details.collapsed = True
        self._ui.details.visible = bool(failure.details)
        self._ui.errorBox.visible = True

    def hide(self) -> None:
        """Hide the box."""
        self._caused = None
        self._ui.errorBox.visible = False

    def hide_outdated(self) -> None:
        """Hide a failure whose cause has changed."""
        if self._caused is not None and self._caused != self._cause():
            self.hide()

    def _copy(self) -> None:
        slicer.app.clipboard().setText(f"{self._ui.errorLabel.text}\n\n{self._ui.detailsText.plainText}")


def show_progress(bar: Any, label: Any, progress: Progress, steps: bool = True) -> None:
    """Show stage, step and remaining time. Before the first step the bar shows activity only.

    ``steps``: whether the text names the step.
    """
    stage = _(STAGES.get(progress.stage, progress.stage))
    words = [stage[:1].upper() + stage[1:]]
    begun = progress.step > 0
    if begun and steps:
        words.append(_("step {step} of {total}").format(step=progress.step, total=progress.total))
    elif not begun and progress.stage in ("start", "load"):
        words.append(_("this takes a while the first time"))
    left = remaining_seconds(progress)
    if left is not None:
        words.append(_("{time} left").format(time=duration(left)))
    bar.maximum = progress.total if begun else 0
    bar.value = progress.step
    label.text = ", ".join(words)


def duration(seconds: float) -> str:
    """Return a time in words, rounded to seconds, minutes or hours."""
    if seconds < 1.0:
        return _("less than 1 s")
    if seconds < 120.0:
        return _("about {n} s").format(n=round(seconds))
    if seconds < 7200.0:
        return _("about {n} min").format(n=round(seconds / 60.0))
    return _("about {n} h").format(n=round(seconds / 3600.0))


# --- devices ---


def device_labels(devices: list[Device]) -> dict[str, str]:
    """Return the choices of a combo box by value: automatic, the CPU, and those of the GPUs that can compute."""
    gpus = {gpu.device: _gpu_label(gpu) for gpu in devices if gpu.device != "cpu" and gpu.problem is None}
    return {"auto": _("Automatic"), "cpu": _("CPU")} | gpus


def _gpu_label(gpu: Device) -> str:
    """Return ``GPU 0: NVIDIA RTX A4000, 14.2 of 16.0 GB free``."""
    label = _("GPU {number}: {name}").format(number=gpu.device.partition(":")[2], name=gpu.name)
    if gpu.free_bytes is None or gpu.total_bytes is None:
        return label
    free, total = gpu.free_bytes / 1024**3, gpu.total_bytes / 1024**3
    return label + _(", {free:.1f} of {total:.1f} GB free").format(free=free, total=total)

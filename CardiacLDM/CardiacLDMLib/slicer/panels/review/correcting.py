"""Correct the labels of a case in Slicer's Segment Editor, and take them over when the user comes back."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import slicer.util
from slicer.i18n import tr as _

import slicer

from ....errors import UserError
from ....image.grid import Volume
from ... import segmentations
from .nodes import CaseNodes


class Correction:
    """Watches the labels of a case from :meth:`begin` until :meth:`stop`."""

    def __init__(self) -> None:
        self.nodes: CaseNodes | None = None
        self._before: Volume | None = None
        self._changed = False
        self._observers = slicer.util.VTKObservationMixin()

    def watch(self, nodes: CaseNodes, labels: Volume | None) -> None:
        """Note changes of the ``labels`` of this case from now on, wherever the user makes them."""
        self.stop()
        self.nodes, self._before = nodes, labels
        kind = slicer.vtkSegmentation
        for event in (kind.SourceRepresentationModified, kind.SegmentAdded, kind.SegmentRemoved):
            self._observers.addObserver(nodes.segmentation, event, self._note)

    def stop(self) -> None:
        """Watch no longer."""
        self._observers.removeObservers()
        self.nodes, self._before, self._changed = None, None, False

    def begin(self) -> None:
        """Open the Segment Editor on the case. Raises :class:`UserError` without one."""
        if self.nodes is None or not self.nodes.exists:
            return
        if not hasattr(slicer.modules, "segmenteditor"):
            raise UserError(_("This Slicer has no Segment Editor."))
        self.nodes.segmentation.SetSaveWithScene(True)  # Slicer asks before it closes with changes
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(self.nodes.segmentation)
        editor.setSourceVolumeNode(self.nodes.volume)

    @property
    def has_changed(self) -> bool:
        """Whether something has changed since the labels were loaded or taken over last."""
        return self._changed

    def changes_in_steps(self) -> Generator[None, None, Volume | None]:
        """Return the labels if they have changed since they were loaded or taken over last, None otherwise.

        It pauses between steps. Raises :class:`VolumeError` if they cannot be read.
        """
        nodes, before = self.nodes, self._before
        if nodes is None or not nodes.exists or not self._changed:
            return None
        self._changed = False
        labels = yield from segmentations.labels_in_steps(nodes.segmentation, nodes.volume)
        yield
        if nodes is not self.nodes:
            return None
        self._before = labels
        return None if before is not None and np.array_equal(before.array, labels.array) else labels

    def keep_changes(self) -> None:
        """Count the labels as changed: they could not be taken over."""
        self._before, self._changed = None, True

    def _note(self, *_unused: Any) -> None:
        self._changed = True


def confirm_loss(name: str) -> bool:
    """Ask whether changes that could not be taken over may be lost."""
    text = _("The corrected labels of {name} could not be saved. Leave the case and lose them?").format(name=name)
    return bool(slicer.util.confirmOkCancelDisplay(text))

"""Views of synthetic pairs: CT and labels side by side, and the word "Synthetic" in every view that shows one.

The word is an actor of its own, since Slicer's data probe overwrites corner annotations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from slicer.i18n import tr as _

import slicer

from ... import pairs, segmentations
from ...pairs import SyntheticPair
from ..process import later

#: Number of our layout. Slicer's own layouts have small numbers.
LAYOUT = 7301
#: Names of the two slice views; the first shows no labels.
IMAGE_VIEW, LABELS_VIEW = "SyntheticCT", "SyntheticLabels"
_VIEW = """<item><view class="vtkMRMLSliceNode" singletontag="{name}">
 <property name="orientation" action="default">Axial</property>
 <property name="viewlabel" action="default">{label}</property>
 <property name="viewcolor" action="default">{colour}</property></view></item>"""
AMBER = (1.0, 0.7, 0.33)


# --- side by side --------------------------------------------------------------------------------------------------


def show_side_by_side() -> None:
    """Switch to the layout of two linked views. Without a main window nothing happens."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    node = manager.layoutLogic().GetLayoutNode()
    if not node.IsLayoutDescription(LAYOUT):
        views = (
            _VIEW.format(name=IMAGE_VIEW, label="CT", colour="#8c8c8c"),
            _VIEW.format(name=LABELS_VIEW, label="CT+L", colour="#e0a030"),
        )
        node.AddLayoutDescription(LAYOUT, f'<layout type="horizontal" split="true">{"".join(views)}</layout>')
    manager.setLayout(LAYOUT)


def show_pair(pair: SyntheticPair) -> None:
    """Show this pair alone in the two views, and in every slice view that is empty or shows a synthetic volume."""
    for other in pairs.synthetic_pairs(slicer.mrmlScene):
        other.segmentation.SetDisplayVisibility(other.segmentation is pair.segmentation)
    hide_from_image_view(pair)
    manager, centre = slicer.app.layoutManager(), _heart_centre(pair)
    for name in manager.sliceViewNames() if manager is not None else ():
        widget = manager.sliceWidget(name)
        composite = widget.mrmlSliceCompositeNode()
        volume = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
        is_pair_view = name in (IMAGE_VIEW, LABELS_VIEW)
        if is_pair_view:
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
        if is_pair_view or volume is None or pairs.is_synthetic(volume):
            composite.SetBackgroundVolumeID(pair.volume.GetID())
            widget.sliceLogic().FitSliceToAll()
            if centre is not None:
                _go_to(widget.mrmlSliceNode(), centre)


def _heart_centre(pair: SyntheticPair) -> np.ndarray | None:
    """Return (3,) the centre of the left ventricle in RAS mm, or of the first structure that exists."""
    names = ("LV", "MYO", "LA", "RV", "RA", "AO")
    centres = (segmentations.structure_centre(pair.segmentation, name) for name in names)
    return next((centre for centre in centres if centre is not None), None)


def _go_to(node: Any, centre: np.ndarray) -> None:
    """Move a slice along its own axis to a place (RAS mm)."""
    matrix = node.GetSliceToRAS()
    normal = np.array([matrix.GetElement(row, 2) for row in range(3)])
    node.SetSliceOffset(float(normal @ centre))


def hide_from_image_view(pair: SyntheticPair) -> None:
    """Hide the labels in the view of the CT alone, by listing all other views: MRML cannot exclude one."""
    display = pair.segmentation.GetDisplayNode()
    was = display.StartModify()
    display.RemoveAllViewNodeIDs()
    for node in slicer.util.getNodesByClass("vtkMRMLAbstractViewNode"):
        if node.GetLayoutName() != IMAGE_VIEW:
            display.AddViewNodeID(node.GetID())
    display.EndModify(was)


# --- the mark ------------------------------------------------------------------------------------------------------


class SyntheticMarks:
    """Shows "Synthetic" in the corner of each slice view while it shows a synthetic volume."""

    def __init__(self) -> None:
        self._actors: dict[str, tuple[Any, Any]] = {}  # view's name -> actor, its renderer
        self._observers = slicer.util.VTKObservationMixin()
        self._manager = slicer.app.layoutManager()
        if self._manager is None:  # no windows
            return
        self._manager.connect("layoutChanged(int)", self._views_changed)
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self._observers.addObserver(slicer.mrmlScene, event, self._scene_changed)
        self.attach()

    def attach(self) -> None:
        """Watch the slice views that exist now."""
        if self._manager is None:  # the marks were stopped meanwhile
            return
        self._observers.removeObservers(self._volume_changed)
        for name in self._manager.sliceViewNames():
            widget = self._manager.sliceWidget(name)
            renderer = widget.sliceView().renderWindow().GetRenderers().GetFirstRenderer()
            if self._actors.get(name, (None, None))[1] is not renderer:
                actor = _corner_text(_("Synthetic"))
                renderer.AddActor2D(actor)
                self._actors[name] = (actor, renderer)
            self._observers.addObserver(
                widget.mrmlSliceCompositeNode(), vtk.vtkCommand.ModifiedEvent, self._volume_changed
            )
            self._update(name)

    def stop(self) -> None:
        """Remove the marks and stop watching."""
        self._observers.removeObservers()
        if self._manager is not None:
            self._manager.disconnect("layoutChanged(int)", self._views_changed)
            self._manager = None
        for actor, renderer in self._actors.values():
            renderer.RemoveActor2D(actor)
        self._actors.clear()

    def _views_changed(self, *_unused: Any) -> None:
        self.attach()
        for pair in pairs.synthetic_pairs(slicer.mrmlScene):
            hide_from_image_view(pair)  # there may be new views

    def _scene_changed(self, *_unused: Any) -> None:
        later(0.0, self.attach)  # the views get their new nodes after this event

    def _volume_changed(self, *_unused: Any) -> None:
        for name in self._actors:
            self._update(name)

    def _update(self, name: str) -> None:
        widget = self._manager.sliceWidget(name)
        if widget is None:
            return
        actor, _renderer = self._actors[name]
        composite = widget.mrmlSliceCompositeNode()
        layers = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID())
        visible = any(pairs.is_synthetic(slicer.mrmlScene.GetNodeByID(layer or "")) for layer in layers)
        if bool(actor.GetVisibility()) != visible:
            actor.SetVisibility(visible)
            widget.sliceView().scheduleRender()


def _corner_text(text: str) -> Any:
    actor = vtk.vtkTextActor()
    actor.SetInput(text)
    actor.SetVisibility(False)
    place = actor.GetPositionCoordinate()
    place.SetCoordinateSystemToNormalizedViewport()
    place.SetValue(0.98, 0.98)
    style = actor.GetTextProperty()
    style.SetJustificationToRight()
    style.SetVerticalJustificationToTop()
    style.SetFontSize(18)
    style.SetColor(*AMBER)
    style.SetBold(True)
    style.SetShadow(True)
    actor.GetProperty().SetDisplayLocationToForeground()
    return actor


_marks: list[SyntheticMarks] = []


def start_marks() -> None:
    """Mark synthetic volumes from now on, in every scene."""
    if not _marks:
        _marks.append(SyntheticMarks())


def stop_marks() -> None:
    """Stop marking, before the module is unloaded or reloaded."""
    while _marks:
        _marks.pop().stop()

"""What the views show of synthetic pairs, and the word "Synthetic" in every view that shows one.

The word is an actor of its own, since Slicer's data probe overwrites corner annotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import vtk
from slicer.i18n import tr as _

import slicer

from ... import pairs, segmentations, surfaces
from ...pairs import SyntheticPair
from ..camera import frame_in_3d
from ..process import later
from .layout import IMAGE_VIEW, LABELS_VIEW, LAYOUT, PairLayout

__all__ = ["IMAGE_VIEW", "LABELS_VIEW", "LAYOUT"]

AMBER = (1.0, 0.7, 0.33)


# --- side by side --------------------------------------------------------------------------------------------------


def show_side_by_side(in_3d: bool = False) -> None:
    """Switch to the layout of two linked views, beside a 3D view on request. Without a main window nothing happens."""
    for _step in show_side_by_side_in_steps(in_3d):
        pass


def show_side_by_side_in_steps(in_3d: bool = False) -> Iterator[None]:
    """Do as :func:`show_side_by_side`, and pause after each view that has to be made."""
    start_views()
    yield from _started[0].layout.show_in_steps(in_3d)


def give_layout_back() -> None:
    """Show the layout that the user had before, if that of the pairs is shown."""
    for started in _started:
        started.layout.give_back()


def scan_chosen(node: Any) -> None:
    """Give the layout back when the user chooses a patient's scan."""
    for started in _started:  # later, since a selector may choose a new pair before it is known as one
        later(0.0, lambda layout=started.layout: layout.give_back_for(node))  # type: ignore[misc]


def layout_number() -> int | None:
    """Return the number of the layout that is shown; None without a main window."""
    manager = slicer.app.layoutManager()
    return manager.layout if manager is not None else None


def show_pair(pair: SyntheticPair) -> None:
    """Show this pair alone in the two views, and in every slice view that is empty or shows a synthetic volume."""
    for _step in show_pair_in_steps(pair):
        pass


def show_pair_in_steps(pair: SyntheticPair) -> Iterator[None]:
    """Do as :func:`show_pair`, and pause after each view. It ends when the pair is removed."""
    manager = slicer.app.layoutManager()
    for other in pairs.synthetic_pairs(slicer.mrmlScene):
        other.segmentation.SetDisplayVisibility(other.segmentation is pair.segmentation)
    show_labels_beside(pair)
    yield
    centre = _heart_centre(pair) if pair.is_in(slicer.mrmlScene) else None
    yield
    for name in manager.sliceViewNames() if manager is not None else ():
        if not pair.is_in(slicer.mrmlScene):
            return
        if _composite(name) is not None and (name in (IMAGE_VIEW, LABELS_VIEW) or not _shows_a_patient(name)):
            _show_in_slice(pair, name, centre)
            yield


def _show_in_slice(pair: SyntheticPair, name: str, centre: np.ndarray | None) -> None:
    widget = slicer.app.layoutManager().sliceWidget(name)
    composite = widget.mrmlSliceCompositeNode()
    if name in (IMAGE_VIEW, LABELS_VIEW):
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
    composite.SetBackgroundVolumeID(pair.volume.GetID())
    widget.sliceLogic().FitSliceToAll()
    if centre is not None:
        _go_to(widget.mrmlSliceNode(), centre)


def _shows_a_patient(name: str) -> bool:
    """Return whether a slice view shows a volume that was not generated."""
    composite = _composite(name)
    volume = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "") if composite is not None else None
    return volume is not None and not pairs.is_synthetic(volume)


def _composite(name: str) -> Any:
    """Return the node that holds the volumes of a slice view; None while the scene is closed or opened."""
    widget = slicer.app.layoutManager().sliceWidget(name)
    return widget.mrmlSliceCompositeNode() if widget is not None else None


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


def show_labels_beside(pair: SyntheticPair) -> None:
    """Hide the labels in the view of the CT alone, and in slice views that show a patient's scan.

    All other views are listed: MRML cannot exclude one.
    """
    manager, display = slicer.app.layoutManager(), pair.segmentation.GetDisplayNode()
    if display is None:  # the user has removed it
        return
    names = manager.sliceViewNames() if manager is not None else ()
    hidden = {IMAGE_VIEW, *(name for name in names if _shows_a_patient(name))}
    was = display.StartModify()
    display.RemoveAllViewNodeIDs()
    for node in slicer.util.getNodesByClass("vtkMRMLAbstractViewNode"):
        if not (node.IsA("vtkMRMLSliceNode") and node.GetLayoutName() in hidden):
            display.AddViewNodeID(node.GetID())
    display.EndModify(was)


# --- surfaces ------------------------------------------------------------------------------------------------------


def show_in_3d_in_steps(pair: SyntheticPair) -> Iterator[None]:
    """Make the surfaces of a pair unless it has them, and frame the 3D views on it. It ends when the pair is removed.

    The surfaces of the other pairs are hidden with their labels.
    """
    if not pair.is_in(slicer.mrmlScene):
        return
    pair.segmentation.CreateDefaultDisplayNodes()  # unless it has one
    if surfaces.has_surfaces(pair.segmentation):
        pair.segmentation.GetDisplayNode().SetVisibility3D(True)
    else:
        for _step in surfaces.surfaces_in_steps(pair.segmentation):
            yield
            if not pair.is_in(slicer.mrmlScene):
                return
    yield
    if pair.is_in(slicer.mrmlScene):
        bounds = np.zeros(6)
        pair.segmentation.GetRASBounds(bounds)
        if bounds[0] <= bounds[1]:  # some structure has a voxel
            frame_in_3d(bounds.reshape(3, 2).T)


def hide_in_3d() -> None:
    """Hide the surfaces of all pairs, and the 3D view beside them."""
    for pair in pairs.synthetic_pairs(slicer.mrmlScene):
        if pair.segmentation.GetDisplayNode() is not None:
            pair.segmentation.GetDisplayNode().SetVisibility3D(False)
    if any(started.layout.shown for started in _started):
        show_side_by_side()


# --- the mark ------------------------------------------------------------------------------------------------------


class SyntheticMarks:
    """Shows "Synthetic" in the corner of each view while it shows a synthetic volume or its surfaces."""

    def __init__(self) -> None:
        self._actors: dict[str, tuple[Any, Any]] = {}  # view's name -> actor, its renderer
        self._waits = False  # whether attach() is called soon
        self._observers = slicer.util.VTKObservationMixin()
        self._manager = slicer.app.layoutManager()
        if self._manager is None:  # no windows
            return
        self._manager.connect("layoutChanged(int)", self._views_changed)
        scene = slicer.mrmlScene
        for event in (scene.EndCloseEvent, scene.EndImportEvent, scene.NodeRemovedEvent):
            self._observers.addObserver(scene, event, self._attach_soon)
        self._observers.addObserver(scene, scene.NodeAddedEvent, self._node_added)
        self.attach()

    def attach(self) -> None:
        """Watch the views and the synthetic segmentations that exist now."""
        self._waits = False
        if self._manager is None:  # the marks were stopped meanwhile
            return
        self._observers.removeObservers(self._volume_changed)
        self._observers.removeObservers(self._surfaces_changed)
        modified = vtk.vtkCommand.ModifiedEvent
        for name, view in self._views().items():
            renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
            if self._actors.get(name, (None, None))[1] is not renderer:
                actor = _corner_text(_("Synthetic"))
                renderer.AddActor2D(actor)
                self._actors[name] = (actor, renderer)
        for name in self._manager.sliceViewNames():
            if _composite(name) is not None:
                self._observers.addObserver(_composite(name), modified, self._volume_changed)
        for node in _synthetic_segmentations():
            if node.GetDisplayNode() is not None:
                self._observers.addObserver(node.GetDisplayNode(), modified, self._surfaces_changed)
        in_3d = any(map(_shows_surfaces, _synthetic_segmentations()))
        for number in range(self._manager.threeDViewCount):
            self._mark(str(number), self._manager.threeDWidget(number).threeDView(), in_3d)
        self._volume_changed()

    def stop(self) -> None:
        """Remove the marks and stop watching."""
        self._observers.removeObservers()
        if self._manager is not None:
            self._manager.disconnect("layoutChanged(int)", self._views_changed)
            self._manager = None
        for actor, renderer in self._actors.values():
            renderer.RemoveActor2D(actor)
        self._actors.clear()

    def _views(self) -> dict[str, Any]:
        """Return the slice views by name, and the 3D views by number."""
        widgets = {name: self._manager.sliceWidget(name) for name in self._manager.sliceViewNames()}
        slices = {name: widget.sliceView() for name, widget in widgets.items() if widget is not None}
        solid = {str(n): self._manager.threeDWidget(n).threeDView() for n in range(self._manager.threeDViewCount)}
        return slices | solid

    def _views_changed(self, *_unused: Any) -> None:
        self.attach()
        for pair in pairs.synthetic_pairs(slicer.mrmlScene):
            if pair.segmentation.GetDisplayVisibility():  # the others get theirs when they are shown
                show_labels_beside(pair)  # there may be new views

    def _attach_soon(self, *_unused: Any) -> None:
        """Attach once after many events; the views get their new nodes after them, too."""
        if not self._waits:
            self._waits = True
            later(0.0, self.attach)

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def _node_added(self, _scene: Any, _event: str, node: Any) -> None:
        if node.IsA("vtkMRMLSegmentationDisplayNode"):
            self._attach_soon()

    def _surfaces_changed(self, *_unused: Any) -> None:
        self._attach_soon()

    def _volume_changed(self, *_unused: Any) -> None:
        for name in self._manager.sliceViewNames():
            widget = self._manager.sliceWidget(name)
            if widget is not None:
                self._mark(name, widget.sliceView(), self._shows_synthetic(name))

    def _mark(self, name: str, view: Any, visible: bool) -> None:
        actor, _renderer = self._actors.get(name, (None, None))
        if actor is not None and bool(actor.GetVisibility()) != visible:
            actor.SetVisibility(visible)
            view.scheduleRender()

    def _shows_synthetic(self, name: str) -> bool:
        """Return whether a slice view shows a synthetic volume."""
        composite = _composite(name)
        if composite is None:
            return False
        layers = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID())
        return any(pairs.is_synthetic(slicer.mrmlScene.GetNodeByID(layer or "")) for layer in layers)


def _synthetic_segmentations() -> list[Any]:
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if pairs.is_synthetic(node)]


def _shows_surfaces(node: Any) -> bool:
    display = node.GetDisplayNode()
    return display is not None and display.GetVisibility() and display.GetVisibility3D() and surfaces.has_surfaces(node)


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


class _Started:
    def __init__(self) -> None:
        self.marks, self.layout = SyntheticMarks(), PairLayout()


_started: list[_Started] = []


def start_views() -> None:
    """Know the layout of pairs, and mark synthetic volumes, from now on and in every scene."""
    if not _started:
        _started.append(_Started())


def stop_views() -> None:
    """Give the user's layout back and stop marking, before the module is unloaded or reloaded."""
    while _started:
        started = _started.pop()
        started.layout.stop()
        started.marks.stop()

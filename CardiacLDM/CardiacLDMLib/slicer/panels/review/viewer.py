"""What the views show of a case: its CT in all slices, one structure bright and the others as outlines, a place zoomed.

What the user had in the views, and segmentations that are hidden meanwhile, come back at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import slicer

from ... import segmentations, surfaces, volumes
from ..camera import frame_in_3d
from ..process import Sliced, later
from .nodes import CaseNodes, remove_node

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

#: Width of what a slice view shows around a place, mm.
ZOOM_MM = 90.0
#: Opacity of a structure's area: of the bright one, and of all of them where none is bright.
BRIGHT, FAINT = 0.45, 0.3
#: Opacity of the surfaces of structures that are not the bright one.
BEHIND_3D = 0.15
#: Outlines of two segmentations that are compared (red, green, blue): the case's own, and the other.
FIRST, SECOND = (0.2, 1.0, 0.35), (1.0, 0.25, 0.95)
#: Seconds after which surfaces are made: the next case is loaded before, and a case that is passed over needs none.
SURFACES_SECONDS = 0.8
#: Room around a structure in a 3D view, times its size.
ROOM = 1.3
LAYERS = ("BackgroundVolumeID", "ForegroundVolumeID", "LabelVolumeID")


class CaseViewer:
    """Shows one case at a time. Without a main window only the nodes change."""

    def __init__(self) -> None:
        self.nodes: CaseNodes | None = None
        self.other: vtkMRMLSegmentationNode | None = None
        self._structures: tuple[str, ...] = ()
        self._layers: dict[str, tuple[str | None, ...]] | None = None  # what the views showed before, by their node
        self._hidden: list[str] = []  # IDs of the user's segmentations that are hidden meanwhile
        self._display: Any = None  # how the user's own segmentation was shown
        self._wait: Any = None  # runs until the surfaces are made
        self._surfaces: Sliced | None = None

    # --- a case ---

    def show(self, nodes: CaseNodes) -> None:
        """Show a case in all views; the case before is hidden."""
        if self._layers is None:
            self._remember_views()
        self._put_back()
        self.nodes, self._structures = nodes, ()
        nodes.list_in_modules(True)
        self._hide_others(nodes.segmentation)
        if not nodes.is_own:
            self._display = slicer.vtkMRMLSegmentationDisplayNode()
            self._display.CopyContent(nodes.segmentation.GetDisplayNode())
        nodes.segmentation.CreateDefaultDisplayNodes()
        nodes.segmentation.SetDisplayVisibility(True)
        slicer.util.setSliceViewerLayers(background=nodes.volume, foreground=None, label=None)
        self.emphasise(())
        self._wait = later(SURFACES_SECONDS, self._make_surfaces)

    def leave(self) -> None:
        """Give the views back: as they were before the first case, as far as their volumes still exist."""
        self._put_back()
        self.nodes = None
        scene = slicer.mrmlScene
        for node_id, layers in (self._layers or {}).items():
            composite = scene.GetNodeByID(node_id)
            for layer, volume in zip(LAYERS, layers, strict=True) if composite is not None else ():
                there = scene.GetNodeByID(volume or "")
                getattr(composite, f"Set{layer}")(volume if there is not None else None)
        self._layers = None
        for node_id in self._hidden:
            node = scene.GetNodeByID(node_id)
            if node is not None:
                node.SetDisplayVisibility(True)
        self._hidden.clear()

    def forget(self) -> None:
        """Let go of everything: the scene closes."""
        self._stop_surfaces()
        self.nodes = self.other = self._layers = self._display = None
        self._hidden.clear()

    def _put_back(self) -> None:
        """Hide the case that is shown, or show it as the user had it."""
        self._stop_surfaces()
        self.compare(None)
        nodes = self.nodes
        if nodes is None or not nodes.exists:
            return
        if nodes.is_own:
            nodes.segmentation.SetDisplayVisibility(False)
            nodes.list_in_modules(False)
        elif self._display is not None and nodes.segmentation.GetDisplayNode() is not None:
            nodes.segmentation.GetDisplayNode().CopyContent(self._display)
        self._display = None

    def _remember_views(self) -> None:
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        self._layers = {node.GetID(): tuple(getattr(node, f"Get{layer}")() for layer in LAYERS) for node in composites}

    def _hide_others(self, shown: vtkMRMLSegmentationNode) -> None:
        """Hide the segmentations of the user, which would lie on top."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            display = node.GetDisplayNode()
            if node is not shown and display is not None and display.GetVisibility():
                node.SetDisplayVisibility(False)
                self._hidden.append(node.GetID())

    # --- a place and a structure ---

    def go_to(self, place: Sequence[float]) -> None:
        """Centre all slice views on a place (RAS mm), zoomed."""
        volumes.jump_slices(slicer.mrmlScene, np.asarray(place))
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames() if manager is not None else ():
            widget = manager.sliceWidget(name)
            if widget is not None:
                _zoom(widget.mrmlSliceNode())

    def show_all(self) -> None:
        """Show the whole scan in all slice views, at the middle of the heart."""
        if self.nodes is None or not self.nodes.exists:
            return
        slicer.util.setSliceViewerLayers(background=self.nodes.volume, fit=True)
        bounds = surfaces.heart_bounds(self.nodes.segmentation)
        if bounds is not None:
            volumes.jump_slices(slicer.mrmlScene, bounds.mean(axis=0))

    def look_at(self, structures: Collection[str], place: Sequence[float] | None) -> None:
        """Show these structures bright, at a place (RAS mm); without one show the whole scan."""
        self.emphasise(structures)
        if place is not None:
            self.go_to(place)
        else:
            self.show_all()

    def centre_of(self, structure: str) -> np.ndarray | None:
        """Return a voxel of a structure near its middle, RAS mm; None if it is empty."""
        nodes = self.nodes
        return segmentations.structure_centre(nodes.segmentation, structure) if nodes and nodes.exists else None

    def emphasise(self, structures: Collection[str]) -> None:
        """Show these structures bright and the others as outlines; all alike for none."""
        self._structures = tuple(structures)
        if self.nodes is not None and self.nodes.exists:
            _style(self.nodes.segmentation, self._structures, FIRST if self.other is not None else None)
        if self.other is not None and slicer.mrmlScene.IsNodePresent(self.other):
            _style(self.other, self._structures, SECOND)

    def compare(self, other: vtkMRMLSegmentationNode | None) -> None:
        """Show another segmentation over this one, both as outlines, each in one colour; None ends it."""
        if self.other is other:
            return
        before, self.other = self.other, other
        if before is not None:
            remove_node(before)
        if other is not None:
            other.CreateDefaultDisplayNodes()
            other.SetDisplayVisibility(True)
            other.GetDisplayNode().SetVisibility3D(False)
        self.emphasise(self._structures)

    # --- surfaces ---

    def remake_surfaces(self) -> None:
        """Make the surfaces again: the labels have changed."""
        self._stop_surfaces()
        if self.nodes is not None and self.nodes.exists:
            self.nodes.segmentation.RemoveClosedSurfaceRepresentation()
            self._make_surfaces()

    def _make_surfaces(self) -> None:
        self._wait = None
        if self.nodes is not None:
            self._surfaces = Sliced(self._surfaces_in_steps(self.nodes), _raise)

    def _surfaces_in_steps(self, nodes: CaseNodes) -> Iterator[None]:
        yield
        if not nodes.exists:
            return
        if not surfaces.has_surfaces(nodes.segmentation):
            for _step in surfaces.surfaces_in_steps(nodes.segmentation):
                yield
                if not nodes.exists:
                    return
        yield
        if nodes.exists and nodes is self.nodes:
            nodes.segmentation.GetDisplayNode().SetVisibility3D(True)
            bounds = surfaces.heart_bounds(nodes.segmentation)
            if bounds is not None:
                frame_in_3d(bounds, margin=ROOM)

    def _stop_surfaces(self) -> None:
        if self._wait is not None:
            self._wait.stop()
            self._wait = None
        if self._surfaces is not None:
            self._surfaces.stop()
            self._surfaces = None


def _zoom(node: Any) -> None:
    """Let a slice view show :data:`ZOOM_MM` along its shorter side."""
    width, height, depth = node.GetDimensions()
    if width > 0 and height > 0:
        mm = ZOOM_MM / min(width, height)
        node.SetFieldOfView(mm * width, mm * height, node.GetFieldOfView()[2] or float(depth))
        node.UpdateMatrices()


def _style(node: vtkMRMLSegmentationNode, bright: Collection[str], colour: tuple[float, float, float] | None) -> None:
    """Show the ``bright`` structures filled and the others as outlines; with a ``colour`` only outlines, in it."""
    display = node.GetDisplayNode()
    if display is None:
        return
    was = display.StartModify()
    display.SetSliceIntersectionThickness(2)
    display.SetOpacity2DFill(1.0)
    for segment_id, structure in segmentations.recognised_segments(node):
        is_bright = structure.name in bright
        fill = 0.0 if colour is not None else BRIGHT if is_bright else 0.0 if bright else FAINT
        display.SetSegmentVisibility2DFill(segment_id, fill > 0.0)
        display.SetSegmentOpacity2DFill(segment_id, fill)
        display.SetSegmentVisibility2DOutline(segment_id, True)
        display.SetSegmentOpacity2DOutline(segment_id, 1.0 if is_bright or not bright else 0.6)
        display.SetSegmentOpacity3D(segment_id, 1.0 if is_bright or not bright else BEHIND_3D)
        display.SetSegmentVisibility(segment_id, colour is None or is_bright or not bright)
        if colour is not None:
            display.SetSegmentOverrideColor(segment_id, *colour)
        else:
            display.UnsetSegmentOverrideColor(segment_id)
    display.EndModify(was)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error

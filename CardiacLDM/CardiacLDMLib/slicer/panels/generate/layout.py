"""The layout of synthetic pairs: CT and labels side by side, with a 3D view on request.

A scene file holds the number of the layout and not its views, and Slicer tells nobody that it writes one. While the
pairs are shown, their layout therefore takes the place of one of Slicer's own that no menu offers, 3D above three
slices. This is what a file saved meanwhile opens with, also without this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import vtk

import slicer

from ... import pairs
from ..process import later

#: ``SlicerLayoutDefaultView``: 3D above three slices.
LAYOUT = 1
#: Number of the layout in the files of earlier versions. They opened without any view.
EARLIER_LAYOUT = 7301
#: Names of the two slice views; the first shows no labels.
IMAGE_VIEW, LABELS_VIEW = "SyntheticCT", "SyntheticLabels"
_SLICE = """<item><view class="vtkMRMLSliceNode" singletontag="{name}">
 <property name="orientation" action="default">Axial</property>
 <property name="viewlabel" action="default">{label}</property>
 <property name="viewcolor" action="default">{colour}</property></view></item>"""
_IMAGE = _SLICE.format(name=IMAGE_VIEW, label="CT", colour="#8c8c8c")
_LABELS = _SLICE.format(name=LABELS_VIEW, label="CT+L", colour="#e0a030")
_SOLID = """<item><view class="vtkMRMLViewNode" singletontag="1">
 <property name="viewlabel" action="default">1</property></view></item>"""


def _side_by_side(*views: str) -> str:
    return f'<layout type="horizontal" split="true">{"".join(views)}</layout>'


#: The layout in the steps in which it is built: each makes one view.
FLAT = (_side_by_side(_IMAGE), _side_by_side(_IMAGE, _LABELS))
WITH_3D = (*FLAT, _side_by_side(_IMAGE, _LABELS, _SOLID))


class PairLayout:
    """Shows the layout of the pairs, and gives the user's own back when they are not looked at any more.

    It is given back when the last pair is removed, the scene is closed, and a scan is loaded or chosen. A layout that
    the user chose meanwhile stays. Without a main window nothing happens.
    """

    def __init__(self) -> None:
        self._manager = slicer.app.layoutManager()
        self._before: int | None = None  # the user's layout, while that of the pairs is shown
        self._active_volume = ""
        self._observers = slicer.util.VTKObservationMixin()
        if self._manager is None:  # no windows
            return
        self._manager.layoutLogic()  # makes the layout node, at the latest now
        self._manager.connect("layoutChanged(int)", self._layout_changed)
        scene, selection = slicer.mrmlScene, slicer.app.applicationLogic().GetSelectionNode()
        for source, event, call in (
            (scene, scene.StartCloseEvent, self._scene_closes), (scene, scene.EndImportEvent, self._scene_opened),
            (scene, scene.NodeAddedEvent, self._node_added), (scene, scene.NodeRemovedEvent, self._nodes_removed),
            (scene, scene.EndBatchProcessEvent, self._nodes_removed),
            (selection, vtk.vtkCommand.ModifiedEvent, self._selection_changed),
        ):  # fmt: skip
            self._observers.addObserver(source, event, call)
        self._scene_opened()  # a scene may be opened before this module is loaded

    def stop(self) -> None:
        """Give the user's layout back and stop watching."""
        self.give_back()
        self._observers.removeObservers()
        if self._manager is not None:
            self._manager.disconnect("layoutChanged(int)", self._layout_changed)
            self._manager = None

    @property
    def shown(self) -> bool:
        """Whether the layout of the pairs is shown now."""
        node = self._node()
        return node is not None and node.GetViewArrangement() == LAYOUT and self._is_ours(node)

    def show_in_steps(self, in_3d: bool = False) -> Iterator[None]:
        """Show the layout, and pause after each view that has to be made: that takes longest.

        It ends when another layout is chosen meanwhile.
        """
        steps, begun = WITH_3D if in_3d else FLAT, False
        for step in steps:
            node = self._node()
            if node is None or (begun and not self.shown):
                return
            if step is steps[-1] or not self._has_view(step):
                self._show(node, step)
                begun = True
                yield

    def give_back(self) -> None:
        """Show the layout that the user had before, if that of the pairs is shown."""
        node = self._node()
        if node is None or not self.shown:
            return
        before = self._before
        was = node.StartModify()
        _describe(node, _original(node))
        if before is None or before == EARLIER_LAYOUT or not _exists(node, before):
            before = node.SlicerLayoutFourUpView
        self._before = None
        node.RemoveAllMaximizedViewNodes()
        node.SetViewArrangement(before)
        node.EndModify(was)

    def give_back_for(self, node: Any) -> None:
        """Give the layout back for a scan that was loaded or chosen."""
        if _is_volume(node) and node.GetScene() is not None and not pairs.is_synthetic(node):
            self.give_back()

    # --- the layout node ---

    def _node(self) -> Any:
        """Return the scene's layout node. The layout logic's pointer is dangling while the scene closes."""
        kind = "vtkMRMLLayoutNode"
        return slicer.mrmlScene.GetSingletonNode(kind, kind) if self._manager is not None else None

    def _show(self, node: Any, description: str) -> None:
        if not self.shown:
            self._before = node.GetViewArrangement()
            self._active_volume = _active_volume()
        elif node.GetLayoutDescription(LAYOUT) == description:
            return
        was = node.StartModify()
        node.RemoveAllMaximizedViewNodes()
        _describe(node, description)
        node.SetViewArrangement(LAYOUT)
        node.EndModify(was)

    def _has_view(self, step: str) -> bool:
        """Return whether Slicer has made the slice view that a step adds."""
        return (IMAGE_VIEW if step is FLAT[0] else LABELS_VIEW) in self._manager.sliceViewNames()

    def _is_ours(self, node: Any) -> bool:
        return node.GetLayoutDescription(LAYOUT) in WITH_3D

    # --- what happens meanwhile ---

    def _layout_changed(self, *_unused: Any) -> None:
        """Forget the layout that the user had before if the user has chosen another."""
        node = self._node()
        if node is not None and node.GetViewArrangement() != LAYOUT and self._is_ours(node):
            self._before = None
            with _Silence(node):
                _describe(node, _original(node))

    def _scene_closes(self, *_unused: Any) -> None:
        self.give_back()

    def _scene_opened(self, *_unused: Any) -> None:
        node = self._node()
        if node is not None:
            with _Silence(node):
                node.AddLayoutDescription(EARLIER_LAYOUT, FLAT[-1])
            if node.GetViewArrangement() == EARLIER_LAYOUT:
                node.SetViewArrangement(node.SlicerLayoutFourUpView)
        later(0.0, self._replace_missing)  # other modules may add theirs when a scene is opened

    def _replace_missing(self) -> None:
        """Show a layout that exists if the scene's does not."""
        node = self._node()
        if node is not None and not _exists(node, node.GetViewArrangement()):
            node.SetViewArrangement(node.SlicerLayoutFourUpView)

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def _node_added(self, _scene: Any, _event: str, node: Any) -> None:
        if _is_volume(node) and self.shown and not slicer.mrmlScene.IsImporting():
            later(0.0, lambda: self.give_back_for(node))  # what it shows is set after this event

    def _nodes_removed(self, *_unused: Any) -> None:
        if self.shown and not slicer.mrmlScene.IsBatchProcessing() and not pairs.synthetic_pairs(slicer.mrmlScene):
            self.give_back()

    def _selection_changed(self, *_unused: Any) -> None:
        active, self._active_volume = _active_volume(), self._active_volume
        if active != self._active_volume:
            self._active_volume = active
            self.give_back_for(slicer.mrmlScene.GetNodeByID(active))


class _Silence:
    """Keeps Slicer from building its views again when a layout that is not shown changes."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def __enter__(self) -> None:
        self._was = self._node.GetDisableModifiedEvent()
        self._node.SetDisableModifiedEvent(True)

    def __exit__(self, *_unused: object) -> None:
        self._node.SetDisableModifiedEvent(self._was)


def _describe(node: Any, description: str) -> None:
    node.SetLayoutDescription(LAYOUT, description)


def _original(node: Any) -> str:
    """Return what :data:`LAYOUT` is in Slicer: the same as the layout that the menu calls conventional."""
    return str(node.GetLayoutDescription(node.SlicerLayoutConventionalView))


def _exists(node: Any, number: int) -> bool:
    """Return whether Slicer knows a layout. Custom layouts are described elsewhere."""
    return number == node.SlicerLayoutCustomView or bool(node.IsLayoutDescription(number))


def _is_volume(node: Any) -> bool:
    """Return whether a node is a scan, or a synthetic one. Label maps are scalar volumes too, by inheritance."""
    return node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()


def _active_volume() -> str:
    return slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID() or ""

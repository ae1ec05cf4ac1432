"""Keeps the tables of volumes right: they are measured again after the segments of a result have changed.

This goes on whichever module is open, from Slicer's start until the module is unloaded.
"""

from __future__ import annotations

import datetime
from collections.abc import Generator
from typing import Any

import slicer.util
import vtk

import slicer

from ...segmentation.findings import Finding, flag
from ..measurement import Measurement, measure_in_steps
from ..segmentations import TABLE_ROLE, flags_for, table_of, volumes_of, volumes_table
from ..volumes import PREFIX
from .process import Sliced, later

#: Time without a change after which is measured: nothing is computed during a stroke of the brush.
QUIET_SECONDS = 0.3
#: A table's rounding, and that of its six digits in a file: volumes that differ by less are the same.
SAME_ML, SAME_SHARE = 0.0006, 5e-6


class Corrections:
    """Watches the segmentations of the scene that have a table of volumes."""

    def __init__(self) -> None:
        self._scene = slicer.mrmlScene
        self._changed: set[str] = set()  # IDs of the segmentations to measure
        self._removed: list[tuple[str, Any]] = []  # ID of a segmentation, its table
        self._work: Sliced | None = None
        self._timer: Any = None  # runs while something has changed a moment ago
        self._watched: dict[Any, Any] = {}  # segmentation -> what observes it
        self._observers = slicer.util.VTKObservationMixin()
        for event, call in (
            (self._scene.NodeAddedEvent, self._node_added),
            (self._scene.NodeAboutToBeRemovedEvent, self._node_goes),
            (self._scene.NodeRemovedEvent, self._node_removed),
            (self._scene.EndImportEvent, self._scene_imported),
        ):
            self._observers.addObserver(self._scene, event, call)
        self._scene_imported()

    def stop(self) -> None:
        """Stop watching."""
        self._observers.removeObservers()
        for observer in self._watched.values():
            observer.removeObservers()
        self._watched.clear()
        if self._timer is not None:
            self._timer.stop()
        if self._work is not None:
            self._work.stop()

    # --- what changes ---

    def _scene_imported(self, *_unused: Any) -> None:
        """Watch all segmentations. They may have been corrected where this module was not installed."""
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            self._watch(node)
            self._mark(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def _node_added(self, _scene: Any, _event: str, node: Any) -> None:
        if node is not None and node.IsA("vtkMRMLSegmentationNode"):
            self._watch(node)
            if table_of(node) is None:  # a copy has no table of its own
                self._mark(node)

    def _watch(self, node: Any) -> None:
        if node in self._watched:
            return
        observer = self._watched[node] = slicer.util.VTKObservationMixin()
        kind = slicer.vtkSegmentation
        for event in (
            kind.SourceRepresentationModified, kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified,
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
        ):  # fmt: skip
            observer.addObserver(node, event, self._segments_changed)

    def _segments_changed(self, node: Any, _event: str) -> None:
        self._mark(node)

    def _mark(self, node: Any) -> None:
        """Measure the segmentation when nothing has changed for a while, if it has a table."""
        if node.GetNodeReferenceID(TABLE_ROLE) and node.GetID():
            self._changed.add(node.GetID())
            self._wait()

    # --- measuring ---

    def _wait(self) -> None:
        """Measure later, unless something changes until then."""
        if self._timer is None:
            self._timer = later(QUIET_SECONDS, self._measure)
        else:
            self._timer.start(round(1000 * QUIET_SECONDS))

    def _measure(self) -> None:
        self._timer = None
        if self._work is None:
            self._work = Sliced(self._measure_all(), self._measured)

    def _measure_all(self) -> Generator[None, None, None]:
        while self._changed:
            node_id = self._changed.pop()
            node = self._scene.GetNodeByID(node_id)
            if node is None:
                continue
            measured = yield from measure_in_steps(node)
            yield
            has_changed_again = node_id in self._changed
            if not has_changed_again and self._scene.IsNodePresent(node):
                self._write(node, measured)

    def _write(self, node: Any, measured: Measurement) -> None:
        """Write the volumes to the table, unless it has them, and note in the segmentation that it was corrected."""
        rows = volumes_of(node)
        if rows and all(_is_same(ml, measured.volumes_ml.get(name, 0.0)) for name, ml, _flag in rows):
            return
        cut_off = {name for name, _ml, words in rows if words == flag(Finding("cut off", (name,)))}
        at_edge = cut_off if measured.at_edge is None else measured.at_edge
        volumes_table(self._scene, node, measured.volumes_ml, flags_for(measured.volumes_ml, at_edge))
        if rows:  # otherwise it is a copy
            time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            node.SetAttribute(f"{PREFIX}corrected", time)

    def _measured(self, error: Exception | None) -> None:
        self._work = None
        if error is not None:
            raise error
        if self._changed:  # since the last look
            self._wait()

    # --- removal ---

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def _node_goes(self, _scene: Any, _event: str, node: Any) -> None:
        """Remember the table of a segmentation. It goes later: undoing may be under way, with a list of its own."""
        if node is None or not node.IsA("vtkMRMLSegmentationNode") or self._scene.IsClosing():
            return
        table = table_of(node)
        if table is not None:
            if not self._removed:
                later(0.0, self._remove_tables)
            self._removed.append((node.GetID(), table))

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def _node_removed(self, _scene: Any, _event: str, node: Any) -> None:
        """Watch it no longer: an observed node would stay in memory, with its labels and surfaces."""
        observer = self._watched.pop(node, None)
        if observer is not None:
            observer.removeObservers()

    def _remove_tables(self) -> None:
        removed, self._removed = self._removed, []
        for node_id, table in removed:
            if self._scene.IsNodePresent(table) and self._scene.GetNodeByID(node_id) is None:
                self._scene.RemoveNode(table)


def _is_same(before_ml: float, now_ml: float) -> bool:
    return abs(now_ml - before_ml) <= SAME_ML + SAME_SHARE * before_ml and (before_ml > 0.0) == (now_ml > 0.0)


_corrections: list[Corrections] = []


def start_corrections() -> None:
    """Keep the tables of volumes right from now on, in every scene."""
    if not _corrections:
        _corrections.append(Corrections())


def stop_corrections() -> None:
    """Stop it, before the module is unloaded or reloaded."""
    while _corrections:
        _corrections.pop().stop()

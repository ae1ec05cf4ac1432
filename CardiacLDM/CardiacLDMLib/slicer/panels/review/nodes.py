"""The nodes of a case in the scene: its CT and its labels.

Nodes that the review makes are hidden from the lists of other modules until their case is looked at, are not saved
with the scene, and are removed by the review. Those that are the user's own are only looked at.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import slicer

from ....image.grid import Volume
from ... import segmentations, volumes
from ..scene_jobs import crop_to_box, find_labels

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

#: Attribute of the nodes that a review made: the name of the case.
REVIEW = f"{volumes.PREFIX}review"


@dataclass
class CaseNodes:
    """A case in the scene. ``is_own``: the review made its nodes and removes them. ``has_image``: it has a CT."""

    name: str
    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    is_own: bool = True
    has_image: bool = True

    @property
    def exists(self) -> bool:
        """Whether both nodes are in the scene."""
        scene = slicer.mrmlScene
        return bool(scene.IsNodePresent(self.volume) and scene.IsNodePresent(self.segmentation))

    def list_in_modules(self, on: bool) -> None:
        """List the nodes in other modules, or hide them there."""
        if self.is_own:
            for node in (self.volume, self.segmentation):
                node.SetHideFromEditors(not on)
            if on:
                hierarchy = volumes.subject_hierarchy(slicer.mrmlScene)
                for node in (self.volume, self.segmentation):
                    if not hierarchy.GetItemByDataNode(node):
                        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def remove(self) -> None:
        """Remove the nodes that the review made."""
        if self.is_own:
            for node in (self.segmentation, self.volume):
                remove_node(node)


def remove_node(node: Any) -> None:
    """Remove a node with its place in the subject hierarchy, if it is in the scene."""
    if slicer.mrmlScene.IsNodePresent(node):
        hierarchy = volumes.subject_hierarchy(slicer.mrmlScene)
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.RemoveItem(item, False, False)  # otherwise it would refer to what is gone
        slicer.mrmlScene.RemoveNode(node)


def nodes_in_steps(
    scene: vtkMRMLScene, name: str, labels: Volume, image: Volume | None, is_synthetic: bool
) -> Generator[None, None, CaseNodes]:
    """Make the nodes of a case, invisible; pause between steps so that the window keeps responding.

    If it is stopped half-way, or fails, nothing stays in the scene. Without a CT the volume is empty: it has the grid.
    """
    from vtkmodules.vtkCommonDataModel import vtkImageData

    voxels = vtkImageData()
    yield from volumes.set_voxels_in_steps(voxels, labels.array if image is None else image.array)
    box, _at_edge = yield from find_labels(labels.array)
    volume = _hidden_volume(scene, name, voxels, labels.affine)
    if image is None:
        volume.GetImageData().GetPointData().GetScalars().Fill(0)
    if is_synthetic:  # the views say so; without the mark on both nodes it is no pair of the Generate panel
        volume.SetAttribute(f"{volumes.PREFIX}synthetic", "true")
    made: list[Any] = [volume]
    try:
        yield
        segmentation = segmentation_hidden(scene, crop_to_box(labels, box), f"{name} labels", volume)
        made.append(segmentation)
        segmentation.SetAttribute(REVIEW, name)
        yield
        nodes = CaseNodes(name, volume, segmentation, has_image=image is not None)
        nodes.list_in_modules(False)
    except BaseException:
        for node in made:
            remove_node(node)
        raise
    return nodes


def segmentation_hidden(
    scene: vtkMRMLScene, labels: Volume, name: str, volume: vtkMRMLScalarVolumeNode
) -> vtkMRMLSegmentationNode:
    """Return a new segmentation of ``volume`` that no view shows, no module lists and no scene file holds."""
    node = segmentations.segmentation_from_labels(scene, labels, name, volume)
    node.SetDisplayVisibility(False)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    return node


def _hidden_volume(scene: vtkMRMLScene, name: str, voxels: Any, affine: np.ndarray) -> vtkMRMLScalarVolumeNode:
    """Add a volume that no module lists: a selector of scans would choose it."""
    node = scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(name))
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node.SetAttribute(REVIEW, name)
    scene.AddNode(node)
    node.SetIJKToRASMatrix(volumes.vtk_matrix(affine))
    volumes.set_heart_window(node)
    node.SetAndObserveImageData(voxels)
    return node


def nodes_of_scene(segmentation: vtkMRMLSegmentationNode) -> CaseNodes | None:
    """Return the nodes of a segmentation that is in the scene already; None without a scan on whose grid it is."""
    volume = segmentations.scan_of(segmentation)
    if volume is None or volume.GetImageData() is None:
        return None
    return CaseNodes(segmentation.GetName(), volume, segmentation, is_own=False)

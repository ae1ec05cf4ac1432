"""Synthetic pairs in the scene: a CT, its segmentation, and the folder that holds both."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..image.grid import Volume
from .segmentations import _require_known, segmentation_from_labels
from .volumes import PREFIX, _set_voxels_in_steps, _volume_node, set_provenance

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
        vtkMRMLSegmentationNode,
    )


# --- synthetic pairs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyntheticPair:
    """A generated CT and its labels in the scene."""

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was generated, as the generator wrote it; empty if a hand has spoilt it."""
        try:
            record = json.loads(self.volume.GetAttribute(f"{PREFIX}provenance") or "{}")
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}


def is_synthetic(node: Any) -> bool:
    """Whether the node shows no patient: it was generated, or is a copy of such a node."""
    return node is not None and node.GetAttribute(f"{PREFIX}synthetic") == "true"


def pair_in_steps(
    scene: vtkMRMLScene, image: Volume, labels: Volume, record: dict[str, str], folders: tuple[str, str]
) -> Generator[None, None, SyntheticPair]:
    """A generated pair as a volume and a segmentation node, both with ``record``, in a folder within a folder.

    With pauses, so that a window can live on; nothing is in the scene before the last step, all of it after.

    ``labels`` may be a part of the image's grid. ``folders``: names of the outer one, which is made if it is not there,
    and of the inner one, which always is. Raises :class:`VolumeError` as :func:`segmentation_from_labels` does.
    """
    from vtkmodules.vtkCommonDataModel import vtkImageData

    _require_known(labels)
    outer, inner = folders
    voxels = vtkImageData()
    yield from _set_voxels_in_steps(voxels, image.array)
    volume = _volume_node(scene, voxels, image.affine, f"{inner} CT", heart_window=True)
    _into_folder(scene, volume, outer, inner)
    segmentation = segmentation_from_labels(scene, labels, f"{inner} labels", volume)
    for node in (volume, segmentation):
        set_provenance(node, {**record, "synthetic": "true"})
    return SyntheticPair(volume, segmentation)


def synthetic_pairs(scene: vtkMRMLScene) -> list[SyntheticPair]:
    """The generated pairs of which both parts are still in the scene, in the order in which they came."""
    pairs = []
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode")
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if is_synthetic(node) and is_synthetic(volume):
            pairs.append(SyntheticPair(volume, node))
    return pairs


def unused_folder(scene: vtkMRMLScene, name: str) -> str:
    """``name``, with a number if a folder of that name is there already."""
    hierarchy = _hierarchy(scene)
    taken, number = name, 1
    while hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), taken):
        number += 1
        taken = f"{name} ({number})"
    return taken


def _into_folder(scene: vtkMRMLScene, node: Any, outer: str, inner: str) -> None:
    hierarchy = _hierarchy(scene)
    top = hierarchy.GetSceneItemID()
    parent = hierarchy.GetItemChildWithName(top, outer) or hierarchy.CreateFolderItem(top, outer)
    folder = hierarchy.CreateFolderItem(parent, inner)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)


def _hierarchy(scene: vtkMRMLScene) -> Any:
    from slicer import vtkMRMLSubjectHierarchyNode

    return vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

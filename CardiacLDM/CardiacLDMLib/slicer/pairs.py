"""Synthetic pairs in the scene: a generated CT with its segmentation, in a folder of the subject hierarchy."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..image.grid import Volume
from ..image.labels import check_labels
from .segmentations import segmentation_from_labels
from .volumes import (
    PREFIX,
    add_volume_node,
    move_into,
    set_provenance,
    set_voxels_in_steps,
    subject_hierarchy,
)

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode


@dataclass(frozen=True)
class SyntheticPair:
    """A generated CT and its labels in the scene."""

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode

    def is_in(self, scene: vtkMRMLScene) -> bool:
        """Return whether both nodes are still in the scene."""
        return bool(scene.IsNodePresent(self.volume) and scene.IsNodePresent(self.segmentation))

    @property
    def provenance(self) -> dict[str, Any]:
        """The generator's record of this pair; empty if a user has edited it so that it cannot be read."""
        try:
            record = json.loads(self.volume.GetAttribute(f"{PREFIX}provenance") or "{}")
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}


def is_synthetic(node: Any) -> bool:
    """Return whether the node, or the node that it was copied from, was generated; it shows no patient then."""
    return node is not None and node.GetAttribute(f"{PREFIX}synthetic") == "true"


def pair_in_steps(
    scene: vtkMRMLScene, image: Volume, labels: Volume, record: dict[str, str], folders: tuple[str, str]
) -> Generator[None, None, SyntheticPair]:
    """Add a generated pair to the scene: a volume and a segmentation node, both with ``record``, in nested folders.

    It pauses between steps so that the window keeps responding. If it is stopped half-way, or fails, nothing of the
    pair stays in the scene. ``labels`` may cover a part of the image's grid. ``folders``: the outer one, made if it
    does not exist, and the inner one, always made. Raises :class:`VolumeError` as :func:`segmentation_from_labels`
    does.
    """
    from vtkmodules.vtkCommonDataModel import vtkImageData

    check_labels(labels.array)
    outer, inner = folders
    voxels, record = vtkImageData(), {**record, "synthetic": "true"}
    yield from set_voxels_in_steps(voxels, image.array)
    volume = add_volume_node(scene, voxels, image.affine, f"{inner} CT", heart_window=True)
    set_provenance(volume, record)
    folder = _into_folder(scene, volume, outer, inner)
    try:
        yield
        segmentation = segmentation_from_labels(scene, labels, f"{inner} labels", volume)
    except BaseException:
        if scene.IsNodePresent(volume):
            scene.RemoveNode(volume)
            subject_hierarchy(scene).RemoveItem(folder)
        raise
    set_provenance(segmentation, record)
    return SyntheticPair(volume, segmentation)


def synthetic_pairs(scene: vtkMRMLScene) -> list[SyntheticPair]:
    """Return the generated pairs whose two nodes are still in the scene, oldest first."""
    pairs = []
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode")
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if is_synthetic(node) and is_synthetic(volume):
            pairs.append(SyntheticPair(volume, node))
    return pairs


def unused_folder(scene: vtkMRMLScene, name: str) -> str:
    """Return ``name``, with a number if a folder of that name exists already."""
    hierarchy = subject_hierarchy(scene)
    unused, number = name, 1
    while hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), unused):
        number += 1
        unused = f"{name} ({number})"
    return unused


def _into_folder(scene: vtkMRMLScene, node: Any, outer: str, inner: str) -> int:
    """Move ``node`` into a new folder ``inner`` of ``outer``, and return that folder's item."""
    hierarchy = subject_hierarchy(scene)
    top = hierarchy.GetSceneItemID()
    parent = hierarchy.GetItemChildWithName(top, outer) or hierarchy.CreateFolderItem(top, outer)
    folder = hierarchy.CreateFolderItem(parent, inner)
    move_into(hierarchy, node, folder)
    return int(folder)

"""Scenes that are saved and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiacldm_training.results import views
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.slicer import segmentations, surfaces, volumes
from tests.support.scene import KINDS, RECORD, SHAPE, VOLUMES, labels_on, rotation, scan, transform_node


@pytest.mark.parametrize("kind", KINDS)
def test_saved_scene_holds_it_all(app: Any, mrml: Any, tmp_path: Path, kind: str) -> None:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    matrix = rotation(15, 1)
    node.SetAndObserveTransformNodeID(transform_node(mrml, matrix).GetID())
    volume = volumes.volume_from_node(node)
    labels = labels_on(volume, (1, 2, 4, 5, 6, 8))
    segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    views.save_scene(app, tmp_path / "case.mrb")
    assert [path.name for path in tmp_path.iterdir()] == ["case.mrb"]

    mrml.Clear(True)
    assert app.io_manager.load_scene(tmp_path / "case.mrb")
    node = mrml.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    segmentation = mrml.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert list(segmentation.GetSegmentation().GetSegmentIDs()) == list(anatomy.NAMES)
    code = segmentations.segment_code(segmentation.GetSegmentation().GetSegment("PA"))
    assert code == "81040000"
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReferenceID(role) == node.GetID()
    # Slicer reads left-handed grids with the last axis reversed: compare at places in the world, not at indices.
    back, again = volumes.volume_from_node(node), segmentations.labels_from_segmentation(segmentation, node)
    index = np.argwhere(np.ones(SHAPE, bool))
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    inverse = np.linalg.inv(back.affine)
    there = tuple(np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int).T)
    np.testing.assert_array_equal(back.array[there], volume.array[tuple(index.T)])
    np.testing.assert_array_equal(again.array[there], labels.array[tuple(index.T)])


def test_saved_scene_holds_what_goes_with_a_result(app: Any, mrml: Any, tmp_path: Path) -> None:
    from slicer import vtkMRMLSubjectHierarchyNode

    node = volumes.volume_to_node(mrml, scan("oblique"), "CT")
    hierarchy = vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml)
    hierarchy.CreateItem(hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study"), node)
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan("oblique"), (1, 2)), "Heart", node)
    volumes.set_provenance(segmentation, RECORD)
    segmentations.volumes_table(mrml, segmentation, VOLUMES, {"LAA": "not found", "RV": "not found"})
    list(surfaces.surfaces_in_steps(segmentation))
    before = segmentations.volumes_of(segmentation)
    views.save_scene(app, tmp_path / "case.mrb")

    mrml.Clear(True)
    assert app.io_manager.load_scene(tmp_path / "case.mrb")
    segmentation = mrml.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert volumes.provenance(segmentation) == RECORD
    assert segmentations.volumes_of(segmentation) == before
    hierarchy = vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml)
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLTableNode")
    items = [hierarchy.GetItemByDataNode(mrml.GetFirstNodeByClass(kind)) for kind in kinds]
    assert {hierarchy.GetItemName(hierarchy.GetItemParent(item)) for item in items} == {"Study"}
    assert segmentations.structure_centre(segmentation, "LV") is not None


def test_scene_that_cannot_be_saved_leaves_nothing(app: Any, mrml: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(app.io_manager, "save_scene", lambda path: False)
    with pytest.raises(OutputError, match=r"case\.mrb"):
        views.save_scene(app, tmp_path / "case.mrb")
    assert not list(tmp_path.iterdir())

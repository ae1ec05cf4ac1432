"""Volumes to nodes and back: places, transforms, provenance, display."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.slicer import segmentations, volumes
from tests.support.scene import KINDS, RECORD, affine, labels_on, rotation, scan, transform_node


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_volume_comes_back_as_it_was(mrml: Any, kind: str, dtype: Any) -> None:
    volume = scan(kind, dtype)
    back = volumes.volume_from_node(volumes.volume_to_node(mrml, volume, "CT"))
    assert back.array.dtype == volume.array.dtype
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


def test_volume_shares_the_nodes_memory_and_outlives_it(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    first, second = volumes.volume_from_node(node), volumes.volume_from_node(node)
    assert np.shares_memory(first.array, second.array)
    mrml.RemoveNode(node)
    del node
    np.testing.assert_array_equal(first.array, scan().array)


@pytest.mark.parametrize("kind", KINDS)
def test_parent_transforms_move_the_volume(mrml: Any, kind: str) -> None:
    outer, inner = rotation(30, 1), rotation(-70, 0)
    outer[:3, 3], inner[:3, 3] = (5, -6, 7), (100, 0, -3)
    parent, child = transform_node(mrml, outer), transform_node(mrml, inner)
    child.SetAndObserveTransformNodeID(parent.GetID())
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    node.SetAndObserveTransformNodeID(child.GetID())
    np.testing.assert_allclose(volumes.volume_from_node(node).affine, outer @ inner @ affine(kind), atol=1e-6)


def test_nonlinear_transform_is_refused_with_a_way_out(mrml: Any) -> None:
    import vtk

    warp = vtk.vtkThinPlateSplineTransform()
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for place in np.ndindex(2, 2, 2):
        points.InsertNextPoint(*(50.0 * np.array(place)))
        moved.InsertNextPoint(*(50.0 * np.array(place) + 10.0 * place[0] * place[1]))
    warp.SetSourceLandmarks(points)
    warp.SetTargetLandmarks(moved)
    node = mrml.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(warp)
    volume_node = volumes.volume_to_node(mrml, scan(), "CT")
    volume_node.SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(VolumeError, match="harden"):
        volumes.volume_from_node(volume_node)
    with pytest.raises(VolumeError, match="harden"):
        segmentations.segmentation_from_labels(mrml, labels_on(scan()), "Heart", volume_node)
    assert mrml.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_shearing_transform_is_refused(mrml: Any) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.3
    node = volumes.volume_to_node(mrml, scan(), "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, shear).GetID())
    with pytest.raises(VolumeError, match="sheared"):
        volumes.volume_from_node(node)


def test_nodes_without_one_number_per_voxel_are_refused(mrml: Any) -> None:
    import vtk

    empty = mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    with pytest.raises(VolumeError, match="'Nothing'"):
        volumes.volume_from_node(empty)
    image = vtk.vtkImageData()
    image.SetDimensions(2, 3, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    empty.SetAndObserveImageData(image)
    with pytest.raises(VolumeError, match="colour"):
        volumes.volume_from_node(empty)


def test_provenance_is_replaced_whole(mrml: Any) -> None:
    node = mrml.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetAttribute("Elsewhere", "stays")
    assert volumes.provenance(node) == {}
    volumes.set_provenance(node, RECORD)
    assert volumes.provenance(node) == RECORD
    volumes.set_provenance(node, {"package": "other"})
    assert volumes.provenance(node) == {"package": "other"}
    assert node.GetAttribute("Elsewhere") == "stays"


def test_slices_jump_to_a_place(mrml: Any) -> None:
    nodes = []
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal")):
        node = mrml.AddNewNodeByClass("vtkMRMLSliceNode")
        node.SetLayoutName(name)
        node.SetOrientation(orientation)
        nodes.append(node)
    volumes.jump_slices(mrml, np.array([12.0, -34.0, 56.0]))
    for node in nodes:
        matrix = volumes.numpy_matrix(node.GetSliceToRAS())
        np.testing.assert_allclose(matrix[:3, 3], (12, -34, 56), atol=1e-6)


def test_heart_window_tells_blood_from_muscle(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    volumes.set_heart_window(node)
    display = node.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert (display.GetWindow(), display.GetLevel()) == (800.0, 200.0)


def test_provenance_is_one_change_of_the_node(mrml: Any) -> None:
    import vtk

    node = volumes.volume_to_node(mrml, scan(), "CT")
    volumes.set_provenance(node, {"package": "old", "seed": "1"})
    calls: list[str] = []
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, event: calls.append(event))
    volumes.set_provenance(node, RECORD)
    assert volumes.provenance(node) == RECORD
    assert len(calls) == 1

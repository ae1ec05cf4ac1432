"""Between MRML and arrays, in Slicer's real scene: places, terminology, transforms, saved scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiacldm_training.results import views
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError, VolumeError
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.slicer import segmentations, surfaces, volumes

SHAPE = (9, 11, 13)
TERM_JSON = Path(segmentations.__file__).parents[2] / "Resources" / "term.json"


@pytest.fixture(scope="module")
def app() -> Any:
    return views.slicer_app()


@pytest.fixture
def mrml(app: Any) -> Any:
    app.scene.Clear(True)
    return app.scene


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    a, b = [d for d in range(3) if d != axis]
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


def affine(kind: str) -> np.ndarray:
    matrix = np.diag([0.8, 0.9, 2.5, 1.0])
    matrix[:3, 3] = -30, 40, -110
    return {
        "ras": matrix,
        "left-handed": np.diag([-1.0, 1.0, 1.0, 1.0]) @ matrix,
        "oblique": rotation(20, 0) @ rotation(-35, 2) @ matrix,
        "permuted": matrix[:, [2, 0, 1, 3]],
    }[kind]


def scan(kind: str = "ras", dtype: Any = np.int16) -> Volume:
    values = np.random.default_rng(1).integers(-1000, 1000, SHAPE)
    return Volume(values.astype(dtype), affine(kind))


def labels_on(volume: Volume, values: tuple[int, ...] = tuple(anatomy.BY_VALUE)) -> Volume:
    """A small box of every value in ``values``, at different places, not up to the edges."""
    array = np.zeros(volume.array.shape, np.uint8)
    for value in values:
        k = value
        array[1 + value % 3 : 5, 2:9, k : k + 2] = value
    return Volume(array, volume.affine)


def transform_node(mrml: Any, matrix: np.ndarray) -> Any:
    node = mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(volumes._vtk_matrix(matrix))
    return node


KINDS = ["ras", "left-handed", "oblique", "permuted"]


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
    with pytest.raises(VolumeError, match="'Nothing' holds no image"):
        volumes.volume_from_node(empty)
    image = vtk.vtkImageData()
    image.SetDimensions(2, 3, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    empty.SetAndObserveImageData(image)
    with pytest.raises(VolumeError, match="colour"):
        volumes.volume_from_node(empty)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True])
def test_labels_come_back_as_they_were(mrml: Any, kind: str, moved: bool) -> None:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    if moved:
        matrix = rotation(25, 2)
        matrix[:3, 3] = 10, 20, 30
        node.SetAndObserveTransformNodeID(transform_node(mrml, matrix).GetID())
    volume = volumes.volume_from_node(node)
    labels = labels_on(volume)
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    assert segmentation.GetTransformNodeID() == node.GetTransformNodeID()
    back = segmentations.labels_from_segmentation(segmentation, node)
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array, labels.array)
    assert back.grid.same_as(volume.grid)


@pytest.mark.parametrize("kind", KINDS)
def test_surfaces_lie_where_the_labels_lie(mrml: Any, kind: str) -> None:
    matrix = rotation(40, 0)
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, matrix).GetID())
    labels = labels_on(volumes.volume_from_node(node), (4,))
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    assert segmentation.CreateClosedSurfaceRepresentation()
    bounds = [0.0] * 6
    segmentation.GetRASBounds(bounds)
    index = np.argwhere(labels.array == 4)
    world = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    expected = (world.min(0) + world.max(0)) / 2
    np.testing.assert_allclose(np.reshape(bounds, (3, 2)).mean(1), expected, atol=1.5)


@pytest.mark.parametrize("present", [(), (3,), (1, 2, 3, 4, 5, 6, 7, 8), (8,)])
def test_eight_named_segments_whatever_is_there(app: Any, mrml: Any, present: tuple[int, ...]) -> None:
    import vtk

    node = volumes.volume_to_node(mrml, scan("oblique"), "CT")
    labels = labels_on(scan("oblique"), present)
    segmentation_node = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    segmentation = segmentation_node.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == list(anatomy.NAMES)
    app.terminologies_logic.LoadTerminologyFromFile(str(TERM_JSON))
    assert app.terminologies_logic.IsTerminologyContextLoaded(anatomy.TERMINOLOGY)
    from slicer import vtkSlicerTerminologyEntry

    for structure in anatomy.STRUCTURES:
        segment = segmentation.GetSegment(structure.name)
        assert segment.GetName() == structure.title
        np.testing.assert_allclose(np.array(segment.GetColor()) * 255, structure.colour, atol=1e-3)
        tag, entry = vtk.reference(""), vtkSlicerTerminologyEntry()
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        assert app.terminologies_logic.DeserializeTerminologyEntry(str(tag), entry)
        assert entry.GetTerminologyContextName() == anatomy.TERMINOLOGY
        assert entry.GetCategoryObject().GetCodeValue() == anatomy.CATEGORY_CODE
        assert entry.GetTypeObject().GetCodeValue() == structure.snomed_code
        assert entry.GetTypeObject().GetCodeMeaning() == structure.snomed_meaning
    np.testing.assert_array_equal(segmentations.labels_from_segmentation(segmentation_node, node).array, labels.array)


def test_reference_geometry_is_the_volumes(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan("oblique"), "CT")
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan("oblique"), (2,)), "Heart", node)
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReferenceID(role) == node.GetID()
    assert segmentation.GetSegmentation().GetConversionParameter("Reference image geometry")


def test_lands_in_the_volumes_folder_of_the_subject_hierarchy(mrml: Any) -> None:
    from slicer import vtkMRMLSubjectHierarchyNode

    node = volumes.volume_to_node(mrml, scan(), "CT")
    hierarchy = vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, node)
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan()), "Heart", node)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study


def test_an_earlier_segmentation_stays(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    first = segmentations.segmentation_from_labels(mrml, labels_on(scan(), (1,)), "Heart", node)
    second = segmentations.segmentation_from_labels(mrml, labels_on(scan(), (2,)), "Heart", node)
    assert first.GetName() != second.GetName()
    assert set(np.unique(segmentations.labels_from_segmentation(first, node).array)) == {0, 1}


def test_unknown_label_values_are_refused(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    labels = labels_on(scan())
    labels.array[0, 0, 0] = 9
    with pytest.raises(VolumeError, match="other than 0 to 8"):
        segmentations.segmentation_from_labels(mrml, labels, "Heart", node)


def test_segments_from_elsewhere_are_known_by_code_and_name(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    labels = labels_on(scan(), (2, 3, 6))
    segmentation_node = segmentations.segmentation_from_labels(mrml, labels, "Elsewhere", node)
    segmentation = segmentation_node.GetSegmentation()
    tag = segmentation.GetSegment("LV").GetTerminologyEntryTagName()
    for name in set(anatomy.NAMES) - {"LV", "RA", "AO"}:
        segmentation.RemoveSegment(name)
    segmentation.GetSegment("LV").SetName("Segment_1")  # known by its code
    segmentation.GetSegment("RA").RemoveTag(tag)  # by its name
    segmentation.GetSegment("AO").RemoveTag(tag)
    segmentation.GetSegment("AO").SetName("spine")  # by its ID
    np.testing.assert_array_equal(segmentations.labels_from_segmentation(segmentation_node, node).array, labels.array)
    for name in ("LV", "RA", "AO"):
        segmentation.RemoveSegment(name)
    with pytest.raises(VolumeError, match="none of the eight structures"):
        segmentations.labels_from_segmentation(segmentation_node, node)


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
    code = segmentations._type_code(segmentation.GetSegmentation().GetSegment("PA"))
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True])
def test_replaced_labels_keep_the_node(mrml: Any, kind: str, moved: bool) -> None:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    if moved:
        node.SetAndObserveTransformNodeID(transform_node(mrml, rotation(25, 2)).GetID())
    volume = volumes.volume_from_node(node)
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(volume, (1, 2, 8)), "Heart", node)
    surfaces.show_surfaces(segmentation)
    segmentation.GetSegmentation().AddEmptySegment("calcium", "Calcium")
    segmentation.GetSegmentation().GetSegment("LV").SetName("my LV")
    before = segmentation.GetID(), segmentation.GetName(), segmentation.GetTransformNodeID()
    labels = labels_on(volume, (2, 3, 5))
    segmentations.replace_labels(segmentation, labels, node)
    assert (segmentation.GetID(), segmentation.GetName(), segmentation.GetTransformNodeID()) == before
    assert mrml.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert set(segmentation.GetSegmentation().GetSegmentIDs()) == {*anatomy.NAMES, "calcium"}
    assert segmentation.GetSegmentation().GetSegment("LV").GetName() == "Left ventricle"
    np.testing.assert_array_equal(segmentations.labels_from_segmentation(segmentation, node).array, labels.array)


def test_replaced_labels_lie_where_the_scan_lies_whatever_moves_the_node(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan("oblique"), "CT")
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan("oblique"), (1,)), "Heart", node)
    segmentation.SetAndObserveTransformNodeID(transform_node(mrml, rotation(30, 1)).GetID())
    labels = labels_on(scan("oblique"), (4, 6))
    segmentations.replace_labels(segmentation, labels, node)
    # rotated there and back, so that edges may fall either way
    back = segmentations.labels_from_segmentation(segmentation, node).array
    assert (back == labels.array).mean() > 0.99
    assert set(np.unique(back)) == {0, 4, 6}


def test_labels_that_cannot_be_placed_replace_nothing(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    labels = labels_on(scan(), (2,))
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    wrong = labels_on(scan())
    wrong.array[0, 0, 0] = 9
    with pytest.raises(VolumeError, match="other than 0 to 8"):
        segmentations.replace_labels(segmentation, wrong, node)
    np.testing.assert_array_equal(segmentations.labels_from_segmentation(segmentation, node).array, labels.array)


RECORD = {"package": "virtual-heart-v1", "warnings": 'One; two: "three" <four>\nfünf = 5%', "seconds": "14.2"}


def test_provenance_is_replaced_whole(mrml: Any) -> None:
    node = mrml.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetAttribute("Elsewhere", "stays")
    assert volumes.provenance(node) == {}
    volumes.set_provenance(node, RECORD)
    assert volumes.provenance(node) == RECORD
    volumes.set_provenance(node, {"package": "other"})
    assert volumes.provenance(node) == {"package": "other"}
    assert node.GetAttribute("Elsewhere") == "stays"


VOLUMES = {"LA": 80.25, "LV": 120.0, "MYO": 110.0, "LAA": 0.0}


def test_table_of_volumes_belongs_to_its_segmentation(mrml: Any) -> None:
    from slicer import vtkMRMLSubjectHierarchyNode

    node = volumes.volume_to_node(mrml, scan(), "CT")
    hierarchy = vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, node)
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan()), "Heart", node)
    assert segmentations.volumes_of(segmentation) == []
    table = segmentations.volumes_table(mrml, segmentation, VOLUMES, {"LAA": "not found"})
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(table)) == study
    rows = segmentations.volumes_of(segmentation)
    assert [name for name, _, _ in rows] == list(anatomy.NAMES)
    assert rows[0] == ("LA", 80.25, "")
    assert rows[7] == ("LAA", 0.0, "not found")
    again = segmentations.volumes_table(mrml, segmentation, {"LA": 1.0}, {})
    assert again is table
    assert segmentations.volumes_of(segmentation)[0] == ("LA", 1.0, "")
    assert mrml.GetNumberOfNodesByClass("vtkMRMLTableNode") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_centre_is_a_place_inside_the_structure(mrml: Any, kind: str) -> None:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, rotation(40, 0)).GetID())
    volume = volumes.volume_from_node(node)
    labels = labels_on(volume, ())
    labels.array[1:8, 1:10, 2:12] = 5
    labels.array[2:7, 2:9, 3:11] = 2
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    for name, value in (("LV", 2), ("MYO", 5)):
        place = segmentations.structure_centre(segmentation, name)
        assert place is not None
        index = np.rint(np.linalg.inv(volume.affine) @ np.append(place, 1.0)).astype(int)[:3]
        assert labels.array[tuple(index)] == value
    assert segmentations.structure_centre(segmentation, "PA") is None
    segmentation.GetSegmentation().RemoveSegment("RA")
    assert segmentations.structure_centre(segmentation, "RA") is None


def test_slices_jump_to_a_place(mrml: Any) -> None:
    nodes = []
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal")):
        node = mrml.AddNewNodeByClass("vtkMRMLSliceNode")
        node.SetLayoutName(name)
        node.SetOrientation(orientation)
        nodes.append(node)
    volumes.jump_slices(mrml, np.array([12.0, -34.0, 56.0]))
    for node in nodes:
        matrix = volumes._numpy_matrix(node.GetSliceToRAS())
        np.testing.assert_allclose(matrix[:3, 3], (12, -34, 56), atol=1e-6)


def test_heart_window_tells_blood_from_muscle(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan(), "CT")
    volumes.set_heart_window(node)
    display = node.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert (display.GetWindow(), display.GetLevel()) == (800.0, 200.0)


@pytest.mark.parametrize("kind", KINDS)
def test_surfaces_are_shown_where_the_labels_lie(mrml: Any, kind: str) -> None:
    fine = Volume(np.zeros((60, 50, 40), np.int16), affine(kind) @ np.diag([0.5, 0.5, 0.2, 1.0]))
    node = volumes.volume_to_node(mrml, fine, "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, rotation(40, 0)).GetID())
    labels = labels_on(volumes.volume_from_node(node), ())
    labels.array[10:50, 12:40, 8:30] = 4
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    steps = list(surfaces.surfaces_in_steps(segmentation))
    assert len(steps) >= len(anatomy.STRUCTURES)
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert segmentation.GetDisplayNode().GetVisibility3D()
    surface = segmentation.GetSegmentation().GetSegment("RV").GetRepresentation("Closed surface")
    points = np.array([surface.GetPoint(n) for n in range(surface.GetNumberOfPoints())])
    points = points @ volumes._to_world(node)[:3, :3].T
    world = np.argwhere(labels.array == 4) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    ends = [world.min(0), world.max(0)]
    np.testing.assert_allclose([points.min(0), points.max(0)], ends, atol=1.5 * surfaces.SURFACE_MM)


def test_flags_are_few_and_silent_about_volumes_that_are_cut_off() -> None:
    usual = {"LA": 80.0, "LV": 120.0, "RA": 90.0, "RV": 150.0, "MYO": 110.0, "AO": 3.0, "PA": 2.0, "LAA": 8.0}
    assert segmentations.flags_for(usual, set()) == {}
    assert segmentations.flags_for(usual, {"AO", "PA"}) == {}
    odd = usual | {"LA": 20.0, "RV": 900.0, "MYO": 10.0, "AO": 0.0}
    assert segmentations.flags_for(odd, {"MYO", "AO"}) == {
        "LA": "unusually small", "RV": "unusually large", "MYO": "cut off by the scan's edge", "AO": "not found",
    }  # fmt: skip


def test_saved_scene_holds_what_goes_with_a_result(app: Any, mrml: Any, tmp_path: Path) -> None:
    from slicer import vtkMRMLSubjectHierarchyNode

    node = volumes.volume_to_node(mrml, scan("oblique"), "CT")
    hierarchy = vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml)
    hierarchy.CreateItem(hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study"), node)
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan("oblique"), (1, 2)), "Heart", node)
    volumes.set_provenance(segmentation, RECORD)
    segmentations.volumes_table(mrml, segmentation, VOLUMES, {"LAA": "not found", "RV": "not found"})
    surfaces.show_surfaces(segmentation)
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


def test_terminology_file_says_the_same_as_the_table() -> None:
    context = json.loads(TERM_JSON.read_text())
    assert context["SegmentationCategoryTypeContextName"] == anatomy.TERMINOLOGY
    (category,) = context["SegmentationCodes"]["Category"]
    assert (category["CodeValue"], category["CodeMeaning"]) == (
        anatomy.CATEGORY_CODE,
        anatomy.CATEGORY_MEANING,
    )
    rows = [
        (t["3dSlicerIntegerLabel"], t["CodeValue"], t["CodeMeaning"], tuple(t["recommendedDisplayRGBValue"]))
        for t in category["Type"]
    ]
    assert rows == [(s.value, s.snomed_code, s.snomed_meaning, s.colour) for s in anatomy.STRUCTURES]

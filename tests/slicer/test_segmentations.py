"""Labels to segments and back: places, terminology, replacement, tables of volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.slicer import segmentations, surfaces, volumes
from tests.support.scene import KINDS, VOLUMES, labels_on, rotation, scan, transform_node

TERM_JSON = Path(segmentations.__file__).parents[2] / "Resources" / "term.json"


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
    steps = list[None]()
    again = _end_of(segmentations.labels_in_steps(segmentation, node), steps)
    assert len(steps) == 8  # a pause after each: it was not resampled at once
    np.testing.assert_array_equal(again.array, labels.array)


def _end_of(work: Any, steps: list[None]) -> Any:
    while True:
        try:
            steps.append(next(work))
        except StopIteration as end:
            return end.value


def test_labels_on_other_voxels_are_resampled(mrml: Any) -> None:
    node = volumes.volume_to_node(mrml, scan("ras"), "CT")
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan("ras")), "Heart", node)
    finer = volumes.volume_to_node(mrml, scan("oblique"), "another CT")
    expected = segmentations.labels_from_segmentation(segmentation, finer)
    steps = list[None]()
    np.testing.assert_array_equal(
        _end_of(segmentations.labels_in_steps(segmentation, finer), steps).array, expected.array
    )


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
    with pytest.raises(VolumeError, match="value 9"):
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
    with pytest.raises(VolumeError, match="structures"):
        segmentations.labels_from_segmentation(segmentation_node, node)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True])
def test_replaced_labels_keep_the_node(mrml: Any, kind: str, moved: bool) -> None:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    if moved:
        node.SetAndObserveTransformNodeID(transform_node(mrml, rotation(25, 2)).GetID())
    volume = volumes.volume_from_node(node)
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(volume, (1, 2, 8)), "Heart", node)
    list(surfaces.surfaces_in_steps(segmentation))
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
    with pytest.raises(VolumeError, match="value 9"):
        segmentations.replace_labels(segmentation, wrong, node)
    np.testing.assert_array_equal(segmentations.labels_from_segmentation(segmentation, node).array, labels.array)


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
    again = segmentations.volumes_table(mrml, segmentation, {"LA": 1.0, "PA": 0.00025}, {})
    assert again is table
    assert segmentations.volumes_of(segmentation)[0] == ("LA", 1.0, "")
    assert 0 < segmentations.volumes_of(segmentation)[6][1] < 0.001
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


def test_flags_are_few_and_silent_about_volumes_that_are_cut_off() -> None:
    usual = {"LA": 80.0, "LV": 120.0, "RA": 90.0, "RV": 150.0, "MYO": 110.0, "AO": 3.0, "PA": 2.0, "LAA": 8.0}
    assert segmentations.flags_for(usual, set()) == {}
    assert segmentations.flags_for(usual, {"AO", "PA"}) == {}
    assert segmentations.flags_for(usual | {"PA": 0.02}, {"AO", "PA"}).keys() == {"PA"}
    cut = segmentations.flags_for(usual | {"RV": 0.02, "LA": 0.0}, {"RV"})
    assert "cut off" in cut["RV"]
    assert "not found" in cut["LA"]
    odd = usual | {"LA": 20.0, "RV": 900.0, "MYO": 10.0, "AO": 0.0}
    flags = segmentations.flags_for(odd, {"MYO", "AO"})
    facts = {"LA": "small", "RV": "large", "MYO": "cut off", "AO": "not found"}
    assert flags.keys() == facts.keys()
    assert all(fact in flags[name] for name, fact in facts.items())


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

"""What the Segment panel shows of a scene: the choices, the results of each scan, and errors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6")

from PySide6 import QtCore

from CardiacLDMLib import anatomy
from CardiacLDMLib.slicer import segmentations
from tests.slicer import test_module
from tests.slicer.test_module import User
from tests.support.host import Heartbeat, open_module, pump

host, user = test_module.host, test_module.user


# --- choices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("by", ["selector", "parameter"])
def test_what_a_script_chooses_right_after_closing_the_scene_stays(user: User, is_open: bool, by: str) -> None:
    if not is_open:
        user.host.modules["CardiacLDM"].leave()
    user.load(8, "old")
    user.scene.Clear(0)
    user.scene.Clear(0)
    user.load(8, "first")
    second = user.load(8, "second")
    if by == "selector":
        user.ui.inputVolume.setCurrentNode(second)
    else:
        user.settings.inputVolume = second
    user.choose(user.ui.quality, "fast")
    for _ in range(2):  # at once, and when the event loop has run
        assert user.ui.inputVolume.currentNode() is second
        assert user.settings.inputVolume is second
        assert user.settings.quality == user.ui.quality.currentData == "fast"
        assert user.ui.apply.enabled
        pump(0.1)
    open_module()
    assert user.settings.inputVolume is second
    user.scene.RemoveNode(second)
    assert user.settings.inputVolume is user.ui.inputVolume.currentNode() is None  # not the first one unasked


def test_a_scene_whose_scan_was_not_saved_offers_the_next_scan(user: User, tmp_path: Path) -> None:
    volume = user.load(8)
    user.choose(user.ui.quality, "flips")
    volume.SetSaveWithScene(False)
    user.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert user.scene.Commit()
    user.scene.Clear(0)
    assert user.scene.Connect()
    for _ in range(2):
        assert user.ui.inputVolume.currentNode() is user.settings.inputVolume is None
        assert user.ui.quality.currentData == "flips"
        assert not user.ui.apply.enabled
        pump(0.1)
    other = user.load(8)
    assert user.ui.inputVolume.currentNode() is user.settings.inputVolume is other


def test_a_scene_brings_its_choice_before_the_next_line_of_a_script(user: User, tmp_path: Path) -> None:
    user.load(8, "first")
    user.ui.inputVolume.setCurrentNode(user.load(8, "second"))
    for node in _volumes():
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(str(tmp_path / f"{node.GetID()}.nrrd"))
        user.scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
    user.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert user.scene.Commit()
    user.scene.Clear(0)
    assert user.scene.Connect()
    assert user.ui.inputVolume.currentNode().GetName() == "second"
    user.ui.inputVolume.setCurrentNode(_volumes()[0])
    pump(0.1)
    assert user.settings.inputVolume.GetName() == user.ui.inputVolume.currentNode().GetName() == "first"


# --- results -------------------------------------------------------------------------------------------------------


def _edit(node: Any, scan: Any, name: str, array: Any) -> None:
    """Do what a stroke in the Segment Editor ends with."""
    import slicer

    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, name, scan)


def _array(node: Any, scan: Any, name: str) -> Any:
    import slicer

    return slicer.util.arrayFromSegmentBinaryLabelmap(node, name, scan).copy()


def _shown_ml(user: User) -> dict[str, float]:
    """Return the volumes in the panel's table, by structure."""
    items = [[user.ui.volumes.item(row, column) for column in (0, 1)] for row in range(user.ui.volumes.rowCount)]
    return {title.data(QtCore.Qt.ItemDataRole.UserRole): number.data(0) for title, number in items}


def _table_ml(node: Any) -> dict[str, float]:
    from CardiacLDMLib.slicer import segmentations

    return {name: ml for name, ml, _flag in segmentations.volumes_of(node)}


def test_volumes_follow_a_correction(user: User) -> None:
    scan = user.prepare("fast")
    user.apply()
    (node,) = user.segmentations()
    voxel_ml = 0.027  # 3 mm
    assert "changed since" not in user.ui.resultLabel.text
    remarks = user.ui.warningsLabel.text
    assert remarks
    before = _table_ml(node)
    array = _array(node, scan, "LV")
    array[::2] = 0
    left = int(array.sum())
    assert 0 < left * voxel_ml < before["LV"]
    _edit(node, scan, "LV", array)
    user.wait(lambda: _table_ml(node)["LV"] != before["LV"], 5)
    assert _table_ml(node)["LV"] == pytest.approx(left * voxel_ml, abs=0.001)
    assert {name: ml for name, ml in _table_ml(node).items() if name != "LV"} == {
        name: ml for name, ml in before.items() if name != "LV"
    }
    assert _shown_ml(user)["LV"] == pytest.approx(left * voxel_ml, abs=0.5)
    assert "changed since" in user.ui.resultLabel.text
    assert user.ui.warningsLabel.text.endswith(remarks)
    assert "automatic labels" in user.ui.warningsLabel.text
    node.GetSegmentation().RemoveSegment("PA")
    user.wait(lambda: _table_ml(node)["PA"] == 0.0, 5)
    flags = [user.ui.volumes.item(row, 2).text() for row in range(8) if _row_name(user, row) == "PA"]
    assert flags == ["none"]
    assert len(_tables()) == 1
    scan.GetDisplayNode().SetWindow(300)
    user.choose(user.ui.quality, "full")
    user.host.answer("Replace", True)
    user.ui.outputSegmentation.setCurrentNode(node)
    user.apply()
    pump(0.6)
    assert "changed since" not in user.ui.resultLabel.text  # these labels are automatic again


def _row_name(user: User, row: int) -> str:
    return str(user.ui.volumes.item(row, 0).data(QtCore.Qt.ItemDataRole.UserRole))


def _tables() -> list[Any]:
    import slicer

    return list(slicer.util.getNodesByClass("vtkMRMLTableNode"))


def test_nothing_is_measured_during_a_stroke_and_the_window_is_not_held(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from CardiacLDMLib.slicer.panels import corrections

    begun: list[int] = []
    measure = corrections.measure_in_steps
    monkeypatch.setattr(corrections, "measure_in_steps", lambda node: begun.append(1) or measure(node))
    scan = user.prepare("fast", finer=4)
    user.apply()
    (node,) = user.segmentations()
    pump(1.0)
    begun.clear()
    array = _array(node, scan, "LV")
    for k in range(5):
        array[k::5] = 0
        _edit(node, scan, "LV", array)
        assert not begun
    before = _table_ml(node)
    with Heartbeat(clock=time.thread_time) as beat:
        user.wait(lambda: _table_ml(node) != before, 20)
    assert _table_ml(node)["LV"] == 0.0
    assert beat.longest_ms < test_module.STANDSTILL_MS


def test_a_table_goes_with_its_segmentation_and_comes_back_with_it(user: User) -> None:
    user.prepare("fast")
    user.apply()
    (node,) = user.segmentations()
    (table,) = _tables()
    for each in (node, table):
        each.SetUndoEnabled(True)
    user.scene.SetUndoOn()
    try:
        user.scene.SaveStateForUndo()
        user.scene.RemoveNode(node)
        pump(0.1)
        assert not _tables()
        assert not user.ui.resultBox.visible
        user.scene.Undo()
        pump(0.5)
        (node,), (table,) = user.segmentations(), _tables()
        assert user.ui.resultBox.visible
        node.GetSegmentation().RemoveSegment("PA")
        user.wait(lambda: _table_ml(node)["PA"] == 0.0, 5)
        user.scene.Undo()
        pump(0.5)
    finally:
        user.scene.SetUndoOff()


def test_what_is_deleted_in_one_go_is_no_longer_shown(user: User) -> None:
    user.prepare("fast")
    user.apply()
    assert user.ui.resultBox.visible
    user.scene.StartState(user.scene.BatchProcessState)
    user.scene.RemoveNode(user.segmentations()[0])
    user.scene.EndState(user.scene.BatchProcessState)
    assert not user.ui.resultBox.visible


def test_a_structure_at_the_edge_of_the_scan_is_flagged_after_a_correction(user: User) -> None:
    scan = user.prepare("fast")
    user.apply()
    (node,) = user.segmentations()
    array = _array(node, scan, "LA")
    array[:, :, :5] = 1
    _edit(node, scan, "LA", array)
    user.wait(lambda: "changed since" in user.ui.resultLabel.text, 5)
    flags = {_row_name(user, row): user.ui.volumes.item(row, 2).text() for row in range(8)}
    assert flags["LA"] == "cut off"
    assert flags["RA"] != "cut off"
    array[:, :, :5] = 0
    _edit(node, scan, "LA", array)
    user.wait(lambda: all(user.ui.volumes.item(row, 2).text() != "cut off" for row in range(8)), 5)


def test_a_copy_gets_a_table_of_its_own(user: User) -> None:
    import slicer

    scan = user.prepare("fast")
    user.apply()
    (node,) = user.segmentations()
    copy = slicer.vtkMRMLSegmentationNode()
    copy.Copy(node)
    copy.SetName("by hand")
    user.scene.AddNode(copy)
    user.wait(lambda: len(_tables()) == 2, 5)
    assert _table_ml(copy) == pytest.approx(_table_ml(node), abs=0.001)
    before = _table_ml(node)
    array = _array(copy, scan, "LA")
    array[:] = 0
    _edit(copy, scan, "LA", array)
    user.wait(lambda: _table_ml(copy)["LA"] == 0.0, 5)
    assert _table_ml(node) == before
    user.scene.RemoveNode(copy)
    pump(0.1)
    assert [table.GetID() for table in _tables()] == [node.GetNodeReferenceID("CardiacLDM.volumes")]


def _save_and_load(user: User, nodes: tuple[Any, ...], folder: Path) -> None:
    """Write the scene with the data of ``nodes``, close it and load it."""
    for each in nodes:
        ending = {"vtkMRMLSegmentationNode": ".seg.nrrd", "vtkMRMLTableNode": ".tsv"}.get(each.GetClassName(), ".nrrd")
        storage = each.CreateDefaultStorageNode()
        storage.SetFileName(str(folder / f"{each.GetID()}{ending}"))
        user.scene.AddNode(storage)
        each.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(each)
    user.scene.SetURL(str(folder / "scene.mrml"))
    assert user.scene.Commit()
    user.scene.Clear(0)
    assert user.scene.Connect()
    pump(1.0)


def test_corrections_are_noticed_in_a_scene_that_was_loaded(user: User, tmp_path: Path) -> None:
    scan = user.prepare("fast")
    user.apply()
    (node,) = user.segmentations()
    before = _table_ml(node)
    user.host.modules["CardiacLDM"].leave()
    _save_and_load(user, (scan, node, *_tables()), tmp_path)
    (node,) = user.segmentations()
    assert _table_ml(node) == before
    assert "changed since" not in user.ui.resultLabel.text
    scan = user.settings.inputVolume
    array = _array(node, scan, "LA")
    array[:] = 0
    _edit(node, scan, "LA", array)
    user.wait(lambda: _table_ml(node)["LA"] == 0.0, 5)
    assert "changed since" in user.ui.resultLabel.text
    open_module()


def _trust(user: User) -> dict[str, str]:
    """Return the words for the expected Dice, by structure; empty where the column is hidden."""
    if user.ui.volumes.isColumnHidden(3):
        return {}
    return {_row_name(user, row): user.ui.volumes.item(row, 3).text() for row in range(user.ui.volumes.rowCount)}


def test_the_expected_dice_is_kept_in_the_scene_until_the_labels_are_changed(user: User, tmp_path: Path) -> None:
    scan = user.prepare("full")  # the quality at which the package foretells it
    user.apply()
    pump(0.6)
    (node,) = user.segmentations()
    words = _trust(user)
    assert list(words) == list(anatomy.NAMES)
    assert words["LV"] == "reliable"
    assert words["LAA"] == "wrong"
    tips = {_row_name(user, row): user.ui.volumes.item(row, 3).toolTip() for row in range(8)}
    expected = segmentations.expected_dice_of(node)
    for name, tip in tips.items():
        assert f"expected Dice {expected[name].text()}" in tip
        assert "virtual" in tip
    assert user.widget.parent.minimumSizeHint.width() <= 300
    _save_and_load(user, (scan, node, *_tables()), tmp_path)
    (node,), scan = user.segmentations(), user.settings.inputVolume
    assert segmentations.expected_dice_of(node) == expected
    assert _trust(user) == words
    array = _array(node, scan, "LA")
    array[::2] = 0
    _edit(node, scan, "LA", array)
    user.wait(lambda: "changed since" in user.ui.resultLabel.text, 5)
    assert _trust(user) == {}
    assert segmentations.expected_dice_of(node) == {}
    assert not any("Dice" in user.ui.volumes.item(row, 0).toolTip() for row in range(8))


def test_a_package_or_quality_without_an_expected_dice_shows_none(user: User) -> None:
    user.prepare("full")
    user.apply()
    assert _trust(user)
    user.choose(user.ui.quality, "fast")
    user.apply()
    assert user.ui.resultLabel.text.startswith("CT heart_1:")
    assert _trust(user) == {}
    table = segmentations.table_of(user.segmentations()[1])
    assert table.GetNumberOfColumns() == len(segmentations.TABLE_COLUMNS)


def test_a_result_is_shown_under_its_own_scan(user: User) -> None:
    first = user.prepare("fast")
    user.apply()
    assert user.ui.resultLabel.text.startswith("CT heart:")
    second = user.load(30, "other")
    user.ui.inputVolume.setCurrentNode(second)
    assert not user.ui.resultBox.visible
    user.apply()
    assert user.ui.resultLabel.text.startswith("other heart:")
    user.ui.inputVolume.setCurrentNode(first)
    assert user.ui.resultLabel.text.startswith("CT heart:")
    user.segmentations()[0].SetName("renamed")
    assert user.ui.resultLabel.text.startswith("renamed:")
    user.ui.inputVolume.setCurrentNode(None)
    assert not user.ui.resultBox.visible
    user.ui.inputVolume.setCurrentNode(second)
    user.scene.RemoveNode(second)
    assert not user.ui.resultBox.visible


def _visible(user: User) -> list[str]:
    return [node.GetName() for node in user.segmentations() if node.GetDisplayNode().GetVisibility()]


def test_the_last_of_two_results_is_seen_alone(user: User) -> None:
    scan = user.prepare("fast")
    other = user.load(30, "other")
    hand = user.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
    hand.CreateDefaultDisplayNodes()
    user.widget.logic.segment(other, package="phantom", quality="fast")
    user.apply()
    user.apply()
    assert [node.GetName() for node in user.segmentations()] == ["by hand", "other heart", "CT heart", "CT heart_1"]
    assert _visible(user) == ["by hand", "other heart", "CT heart_1"]
    assert user.ui.resultLabel.text.startswith("CT heart_1:")
    assert "'CT heart'" in user.ui.resultLabel.text
    first = user.segmentations()[2]
    user.ui.outputSegmentation.setCurrentNode(first)  # its own figures
    assert user.ui.resultLabel.text.startswith("CT heart:")
    user.host.answer("Replace", True)
    user.apply()
    assert _visible(user) == ["by hand", "other heart", "CT heart"]
    assert "'CT heart_1'" in user.ui.resultLabel.text
    user.ui.outputSegmentation.setCurrentNode(None)
    first.SetDisplayVisibility(False)
    user.segmentations()[3].SetDisplayVisibility(True)  # the figures are those of what is seen
    assert user.ui.resultLabel.text.startswith("CT heart_1:")
    assert user.settings.inputVolume is scan


# --- errors --------------------------------------------------------------------------------------------------------


def _fail(user: User) -> Any:
    """Apply to a scan that the worker refuses."""
    user.scene.Clear(0)
    volume = user.prepare("fast", size=20)
    volume.SetSpacing(0.01, 0.01, 0.01)
    user.apply()
    assert user.ui.errorBox.visible, user.ui.hint.text
    pump(0.1)
    user.widget.segment.refresh()
    assert user.ui.errorBox.visible
    return volume


def test_an_error_goes_when_its_cause_changes(user: User) -> None:
    import slicer

    def other_scan(_volume: Any) -> None:
        user.ui.inputVolume.setCurrentNode(user.load(8, "other"))

    def moved(volume: Any) -> None:
        transform = user.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        volume.SetAndObserveTransformNodeID(transform.GetID())

    def edited(volume: Any) -> None:
        slicer.util.arrayFromVolume(volume)[0] = 7
        slicer.util.arrayFromVolumeModified(volume)

    changes = [
        other_scan,
        moved,
        edited,
        lambda volume: volume.SetSpacing(3, 3, 3),
        user.scene.RemoveNode,
        lambda volume: user.scene.Clear(0),
        lambda volume: user.choose(user.ui.quality, "full"),
        lambda volume: user.choose(user.ui.device, "cpu"),
        lambda volume: user.choose(user.ui.package, "virtual-heart-v2"),
    ]
    for change in changes:
        volume = _fail(user)
        change(volume)
        assert not user.ui.errorBox.visible, change
        user.choose(user.ui.device, "auto")


def _volumes() -> list[Any]:
    import slicer

    return list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))

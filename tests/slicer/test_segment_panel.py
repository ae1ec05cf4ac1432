"""What the Segment panel shows of a scene: the choices, the results of each scan, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6")

from tests.slicer import test_module
from tests.slicer.test_module import User
from tests.support.host import open_module, pump

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


def _volumes() -> list[Any]:
    import slicer

    return list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))

"""The layout of the pairs is lent: files, the user's own layout and views stay in order, whatever happens meanwhile."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PySide6")

from CardiacLDMLib.image.grid import Volume
from tests.support.box_heart import box_pair
from tests.support.host import Host, close_module, open_module, pump, reload_module, start_host

FOUR_UP, RED, EARLIER, UNKNOWN = 3, 6, 7301, 4711
#: Open a scene in Slicer's own classes, as a colleague without the module does; print its layout and its views.
PLAIN_SLICER = """
import json, sys
from trame_slicer.core import SlicerApp
import slicer
app = SlicerApp()
slicer.mrmlScene = app.scene
logic = slicer.vtkMRMLLayoutLogic()
logic.SetMRMLScene(app.scene)
if sys.argv[1].endswith(".mrml"):
    app.scene.SetURL(sys.argv[1])
    assert app.scene.Connect()
else:
    assert app.io_manager.load_scene(sys.argv[1])
node, views = logic.GetLayoutNode(), logic.GetViewNodes()
names = [views.GetItemAsObject(n).GetClassName() for n in range(views.GetNumberOfItems())]
print(json.dumps([node.GetViewArrangement(), bool(node.IsLayoutDescription(node.GetViewArrangement())), names]))
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = start_host()
    host.reset()
    open_module().ui.tabs.currentIndex = 1
    yield host
    close_module()
    host.check()


@pytest.fixture
def pair(host: Host) -> Iterator[Any]:
    """One pair in an empty scene, shown in the place of the user's layout."""
    import slicer

    widget = open_module()
    slicer.mrmlScene.Clear(0)
    widget.ui.tabs.currentIndex = 1
    manager().setLayout(FOUR_UP)
    widget.generateUi.surfaces.checked = False
    pump(0.05)
    widget.generate._viewer.expect()
    pair = add_pair()
    arrive(pair)
    assert in_views() == ["SyntheticCT", "SyntheticLabels"]
    yield pair
    pump(0.05)
    host.check()


def manager() -> Any:
    import slicer

    return slicer.app.layoutManager()


def panel() -> Any:
    return open_module().generate


def in_views() -> list[str]:
    """Return the names of the views in the layout that is shown."""
    views = manager().layoutLogic().GetViewNodes()
    return [views.GetItemAsObject(number).GetLayoutName() for number in range(views.GetNumberOfItems())]


def add_pair(number: int = 0) -> Any:
    import slicer
    from CardiacLDMLib.slicer.pairs import pair_in_steps

    made = box_pair()
    record = {"provenance": json.dumps({"seed": 7, "index": number})}
    steps = pair_in_steps(slicer.mrmlScene, made.image, made.labels, record, ("Pairs", f"Synthetic 7-{number:04d}"))
    return finish(steps)


def finish(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def arrive(pair: Any, first: bool = True) -> None:
    for _step in panel()._arrived(pair, first=first):
        pump(0.0)


def add_scan() -> Any:
    import slicer

    return slicer.util.addVolumeFromArray(np.zeros((4, 4, 4), np.int16), name="A patient")


def save(folder: Path, ending: str) -> Path:
    import slicer

    file = folder / f"scene.{ending}"
    if ending == "mrml":
        slicer.mrmlScene.SetURL(str(file))
        assert slicer.mrmlScene.Commit()
    else:
        assert slicer.mrmlScene.WriteToMRB(str(file), None)
    return file


def open_file(file: Path) -> None:
    import slicer

    if file.suffix == ".mrml":
        slicer.mrmlScene.SetURL(str(file))
        assert slicer.mrmlScene.Connect()
    else:
        slicer.mrmlScene.Clear(0)
        assert slicer.mrmlScene.ReadFromMRB(str(file), True)
    pump(0.05)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mrml", "mrb"])
@pytest.mark.parametrize("panel_is_open", [True, False])
def test_a_scene_saved_with_pairs_opens_with_views_without_the_module(
    pair: Any, tmp_path: Path, ending: str, panel_is_open: bool
) -> None:
    if not panel_is_open:
        close_module()
    shown = in_views()
    file = save(tmp_path, ending)
    assert in_views() == shown  # nothing moves before the user's eyes
    done = subprocess.run([sys.executable, "-c", PLAIN_SLICER, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    number, is_known, views = json.loads(done.stdout.splitlines()[-1])
    assert is_known
    assert number < 100  # one of Slicer's own
    assert sorted(views) == ["vtkMRMLSliceNode"] * 3 + ["vtkMRMLViewNode"]
    open_file(file)
    assert len(in_views()) == 4
    panel()._viewer.fill()
    open_module().generateUi.pairs.cellClicked.emit(0, 0)  # on request
    assert in_views() == ["SyntheticCT", "SyntheticLabels"]
    panel().leave()
    assert len(in_views()) == 4


@pytest.mark.parametrize("number", [EARLIER, UNKNOWN])
def test_a_scene_with_a_layout_that_does_not_exist_opens_with_views(pair: Any, tmp_path: Path, number: int) -> None:
    file = save(tmp_path, "mrml")
    text = file.read_text()
    assert text.count('currentViewArrangement="1"') == 1
    file.write_text(text.replace('currentViewArrangement="1"', f'currentViewArrangement="{number}"'))
    for _again in range(2):
        open_file(file)
        assert manager().layout == FOUR_UP
        assert len(in_views()) == 4
    panel()._viewer.fill()
    assert len(panel()._viewer.pairs) == 1
    open_module().generateUi.pairs.cellClicked.emit(0, 0)  # on request
    assert in_views() == ["SyntheticCT", "SyntheticLabels"]


def test_the_layout_of_earlier_files_is_known_from_the_start(host: Host) -> None:
    import slicer
    from CardiacLDMLib.slicer.panels.generate.views import start_views, stop_views

    close_module()
    stop_views()
    start_views()  # at startupCompleted(), without the module's widget
    node = manager().layoutLogic().GetLayoutNode()
    assert node.IsLayoutDescription(EARLIER)
    node.SetViewArrangement(EARLIER)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndImportEvent)
    assert manager().layout == FOUR_UP
    open_module()


# --- the user's layout ---------------------------------------------------------------------------------------------


def leave_the_module(host: Host, pair: Any) -> None:
    host.modules["CardiacLDM"].leave()


def open_another_tab(host: Host, pair: Any) -> None:
    open_module().ui.tabs.currentIndex = 0


def remove_the_last_pair(host: Host, pair: Any) -> None:
    import slicer

    slicer.mrmlScene.RemoveNode(pair.segmentation)
    slicer.mrmlScene.RemoveNode(pair.volume)


def remove_all_at_once(host: Host, pair: Any) -> None:
    import slicer

    slicer.mrmlScene.StartState(slicer.mrmlScene.BatchProcessState)
    remove_the_last_pair(host, pair)
    slicer.mrmlScene.EndState(slicer.mrmlScene.BatchProcessState)


def close_the_scene(host: Host, pair: Any) -> None:
    import slicer

    slicer.mrmlScene.Clear(0)


def load_a_scan(host: Host, pair: Any) -> None:
    add_scan()
    pump(0.05)


def unload_the_module(host: Host, pair: Any) -> None:
    close_module()


ENDS = [
    leave_the_module, open_another_tab, remove_the_last_pair, remove_all_at_once, close_the_scene, load_a_scan,
    unload_the_module,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_the_users_layout_comes_back(host: Host, pair: Any, end: Any) -> None:
    end(host, pair)
    assert manager().layout == FOUR_UP
    assert sorted(in_views()) == ["1", "Green", "Red", "Yellow"]


@pytest.mark.parametrize("end", ENDS)
def test_a_layout_that_the_user_chose_meanwhile_stays(host: Host, pair: Any, end: Any) -> None:
    manager().setLayout(RED)
    end(host, pair)
    assert manager().layout == RED
    manager().setLayout(1)
    assert sorted(in_views()) == ["1", "Green", "Red", "Yellow"]  # Slicer's own again


def test_slicer_does_not_start_with_the_layout_of_pairs(host: Host, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import qt

    import slicer

    window = qt.QMainWindow()
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    close_module()
    open_module().ui.tabs.currentIndex = 1
    manager().setLayout(RED)
    panel()._viewer.expect()
    arrive(pair)
    assert manager().layout == 1
    window.show()
    assert window.close()  # here Slicer writes the number into its settings
    assert manager().layout == RED
    close_module()


def test_the_layout_comes_back_when_a_scan_is_chosen(host: Host, pair: Any) -> None:
    import slicer

    scan = add_scan()
    pump(0.05)
    ui = open_module()
    for choose in (
        lambda: ui.segmentUi.inputVolume.setCurrentNode(scan),
        lambda: slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(scan.GetID()),
    ):
        ui.segmentUi.inputVolume.setCurrentNode(None)
        slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
        ui.generateUi.pairs.cellClicked.emit(0, 0)
        assert in_views() == ["SyntheticCT", "SyntheticLabels"]
        slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(pair.volume.GetID())
        assert in_views() == ["SyntheticCT", "SyntheticLabels"]  # a pair is no scan
        choose()
        pump(0.05)
        assert manager().layout == FOUR_UP


def test_further_pairs_do_not_take_the_layout(host: Host, pair: Any) -> None:
    manager().setLayout(RED)
    arrive(add_pair(1), first=False)
    assert manager().layout == RED
    host.modules["CardiacLDM"].leave()
    arrive(add_pair(2), first=True)  # another module is looked at
    assert manager().layout == RED
    open_module()
    panel()._viewer.expect()  # Generate is pressed
    manager().setLayout(FOUR_UP)  # while it runs
    arrive(add_pair(3), first=True)
    assert manager().layout == FOUR_UP


def test_many_pairs_do_not_hold_the_window(host: Host, pair: Any) -> None:
    import slicer
    from CardiacLDMLib.slicer.panels.generate import views

    marks, calls = views._started[0].marks, list[Any]()

    def count(self: Any) -> None:
        calls.append(self)

    for number in range(20):
        add_pair(number + 1)
    pump(0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "show_labels_beside", calls.append)
        arrive(add_pair(50), first=False)
        manager().setLayout(RED)
    assert len(calls) == 2  # its own, when it is shown and when the views change
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(marks), "attach", count)
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            node.SetDisplayVisibility(True)
        pump(0.1)
        assert len(calls) == 3
        marks._waits = False


@pytest.mark.parametrize("leaves", [True, False])
def test_the_layout_is_not_taken_again_while_the_first_pair_is_shown(host: Host, pair: Any, leaves: bool) -> None:
    for stop in range(6):
        manager().setLayout(RED)
        panel()._viewer.expect()
        steps = panel()._arrived(pair, first=True)
        for _ in range(stop):
            next(steps)
        is_taken = manager().layout != RED
        if leaves:
            leave_the_module(host, pair)
        else:
            manager().setLayout(RED)
        finish(steps)
        assert manager().layout == (RED if leaves or is_taken else 1)
    assert is_taken


def test_ct_and_labels_are_of_one_pair_when_the_user_chooses_while_another_arrives(host: Host, pair: Any) -> None:
    second = add_pair(1)
    steps = panel()._arrived(second, first=False)
    for _step in range(3):
        next(steps)
    open_module().generateUi.pairs.cellClicked.emit(0, 0)
    finish(steps)
    for name in ("SyntheticCT", "SyntheticLabels"):
        assert manager().sliceWidget(name).mrmlSliceCompositeNode().GetBackgroundVolumeID() == pair.volume.GetID()
    visible = [each.segmentation.GetDisplayNode().GetVisibility() for each in (pair, second)]
    assert visible == [1, 0]


def test_labels_of_a_pair_are_not_drawn_over_a_patient(host: Host, pair: Any) -> None:
    red = manager().sliceWidget("Red")
    red.mrmlSliceCompositeNode().SetBackgroundVolumeID(add_scan().GetID())
    pump(0.05)
    open_module().generateUi.pairs.cellClicked.emit(0, 0)
    display = pair.segmentation.GetDisplayNode()
    assert not display.IsDisplayableInView(red.mrmlSliceNode().GetID())
    assert display.IsDisplayableInView(manager().sliceWidget("SyntheticLabels").mrmlSliceNode().GetID())


def observers() -> int:
    """Return how many functions watch the scene, its layout and its choice of volumes."""
    import slicer

    selection = slicer.app.applicationLogic().GetSelectionNode()
    return sum(
        str(each).count("Tag: ") for each in (slicer.mrmlScene, manager().layoutLogic().GetLayoutNode(), selection)
    )


def test_nothing_is_left_behind_by_reloads_and_scenes(host: Host, pair: Any) -> None:
    import slicer

    counts = []
    for _again in range(4):
        open_module()
        pump(0.05)
        slicer.mrmlScene.Clear(0)
        reload_module()
        pump(0.05)
        close_module()
        pump(0.05)
        counts.append((observers(), len(manager()._slots)))
    assert counts == counts[:1] * 4


# --- surfaces ------------------------------------------------------------------------------------------------------


def test_surfaces_are_shown_on_request_and_framed(host: Host, pair: Any) -> None:
    from CardiacLDMLib.slicer import surfaces

    button, display = open_module().generateUi.surfaces, pair.segmentation.GetDisplayNode()
    assert not surfaces.has_surfaces(pair.segmentation)
    button.click()
    assert pump(20.0, until=lambda: panel()._viewer._surfaces is None)
    pump(0.05)
    assert in_views() == ["SyntheticCT", "SyntheticLabels", "1"]
    assert display.GetVisibility3D()
    segments = [pair.segmentation.GetSegmentation().GetNthSegment(number) for number in range(8)]
    assert all(segment.GetRepresentation("Closed surface").GetNumberOfPoints() for segment in segments)
    renderer = manager().threeDWidget(0).threeDView().renderWindow().GetRenderers().GetFirstRenderer()
    bounds = [0.0] * 6
    pair.segmentation.GetRASBounds(bounds)
    heart = np.reshape(bounds, (3, 2))
    np.testing.assert_allclose(renderer.GetActiveCamera().GetFocalPoint(), heart.mean(1), atol=1.0)
    (mark,) = [actor for actor in renderer.GetActors2D() if actor.IsA("vtkTextActor")]
    assert mark.GetVisibility()
    host.modules["CardiacLDM"].leave()
    assert manager().layout == FOUR_UP
    assert display.GetVisibility3D()
    open_module()
    button.click()
    pump(0.05)
    assert manager().layout == FOUR_UP
    assert not display.GetVisibility3D()
    assert not mark.GetVisibility()
    assert not button.checked


@pytest.mark.parametrize("closes", [True, False])
def test_a_pair_leaves_the_memory_when_it_is_removed(host: Host, pair: Any, closes: bool) -> None:
    import vtk

    import slicer

    widget = open_module()
    widget.generateUi.surfaces.checked = True
    second = add_pair(1)
    arrive(second, first=False)
    pump(0.1)
    volume, labels = vtk.vtkWeakReference(), vtk.vtkWeakReference()
    volume.Set(second.volume)
    labels.Set(second.segmentation.GetSegmentation())
    for node in () if closes else (second.volume, second.segmentation):
        slicer.mrmlScene.RemoveNode(node)
    node = second = None
    if closes:
        slicer.mrmlScene.Clear(0)
    pump(0.1)
    gc.collect()
    assert volume.Get() is None
    assert labels.Get() is None


def test_a_pair_without_a_display_node_is_shown_all_the_same(host: Host, pair: Any) -> None:
    import slicer

    surfaces = open_module().generateUi.surfaces
    surfaces.checked = True
    assert pump(20, until=lambda: pair.segmentation.GetDisplayNode().GetVisibility3D())
    slicer.mrmlScene.RemoveNode(pair.segmentation.GetDisplayNode())
    surfaces.checked = False
    host.check()
    surfaces.checked = True
    assert pump(20, until=lambda: pair.segmentation.GetDisplayNode() is not None)
    pump(0.1)
    host.check()
    assert pair.segmentation.GetDisplayNode().GetVisibility3D()


def test_each_pair_has_its_surfaces_while_they_are_asked_for(host: Host, pair: Any) -> None:
    second = add_pair(1)
    open_module().generateUi.surfaces.click()
    arrive(second, first=False)
    open_module().generateUi.pairs.cellClicked.emit(0, 0)
    assert pump(20.0, until=lambda: panel()._viewer._surfaces is None)
    assert pair.segmentation.GetDisplayNode().GetVisibility()
    assert not second.segmentation.GetDisplayNode().GetVisibility()
    open_module().generateUi.surfaces.click()
    assert in_views() == ["SyntheticCT", "SyntheticLabels"]
    assert not any(each.segmentation.GetDisplayNode().GetVisibility3D() for each in (pair, second))


def test_half_a_pair_never_stays_in_the_scene(host: Host, pair: Any) -> None:
    import slicer
    from CardiacLDMLib.slicer.pairs import pair_in_steps

    made = box_pair()
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")
    image = Volume(made.image.array, made.image.affine)
    stops = 0
    while True:
        steps = pair_in_steps(slicer.mrmlScene, image, made.labels, {}, ("Pairs", "Synthetic half"))
        taken = [step for _, step in zip(range(stops + 1), steps, strict=False)]
        if len(taken) <= stops:
            break
        steps.close()
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == before
        stops += 1
    assert stops >= 2

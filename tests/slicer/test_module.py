"""The module with the steps of a user: unchanged source and forms in the Qt stand-in, real scene, real worker."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("PySide6")

from PySide6 import QtCore, QtWidgets

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.packages import manifest, store
from CardiacLDMLib.slicer import dependencies
from tests.support.host import Heartbeat, Host, close_module, held_ms, open_module, pump, reload_module
from tests.support.person import Person, module_open
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package

#: Longest that our code may hold the window, in milliseconds.
STANDSTILL_MS = 100.0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The stand-in with the module open and a small package that labels the phantom."""
    with module_open(tmp_path_factory, phantom=write_phantom_package) as host:
        yield host


class User(Person):
    """The actions and observations of a user."""

    @property
    def ui(self) -> Any:
        return self.widget.segmentUi

    @property
    def settings(self) -> Any:
        return self.widget.logic.getParameterNode().segment

    def load(self, size: int = 60, name: str = "CT", finer: int = 1) -> Any:
        """Add a scan of 180 mm with ``size`` voxels along each side, each divided into ``finer`` along each side."""
        from CardiacLDMLib.slicer import volumes

        affine = np.diag([180.0 / size] * 3 + [1.0])
        affine[:3, 3] = -90.0
        volume = phantom(Grid((size,) * 3, affine))[0]
        if finer > 1:
            affine[:3, :3] /= finer
            array = volume.array
            for axis in range(3):
                array = array.repeat(finer, axis)
            volume = Volume(array, affine)
        return volumes.volume_to_node(self.scene, volume, name)

    def prepare(self, quality: str = "full", size: int = 60, finer: int = 1) -> Any:
        volume = self.load(size, finer=finer)
        self.ui.inputVolume.setCurrentNode(volume)
        self.choose(self.ui.package, "phantom")
        self.choose(self.ui.quality, quality)
        return volume

    def apply(self) -> None:
        """Press Apply and wait for the end."""
        self.ui.apply.click()
        self.wait(lambda: not self.widget.segment.running)

    def apply_half(self) -> None:
        """Press Apply and wait until the networks have begun."""
        self.ui.apply.click()
        self.wait(lambda: self.ui.progressBar.value >= 15)
        assert self.widget.segment.running

    def settle(self) -> None:
        """Wait until nothing is done in the background."""
        dispatcher = self.widget.logic.dispatcher
        self.wait(lambda: not dispatcher._background and not dispatcher.client.busy)

    @property
    def worker(self) -> int:
        """The process id of the worker."""
        return self.widget.logic.client._process.pid


@pytest.fixture
def user(host: Host) -> Iterator[User]:
    """An empty scene and an idle worker that is kept from test to test."""
    if "CardiacLDM" not in host.modules:
        open_module()
    user = User(host)
    user.scene.Clear(0)
    host.messages.clear()
    host.answers.clear()
    user.wait(lambda: not user.widget.logic.client.busy)
    yield user
    user.widget.segment.cancel()
    user.wait(lambda: not user.widget.logic.client.busy)
    host.check()


def jobs_folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("cardiacldm-job-*"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


# --- one scan ------------------------------------------------------------------------------------------------------


def test_a_scan_is_segmented_and_everything_is_in_the_scene(user: User) -> None:
    from CardiacLDMLib.slicer import segmentations, volumes

    assert not user.ui.apply.enabled
    assert "Choose a CT scan" in user.ui.hint.text
    volume = user.prepare()
    assert user.ui.apply.enabled
    stages = set()
    user.ui.apply.click()
    assert user.ui.apply.text == "&Cancel"
    assert not user.ui.inputVolume.enabled

    def ended() -> bool:
        stages.add(user.ui.progressLabel.text)
        return not user.widget.segment.running

    user.wait(ended)
    assert any("Segmenting, step" in stage and "of 100" in stage for stage in stages)
    assert user.ui.apply.text == "&Apply"
    assert not user.ui.errorBox.visible
    (node,) = user.segmentations()
    assert node.GetName() == "CT heart"
    assert list(node.GetSegmentation().GetSegmentIDs()) == list(anatomy.NAMES)
    labels = segmentations.labels_from_segmentation(node, volume).array
    truth = phantom(volumes.volume_from_node(volume).grid)[1].array
    assert 2 * ((labels == truth) & (truth > 0)).sum() / ((labels > 0).sum() + (truth > 0).sum()) > 0.8
    record = volumes.provenance(node)
    assert (record["package"], record["device"], record["quality"]) == ("phantom", "cpu", "full")
    assert len(record["sha256"]) == 64
    assert user.settings.result is node
    assert user.settings.outputSegmentation is None  # the next one is new again
    assert not jobs_folders()
    user.wait(lambda: node.GetDisplayNode().GetVisibility3D() and _has_surfaces(node), 10)


def _has_surfaces(node: Any) -> bool:
    return node.GetSegmentation().GetSegment("LV").GetRepresentation("Closed surface") is not None


def test_a_scan_and_its_result_leave_the_memory_with_the_scene(user: User) -> None:
    scan = user.prepare("fast")
    user.apply()
    user.settle()
    results = user.segmentations()
    user.wait(lambda: _has_surfaces(results[0]), 20)
    pump(0.5)  # corrections are looked for
    kept = {"scan": _weak(scan.GetImageData()), "result": _weak(results[0].GetSegmentation())}
    user.scene.RemoveNode(scan)
    del scan
    pump(0.1)
    gc.collect()
    assert _present(kept) == ["result"]
    results.clear()
    user.scene.Clear(0)
    pump(0.1)
    gc.collect()
    assert _present(kept) == []


def _weak(thing: Any) -> Any:
    import vtk

    reference = vtk.vtkWeakReference()
    reference.Set(thing)
    return reference


def _present(references: dict[str, Any]) -> list[str]:
    return [name for name, reference in references.items() if reference.Get() is not None]


def test_a_scan_that_slicer_takes_for_smaller_than_its_file_says_is_named(user: User, tmp_path: Path) -> None:
    from CardiacLDMLib.slicer import volumes

    scan = volumes.volume_from_node(user.prepare("fast"))
    image = nib.Nifti1Image(np.array(scan.array), scan.affine @ np.diag([1.0, 1.0, 1.5, 1.0]))
    image.header["pixdim"][1:4] = 3.0
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = user.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = user.scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "scan.nii.gz"))
    volume.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.ReadData(volume) == 1
    user.ui.inputVolume.setCurrentNode(volume)
    user.apply()
    assert "3 x 3 x 4.5 mm" in user.ui.warningsLabel.text
    assert "LV measures" in user.ui.warningsLabel.text


def test_the_result_is_read_and_clicked_on(user: User) -> None:
    import slicer
    from CardiacLDMLib.slicer import segmentations

    user.prepare()
    user.apply()
    assert "took" in user.ui.resultLabel.text
    assert "the CPU" in user.ui.resultLabel.text
    assert "LV measures" in user.ui.warningsLabel.text
    table = user.ui.volumes
    assert [table.item(row, 0).data(QtCore.Qt.ItemDataRole.UserRole) for row in range(8)] == list(anatomy.NAMES)
    assert table.item(1, 2).text() == "small"
    assert "40 to 350 mL" in table.item(1, 0).toolTip()
    numbers = [table.item(row, 1).data(QtCore.Qt.ItemDataRole.DisplayRole) for row in range(8)]
    assert all(isinstance(number, float) and 20 < number < 45 for number in numbers)
    table.sortByColumn(1, QtCore.Qt.SortOrder.DescendingOrder)
    assert [table.item(row, 1).data(0) for row in range(8)] == sorted(numbers, reverse=True)
    slicer.app.layoutManager().sliceViewNames()
    name = table.item(5, 0).data(QtCore.Qt.ItemDataRole.UserRole)
    table.cellClicked.emit(5, 0)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetSliceToRAS()
    wanted = segmentations.structure_centre(user.segmentations()[0], name)
    assert [red.GetElement(axis, 3) for axis in range(3)] == pytest.approx(list(wanted), abs=1.0)


def test_a_second_job_finds_a_warm_worker_and_makes_a_second_node(user: User) -> None:
    user.prepare()
    user.apply()
    worker = user.worker
    user.apply()
    assert user.worker == worker
    assert [node.GetName() for node in user.segmentations()] == ["CT heart", "CT heart_1"]


def test_a_segmentation_is_replaced_only_after_asking(user: User) -> None:
    user.prepare()
    user.apply()
    (node,) = user.segmentations()
    node.GetSegmentation().GetSegment("LV").SetName("by hand")
    user.ui.outputSegmentation.setCurrentNode(node)
    user.ui.apply.click()
    assert "'CT heart'" in user.host.texts("confirm")[0]
    assert not user.widget.segment.running  # the answer was no
    assert node.GetSegmentation().GetSegment("LV").GetName() == "by hand"
    user.host.answer("Replace", True)
    user.apply()
    assert user.segmentations() == [node]
    assert node.GetSegmentation().GetSegment("LV").GetName() == "Left ventricle"


def test_what_was_chosen_is_kept_with_the_scene(user: User, tmp_path: Path) -> None:
    user.prepare(quality="fast")
    user.choose(user.ui.device, "cpu")
    user.apply()
    table = [user.ui.volumes.item(row, 1).text() for row in range(8)]
    user.scene.SetRootDirectory(str(tmp_path))
    user.scene.SetURL(str(tmp_path / "scene.mrml"))
    for node in (user.settings.inputVolume, *user.segmentations()):
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(str(tmp_path / f"{node.GetID()}{'.seg' * ('Segmentation' in node.GetID())}.nrrd"))
        user.scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
    _save_tables(user, tmp_path)
    assert user.scene.Commit()
    user.scene.Clear(0)
    assert user.ui.inputVolume.currentNode() is None
    assert not user.ui.resultBox.visible
    user.choose(user.ui.quality, "flips")
    assert user.scene.Connect()
    pump(0.1)
    assert user.ui.inputVolume.currentNode().GetName() == "CT"
    chosen = (user.ui.package.currentData, user.ui.device.currentData, user.ui.quality.currentData)
    assert chosen == ("phantom", "cpu", "fast")
    assert user.ui.resultBox.visible
    assert [user.ui.volumes.item(row, 1).text() for row in range(8)] == table


def _save_tables(user: User, folder: Path) -> None:
    import slicer

    for node in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(str(folder / f"{node.GetID()}.tsv"))
        user.scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)


def test_after_apply_the_views_show_the_heart(user: User) -> None:
    import slicer
    from CardiacLDMLib.slicer import surfaces

    window = slicer.app.layoutManager().threeDWidget(0).threeDView().renderWindow()
    camera = window.GetRenderers().GetFirstRenderer().GetActiveCamera()
    camera.SetFocalPoint(500.0, 500.0, 500.0)  # an earlier test may have left it on the same heart
    camera.SetFocalPoint(500.0, 0.0, 0.0)  # another test may have left it at the heart
    before = camera.GetFocalPoint()
    user.prepare("fast")
    user.apply()
    (node,) = user.segmentations()
    user.wait(lambda: _has_surfaces(node) and camera.GetFocalPoint() != before, 20)
    bounds = surfaces.heart_bounds(node)
    centre = bounds.mean(axis=0)
    for view, axis in (("Red", 2), ("Green", 1), ("Yellow", 0)):
        place = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode().GetSliceToRAS()
        assert place.GetElement(axis, 3) == pytest.approx(centre[axis], abs=1.0)
    assert camera.GetFocalPoint() == pytest.approx(tuple(centre))
    distance = np.linalg.norm(np.array(camera.GetPosition()) - centre)
    assert distance < 5 * np.linalg.norm(bounds[1] - bounds[0])


def test_the_heart_window_is_one_click_away(user: User) -> None:
    volume = user.prepare("fast")
    user.apply()
    assert user.ui.resultWindow.visible  # offered with the result
    user.ui.resultWindow.click()
    display = volume.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert 500 <= display.GetWindow() <= 1200
    assert not user.ui.resultWindow.visible
    display.SetWindowLevel(2000, 0)
    user.ui.heartWindow.click()
    assert 500 <= display.GetWindow() <= 1200


def test_label_maps_are_not_offered_as_scans_and_the_first_scan_is_taken(user: User) -> None:
    user.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    user.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    assert user.ui.inputVolume.nodeCount() == 0
    assert user.ui.inputVolume.currentNode() is None
    volume = user.load()
    assert user.ui.inputVolume.currentNode() is volume
    assert user.ui.apply.enabled
    user.scene.RemoveNode(volume)
    assert not user.ui.apply.enabled


# --- before Apply ---------------------------------------------------------------------------------------------------


@pytest.fixture
def requests(user: User, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that the worker gets."""
    sent: list[Any] = []
    client = user.widget.logic.client
    submit = client.submit

    def record(request: Any, listener: Any) -> Any:
        sent.append(request)
        return submit(request, listener)

    monkeypatch.setattr(client, "submit", record)
    return sent


def test_the_chosen_package_is_loaded_before_apply(user: User, requests: list[Any]) -> None:
    user.prepare("fast")
    user.apply()
    worker = user.worker
    requests.clear()
    user.widget.enter()
    user.widget.enter()
    assert user.ui.apply.enabled  # nobody waits for what is done in the background
    user.settle()
    assert [request.job for request in requests] == ["list_devices", "load_segmenter"]
    assert requests[-1].package == "phantom"
    user.choose(user.ui.package, store.DEFAULT_PACKAGE)
    user.choose(user.ui.quality, "flips")  # is no part of what is loaded
    user.settings.package = "phantom"  # as a scene does that is loaded
    user.settle()
    assert {request.job for request in requests[2:]} == {"load_segmenter"}
    assert requests[-1].package == "phantom"
    assert user.worker == worker
    assert not user.host.messages


def test_the_package_is_loaded_again_for_another_scan_if_the_worker_has_ended(user: User, requests: list[Any]) -> None:
    user.prepare("fast")
    user.settle()
    os.kill(user.worker, signal.SIGTERM)
    user.wait(lambda: not user.widget.logic.dispatcher.has_worker)
    requests.clear()
    user.ui.inputVolume.setCurrentNode(user.load(name="other"))
    user.settle()
    assert [request.job for request in requests] == ["load_segmenter"]
    assert user.widget.logic.dispatcher.has_worker
    assert not user.host.messages


def test_a_job_waits_for_what_is_loaded_in_the_background(user: User, requests: list[Any]) -> None:
    user.prepare("fast")
    user.settle()
    requests.clear()
    user.widget.logic.dispatcher.load_segmenter(store.DEFAULT_PACKAGE, "auto")
    user.wait(lambda: requests)
    user.apply()
    assert len(user.segmentations()) == 1
    assert [request.job for request in requests] == ["load_segmenter", "segment_volume"]


def test_a_package_that_cannot_be_loaded_is_reported_at_apply(user: User) -> None:
    folder = store.user_packages_dir() / "cut"
    write_phantom_package(folder)
    weights = folder / "segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    try:
        user.widget.segment.show_packages()
        user.prepare("fast")
        user.choose(user.ui.package, "cut")
        user.settle()
        assert not user.ui.errorBox.visible
        assert not user.host.messages
        user.apply()
        assert "cut short" in user.ui.errorLabel.text
    finally:
        shutil.rmtree(folder)
        user.widget.segment.show_packages()


# --- transforms ----------------------------------------------------------------------------------------------------


def test_a_scan_under_a_linear_transform_keeps_its_place(user: User) -> None:
    import vtk

    volume = user.prepare()
    transform = user.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkTransform()
    matrix.RotateZ(10)
    matrix.Translate(5, 0, 0)
    transform.SetMatrixTransformToParent(matrix.GetMatrix())
    volume.SetAndObserveTransformNodeID(transform.GetID())
    user.apply()
    assert user.segmentations()[0].GetTransformNodeID() == transform.GetID()


def test_a_bent_transform_is_hardened_with_one_click(user: User) -> None:
    import vtk

    volume = user.prepare()
    points = vtk.vtkPoints()
    moved = vtk.vtkPoints()
    for place in np.ndindex(2, 2, 2):
        corner = np.array(place) * 180.0 - 90.0
        points.InsertNextPoint(corner)
        moved.InsertNextPoint(corner + (3.0 if sum(place) == 3 else 0.0))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(moved)
    spline.SetBasisToR()
    bent = user.scene.AddNewNodeByClass("vtkMRMLTransformNode")
    bent.SetAndObserveTransformToParent(spline)
    assert user.ui.apply.enabled
    volume.SetAndObserveTransformNodeID(bent.GetID())
    assert not user.ui.apply.enabled
    assert user.ui.harden.visible
    assert "transform" in user.ui.hint.text
    with pytest.raises(RuntimeError, match="transform"):
        user.widget.logic.segment(volume)
    user.ui.harden.click()
    assert volume.GetTransformNodeID() is not None  # the answer was no
    user.host.answer("resampled through its transform", True)
    user.ui.harden.click()
    assert volume.GetTransformNodeID() is None
    assert user.ui.apply.enabled
    assert not user.ui.harden.visible


def test_a_sheared_scan_is_refused_before_apply(user: User) -> None:
    import vtk

    volume = user.prepare()
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 1, 0.2)
    sheared = user.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    sheared.SetMatrixTransformToParent(matrix)
    volume.SetAndObserveTransformNodeID(sheared.GetID())
    assert not user.ui.apply.enabled
    assert "sheared" in user.ui.hint.text
    assert not user.ui.harden.visible  # it would not help
    matrix.Identity()
    sheared.SetMatrixTransformToParent(matrix)
    assert user.ui.apply.enabled


# --- things that go wrong ------------------------------------------------------------------------------------------


def test_cancel_half_way_leaves_the_scene_alone(user: User, record_property: Any) -> None:
    user.prepare("flips", size=90)
    user.apply_half()
    began = time.monotonic()
    user.ui.apply.click()
    user.wait(lambda: not user.widget.segment.running)
    record_property("cancel_s", time.monotonic() - began)
    assert time.monotonic() - began < 4.0
    assert not user.segmentations()
    assert not user.ui.errorBox.visible
    assert not jobs_folders()
    user.choose(user.ui.quality, "fast")
    user.apply()
    assert len(user.segmentations()) == 1


def test_a_killed_worker_is_one_sentence_and_the_next_job_works(user: User, record_property: Any) -> None:
    user.prepare("flips", size=90)
    user.apply_half()
    worker = user.worker
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    user.wait(lambda: not user.widget.segment.running)
    record_property("noticed_s", time.monotonic() - began)
    assert user.ui.errorBox.visible
    assert "signal 9" in user.ui.errorLabel.text
    assert user.ui.errorLabel.text.count(".") == 1
    assert "Traceback" not in user.ui.errorLabel.text
    assert not user.segmentations()
    assert not jobs_folders()
    user.choose(user.ui.quality, "fast")
    user.apply()
    record_property("next_job_s", time.monotonic() - began)
    assert user.worker != worker
    assert len(user.segmentations()) == 1
    assert not user.ui.errorBox.visible


def test_closing_the_scene_half_way_ends_the_job(user: User) -> None:
    user.prepare("flips", size=90)
    user.apply_half()
    user.scene.Clear(0)
    user.wait(lambda: not user.widget.segment.running)
    user.wait(lambda: not user.widget.logic.client.busy)
    assert not user.segmentations()
    assert "Choose a CT scan" in user.ui.hint.text
    user.prepare("fast")
    user.apply()
    assert len(user.segmentations()) == 1


def test_removing_the_scan_half_way_ends_the_job(user: User) -> None:
    volume = user.prepare("flips", size=90)
    user.apply_half()
    user.scene.RemoveNode(volume)
    user.wait(lambda: not user.widget.segment.running)
    assert not user.segmentations()


def test_refusals_of_the_worker_are_shown(user: User) -> None:
    volume = user.prepare()
    volume.SetSpacing(0.01, 0.01, 0.01)
    user.apply()
    assert user.ui.errorBox.visible
    assert user.ui.errorLabel.text.endswith(".")
    user.ui.detailsText.setPlainText("line")
    user.ui.copyDetails.click()
    assert QtWidgets.QApplication.clipboard().text() == f"{user.ui.errorLabel.text}\n\nline"


def test_missing_libraries_are_announced_before_anything_is_done(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    user.prepare()
    monkeypatch.setattr(dependencies, "missing", lambda: dependencies.required()[1:2])
    user.ui.apply.click()
    assert not user.widget.segment.running  # the answer was no
    assert any("needs 1 Python package" in text for text in user.host.texts("confirm"))
    assert not user.segmentations()


def test_the_module_opens_where_libraries_are_missing() -> None:
    """In an interpreter that cannot import them."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'torch', 'monai', 'safetensors', 'cc3d', 'pydantic'}:
            raise ModuleNotFoundError(name, name=name)
sys.path.insert(0, '.')
from tests.support.host import start_host, open_module, close_module, pump
host = start_host()
for name in [n for n in sys.modules if n.partition('.')[0] in {'torch', 'monai', 'safetensors', 'cc3d', 'pydantic'}]:
    del sys.modules[name]
for name in [n for n in sys.modules if n.startswith('CardiacLDMLib')]:
    del sys.modules[name]
sys.meta_path.insert(0, Refuse())
widget = open_module()
pump(0.2)
host.check()
assert widget.segmentUi.package.currentData == 'virtual-heart-v2'
close_module()
host.check()
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_name_of_the_default_package_is_the_packages() -> None:
    from CardiacLDMLib.slicer.panels.segment.panel import DEFAULT_PACKAGE

    assert DEFAULT_PACKAGE == store.DEFAULT_PACKAGE


# --- the window lives on -------------------------------------------------------------------------------------------


def test_the_window_is_never_held(user: User, record_property: Any) -> None:
    """A scan of 47 million voxels: upload, labels, volumes and surfaces."""
    user.prepare("fast", finer=6)

    def run() -> None:
        known = user.segmentations()
        user.apply()
        user.wait(lambda: any(_has_surfaces(node) for node in user.segmentations() if node not in known), 20)
        pump(0.3)

    with Heartbeat() as beat:
        held = held_ms(run, STANDSTILL_MS)
    record_property("held_cpu_ms", held)
    record_property("beat_wall_ms", beat.longest_ms)
    print(f"held: {held:.0f} ms of computing, {beat.longest_ms:.0f} ms between beats")
    assert held < STANDSTILL_MS


# --- reloading -----------------------------------------------------------------------------------------------------


def test_reloading_ends_the_worker_and_leaves_a_module_that_works(user: User) -> None:
    user.prepare("flips", size=90)
    user.apply_half()
    worker, old = user.worker, user.widget
    count = _observers(user)
    reload_module()
    user.wait(lambda: not alive(worker), 10)
    assert user.widget is not old
    assert not old.logic.client.busy
    assert not user.segmentations()
    assert not jobs_folders()
    assert user.ui.inputVolume.currentNode().GetName() == "CT"  # the scene remembers
    assert user.ui.quality.currentData == "flips"
    assert _observers(user) == count
    user.choose(user.ui.quality, "fast")
    user.apply()
    assert len(user.segmentations()) == 1


def _observers(user: User) -> int:
    """Return the number of our observers of the scene and the parameter node."""
    widget = user.widget
    return len(widget.Observations) + len(widget.segment._observers.Observations)


# --- keys and the end ------------------------------------------------------------------------------------------------


def press(widget: Any, key: Any, modifier: Any) -> None:
    """Press a key in the window of ``widget``, wherever the focus is in it."""
    from PySide6 import QtTest

    window = QtWidgets.QWidget.window(widget)
    window.activateWindow()
    pump(until=lambda: QtWidgets.QApplication.activeWindow() is not None, seconds=5)
    QtTest.QTest.keyClick(window, key, modifier)
    pump(0.3)  # a button that is pressed by its letter goes down for 0.1 s


def test_apply_has_keys(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    key, modifier = QtCore.Qt.Key, QtCore.Qt.KeyboardModifier
    panel, dispatcher, jobs = user.widget.segment, user.widget.logic.dispatcher, list[Any]()
    monkeypatch.setattr(dispatcher, "submit", lambda _request, listener: jobs.append(listener))  # a job without an end
    monkeypatch.setattr(dispatcher, "cancel", lambda: jobs[-1].cancelled() is None)
    press(user.ui.apply, key.Key_Return, modifier.ControlModifier)
    assert not jobs  # there is no scan
    user.prepare()
    press(user.ui.apply, key.Key_Return, modifier.ControlModifier)
    assert len(jobs) == 1
    press(user.ui.apply, key.Key_Return, modifier.ControlModifier)
    assert panel.running  # a second press cancels nothing
    press(user.ui.apply, key.Key_C, modifier.AltModifier)
    assert not panel.running
    press(user.ui.apply, key.Key_A, modifier.AltModifier)
    assert len(jobs) == 2
    panel.cancel()
    assert not panel.running


def test_no_letter_means_two_things() -> None:
    """In one tab, and none is that of one of Slicer's menus: File, Edit, View, Help."""
    for form in ("Segment", "Generate", "Review", "Models"):
        text = (Path(manifest.__file__).parents[2] / "Resources" / "UI" / f"{form}.ui").read_text()
        letters = [match.lower() for match in re.findall(r"<string>[^<]*&amp;(\w)[^<]*</string></property>", text)]
        assert len(letters) >= 9
        assert len(set(letters)) == len(letters)
        assert not set(letters) & set("fevh")


def test_slicer_asks_before_it_is_closed_during_a_job(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    import qt

    import slicer

    window = qt.QMainWindow()
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    close_module()
    open_module()
    user.prepare("flips", size=90)
    user.settle()
    window.show()
    assert window.close()  # no job: no question
    assert not user.host.messages
    user.apply_half()
    window.show()
    assert not window.close()  # the answer was no
    assert user.widget.segment.running
    assert "working" in user.host.texts("confirm")[0]
    user.host.answer("working", True)
    assert window.close()
    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda _app: True)
    window.show()
    assert window.close()
    assert len(user.host.texts("confirm")) == 2
    user.widget.segment.cancel()
    user.wait(lambda: not user.widget.segment.running)
    close_module()
    window.show()
    assert window.close()
    open_module()


# --- a folder ------------------------------------------------------------------------------------------------------


def _column(table: Any, column: int) -> list[str]:
    return [table.item(row, column).text() for row in range(table.rowCount)]


def _scans(folder: Path, count: int) -> Path:
    """Make a folder with a broken file, ``count`` scans, and a scan that is too thin."""
    folder.mkdir()
    (folder / "0-broken.nii.gz").write_bytes(b"no scan")
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -90.0
    volume = phantom(Grid((60, 60, 60), affine))[0]
    for number in range(1, count + 1):
        write_volume(volume, folder / f"{number}-heart.nii.gz")
    write_volume(Volume(volume.array[:20, :20, :2], affine), folder / "9-thin.nii.gz")
    return folder


def test_a_folder_is_done_scan_by_scan_and_bad_ones_are_red(user: User, tmp_path: Path) -> None:
    scans, out = _scans(tmp_path / "scans", 2), tmp_path / "results"
    user.prepare("fast")
    ui = user.ui
    assert not ui.batchApply.enabled
    ui.batchInput.currentPath, ui.batchOutput.currentPath = str(scans), str(out)
    assert ui.batchApply.enabled
    ui.batchApply.click()
    assert ui.batchApply.text == "Cancel &batch"
    assert not ui.apply.enabled
    user.wait(lambda: not user.widget.batch.running)
    table = ui.batchTable
    states = dict(zip(_column(table, 0), _column(table, 1), strict=True))
    assert states == {"0-broken": "failed", "1-heart": "done", "2-heart": "done", "9-thin": "failed"}
    row = _column(table, 0).index("9-thin")
    assert "slices" in table.item(row, 3).text()
    assert table.item(row, 1).foreground().color().red() > 200
    assert 150 < float(table.item(_column(table, 0).index("1-heart"), 2).text()) < 250
    assert all(fact in ui.batchLabel.text for fact in ("2 done", "2 failed"))
    assert {path.name for path in out.glob("1-heart*")} == {
        f"1-heart{ending}" for ending in (".labels.nii.gz", ".seg.nrrd", ".png", ".report.json")
    }
    report = json.loads((out / "1-heart.report.json").read_text())
    assert report["quality"] == "fast"
    assert ui.apply.enabled
    heart_ml = table.item(1, 2).text()
    (out / "2-heart.report.json").unlink()  # as if the process had been killed before the last file
    ui.batchApply.click()  # again: what is there is not done twice
    user.wait(lambda: not user.widget.batch.running)
    assert _column(table, 1) == ["failed", "already there", "done", "failed"]
    assert table.item(1, 2).text() == heart_ml
    assert all(fact in ui.batchLabel.text for fact in ("1 done", "1 already there", "2 failed"))
    written = (out / "1-heart.report.json").stat().st_mtime_ns
    for path in scans.glob("[029]*"):
        path.unlink()
    ui.batchReplace.checked = True
    ui.batchApply.click()
    user.wait(lambda: not user.widget.batch.running)
    assert _column(table, 1) == ["done"]
    assert (out / "1-heart.report.json").stat().st_mtime_ns > written


def test_a_batch_can_be_cancelled(user: User, tmp_path: Path) -> None:
    scans, out = _scans(tmp_path / "scans", 3), tmp_path / "results"
    user.prepare("flips")
    ui = user.ui
    ui.batchInput.currentPath, ui.batchOutput.currentPath = str(scans), str(out)
    ui.batchApply.click()
    user.wait(lambda: any(state.endswith("%") and int(state[:-2]) > 12 for state in _column(ui.batchTable, 1)))
    ui.batchApply.click()
    user.wait(lambda: not user.widget.batch.running)
    assert _column(ui.batchTable, 1).count("cancelled") >= 3
    assert "cancelled" in ui.batchLabel.text
    assert not list(out.glob("*")) if out.exists() else True


def test_results_of_a_batch_are_opened_from_its_table(user: User, tmp_path: Path) -> None:
    from CardiacLDMLib.slicer import segmentations, volumes

    scans, out = _scans(tmp_path / "scans", 3), tmp_path / "results"
    user.prepare("fast")
    ui, batch = user.ui, user.widget.batch
    ui.batchInput.currentPath, ui.batchOutput.currentPath = str(scans), str(out)
    assert not ui.batchOpen.enabled
    ui.batchApply.click()
    user.wait(lambda: _column(ui.batchTable, 1).count("done") == 1)
    rows = {name: row for row, name in enumerate(_column(ui.batchTable, 0))}
    ui.batchTable.cellDoubleClicked.emit(rows["1-heart"], 0)  # while the next scan runs
    user.wait(lambda: not batch.running)
    assert _column(ui.batchTable, 1).count("done") == 3
    (node,) = user.segmentations()
    volume = user.settings.inputVolume
    assert (volume.GetName(), node.GetName()) == ("1-heart", "1-heart heart")
    assert user.settings.result is node
    assert ui.volumes.rowCount == 8
    assert volumes.provenance(node)["package"] == "phantom"
    grid = Grid((60, 60, 60), volumes.volume_from_node(volume).affine)
    labels = segmentations.labels_from_segmentation(node, volume).array
    truth = phantom(grid)[1].array
    assert 2 * ((labels == truth) & (truth > 0)).sum() / ((labels > 0).sum() + (truth > 0).sum()) > 0.8
    user.wait(lambda: _has_surfaces(user.segmentations()[0]))

    ui.batchTable.cellDoubleClicked.emit(rows["1-heart"], 0)  # again: it is there already
    pump(0.2)
    assert user.segmentations() == [node]
    ui.batchTable.selectRow(rows["0-broken"])
    assert not ui.batchOpen.enabled
    ui.batchTable.selectRow(rows["2-heart"])
    (scans / "2-heart.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    ui.batchOpen.click()
    user.wait(lambda: batch._opening is None)
    assert "2-heart.nii.gz" in ui.batchLabel.text
    assert "2-heart.nii.gz" in ui.batchTable.item(rows["2-heart"], 3).text()
    ui.batchTable.selectRow(rows["3-heart"])
    (out / "3-heart.labels.nii.gz").unlink()
    ui.batchOpen.click()
    user.wait(lambda: batch._opening is None)
    assert "3-heart.labels.nii.gz" in ui.batchLabel.text
    assert user.segmentations() == [node]

    kept = {"closed": _weak(node)}
    del node
    user.scene.Clear(0)
    (tmp_path / "elsewhere.nii.gz").rename(scans / "2-heart.nii.gz")
    ui.batchTable.cellDoubleClicked.emit(rows["2-heart"], 0)
    user.wait(lambda: batch._opening is None)
    pump(0.2)
    gc.collect()
    assert len(user.segmentations()) == 1
    assert _present(kept) == []


def test_other_jobs_of_the_worker_are_waited_for(user: User) -> None:
    """A job that is submitted to the client directly, not through the panel."""
    from CardiacLDMLib.worker.job import JobListener
    from CardiacLDMLib.worker.messages import VerifyPackage

    user.load()
    done: list[Any] = []
    user.widget.logic.client.submit(VerifyPackage(package="phantom"), JobListener(done=done.append, failed=done.append))
    assert not user.ui.apply.enabled
    assert "job" in user.ui.hint.text
    user.wait(lambda: done)
    assert user.ui.apply.enabled


# --- scripts -------------------------------------------------------------------------------------------------------


def test_a_script_waits_for_the_result(user: User) -> None:
    volume = user.load()
    steps = []
    beats = []
    timer = QtCore.QTimer()
    timer.timeout.connect(lambda: beats.append(time.monotonic()))
    timer.start(10)
    node = user.widget.logic.segment(volume, package="phantom", quality="fast", progress=steps.append)
    timer.stop()
    assert [node] == user.segmentations()
    assert steps[-1].step == steps[-1].total == 100
    assert len(beats) > 10  # Slicer responded meanwhile
    again = user.widget.logic.segment(volume, package="phantom", quality="fast", segmentationNode=node)
    assert again is node
    with pytest.raises(RuntimeError, match="nothing"):
        user.widget.logic.segment(volume, package="nothing")


def test_a_script_is_called_back(user: User) -> None:
    volume = user.load()
    told: list[SimpleNamespace] = []
    logic = user.widget.logic

    def start(**options: Any) -> Any:
        return logic.startSegment(
            volume, package="phantom", **options,
            done=lambda node: told.append(SimpleNamespace(what="done", node=node)),
            failed=lambda failure: told.append(SimpleNamespace(what="failed", failure=failure)),
            cancelled=lambda: told.append(SimpleNamespace(what="cancelled")),
        )  # fmt: skip

    job = start(quality="fast")
    with pytest.raises(RuntimeError, match="job"):
        start()
    assert not told
    user.wait(lambda: not job.running)
    start(device="cuda:9")
    user.wait(lambda: len(told) == 2)
    job = start(quality="flips")
    job.cancel()
    user.wait(lambda: not job.running)
    assert [each.what for each in told] == ["done", "failed", "cancelled"]
    assert told[0].node.GetNodeReference("CardiacLDM.volumes").GetNumberOfRows() == 8
    assert "GPU" in told[1].failure.message


# --- the form ------------------------------------------------------------------------------------------------------


def test_devices_are_listed_when_they_are_known(user: User) -> None:
    from CardiacLDMLib.worker.device import Device

    panel = user.widget.segment
    gpu = Device("cuda:0", "NVIDIA RTX A4000", 16 * 1024**3, 10 * 1024**3)
    old = Device("cuda:1", "Tesla M40", problem="the installed torch has no code for it")
    panel.show_devices([gpu, old, Device("cpu", "a CPU", None, None)])
    labels = [user.ui.device.itemText(index) for index in range(user.ui.device.count)]
    assert labels == ["Automatic", "CPU", "GPU 0: NVIDIA RTX A4000, 10.0 of 16.0 GB free"]
    user.choose(user.ui.device, "cuda:0")
    assert user.settings.device == "cuda:0"
    panel.show_devices([])
    assert user.ui.device.currentData == "cuda:0"
    assert "not found" in user.ui.device.currentText
    user.choose(user.ui.device, "auto")


def test_every_control_has_a_tooltip_and_is_reached_by_the_keyboard(user: User) -> None:
    ui = user.ui
    kinds = (QtWidgets.QAbstractButton, QtWidgets.QComboBox, QtWidgets.QTableWidget, QtWidgets.QPlainTextEdit)
    named = {name: control for name, control in vars(ui).items() if isinstance(control, QtWidgets.QWidget)}
    controls = {
        name: control
        for name, control in named.items()
        if (isinstance(control, kinds) or type(control).__name__.startswith(("qMRMLNode", "ctk")))
        and not name.startswith("qt_")
    }
    assert len(controls) >= 16
    assert not [name for name, control in controls.items() if not control.toolTip]
    order = (Path(manifest.__file__).parents[2] / "Resources" / "UI" / "Segment.ui").read_text()
    stops = [line.split(">")[1].split("<")[0] for line in order.splitlines() if "<tabstop>" in line]
    assert set(stops) == set(controls)


def test_the_panel_fits_into_300_pixels(user: User) -> None:
    user.prepare("fast")
    user.ui.batch.collapsed = False
    user.apply()
    pump(0.1)
    user.ui.details.collapsed = False
    user.ui.errorBox.visible = user.ui.harden.visible = True
    pump(0.1)
    assert user.widget.parent.minimumSizeHint.width() <= 300
    user.ui.details.collapsed = True
    user.ui.errorBox.visible = user.ui.harden.visible = False
    user.ui.batch.collapsed = True

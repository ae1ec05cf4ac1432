"""Pictures of the module in each of its states, for the README and to be looked at: ``docs/screenshots/*.png``.

    .venv/bin/python tests/screenshots.py [CT]

The panel is the stand-in's (its look is Qt's Fusion style), the views beside it are Slicer's own; what they show is
what the shipped package makes of the CT, by default that of ``make demo``. Takes some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from PySide6 import QtCore, QtGui, QtWidgets

from cardiacldm_training import views
from CardiacLDMLib import scene
from CardiacLDMLib.volume import read_volume
from host import Host, open_module, pump, start_host

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "screenshots"
CT = ROOT / "demo" / "input" / "chest_ct.nii.gz"
#: Width of the panel beside the views, the least width it must be of use at, and the height of a picture.
WIDE, NARROW, HEIGHT = 420, 300, 860
VIEW = (HEIGHT // 2 * 5 // 4, HEIGHT // 2)
DARK = QtGui.QColor("#1b1b1f")


class Studio:
    """The module with a CT in it, and Slicer's views of that CT."""

    def __init__(self, ct: Path) -> None:
        self.host: Host = start_host()
        QtWidgets.QApplication.setStyle("Fusion")
        views.VIEW_SIZE = VIEW
        self.widget = open_module("CardiacLDM")
        self.node = scene.volume_to_node(self.host.logics.scene, read_volume(ct), "Chest CT")
        self.slices = views.open_slices(self.host.logics, self.node)
        self.solid = _solid_view(self.host)
        self.ui = self.widget.segmentUi
        self.ui.inputVolume.setCurrentNode(self.node)
        self.narrow: list[QtGui.QImage] = []

    def panel(self, width: int) -> QtGui.QImage:
        """The whole module at this width."""
        window = self.host.modules["CardiacLDM"].widgetRepresentation()
        QtWidgets.QWidget.resize(window, width, HEIGHT)
        pump(0.2)
        return QtWidgets.QWidget.grab(window).toImage()

    def shoot(self, name: str, result: Any = None, narrow: bool = False) -> None:
        """Panel and views as ``name.png``; ``result``: the segmentation to look at."""
        pictures = [self.panel(WIDE), *(_image(pixels) for pixels in self._views(result))]
        if narrow:
            self.narrow.append(self.panel(NARROW))
        places = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0)]
        canvas = QtGui.QImage(WIDE + 2 * VIEW[0] + 8, HEIGHT, QtGui.QImage.Format.Format_RGB32)
        canvas.fill(DARK)
        painter = QtGui.QPainter(canvas)
        for number, (picture, (column, row)) in enumerate(zip(pictures, places, strict=False)):
            left = 0 if number == 0 else WIDE + 4 + column * (VIEW[0] + 4)
            painter.drawImage(QtCore.QPoint(left, row * (VIEW[1] + 2)), picture)
        painter.end()
        canvas.save(str(OUT / f"{name}.png"))
        print(f"{name}.png")

    def _views(self, result: Any) -> list[np.ndarray]:
        if result is None:
            points, structure = np.empty((0, 3)), np.empty(0, int)
        else:
            labels = scene.labels_from_segmentation(result, self.node)
            index = np.argwhere(labels.array)
            points = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
            structure = labels.array[tuple(index.T)]
            views.show_like_slicer(result)
        for view in self.slices:
            views._look_at(view, points, structure, float(self.node.GetSpacing()[2]))
        return [*(views._pixels(view) for view in self.slices), self._solid_picture(points)]

    def _solid_picture(self, points: np.ndarray) -> np.ndarray:
        """The 3D view from the front, a little from the left; the box around an empty scene is of no use to anyone."""
        self.solid.set_box_visible(False)
        self.solid.fit_view_to_content()
        camera = self.solid.renderer().GetActiveCamera()
        camera.Azimuth(views.VIEW_FROM_LEFT)
        if len(points):
            self.solid.renderer().ResetCamera(np.stack([points.min(0), points.max(0)], axis=1).ravel().tolist())
            camera.Zoom(1.4)
        self.solid.renderer().ResetCameraClippingRange()
        return views._pixels(self.solid)

    def wait(self, done: Any, seconds: float = 600.0) -> None:
        """Run the event loop until ``done()``."""
        if not pump(seconds, until=done):
            raise SystemExit("It takes too long.")
        self.host.check()


def _solid_view(host: Host) -> Any:
    """One for all pictures: a second one would show nothing."""
    from trame_slicer.views import ThreeDView
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    view = ThreeDView(host.logics.scene, host.logics.app_logic, "1", NoScheduleRendering())
    view.render_window().SetSize(*VIEW)
    view.renderer().SetUseDepthPeeling(False)  # with Mesa's software OpenGL it loses translucent surfaces
    view.set_background_gradient_color(*views.SKY)
    return view


def _image(pixels: np.ndarray) -> QtGui.QImage:
    height, width, _ = pixels.shape
    data = np.ascontiguousarray(pixels)
    return QtGui.QImage(data.tobytes(), width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()


def segment(studio: Studio) -> None:
    """Idle, running, done; then a worker that dies."""
    ui, panel = studio.ui, studio.widget.segment
    pump(1.0)
    studio.shoot("idle", narrow=True)
    ui.apply.click()
    studio.wait(lambda: ui.progressBar.value > 0.4 * ui.progressBar.maximum or not panel.running)
    studio.shoot("running", narrow=True)
    studio.wait(lambda: not panel.running)
    pump(3.0)
    result = studio.host.logics.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    studio.shoot("done", result, narrow=True)

    ui.apply.click()
    studio.wait(lambda: ui.progressBar.value > 0.1 * ui.progressBar.maximum)
    os.kill(_worker(), signal.SIGKILL)
    studio.wait(lambda: not panel.running)
    ui.details.collapsed = False
    studio.shoot("error", result, narrow=True)


def _worker() -> int:
    """The worker's process: the child of this one that runs it."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, parent = entry.read_text(), (entry.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if "worker.py" in command and parent == str(os.getpid()):
            return int(entry.parent.name)
    raise SystemExit("The worker is not running.")


def batch(studio: Studio, ct: Path) -> None:
    """A folder with a good scan, one that is no heart scan, and a file that is cut off."""
    with tempfile.TemporaryDirectory() as folder:
        scans, out = Path(folder) / "scans", Path(folder) / "results"
        scans.mkdir()
        out.mkdir()
        shutil.copy(ct, scans / "case_01.nii.gz")
        (scans / "case_02.nii.gz").write_bytes(ct.read_bytes()[:200_000])
        shutil.copy(ct, scans / "case_03.nii.gz")
        studio.ui.errorBox.visible = False  # of the picture before
        studio.ui.batch.collapsed = False
        studio.ui.batchInput.currentPath, studio.ui.batchOutput.currentPath = str(scans), str(out)
        studio.widget.segment.quality.set("fast")
        studio.ui.batchApply.click()
        studio.wait(lambda: not studio.widget.batch.running)
        studio.ui.batchInput.currentPath, studio.ui.batchOutput.currentPath = "study/scans", "study/results"
        result = studio.host.logics.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        studio.shoot("batch", result, narrow=True)
        studio.ui.batch.collapsed = True


def models(studio: Studio) -> None:
    """The other tab, before and after a device check."""
    studio.widget.ui.tabs.currentIndex = 1
    pump(1.0)
    result = studio.host.logics.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    studio.shoot("models", result, narrow=True)
    check = studio.widget.models.ui.deviceButton
    check.click()
    pump(1.0)
    studio.wait(lambda: check.enabled)
    text = studio.widget.models.ui.deviceText
    text.plainText = re.sub(r"(System: \w+) \S+", r"\1", text.plainText)  # the kernel of one machine is of no interest
    studio.shoot("device", result)


def all_narrow(studio: Studio) -> None:
    """The panel at its least width, every state beside the other."""
    canvas = QtGui.QImage((NARROW + 8) * len(studio.narrow) - 8, HEIGHT, QtGui.QImage.Format.Format_RGB32)
    canvas.fill(DARK)
    painter = QtGui.QPainter(canvas)
    for number, picture in enumerate(studio.narrow):
        painter.drawImage(QtCore.QPoint(number * (NARROW + 8), 0), picture)
    painter.end()
    canvas.save(str(OUT / "narrow.png"))


def main() -> None:
    ct = Path(sys.argv[1]) if len(sys.argv) > 1 else CT
    if not ct.is_file():
        raise SystemExit(f"{ct} is not there: 'make demo' fetches it.")
    OUT.mkdir(parents=True, exist_ok=True)
    views.require_rendering()
    studio = Studio(ct)
    segment(studio)
    batch(studio, ct)
    models(studio)
    all_narrow(studio)


if __name__ == "__main__":
    main()

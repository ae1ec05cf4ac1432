"""Write pictures of the module in each of its states to ``docs/screenshots/*.webp``.

    .venv/bin/python tests/support/screenshots.py [CT] [--package GENERATOR] [--only segment|generate] [--out FOLDER]

The panel is that of the stand-in in Qt's Fusion style; the views beside it are rendered by Slicer's own code. They show
the labels of the shipped package for the CT, by default that of ``make demo``, and pairs of a generator package: the
one that ships, or a tiny one that generates noise. Takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PySide6 import QtCore, QtGui, QtWidgets

from cardiacldm_training.results import views
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.packages.store import DEFAULT_GENERATOR, shipped_packages_dir
from CardiacLDMLib.slicer import pairs, segmentations, volumes
from tests.support.generator_package import write_tiny_generator
from tests.support.host import Host, open_module, pump, start_host

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "screenshots"
_folder = [OUT]
CT = ROOT / "demo" / "input" / "chest_ct.nii.gz"
#: Width of the panel beside the views, the least width it must be of use at, and the height of a picture.
WIDE, NARROW, HEIGHT = 420, 300, 860
VIEW = (HEIGHT // 2 * 5 // 4, HEIGHT // 2)
#: Width of each of the views of a pair.
PAIR_VIEW = 380
DARK = QtGui.QColor("#1b1b1f")


class Studio:
    """The module with a CT, and Slicer's views of that CT."""

    def __init__(self, ct: Path) -> None:
        self.host: Host = start_host()
        QtWidgets.QApplication.setStyle("Fusion")
        views.VIEW_SIZE = VIEW
        # Before the module is opened: the stand-in's layout manager then takes over the slice nodes of these views.
        self.node = volumes.volume_to_node(self.host.logics.scene, read_volume(ct), "Chest CT")
        self.slices = views.open_slices(self.host.logics, self.node)
        self.solid = _solid_view(self.host)
        self.widget = open_module("CardiacLDM")
        for view in self.slices:
            view.fit_view_to_content()
        self.ui = self.widget.segmentUi
        self.ui.inputVolume.setCurrentNode(self.node)
        self.narrow: list[QtGui.QImage] = []

    def panel(self, width: int) -> QtGui.QImage:
        """Return a picture of the whole module at this width."""
        window = self.host.modules["CardiacLDM"].widgetRepresentation()
        QtWidgets.QWidget.resize(window, width, HEIGHT)
        pump(0.2)
        return QtWidgets.QWidget.grab(window).toImage()

    def shoot(self, name: str, result: Any = None, narrow: bool = False) -> None:
        """Write panel and views to ``name.webp``. ``result``: the segmentation that the views show."""
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
        _save(canvas, name)

    def _views(self, result: Any) -> list[np.ndarray]:
        if result is None:
            points, structure = np.empty((0, 3)), np.empty(0, int)
        else:
            labels = segmentations.labels_from_segmentation(result, self.node)
            index = np.argwhere(labels.array)
            points = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
            structure = labels.array[tuple(index.T)]
            views.show_like_slicer(result)
        for view in self.slices:
            views._look_at(view, points, structure, float(self.node.GetSpacing()[2]))
        return [*(views._pixels(view) for view in self.slices), self._solid_picture(points)]

    def _solid_picture(self, points: np.ndarray) -> np.ndarray:
        """Return the 3D view from the front, a little from the left, without the box around the scene."""
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
    """Return the one 3D view for all pictures: a second one would stay empty."""
    from trame_slicer.views import ThreeDView
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    view = ThreeDView(host.logics.scene, host.logics.app_logic, "1", NoScheduleRendering())
    view.render_window().SetSize(*VIEW)
    view.renderer().SetUseDepthPeeling(False)  # with Mesa's software OpenGL it loses translucent surfaces
    view.set_background_gradient_color(*views.SKY)
    return view


def _save(canvas: QtGui.QImage, name: str) -> None:
    """Write ``name.webp``, a fifth of the size of a PNG: each committed picture stays in the history."""
    canvas.save(str(_folder[0] / f"{name}.webp"), quality=90)
    print(f"{name}.webp")


def _image(pixels: np.ndarray) -> QtGui.QImage:
    height, width, _ = pixels.shape
    data = np.ascontiguousarray(pixels)
    return QtGui.QImage(data.tobytes(), width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()


def segment(studio: Studio) -> None:
    """Take pictures of the states idle, running, done, and of a worker that was killed."""
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
    """Return the process id of the worker, a child of this process."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, parent = entry.read_text(), (entry.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if "worker.py" in command and parent == str(os.getpid()):
            return int(entry.parent.name)
    raise SystemExit("The worker is not running.")


def batch(studio: Studio, ct: Path) -> None:
    """Take a picture of a batch: two good scans and a truncated file."""
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
    """Take pictures of the Models & device tab before and after a device check."""
    studio.widget.ui.tabs.currentIndex = 3
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
    """Write one picture of the panel at its smallest width in all states."""
    canvas = QtGui.QImage((NARROW + 8) * len(studio.narrow) - 8, HEIGHT, QtGui.QImage.Format.Format_RGB32)
    canvas.fill(DARK)
    painter = QtGui.QPainter(canvas)
    for number, picture in enumerate(studio.narrow):
        painter.drawImage(QtCore.QPoint(number * (NARROW + 8), 0), picture)
    painter.end()
    _save(canvas, "narrow")


# --- synthetic pairs -----------------------------------------------------------------------------------------------


class PairStudio:
    """The Generate tab, and Slicer's views side by side in the module's layout."""

    def __init__(self, package: str) -> None:
        self.host: Host = start_host()
        QtWidgets.QApplication.setStyle("Fusion")
        self.solid = _solid_view(self.host)  # before the module is opened, as in Studio
        self.solid.render_window().SetSize(PAIR_VIEW, HEIGHT)
        self.widget = open_module("CardiacLDM")
        import slicer
        from CardiacLDMLib.slicer.panels.generate.views import IMAGE_VIEW, LABELS_VIEW, show_side_by_side

        self.host.logics.scene.Clear(0)
        pump(0.2)  # the panel takes up the new scene
        self.widget.ui.tabs.currentIndex = 1
        self.ui, self.panel = self.widget.generateUi, self.widget.generate
        nothing = Volume(np.full((2, 2, 2), -1000, np.int16), np.eye(4))
        self.nothing = volumes.volume_to_node(self.host.logics.scene, nothing, "nothing")
        self.views = [_pair_view(self.host, name, self.nothing) for name in (IMAGE_VIEW, LABELS_VIEW)]
        show_side_by_side()  # only now: a view made later would not get the layout's slice node
        slicer.app.layoutManager().adopt("0", self.solid.render_window())
        self.panel._choose(package)
        self.panel._remember("package", package)

    def shoot(self, name: str) -> None:
        """Write panel and views to ``name.webp``."""
        window = self.host.modules["CardiacLDM"].widgetRepresentation()
        QtWidgets.QWidget.resize(window, WIDE, HEIGHT)
        pump(0.2)
        shown = [*self.views, *([self.solid] if self.ui.surfaces.checked else [])]
        self.solid.set_box_visible(False)
        canvas = QtGui.QImage(WIDE + len(shown) * (PAIR_VIEW + 4), HEIGHT, QtGui.QImage.Format.Format_RGB32)
        canvas.fill(DARK)
        painter = QtGui.QPainter(canvas)
        painter.drawImage(QtCore.QPoint(0, 0), QtWidgets.QWidget.grab(window).toImage())
        for column, view in enumerate(shown):
            painter.drawImage(QtCore.QPoint(WIDE + 4 + column * (PAIR_VIEW + 4), 0), _image(views._pixels(view)))
        painter.end()
        _save(canvas, name)

    def wait(self, done: Any, seconds: float = 1200.0) -> None:
        """Run the event loop until ``done()``."""
        if not pump(seconds, until=done):
            raise SystemExit(f"It takes too long: {self.ui.progressLabel.text}")
        self.host.check()


def _pair_view(host: Host, name: str, first: Any) -> Any:
    """Return one of the two views. It shows the volume ``first`` from the start, so that labels are drawn on top."""
    from trame_slicer.views import SliceView
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    import slicer

    view = SliceView(host.logics.scene, host.logics.app_logic, name, NoScheduleRendering())
    view.render_window().SetSize(PAIR_VIEW, HEIGHT)
    view.set_orientation("Axial")
    view.set_background_volume_id(first.GetID())
    view.fit_view_to_content()
    slicer.app.layoutManager().adopt(name, view.render_window())
    return view


def generate(package: str, check: bool) -> None:
    """Take pictures of the states idle, running with a preview, and done with linked views and surfaces."""
    studio = PairStudio(package)
    ui = studio.ui
    ui.count.value, ui.seed.value, ui.check.checked = 3, 42, check
    first = next(iter(studio.panel.conditions._widgets.values()), None)
    if first is not None:
        first.currentIndex = 1
    pump(1.0)
    studio.shoot("generate-idle")
    ui.apply.click()
    if not studio.panel.running:
        raise SystemExit(ui.hint.text)
    studio.wait(lambda: len(pairs.synthetic_pairs(studio.host.logics.scene)) > 0 or not studio.panel.running)
    studio.wait(lambda: (ui.preview.visible and "Pair 2" in ui.progressLabel.text) or not studio.panel.running)
    studio.shoot("generate-running")
    studio.wait(lambda: not studio.panel.running)
    ui.surfaces.click()
    studio.wait(lambda: studio.panel._viewer._surfaces is None)
    studio.shoot("generate-done")


def stand_in(folder: Path) -> str:
    """Write a package that generates noise, with enough steps for a picture of the running state."""
    return str(write_tiny_generator(folder / "stand-in", steps=60))


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of the module for the README.")
    parser.add_argument("ct", nargs="?", type=Path, default=CT)
    parser.add_argument("--package", help="generator package for the pictures of pairs: a folder")
    parser.add_argument("--only", choices=("segment", "generate"))
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the pictures")
    options = parser.parse_args()
    _folder[:] = [options.out]
    options.out.mkdir(parents=True, exist_ok=True)
    views.require_rendering()
    if options.only != "generate":
        _pictures_of_segmenting(options.ct)
    if options.only != "segment":
        shipped = shipped_packages_dir() / DEFAULT_GENERATOR
        package = options.package or (DEFAULT_GENERATOR if shipped.is_dir() else None)
        with tempfile.TemporaryDirectory() as folder:
            generate(package or stand_in(Path(folder)), check=package is not None)


def _pictures_of_segmenting(ct: Path) -> None:
    if not ct.is_file():
        raise SystemExit(f"{ct} is not there: 'make demo' fetches it.")
    studio = Studio(ct)
    segment(studio)
    batch(studio, ct)
    models(studio)
    all_narrow(studio)


if __name__ == "__main__":
    main()

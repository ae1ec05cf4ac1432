"""Write pictures of the Review tab in each of its states, as screenshots.py does for the others.

    .venv/bin/python tests/support/screenshots_review.py PAIRS [--other FOLDER] [--out FOLDER]

PAIRS: a folder of pairs as ``cardiacldm generate`` writes it, some of them with a fault. ``--other``: other labels of
the same cases, for the picture of a comparison. Verdicts go to a temporary folder.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PySide6 import QtCore, QtGui, QtWidgets

from cardiacldm_training.results import views
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.slicer import volumes
from tests.support import screenshots
from tests.support.host import Host, open_module, pump, start_host
from tests.support.screenshots import DARK, NARROW, WIDE

TALL = 1080
VIEW = (500, TALL // 2 - 2)


class ReviewStudio:
    """The Review tab, and Slicer's views as the tab leaves them."""

    def __init__(self, verdicts: Path) -> None:
        self.host: Host = start_host()
        QtWidgets.QApplication.setStyle("Fusion")
        views.VIEW_SIZE = VIEW
        screenshots.VIEW = VIEW
        nothing = Volume(np.full((2, 2, 2), -1000, np.int16), np.eye(4))
        self.slices = views.open_slices(self.host.logics, volumes.volume_to_node(self.host.logics.scene, nothing, "-"))
        self.solid = screenshots._solid_view(self.host)
        import slicer

        for (name, _orientation), view in zip(views.SLICES, self.slices, strict=True):
            slicer.app.layoutManager().adopt(name, view.render_window())  # which shows the word "Synthetic"
        self.widget = open_module("CardiacLDM")
        self.ui, self.panel = self.widget.reviewUi, self.widget.review
        self.widget.ui.tabs.currentIndex = self.widget.ui.tabs.indexOf(self.widget.ui.reviewTab)
        self.ui.verdictsPath.currentPath = str(verdicts)

    def shoot(self, name: str, width: int = WIDE) -> None:
        """Write panel and views to ``name.webp``."""
        pump(0.3)
        window = self.host.modules["CardiacLDM"].widgetRepresentation()
        QtWidgets.QWidget.resize(window, width, TALL)
        pump(0.2)
        panel = QtWidgets.QWidget.grab(window).toImage()
        self.solid.set_box_visible(False)
        self.solid.renderer().ResetCamera()
        self.solid.renderer().ResetCameraClippingRange()
        pictures = [screenshots._image(views._pixels(view)) for view in (*self.slices, self.solid)]
        left = panel.width() + 4
        canvas = QtGui.QImage(left + 2 * VIEW[0] + 4, panel.height(), QtGui.QImage.Format.Format_RGB32)
        canvas.fill(DARK)
        painter = QtGui.QPainter(canvas)
        painter.drawImage(QtCore.QPoint(0, 0), panel)
        for picture, (column, row) in zip(pictures, [(0, 0), (0, 1), (1, 1), (1, 0)], strict=True):
            painter.drawImage(QtCore.QPoint(left + column * (VIEW[0] + 4), row * (VIEW[1] + 4)), picture)
        painter.end()
        screenshots._save(canvas, name)

    def settle(self) -> None:
        """Wait until all cases are checked and the next one is in the scene."""
        loader = self.panel._loader
        if not pump(120, until=lambda: not loader._running and loader._next() is None):
            raise SystemExit("It takes too long.")
        pump(1.0)
        self.host.check()


def review(studio: ReviewStudio, pairs: Path, other: Path | None) -> None:
    """Take pictures: idle, a case with findings, one structure, the package, compared, trouble, narrow."""
    ui, desk = studio.ui, studio.panel.desk
    ui.readerName.text = ""
    studio.shoot("review-idle")
    ui.readerName.text, ui.casesPath.currentPath = "Ann", str(pairs)
    ui.openCases.click()
    studio.settle()
    faulty = studio.panel._session.names
    desk.choose("pair_0012" if "pair_0012" in faulty else faulty[0])
    studio.settle()
    studio.shoot("review-finding")
    desk.verdicts.choose(2)
    studio.shoot("review-structure")
    desk.verdicts.choose(0)
    studio.shoot("review-all")
    ui.withPackage.click()
    if not pump(300, until=lambda: " s a case" in ui.packageLabel.text):
        raise SystemExit("It takes too long.")
    ui.source.collapsed = False
    studio.shoot("review-package", NARROW)
    ui.source.collapsed = True
    ui.withPackage.click()
    studio.settle()
    desk.judge("reject")
    studio.settle()
    desk.verdicts.choose(6)
    ui.comment.text = "arch is torn"
    desk.judge("fix")
    desk.judge("fix")
    studio.settle()
    if other is not None:
        ui.compare.collapsed = False
        ui.otherFile.currentPath = str(other)
        ui.compareApply.click()
        studio.settle()
        pump(1.0)
        desk._compare._clicked(0, 0)
        studio.shoot("review-compare")
        ui.compareApply.click()
        ui.compare.collapsed = True
    _correct(studio)
    studio.shoot("review-corrected")
    with mock.patch.object(os, "write", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        desk.judge("accept")
    ui.keys.collapsed = False
    studio.settle()
    studio.shoot("review-trouble")
    ui.keys.collapsed = True
    studio.shoot("review-narrow", NARROW)


def _correct(studio: ReviewStudio) -> None:
    """Judge the case, change its labels as the Segment Editor does, and come back."""
    import slicer

    desk = studio.panel.desk
    name = desk.name
    desk.judge("fix")
    studio.settle()
    desk.choose(name)
    studio.settle()
    nodes = studio.panel._loader.nodes[name]
    array = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, "LA", nodes.volume)
    array[: array.shape[0] // 2] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, nodes.segmentation, "LA", nodes.volume)
    desk.take_over()
    pump(1.0)
    studio.settle()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--out", type=Path, default=screenshots.OUT)
    options = parser.parse_args()
    screenshots._folder[:] = [options.out]
    options.out.mkdir(parents=True, exist_ok=True)
    views.require_rendering()
    with tempfile.TemporaryDirectory() as folder:
        review(ReviewStudio(Path(folder) / "review"), options.pairs, options.other)


if __name__ == "__main__":
    main()

"""Compare the labels of a case with a second segmentation: outlines in two colours, Dice and the largest difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

import slicer

from .... import anatomy
from ....errors import UserError, VolumeError
from ....review.sources import cases_of_folder
from ....text import rounded_volume
from ....worker.job import Failure
from ... import segmentations
from ..process import Sliced
from ..scene_jobs import crop_to_box, find_labels
from .loading import CaseLoader
from .nodes import CaseNodes, segmentation_hidden
from .viewer import CaseViewer

if TYPE_CHECKING:
    from ....worker.review_messages import ComparedLabels

STRUCTURE, DICE, LARGEST = range(3)


class CompareBox:
    """The part "Compare" of Review.ui. ``go_to`` is called with a place and a structure."""

    def __init__(self, ui: Any, viewer: CaseViewer, go_to: Callable[[Any, str], None]) -> None:
        self._ui, self._viewer, self._go_to = ui, viewer, go_to
        self._loader: CaseLoader | None = None
        self._nodes: CaseNodes | None = None
        self._import: Sliced | None = None
        self._differences: list[Any] = []
        self._goes_on = False  # whether the next case is compared too
        header = ui.differences.horizontalHeader()
        header.setSectionResizeMode(STRUCTURE, qt.QHeaderView.Stretch)
        for column in (DICE, LARGEST):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        ui.chooseOther.connect("clicked()", self._choose_file)
        ui.compareApply.connect("clicked()", self._apply_or_end)
        ui.otherFile.connect("currentPathChanged(QString)", self.refresh)
        ui.otherNode.connect("currentNodeChanged(vtkMRMLNode*)", self.refresh)
        ui.differences.connect("cellClicked(int,int)", self._clicked)
        ui.differences.connect("cellActivated(int,int)", self._clicked)
        self.end()

    def show(self, loader: CaseLoader | None, nodes: CaseNodes | None) -> None:
        """Compare this case from now on; None for no case. A comparison with a folder goes on with the next case."""
        if nodes is not self._nodes:
            self.end()
            self._loader, self._nodes = loader, nodes
            if self._goes_on and nodes is not None:
                self._apply()
        self.refresh()

    def refresh(self, *_unused: Any) -> None:
        """Enable what is possible now."""
        ui = self._ui
        has_other = bool(ui.otherFile.currentPath) or ui.otherNode.currentNode() is not None
        ui.compareApply.enabled = self._nodes is not None and (has_other or bool(self._differences))
        ui.compareApply.text = _("End co&mparing") if self._differences else _("Co&mpare")
        ui.differences.visible = bool(self._differences)

    def end(self) -> None:
        """Show the case alone."""
        if self._import is not None:
            self._import.stop()
            self._import = None
        self._differences = []
        self._ui.differences.rowCount = 0
        self._viewer.compare(None)
        self._say("")
        self.refresh()

    def _choose_file(self) -> None:
        path = qt.QFileDialog.getOpenFileName(
            self._ui.compareApply, _("Compare with labels in a file"), "", _("Labels (*.nii *.nii.gz *.nrrd *.mha)")
        )
        if path:
            self._ui.otherFile.currentPath = str(path)

    # --- a comparison ---

    def _apply_or_end(self) -> None:
        if self._differences:
            self._goes_on = False
            self.end()
        else:
            is_folder = Path(self._ui.otherFile.currentPath or "?").is_dir()
            self._goes_on = is_folder and self._ui.otherNode.currentNode() is None
            self._apply()

    def _apply(self) -> None:
        if self._loader is None or self._nodes is None or not self._nodes.exists:
            return
        nodes = self._nodes
        try:
            request = self._request(nodes, self._loader)
        except UserError as error:
            self._say(str(error))
            return
        self._say(_("Comparing"))
        self._loader.ask(request, lambda reply: self._compared(nodes, reply), self._failed)

    def _request(self, nodes: CaseNodes, loader: CaseLoader) -> Any:
        from ....worker.review_messages import CompareFile, CompareLabels

        labels = loader.labels.get(nodes.name)
        if labels is None:
            labels = segmentations.labels_from_segmentation(nodes.segmentation, nodes.volume)
        node = self._ui.otherNode.currentNode()
        if node is not None:
            if node is nodes.segmentation:
                raise VolumeError(_("This is the segmentation of the case itself: choose another."))
            return CompareLabels(labels=labels, other=segmentations.labels_from_segmentation(node, nodes.volume))
        return CompareFile(labels=labels, other=other_labels(Path(self._ui.otherFile.currentPath), nodes.name))

    def _failed(self, failure: Failure) -> None:
        self._say(failure.message)

    def _compared(self, nodes: CaseNodes, reply: ComparedLabels) -> None:
        if nodes is not self._nodes or not nodes.exists:
            return
        self._differences = list(reply.differences)
        self._fill()
        self._import = Sliced(self._into_scene(nodes, reply), self._imported)
        self._say(_("Green outlines: this case. Magenta outlines: the other labels."))
        self.refresh()

    def _into_scene(self, nodes: CaseNodes, reply: ComparedLabels) -> Iterator[None]:
        box, _at_edge = yield from find_labels(reply.others.array)
        name = _("{name} compared").format(name=nodes.name)
        if nodes is self._nodes and nodes.exists:
            part = crop_to_box(reply.others, box)
            self._viewer.compare(segmentation_hidden(slicer.mrmlScene, part, name, nodes.volume))

    def _imported(self, error: Exception | None) -> None:
        self._import = None
        if error is not None:
            self._say(_("The other labels cannot be shown: {why}").format(why=error))

    def _say(self, words: str) -> None:
        self._ui.compareLabel.text = words
        self._ui.compareLabel.visible = bool(words)

    # --- the table ---

    def _fill(self) -> None:
        table = self._ui.differences
        table.rowCount = len(self._differences)
        for row, each in enumerate(self._differences):
            structure = anatomy.STRUCTURES[anatomy.NAMES.index(each.structure)]
            texts = (structure.title, f"{each.dice:.2f}", f"{rounded_volume(each.largest_ml):g}")
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(_("The largest part that only one of them gives this structure; click to see it"))
                if column == STRUCTURE:
                    item.setData(qt.Qt.DecorationRole, qt.QColor(*structure.colour))
                else:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(row, column, item)

    def _clicked(self, row: int, _column: int) -> None:
        if row < len(self._differences) and self._differences[row].place is not None:
            self._go_to(self._differences[row].place, self._differences[row].structure)


def other_labels(path: Path, name: str) -> Path:
    """Return the file of labels of the case ``name`` at ``path``: the file itself, or that in a folder of cases.

    Raises :class:`VolumeError`.
    """
    if not path.is_dir():
        return path
    found = next((case.labels for case in cases_of_folder(path) if case.name == name), None)
    if found is None:
        raise VolumeError(_("{folder} holds no labels of {name}.").format(folder=path.name, name=name))
    return found

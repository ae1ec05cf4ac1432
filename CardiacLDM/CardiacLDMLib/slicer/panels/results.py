"""The results of a segmentation: volumes, provenance, warnings and how good the labels are expected to be.

All of it is read from the scene, so a scene that is opened later shows the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt
import vtk
from slicer.i18n import tr as _

import slicer

from ... import anatomy
from ...results.trust import ExpectedDice
from ...text import join_words, rounded_volume, volume_text
from .. import segmentations, volumes
from .parts import ATTENTION

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

STRUCTURE, ML, FLAG, TRUST = range(4)
#: Short forms of the flags for a narrow column; the tooltip has the full text.
SHORT = {
    "not found": _("none"),
    "cut off by the scan's edge": _("cut off"),
    "only a trace": _("trace"),
    "unusually small": _("small"),
    "unusually large": _("large"),
}
#: Words for the expected Dice.
TRUST_WORDS = {"reliable": _("reliable"), "look": _("look"), "wrong": _("wrong")}


class ScanResults:
    """Shows a result of the chosen scan, as long as it is chosen, and keeps up with corrections by hand."""

    def __init__(self, ui: Any) -> None:
        self._box = ResultBox(ui)
        self._observers = slicer.util.VTKObservationMixin()
        self._watched: list[Any] = []
        self._scan: vtkMRMLScalarVolumeNode | None = None
        self._chosen: tuple[Any, ...] = ()

    def show(self, scan: vtkMRMLScalarVolumeNode | None, target: Any, latest: Any) -> None:
        """Show the result in ``target`` if it is one of ``scan``, otherwise the newest one that is visible.

        ``latest``: the result that was made last, which counts as the newest of equal times.
        """
        self._scan, self._chosen = scan, (target, latest)
        self._show()

    def hide(self) -> None:
        """Show no result."""
        self.show(None, None, None)

    def _show(self, *_unused: Any) -> None:
        scan = self._scan if self._scan is not None and slicer.mrmlScene.IsNodePresent(self._scan) else None
        found = segmentations.results_of(scan) if scan is not None else []
        self._watch(found)
        target, latest = self._chosen
        node = target if target in found else max(found, key=lambda each: _rank(each, latest), default=None)
        self._box.show(node, [each.GetName() for each in found if not _is_visible(each)])

    def _watch(self, found: list[Any]) -> None:
        """Observe the results, their tables and whether they are visible."""
        tables = [table for table in map(segmentations.table_of, found) if table is not None]
        if [*found, *tables] == self._watched:
            return
        self._watched = [*found, *tables]
        self._observers.removeObservers()
        kind = slicer.vtkMRMLSegmentationNode
        for node in self._watched:
            for event in (vtk.vtkCommand.ModifiedEvent, kind.ReferenceModifiedEvent, kind.DisplayModifiedEvent):
                self._observers.addObserver(node, event, self._show)


def _rank(result: Any, latest: Any) -> tuple[bool, str, bool]:
    return _is_visible(result), volumes.provenance(result).get("time", ""), result is latest


def _is_visible(node: Any) -> bool:
    display = node.GetDisplayNode()
    return display is not None and bool(display.GetVisibility())


class ResultBox:
    """The lower part of Segment.ui: summary, warnings and the table of volumes."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._node: vtkMRMLSegmentationNode | None = None
        self._shown: tuple[Any, ...] = ()
        ui.warningsLabel.styleSheet = f"color: {ATTENTION}"
        header = ui.volumes.horizontalHeader()
        header.setSectionResizeMode(STRUCTURE, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(ML, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(FLAG, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(TRUST, qt.QHeaderView.ResizeToContents)
        ui.volumes.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)  # long names wrap
        ui.volumes.connect("cellClicked(int,int)", self._jump)
        ui.volumes.connect("cellActivated(int,int)", self._jump)

    def show(self, node: vtkMRMLSegmentationNode | None, hidden: list[str]) -> None:
        """Show the results of ``node``; hide the box for None. ``hidden``: names of the scan's invisible results."""
        record = volumes.provenance(node) if node is not None else {}
        rows = segmentations.volumes_of(node) if node is not None else []
        expected = segmentations.expected_dice_of(node) if node is not None else {}
        shown = (node, node.GetName() if node is not None else "", record, rows, expected, hidden)
        if shown == self._shown:
            return
        self._node, self._shown = node, shown
        self._ui.resultBox.visible = bool(record)
        if node is None or not record:
            return
        self._ui.resultLabel.text = "\n".join(_summary(node.GetName(), record, hidden))
        self._ui.warningsLabel.text = _warnings(record)
        self._ui.warningsLabel.visible = bool(record.get("warnings"))
        self._fill(rows, expected)

    def _fill(self, rows: list[tuple[str, float, str]], expected: dict[str, ExpectedDice]) -> None:
        table = self._ui.volumes
        table.sortingEnabled = False  # sorting would move rows while they are filled
        table.rowCount = len(rows)
        table.setColumnHidden(TRUST, not expected)
        for row, (name, volume_ml, flag) in enumerate(rows):
            for column, item in enumerate(_items(name, volume_ml, flag, expected.get(name))):
                table.setItem(row, column, item)
        table.horizontalHeader().setSortIndicator(-1, qt.Qt.AscendingOrder)  # until the user sorts
        table.sortingEnabled = True

    def _jump(self, row: int, _column: int) -> None:
        item = self._ui.volumes.item(row, STRUCTURE)
        if self._node is None or item is None:
            return
        place = segmentations.structure_centre(self._node, str(item.data(qt.Qt.UserRole)))
        if place is not None:
            volumes.jump_slices(slicer.mrmlScene, place)


def _items(name: str, volume_ml: float, flag: str, expected: ExpectedDice | None) -> list[Any]:
    """Return the four cells of a structure. The volume is a number, so that the column sorts by it."""
    structure = anatomy.STRUCTURES[anatomy.NAMES.index(name)]
    title = qt.QTableWidgetItem(structure.title)
    title.setData(qt.Qt.UserRole, name)
    title.setData(qt.Qt.DecorationRole, qt.QColor(*structure.colour))
    number = qt.QTableWidgetItem()
    number.setData(qt.Qt.DisplayRole, rounded_volume(volume_ml))
    number.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    mark = qt.QTableWidgetItem(SHORT.get(flag, flag))
    mark.setForeground(qt.QBrush(qt.QColor(ATTENTION)))
    trust = qt.QTableWidgetItem(TRUST_WORDS[expected.word] if expected is not None else "")
    if expected is not None and expected.word != "reliable":
        trust.setForeground(qt.QBrush(qt.QColor(ATTENTION)))
    items = [title, number, mark, trust]
    for item in items:
        item.setToolTip(_tip(structure, volume_ml, flag, expected))
    return items


def _tip(structure: anatomy.Structure, volume_ml: float, flag: str, expected: ExpectedDice | None) -> str:
    words = [f"{structure.title} ({structure.name}): {volume_text(volume_ml)}"]
    if structure.volume_limits_ml:
        low, high = structure.volume_limits_ml
        words.append(_("usual in adults: {low:.0f} to {high:.0f} mL").format(low=low, high=high))
    if flag:
        words.append(flag)
    if expected is not None:
        words.append(_("expected Dice {dice}, estimated on virtual hearts").format(dice=expected.text()))
    return "\n".join(words)


def _summary(name: str, record: dict[str, str], hidden: list[str]) -> list[str]:
    """Return ``CT heart: took 14 s on the CPU with virtual-heart-v2 0.1.0, quality full.`` and what happened since."""
    device = record.get("device", "")
    lines = [
        _("{name}: took {time} on {device} with {package} {version}, quality {quality}.").format(
            name=name,
            time=_time(float(record.get("seconds", 0.0))),
            device=_("the CPU") if device == "cpu" else device,
            package=record.get("package", ""),
            version=record.get("version", ""),
            quality=record.get("quality", ""),
        )
    ]
    if record.get("corrected"):
        lines.append(_("The segments have changed since: volumes and flags were measured again."))
    if hidden:
        names = join_words([f"'{each}'" for each in hidden])
        lines.append(_("Hidden in the views: {names} (see the eye in the Data module).").format(names=names))
    return lines


def _warnings(record: dict[str, str]) -> str:
    warnings = record.get("warnings", "")
    if warnings and record.get("corrected"):
        return _("Remarks on the automatic labels, before they were changed:\n{warnings}").format(warnings=warnings)
    return warnings


def _time(seconds: float) -> str:
    if seconds < 10.0:
        return _("{n:.1f} s").format(n=seconds)
    return _("{n:.0f} s").format(n=seconds) if seconds < 120.0 else _("{n:.1f} min").format(n=seconds / 60.0)

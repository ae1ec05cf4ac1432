"""The Review panel with the steps of a reader: unchanged source and form, real scene, real files, real process."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PySide6")

from PySide6 import QtCore, QtTest, QtWidgets

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.review.journal import Journal
from CardiacLDMLib.review.worklist import open_worklist
from tests.support.host import Host, held_ms, open_module, pump, reload_module
from tests.support.person import Person, module_open
from tests.support.phantom import phantom
from tests.support.review import pairs_folder, results_folder, training_folder, write_case

KEY, NONE, CTRL = QtCore.Qt.Key, QtCore.Qt.KeyboardModifier.NoModifier, QtCore.Qt.KeyboardModifier.ControlModifier
REVIEW_TAB = 2


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with module_open(tmp_path_factory) as host:
        yield host


class Reader(Person):
    """The actions and observations of a reader."""

    def __init__(self, host: Host, folder: Path) -> None:
        super().__init__(host)
        self.folder = folder

    @property
    def ui(self) -> Any:
        return self.widget.reviewUi

    @property
    def desk(self) -> Any:
        return self.widget.review.desk

    def open(self, folder: Path | None = None, name: str = "Ann", wait: bool = True) -> None:
        self.ui.readerName.text = name
        self.ui.casesPath.currentPath = str(folder or self.folder)
        self.ui.openCases.click()
        if wait:
            self.wait(lambda: self.desk.on_screen)

    def words(self) -> tuple[object, ...]:
        return (self.ui.messageLabel.text, self.ui.stateLabel.text, self.desk.name)

    def settle(self) -> None:
        """Wait until nothing is to be done any more: the next case is in the scene, all cases are checked."""
        loader = self.widget.review._loader
        self.wait(lambda: not loader._running and loader._next() is None and self.desk.cases._filling is None)

    def press(self, key: Any, modifier: Any = NONE, on: Any = None) -> None:
        """Press a key where the focus is, or in the widget ``on``."""
        window = QtWidgets.QWidget.window(self.ui.caseTable)
        window.activateWindow()
        pump(0.2, until=lambda: QtWidgets.QApplication.activeWindow() is not None)
        QtTest.QTest.keyClick(on or QtWidgets.QApplication.focusWidget() or window, key, modifier)
        pump(0.02)

    def verdicts(self) -> list[dict[str, Any]]:
        lines = [line for path in sorted(self.folder.glob("review/*.jsonl")) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def rows(self, table: Any, column: int) -> list[str]:
        return [table.item(row, column).text() for row in range(table.rowCount)]

    def background(self) -> str:
        import slicer

        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        node = self.scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
        return node.GetName() if node is not None else ""

    def place(self, name: str = "Red") -> np.ndarray:
        """Return what is in the middle of a slice view, RAS mm."""
        import slicer

        matrix = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        return np.array([matrix.GetElement(row, 3) for row in range(3)])


@pytest.fixture
def reader(host: Host, tmp_path: Path) -> Iterator[Reader]:
    """Three pairs, the second of which lacks the left atrium; an empty scene."""
    reader = Reader(host, pairs_folder(tmp_path / "pairs"))
    reader.scene.Clear(0)
    host.messages.clear()
    host.answers.clear()
    host.settings.clear()
    reader.ui.verdictsPath.currentPath = reader.ui.otherFile.currentPath = reader.ui.scansPath.currentPath = ""
    reader.widget.ui.tabs.currentIndex = REVIEW_TAB
    open_module()
    yield reader
    reader.desk._correction.stop()
    reader.widget.review.close()
    pump(0.05)
    host.check()


# --- cases ---------------------------------------------------------------------------------------------------------


def test_a_case_is_shown_with_its_findings_and_the_next_one_is_ahead(reader: Reader) -> None:
    reader.open()
    assert reader.background() == "pair_0001"
    reader.settle()
    worst_first = [case.name for case in reader.widget.review._session.worklist.shown("all", "worst")]
    assert reader.rows(reader.ui.caseTable, 0) == worst_first  # once they are checked
    assert reader.ui.progress.format == "0 of 3"
    following = next(name for name in worst_first if name != "pair_0001")
    ahead = reader.widget.review._loader.nodes[following]
    assert ahead.exists
    assert not ahead.segmentation.GetDisplayVisibility()
    assert ahead.volume.GetHideFromEditors()
    reader.desk.choose(following)
    assert reader.desk.on_screen  # at once
    assert ahead.segmentation.GetDisplayNode().GetVisibility()
    assert not ahead.volume.GetHideFromEditors()
    reader.desk.choose("pair_0002")
    reader.settle()
    assert any("LA was not found" in text for text in reader.rows(reader.ui.findings, 0))


def test_the_next_case_is_on_screen_in_half_a_second(reader: Reader) -> None:
    """Nothing is waited for: the computing time of this thread is all there is."""
    reader.open()
    reader.settle()
    held = []
    for _ in range(2):
        began = time.thread_time()
        reader.widget.review._act("accept")
        held.append(time.thread_time() - began)
        assert reader.desk.on_screen
        assert reader.background() == reader.desk.name
        reader.settle()
    assert min(held) < 0.5
    assert len(reader.widget.review._loader.nodes) <= 3


def test_n_goes_to_the_worst_place_of_each_finding_in_all_views(reader: Reader) -> None:
    array = box_with_an_island()
    write_case(reader.folder / "pair_0002/ct.nii.gz", reader.folder / "pair_0002/labels.nii.gz", array=array)
    reader.open()
    reader.settle()
    reader.desk.choose("pair_0002")
    found = reader.desk.findings.findings
    assert len(found) >= 1
    places = [np.array(f.place) for f in found if f.place is not None]
    for _ in found:
        finding = reader.desk.findings.chosen
        if finding.place is not None:
            for view in ("Red", "Green", "Yellow"):
                assert np.abs(reader.place(view) - finding.place).max() < 0.01
        reader.press(KEY.Key_N)
    assert places
    assert reader.desk.findings.chosen is found[0]  # round to the first one
    reader.press(KEY.Key_P)
    assert reader.desk.findings.chosen is found[-1]


def test_new_findings_leave_the_reader_where_they_are(reader: Reader) -> None:
    write_case(
        reader.folder / "pair_0002/ct.nii.gz", reader.folder / "pair_0002/labels.nii.gz", array=box_with_an_island()
    )
    reader.open()
    reader.settle()
    reader.desk.choose("pair_0002")
    reader.settle()
    worklist = reader.widget.review._session.worklist
    found = worklist.known_findings("pair_0002")
    extra = replace(found[0], rule="ragged")
    worklist.keep("pair_0002", [found[0], extra])
    reader.desk.checked("pair_0002")
    reader.press(KEY.Key_N)
    assert reader.desk.findings.chosen == extra
    place = reader.place()
    worklist.keep("pair_0002", [replace(found[0], rule="jump"), *found, extra])  # as after a comparison
    reader.desk.checked("pair_0002")
    assert reader.desk.findings.chosen == extra
    assert np.abs(reader.place() - place).max() < 0.01


def box_with_an_island() -> np.ndarray:
    from tests.support.box_heart import box_heart

    array = box_heart().copy()
    free = np.argwhere(array == 0)
    corner = free[np.abs(free - np.array(array.shape) * 0.9).sum(1).argmin()]
    array[tuple(slice(max(c - 1, 0), c + 1) for c in corner)] = anatomy.VALUE["LV"]
    return array


def test_one_structure_is_bright_and_the_others_are_outlines(reader: Reader) -> None:
    reader.open()
    reader.settle()
    display = reader.widget.review._loader.nodes[reader.desk.name].segmentation.GetDisplayNode()
    reader.press(KEY.Key_2)
    fills = {name: display.GetSegmentVisibility2DFill(name) for name in anatomy.NAMES}
    assert [name for name, on in fills.items() if on] == ["LV"]
    assert all(display.GetSegmentVisibility2DOutline(name) for name in anatomy.NAMES)
    assert "LV" in reader.ui.accept.text
    reader.press(KEY.Key_0)
    assert all(display.GetSegmentVisibility2DFill(name) for name in anatomy.NAMES)
    assert "LV" not in reader.ui.accept.text


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_verdicts_by_key_are_in_the_journal_and_lead_to_the_next_case(reader: Reader) -> None:
    reader.open()
    reader.settle()
    first = reader.desk.name
    reader.press(KEY.Key_2)
    reader.press(KEY.Key_F)
    assert reader.desk.name == first  # a verdict on a structure stays with the case
    reader.press(KEY.Key_C)
    QtTest.QTest.keyClicks(QtWidgets.QApplication.focusWidget(), "a far urn, 12")  # each a key of the panel
    assert reader.ui.comment.text == "a far urn, 12"
    reader.press(KEY.Key_Return)
    reader.press(KEY.Key_R)
    assert reader.desk.name != first
    given = [(v["case"], v["structure"], v["verdict"], v["reason"], v["reader"]) for v in reader.verdicts()]
    assert given == [(first, "LV", "fix", "", "Ann"), (first, "", "reject", "a far urn, 12", "Ann")]
    assert reader.verdicts()[1]["package"] == "pairs 2.0"
    assert len(reader.verdicts()[1]["scan_sha256"]) == 64
    assert reader.ui.comment.text == ""
    assert reader.ui.progress.format.startswith("1 of 3, ")


def test_undo_goes_back_to_the_case(reader: Reader) -> None:
    reader.open()
    reader.settle()
    first = reader.desk.name
    reader.press(KEY.Key_A)
    assert reader.desk.name != first
    reader.press(KEY.Key_U)
    assert reader.desk.name == first
    assert reader.ui.progress.value == 0
    assert [v["verdict"] for v in reader.verdicts()] == ["accept", "undo"]
    reader.press(KEY.Key_U)
    assert len(reader.verdicts()) == 2  # there is nothing more to take back


def test_a_review_goes_on_where_it_stopped(reader: Reader) -> None:
    reader.open()
    reader.settle()
    reader.press(KEY.Key_A)
    second = reader.desk.name
    worst_first = reader.rows(reader.ui.caseTable, 0)
    assert second == next(name for name in worst_first if name != "pair_0001")  # the worst, now that it is known
    reader.widget.review.close()
    assert not reader.nodes("vtkMRMLScalarVolumeNode")
    reader.open()
    assert reader.desk.name == second
    reader.settle()
    reader.press(KEY.Key_A)
    reader.settle()
    reader.press(KEY.Key_A)
    assert reader.ui.progress.format == "All 3 judged"
    assert "All" in reader.ui.messageLabel.text


def test_labels_that_changed_on_the_disk_are_looked_at_before_they_are_judged(reader: Reader) -> None:
    reader.open()
    reader.settle()
    name = reader.desk.name
    labels = reader.folder / name / "labels.nii.gz"
    array = read_volume(labels).array.copy()
    array[array == anatomy.VALUE["LAA"]] = 0
    write_volume(Volume(array, read_volume(labels).affine), labels)
    reader.press(KEY.Key_A)
    assert not reader.verdicts()
    reader.wait(lambda: reader.desk.on_screen)
    reader.press(KEY.Key_F)
    assert [v["verdict"] for v in reader.verdicts()] == ["fix"]


def block(folder: Path) -> None:
    """Put a file in the way of the folder of the verdicts."""
    shutil.rmtree(folder / "review", ignore_errors=True)
    (folder / "review").write_text("in the way")


def test_a_verdict_that_cannot_be_written_is_kept_and_written_later(reader: Reader) -> None:
    reader.open()
    reader.settle()
    block(reader.folder)
    reader.press(KEY.Key_A)
    assert reader.ui.troubleLabel.visible
    assert "kept in memory" in reader.ui.troubleLabel.text
    assert reader.ui.progress.value == 1  # it counts
    reader.press(KEY.Key_U)
    assert reader.ui.progress.value == 0
    reader.settle()
    reader.press(KEY.Key_R)
    (reader.folder / "review").unlink()
    reader.desk.write_again()
    assert [v["verdict"] for v in reader.verdicts()] == ["accept", "undo", "reject"]
    assert not reader.ui.troubleLabel.visible


def test_unwritten_verdicts_move_to_another_folder(reader: Reader, tmp_path: Path) -> None:
    reader.open()
    reader.settle()
    block(reader.folder)
    reader.press(KEY.Key_A)
    reader.ui.verdictsPath.currentPath = str(tmp_path / "other")
    reader.open()
    assert reader.ui.progress.value == 1
    assert len(list((tmp_path / "other").glob("*.jsonl"))) == 1


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_verdicts_are_written_again_if_their_folder_goes(reader: Reader, how: str) -> None:
    reader.open()
    reader.settle()
    first = reader.desk.name
    reader.press(KEY.Key_F)
    folder = reader.folder / "review"
    shutil.copytree(folder, reader.folder / "before")
    if how == "renamed":
        folder.rename(reader.folder / "review-old")
    else:
        shutil.rmtree(folder)
    if how == "replaced":
        (reader.folder / "before").rename(folder)
    reader.press(KEY.Key_A)
    assert reader.ui.troubleLabel.visible == ("review" in reader.ui.troubleLabel.text) == (how != "replaced")
    found = Journal(folder, "Ann").verdicts
    assert [(v.case == first, v.verdict) for v in found] == [(True, "fix"), (False, "accept")]
    reader.settle()
    reader.press(KEY.Key_R)
    assert not reader.ui.troubleLabel.visible
    assert len(Journal(folder, "Ann").verdicts) == 3


def test_the_last_verdict_is_written_again_when_the_review_is_closed(reader: Reader) -> None:
    reader.open()
    reader.settle()
    reader.press(KEY.Key_F)
    shutil.rmtree(reader.folder / "review")
    reader.widget.review.close()
    assert [v["verdict"] for v in reader.verdicts()] == ["fix"]


def test_unwritten_verdicts_never_go_to_other_cases(reader: Reader, tmp_path: Path) -> None:
    other = pairs_folder(tmp_path / "other")
    reader.open()
    reader.settle()
    block(reader.folder)
    reader.press(KEY.Key_A)
    reader.open(other)
    assert "1" in reader.host.texts("confirm")[0]  # verdict that is not written
    assert reader.ui.progress.value == 1  # the answer was no
    assert not (other / "review").exists()
    reader.host.answer("lost", True)
    reader.open(other)
    assert reader.ui.progress.value == 0
    reader.settle()
    reader.press(KEY.Key_F)
    assert [v.verdict for v in Journal(other / "review", "Ann").verdicts] == ["fix"]
    (reader.folder / "review").unlink()


# --- the package's labels ------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that labels the phantom takes the place of the one that ships."""
    from CardiacLDMLib.packages.store import open_package
    from CardiacLDMLib.slicer.panels.review import package
    from tests.support.phantom_package import write_phantom_package

    found = open_package(write_phantom_package(tmp_path / "phantom"))
    monkeypatch.setattr(package, "installed_package", lambda: found)
    return found


def test_labels_are_compared_with_the_packages_on_request(reader: Reader, package: Any) -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -90.0
    image, labels = phantom(Grid((45, 45, 45), affine))
    inside = np.argwhere(labels.array == anatomy.VALUE["LA"])
    for number, left_out in ((1, 0), (3, 1), (2, len(inside) // 2)):
        place = reader.folder / f"pair_{number:04d}"
        labels.array[tuple(inside[:left_out].T)] = 0
        write_volume(image, place / "ct.nii.gz")
        write_volume(labels, place / "labels.nii.gz")
    record = {"package": {"name": "phantom", "version": package.manifest.version, "sha256": package.sha256}}
    (reader.folder / "pair_0003/provenance.json").write_text(json.dumps(record))  # these are its own
    reader.open()
    reader.settle()
    worklist = reader.widget.review._session.worklist
    differs = lambda name: "own labels" in {f.rule for f in worklist.known_findings(name)}  # noqa: E731
    assert not differs("pair_0002")
    assert not reader.ui.packageLabel.visible
    reader.ui.withPackage.click()
    assert "2" in reader.ui.packageLabel.text  # cases are left
    reader.wait(lambda: worklist.is_compared("pair_0002", package.sha256), 120)
    reader.wait(lambda: worklist.is_compared("pair_0001", package.sha256), 120)
    assert differs("pair_0002")
    assert not differs("pair_0001")
    assert not worklist.is_compared("pair_0003", package.sha256)
    assert len(list((reader.folder / "review/package").iterdir())) == 1  # they have one scan
    reader.ui.withPackage.click()
    assert not reader.ui.packageLabel.visible
    reader.widget.review.close()
    assert worklist.cache.path.is_file()
    reader.open()
    worklist = reader.widget.review._session.worklist
    assert differs("pair_0002")


# --- keys ----------------------------------------------------------------------------------------------------------


def test_keys_do_nothing_while_the_user_types_or_looks_elsewhere(reader: Reader) -> None:
    reader.open()
    reader.settle()
    name, ui = reader.desk.name, reader.ui
    for edit in (ui.comment, ui.readerName):
        edit.setFocus()
        for key in (KEY.Key_A, KEY.Key_R, KEY.Key_2, KEY.Key_N, KEY.Key_U):
            reader.press(key, on=edit)
        reader.press(KEY.Key_Right, CTRL, on=edit)
    box = reader.widget.generateUi.count
    reader.widget.ui.tabs.currentIndex = 1
    box.setFocus()
    reader.press(KEY.Key_A, on=box)
    reader.widget.ui.tabs.currentIndex = 0
    for key in (KEY.Key_A, KEY.Key_F, KEY.Key_1):
        reader.press(key, on=QtWidgets.QWidget.window(ui.comment))
    reader.press(KEY.Key_Right, CTRL)
    reader.host.modules["CardiacLDM"].leave()
    reader.press(KEY.Key_A)
    open_module()
    assert reader.desk.name == name
    assert not reader.verdicts()
    reader.widget.ui.tabs.currentIndex = REVIEW_TAB
    reader.ui.caseTable.setFocus()
    reader.press(KEY.Key_A)
    assert len(reader.verdicts()) == 1


def test_ctrl_with_an_arrow_is_taken_before_slicers_own_shortcut(reader: Reader, monkeypatch: Any) -> None:
    """Slicer's module history uses the same keys: two shortcuts on one key would cancel each other."""
    import qt

    import slicer

    reader.open()
    reader.settle()
    window = QtWidgets.QWidget.window(reader.ui.caseTable)
    history = qt.QToolButton(window)
    history.setShortcut(qt.QKeySequence("Ctrl+Right"))
    pressed: list[str] = []
    history.connect("clicked()", lambda: pressed.append("history"))
    history.show()
    assert slicer.util.mainWindow() is None
    reader.widget.review.enter()
    reader.ui.caseTable.setFocus()
    names = reader.rows(reader.ui.caseTable, 0)
    before = reader.desk.name
    reader.desk.choose(names[0])
    reader.settle()
    reader.press(KEY.Key_Right, CTRL)
    assert reader.desk.name == names[1]
    reader.press(KEY.Key_Left, CTRL)
    assert reader.desk.name == names[0]
    assert not pressed
    reader.widget.ui.tabs.currentIndex = 0
    reader.press(KEY.Key_Right, CTRL)
    pump(0.3)
    assert pressed == ["history"]  # Slicer has it back
    history.delete()
    assert before in names


def test_every_key_is_listed_and_none_is_bound_twice(reader: Reader) -> None:
    from CardiacLDMLib.slicer.panels.review.keys import KEYS

    keys = [key for key, _name, _words in KEYS]
    assert len(set(keys)) == len(keys)
    listed = reader.ui.keysLabel.text
    assert all(f"{key}:" in listed for key in "NP0AFRUC")
    assert "1 to 8:" in listed
    assert "Ctrl+Right:" in listed


# --- corrections ---------------------------------------------------------------------------------------------------


class Editor:
    """Stands in for Slicer's Segment Editor module."""

    def __init__(self) -> None:
        self.node: Any = None
        self.editor = SimpleNamespace(
            setSegmentationNode=lambda node: setattr(self, "node", node), setSourceVolumeNode=lambda node: None
        )

    def widgetRepresentation(self) -> Any:  # noqa: N802 - Slicer's name
        return SimpleNamespace(self=lambda: self)


@pytest.fixture
def editor(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Editor:
    import slicer

    editor = Editor()
    monkeypatch.setattr(slicer.modules, "segmenteditor", editor, raising=False)
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: reader.host.modules["CardiacLDM"].leave())
    return editor


def erase(node: Any, volume: Any, name: str) -> None:
    import slicer

    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume)
    array[:, :, : array.shape[2] // 2] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, name, volume)


def test_corrected_labels_are_saved_and_checked_again(reader: Reader, editor: Editor) -> None:
    reader.open()
    reader.settle()
    name = reader.desk.name
    reader.press(KEY.Key_A)
    reader.desk.choose(name)
    reader.settle()
    reader.ui.correct.click()
    nodes = reader.widget.review._loader.nodes[name]
    assert editor.node is nodes.segmentation
    assert not nodes.segmentation.GetHideFromEditors()
    erase(nodes.segmentation, nodes.volume, "LA")
    before = reader.widget.review._loader.hashes[name]
    open_module()  # back
    reader.wait(lambda: not reader.desk.has_changes)
    reader.settle()
    loader = reader.widget.review._loader
    assert loader.hashes[name] != before
    assert [v["verdict"] for v in reader.verdicts()] == ["accept", "corrected"]
    assert reader.ui.progress.value == 0  # the verdict was on other labels
    assert "outdated" in reader.ui.stateLabel.text
    saved = reader.widget.review._session.worklist.labels_of(name)
    assert saved.parent.name == "labels"
    original = read_volume(reader.folder / name / "labels.nii.gz").array
    assert (read_volume(saved).array == 1).sum() < (original == 1).sum()
    assert loader.findings(name) is not None
    kind = "Closed surface"
    reader.wait(lambda: nodes.segmentation.GetSegmentation().ContainsRepresentation(kind))  # of the new labels
    reader.press(KEY.Key_A)
    assert reader.verdicts()[-1]["labels_sha256"] == loader.hashes.get(name, reader.verdicts()[1]["labels_sha256"])


def test_coming_back_without_a_change_writes_nothing(reader: Reader, editor: Editor) -> None:
    reader.open()
    reader.settle()
    reader.ui.correct.click()
    editor.node.GetSegmentation().GetSegment("LA").SetColor(0.1, 0.2, 0.3)
    reader.desk._correction._note()  # as a stroke that is undone
    open_module()
    reader.wait(lambda: not reader.desk.has_changes)
    reader.settle()
    assert not reader.verdicts()


def test_a_correction_that_cannot_be_saved_is_not_lost(reader: Reader, editor: Editor) -> None:
    reader.open()
    reader.settle()
    name = reader.desk.name
    reader.ui.correct.click()
    nodes = reader.widget.review._loader.nodes[name]
    erase(nodes.segmentation, nodes.volume, "LA")
    block(reader.folder)
    open_module()
    reader.wait(lambda: reader.host.texts("confirm"))
    reader.desk.step(1)
    reader.wait(lambda: len(reader.host.texts("confirm")) > 1)
    assert reader.desk.name == name  # the answer was no
    (reader.folder / "review").unlink()
    reader.desk.step(1)
    reader.wait(lambda: reader.desk.name != name)
    assert [v["verdict"] for v in reader.verdicts()] == ["corrected"]


# --- readers -------------------------------------------------------------------------------------------------------


def judge_all(folder: Path, name: str, opinion: Any, structure: str = "") -> None:
    cases = open_worklist(folder, name)
    for case in cases.cases:
        if structure:
            cases.judge(case.name, "reject", structure)
        cases.judge(case.name, opinion, reason=f"{name} says {opinion}")
    cases.journal.close()


def test_another_readers_verdict_is_hidden_until_both_are_done(reader: Reader) -> None:
    judge_all(reader.folder, "Bob", "reject")
    reader.open()
    reader.settle()
    name = reader.desk.name
    shown = lambda: " ".join(  # noqa: E731
        [reader.ui.othersLabel.text, *reader.rows(reader.ui.caseTable, 2), reader.ui.messageLabel.text]
    )
    assert "Bob" not in shown()
    reader.press(KEY.Key_A)
    reader.desk.choose(name)
    assert "Bob: reject: Bob says reject" in reader.ui.othersLabel.text
    assert reader.ui.settleBox.visible
    reader.ui.settleFix.click()
    assert not reader.ui.settleBox.visible
    assert [(v["verdict"], v["outcome"]) for v in reader.verdicts() if v["reader"] == "Ann"] == [
        ("accept", ""), ("settled", "fix"),
    ]  # fmt: skip


def test_what_another_reader_says_meanwhile_is_seen(reader: Reader) -> None:
    reader.open()
    reader.settle()
    name = reader.desk.name
    reader.press(KEY.Key_A)
    judge_all(reader.folder, "Bob", "reject")
    choose = lambda value: reader.choose(reader.ui.show, value) or reader.ui.show.activated.emit(0)  # noqa: E731
    choose("settle")
    assert reader.rows(reader.ui.caseTable, 0) == [name]
    reader.desk.choose(name)
    assert "Bob" in reader.ui.othersLabel.text
    judge_all(reader.folder, "Cid", "fix")
    reader.host.modules["CardiacLDM"].leave()
    open_module()
    assert "Cid" in reader.ui.othersLabel.text


def test_an_empty_list_says_so(reader: Reader) -> None:
    reader.open()
    reader.settle()
    name = reader.desk.name
    reader.ui.show.setFocus()
    for _ in range(4):
        reader.press(KEY.Key_Down, on=reader.ui.show)
    assert not reader.rows(reader.ui.caseTable, 0)
    assert reader.ui.show.currentText in reader.ui.messageLabel.text
    assert reader.desk.name == name
    reader.press(KEY.Key_F)  # the case on the screen can still be judged
    assert [v["case"] for v in reader.verdicts()] == [name]


def test_different_corrections_are_settled_by_choosing_the_labels(reader: Reader) -> None:
    from tests.support.box_heart import box_pair, without

    for name, without_name in (("Bob", "LAA"), ("Ann", "PA")):
        cases = open_worklist(reader.folder, name)
        cases.correct("pair_0001", box_pair(without(without_name)).labels)
        cases.judge("pair_0001", "accept")
        cases.journal.close()
    reader.open()
    reader.settle()
    reader.desk.choose("pair_0001")
    reader.settle()
    choices = reader.rows(reader.ui.disagreements, 1)
    assert sorted(choices) == ["labels of Ann", "labels of Bob"]
    reader.ui.disagreements.selectRow(choices.index("labels of Bob"))
    reader.ui.settleAccept.click()
    assert not reader.ui.settleBox.visible
    bobs = next(v["labels_sha256"] for v in reader.verdicts() if v["reader"] == "Bob")
    settled = [v for v in reader.verdicts() if v["verdict"] == "settled"]
    assert [(v["labels_sha256"], v["outcome"]) for v in settled] == [(bobs, "accept")]


def test_a_report_and_an_export_are_made_where_the_cases_are(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    opened: list[str] = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    judge_all(reader.folder, "Bob", "reject")
    reader.open()
    reader.settle()
    judged = reader.desk.name
    reader.press(KEY.Key_A)
    reader.ui.saveReport.click()
    reader.wait(lambda: opened)
    page = Path(opened[0])
    assert page.parent == reader.folder / "review" / "report"
    rows = (page.parent / "verdicts.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == {judged}  # nothing of cases that are not judged yet
    reader.desk.choose(judged)
    reader.settle()
    reader.ui.settleAccept.click()
    reader.host.answer("getExistingDirectory", str(tmp_path))
    reader.ui.exportCases.click()
    reader.wait(lambda: "Accepted" in reader.ui.messageLabel.text)
    assert len(list((tmp_path / "reviewed").glob("case_*/ct.nii.gz"))) == 1


def test_the_table_holds_no_hidden_verdict(reader: Reader, tmp_path: Path) -> None:
    judge_all(reader.folder, "Bob", "reject")
    reader.open()
    reader.settle()
    reader.press(KEY.Key_A)
    reader.host.answer("getSaveFileName", str(tmp_path / "out.csv"))
    reader.ui.saveTable.click()
    lines = (tmp_path / "out.csv").read_text("utf-8-sig").splitlines()
    assert len(lines) == 3  # titles, and two verdicts on one case
    assert "2 verdicts" in reader.ui.messageLabel.text


# --- comparing -----------------------------------------------------------------------------------------------------


def test_a_second_segmentation_is_compared_in_two_colours(reader: Reader, tmp_path: Path) -> None:
    from tests.support.box_heart import without

    other = tmp_path / "other"
    for number in (1, 2, 3):
        place = other / f"pair_{number:04d}"
        write_case(place / "ct.nii.gz", place / "labels.nii.gz", array=without("RV"))
    reader.open()
    reader.settle()
    reader.ui.otherFile.currentPath = str(other)
    reader.ui.compareApply.click()
    reader.wait(lambda: reader.desk._viewer.other is not None)
    worst = reader.rows(reader.ui.differences, 0)[0]
    assert worst == "Right ventricle"
    assert reader.rows(reader.ui.differences, 1)[0] == "0.00"
    shown = [reader.widget.review._loader.nodes[reader.desk.name].segmentation, reader.desk._viewer.other]
    colours = [node.GetDisplayNode().GetSegmentOverrideColor("LV") for node in shown]
    assert colours[0] != colours[1]
    assert not any(node.GetDisplayNode().GetSegmentVisibility2DFill("LV") for node in shown)
    reader.ui.differences.cellClicked.emit(0, 0)
    assert np.abs(reader.place() - reader.desk._compare._differences[0].place).max() < 0.01
    reader.press(KEY.Key_A)  # with a folder the comparison goes on
    reader.wait(lambda: reader.desk._viewer.other is not None)
    count = len(reader.nodes("vtkMRMLSegmentationNode"))
    reader.ui.compareApply.click()
    assert len(reader.nodes("vtkMRMLSegmentationNode")) == count - 1


def test_a_verdict_looks_at_no_other_cases(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of cases on a network drive would take seconds."""
    from CardiacLDMLib.review import readers, worklist

    pairs_folder(reader.folder, 12)
    for name in ("Ann", "Bob"):
        judge_all(reader.folder, name, "fix")
    reader.open()
    reader.settle()
    asked: list[str] = []
    status, done = worklist.Worklist.status, readers.blinded
    monkeypatch.setattr(worklist.Worklist, "status", lambda self, name: asked.append(name) or status(self, name))
    monkeypatch.setattr(readers, "blinded", lambda of, case: asked.append(case) or done(of, case))
    shown = {reader.desk.name}
    reader.widget.review._act("reject")
    shown.add(reader.desk.name)
    reader.widget.review._act("next_case")
    assert set(asked) <= {*shown, reader.desk.name}


# --- looks ---------------------------------------------------------------------------------------------------------


def test_every_state_fits_into_300_pixels(reader: Reader, package: Any) -> None:
    ui, desk = reader.ui, reader.desk

    def width() -> int:
        return int(reader.widget.parent.minimumSizeHint.width())

    assert width() <= 300  # before a review
    judge_all(reader.folder, "Bob", "reject", "LAA")
    reader.open()
    reader.settle()
    assert width() <= 300
    first = desk.name
    reader.press(KEY.Key_8)
    assert "LAA" in ui.reject.text
    assert width() <= 300
    reader.press(KEY.Key_R)
    reader.press(KEY.Key_A)
    desk.choose(first)
    reader.settle()
    assert ui.settleBox.visible
    for part in (ui.source, ui.compare, ui.keys):
        part.collapsed = False
    block(reader.folder)
    reader.press(KEY.Key_A)
    assert ui.troubleLabel.visible
    ui.withPackage.click()
    reader.widget.review._loader._all = ["pair_0001"] * 500
    reader.widget.review.refresh()
    assert "500" in ui.checkAll.text
    ui.otherFile.currentPath = str(reader.folder)
    ui.compareApply.click()
    reader.wait(lambda: ui.differences.visible)
    assert width() <= 300
    (reader.folder / "review").unlink()
    reader.widget.review._loader._all = []
    for part in (ui.compare, ui.keys):
        part.collapsed = True


def test_long_names_do_not_widen_the_panel(reader: Reader, tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", ("n" * 180, "u" * 180))
    (folder / f"images/{'u' * 180}.nii.gz").unlink()
    reader.open(folder)
    reader.settle()
    for case in reader.widget.review._session.names:
        reader.desk.choose(case)
        reader.settle()
        reader.ui.otherFile.currentPath = str(tmp_path / ("nothing" * 30))
        reader.ui.compareApply.click()
        reader.settle()
        assert reader.widget.parent.minimumSizeHint.width() <= 300
        reader.press(KEY.Key_R)
        assert reader.widget.parent.minimumSizeHint.width() <= 300


# --- bad input -----------------------------------------------------------------------------------------------------


def test_cases_that_cannot_be_shown_have_a_reason_and_can_be_rejected(reader: Reader, tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", ("a", "b", "c", "d"))
    (folder / "images/a.nii.gz").unlink()
    (folder / "labels/b.nii.gz").unlink()
    (folder / "labels/c.nii.gz").write_bytes(b"nothing")
    values = read_volume(folder / "labels/d.nii.gz")
    write_volume(Volume(np.where(values.array == 1, 77, values.array).astype(np.int16), values.affine),
                 folder / "labels/d.nii.gz")  # fmt: skip
    reader.folder = folder
    reader.open(folder)
    assert "no CT" in reader.ui.stateLabel.text  # case a is shown without
    assert reader.background().startswith("a")
    reader.settle()
    for name in "bcd":
        reader.desk.choose(name)
        reader.wait(lambda: "Reading" not in reader.ui.stateLabel.text)
        assert reader.ui.stateLabel.text
        assert not reader.ui.accept.enabled
    reader.press(KEY.Key_A)
    assert not reader.verdicts()
    reader.press(KEY.Key_R)
    assert [(v["case"], v["verdict"]) for v in reader.verdicts()] == [("d", "reject")]


def test_scans_of_results_lie_in_another_folder(reader: Reader, tmp_path: Path) -> None:
    from CardiacLDMLib.image.cases import find_cases, read_case
    from tests.support.dicom import write_series

    folder, scans = results_folder(tmp_path / "out/results", tmp_path / "scans"), tmp_path / "scans"
    reader.folder = folder
    reader.open(folder)
    assert "no CT" in reader.ui.stateLabel.text
    assert "2 of 2" in reader.ui.messageLabel.text
    (scans / "b.nii.gz").rename(tmp_path / "b.nii.gz")
    scan, labels = read_volume(tmp_path / "b.nii.gz"), read_volume(folder / "b.labels.nii.gz")
    write_series(scans / "b", scan.array, spacing=(2.0, 2.0, 2.0))
    grid = read_case(find_cases([scans / "b"])[0]).affine
    write_volume(Volume(labels.array, grid), folder / "b.labels.nii.gz")
    reader.ui.scansPath.currentPath = str(scans)
    reader.open(wait=False)
    reader.wait(lambda: reader.desk.on_screen and "no CT" not in reader.ui.stateLabel.text)
    reader.settle()
    for name in "ab":
        reader.desk.choose(name)
        reader.settle()
        assert reader.widget.review._loader.nodes[name].has_image
        reader.press(KEY.Key_A)
    assert all(len(v["scan_sha256"]) == 64 for v in reader.verdicts())
    reader.widget.review._session.worklist.cache.save()
    judged = open_worklist(folder, "Ann", scans=scans)  # as the command line finds them
    assert {v["scan_sha256"] for v in reader.verdicts()} == {judged.scan_hash(name) for name in "ab"}
    assert all(judged.known_findings(name) is not None for name in "ab")
    reader.host.answer("getExistingDirectory", str(tmp_path))
    reader.ui.exportCases.click()
    reader.wait(lambda: reader.ui.messageLabel.text.partition("\n")[0].endswith(" 2."))
    (tmp_path / "nothing").mkdir()
    reader.ui.scansPath.currentPath = str(tmp_path / "nothing")
    reader.ui.openCases.click()
    reader.wait(lambda: "nothing" in reader.ui.messageLabel.text and "scans" in reader.ui.messageLabel.text)
    assert reader.ui.work.visible  # the review goes on


def test_a_folder_without_cases_and_a_newer_journal_say_so(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    reader.open(tmp_path / "empty", wait=False)
    assert "empty" in reader.ui.messageLabel.text
    assert not reader.ui.work.visible
    judge_all(reader.folder, "Bob", "accept")
    (journal,) = reader.folder.glob("review/*.jsonl")
    journal.write_text(journal.read_text().replace('"format": 1', '"format": 99'))
    reader.open(wait=False)
    assert "newer" in reader.ui.messageLabel.text
    assert reader.widget.review._session is None


# --- the scene -----------------------------------------------------------------------------------------------------


def add_result(name: str = "CT") -> tuple[Any, Any]:
    import slicer
    from CardiacLDMLib.slicer import segmentations, volumes
    from tests.support.box_heart import box_pair

    pair = box_pair()
    volume = volumes.volume_to_node(slicer.mrmlScene, pair.image, name)
    return volume, segmentations.segmentation_from_labels(slicer.mrmlScene, pair.labels, f"{name} heart", volume)


def test_nothing_of_the_users_is_changed(reader: Reader) -> None:
    import slicer

    volume, segmentation = add_result()
    slicer.util.setSliceViewerLayers(background=volume)
    reader.widget.segmentUi.inputVolume.setCurrentNode(volume)
    reader.open()
    reader.settle()
    assert reader.widget.segmentUi.inputVolume.currentNode() is volume
    assert not segmentation.GetDisplayVisibility()  # it would lie on top
    reader.press(KEY.Key_A)
    reader.settle()
    reader.widget.review.close()
    assert segmentation.GetDisplayVisibility()
    assert reader.background() == "CT"
    assert reader.nodes("vtkMRMLScalarVolumeNode") == [volume]
    assert reader.nodes("vtkMRMLSegmentationNode") == [segmentation]


def test_segmentations_of_the_scene_are_reviewed_where_they_are(reader: Reader, tmp_path: Path) -> None:
    import slicer

    slicer.mrmlScene.SetURL("")  # not saved, whatever happened before
    _volume, first = add_result("One")
    add_result("Two")
    before = first.GetDisplayNode().GetSegmentOpacity2DFill("LV")
    reader.ui.readerName.text = "Ann"
    reader.ui.openScene.click()
    assert "folder for the verdicts" in reader.ui.messageLabel.text  # the scene is not saved
    reader.ui.verdictsPath.currentPath = str(tmp_path / "verdicts")
    reader.ui.openScene.click()
    reader.wait(lambda: reader.desk.on_screen)
    reader.settle()
    name = reader.desk.name
    reader.press(KEY.Key_2)
    reader.press(KEY.Key_F)
    reader.press(KEY.Key_F)
    assert reader.desk.name != name
    erase(first, _volume, "LA")
    reader.desk.choose(name)
    reader.settle()
    reader.widget.review.close()
    assert len(reader.nodes("vtkMRMLSegmentationNode")) == 2
    assert first.GetDisplayNode().GetSegmentOpacity2DFill("LV") == before
    journal = Journal(tmp_path / "verdicts", "Ann")
    assert [(v.verdict, v.structure) for v in journal.verdicts] == [("fix", "LV"), ("fix", "")]


def test_labels_of_the_scene_that_were_corrected_wait_for_a_verdict(reader: Reader, tmp_path: Path) -> None:
    volume, segmentation = add_result("One")
    reader.ui.readerName.text, reader.ui.verdictsPath.currentPath = "Ann", str(tmp_path / "verdicts")
    reader.ui.openScene.click()
    reader.wait(lambda: reader.desk.on_screen)
    reader.settle()
    reader.press(KEY.Key_A)
    assert reader.ui.progress.format == "All 1 judged"
    erase(segmentation, volume, "LA")
    reader.widget.review.enter()
    reader.wait(lambda: not reader.desk.has_changes)
    reader.settle()
    assert reader.ui.progress.value == 0
    assert "outdated" in reader.ui.stateLabel.text
    reader.press(KEY.Key_F)
    assert reader.ui.progress.value == 1
    assert [v.verdict for v in Journal(tmp_path / "verdicts", "Ann").verdicts] == ["accept", "corrected", "fix"]


def test_closing_the_scene_keeps_the_review(reader: Reader) -> None:
    reader.open()
    reader.settle()
    reader.press(KEY.Key_A)
    name = reader.desk.name
    reader.scene.Clear(0)
    pump(0.1)
    reader.host.check()
    assert reader.desk.name is None
    reader.press(KEY.Key_A)
    assert len(reader.verdicts()) == 1
    reader.desk.choose(name)
    reader.wait(lambda: reader.desk.on_screen)
    reader.press(KEY.Key_A)
    assert len(reader.verdicts()) == 2


def test_reloading_ends_the_review_and_leaves_nothing(reader: Reader) -> None:
    reader.open()
    reader.settle()
    reader.press(KEY.Key_A)
    dispatcher = reader.widget.review._dispatcher
    reload_module()
    assert not dispatcher.has_worker
    assert not reader.nodes("vtkMRMLScalarVolumeNode")
    reader.widget.ui.tabs.currentIndex = REVIEW_TAB
    assert reader.ui.readerName.text == "Ann"  # asked once
    reader.open()
    assert reader.ui.progress.value == 1


def test_reloading_while_the_package_works_and_scans_are_found_is_quiet(reader: Reader, package: Any) -> None:
    reader.open()
    reader.ui.withPackage.click()
    reader.ui.scansPath.currentPath = str(reader.folder)
    reader.ui.openCases.click()
    reload_module()
    pump(0.5)
    reader.host.check()
    reader.widget.ui.tabs.currentIndex = REVIEW_TAB


def test_a_node_that_the_user_removed_is_read_again(reader: Reader) -> None:
    reader.open()
    reader.settle()
    name = reader.desk.name
    self_nodes = reader.widget.review._loader.nodes[name]
    reader.scene.RemoveNode(self_nodes.volume)
    reader.desk.choose(name)
    reader.wait(lambda: reader.desk.on_screen)
    assert reader.widget.review._loader.nodes[name].exists


def test_the_window_is_never_held(reader: Reader, tmp_path: Path) -> None:
    pair = read_volume(reader.folder / "pair_0001/ct.nii.gz")
    labels = read_volume(reader.folder / "pair_0001/labels.nii.gz")
    fine = tmp_path / "fine"
    for number in (1, 2):
        place = fine / f"pair_{number:04d}"
        place.mkdir(parents=True)
        for volume, name in ((pair, "ct"), (labels, "labels")):
            array = volume.array
            for axis in range(3):
                array = array.repeat(3, axis)
            affine = volume.affine.copy()
            affine[:3, :3] /= 3
            write_volume(Volume(array, affine), place / f"{name}.nii.gz")

    def run() -> None:
        reader.open(fine)
        reader.settle()
        reader.press(KEY.Key_A)
        pump(0.5)
        reader.widget.review.close()

    assert held_ms(run, 100.0) < 100.0

"""Tests of the stand-in: as strict as PythonQt, and on the real scene."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from tests.support.host import Heartbeat, Host, pump, start_host
from tests.support.host.source import problems_in_source, problems_in_ui

MODULE = Path(__file__).parents[2] / "CardiacLDM"
SOURCES = [MODULE / "CardiacLDM.py", *sorted((MODULE / "CardiacLDMLib" / "slicer" / "panels").rglob("*.py"))]

PANEL = """<ui version="4.0"><class>W</class><widget class="qMRMLWidget" name="W">
<layout class="QVBoxLayout" name="rows">
<item><widget class="qMRMLNodeComboBox" name="input">
 <property name="toolTip"><string>The scan</string></property>
 <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
 <property name="noneEnabled"><bool>true</bool></property>
 <property name="SlicerParameterName" stdset="0"><string>scan</string></property></widget></item>
<item><widget class="ctkCollapsibleButton" name="more"><property name="text"><string>More</string></property>
 <layout class="QFormLayout" name="form"><item row="0" column="1"><widget class="QComboBox" name="quality">
 <property name="SlicerParameterName" stdset="0"><string>settings.quality</string></property></widget></item></layout>
</widget></item>
<item><widget class="ctkPathLineEdit" name="folder"><property name="filters"><set>ctkPathLineEdit::Dirs</set></property>
</widget></item>
<item><widget class="QPushButton" name="apply"><property name="text"><string>Apply</string></property></widget></item>
</layout></widget><connections><connection><sender>W</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>input</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


class Quality(enum.Enum):
    FAST = 1
    FULL = 2


@pytest.fixture
def host() -> Any:
    host = start_host()
    host.reset()
    yield host
    host.reset()


@pytest.fixture
def panel(host: Host, tmp_path: Path) -> Any:
    import slicer

    (tmp_path / "panel.ui").write_text(PANEL)
    widget = slicer.util.loadUI(str(tmp_path / "panel.ui"))
    widget.setMRMLScene(slicer.mrmlScene)
    return widget


@pytest.fixture
def ui(panel: Any) -> Any:
    import slicer

    return slicer.util.childWidgetVariables(panel)


def volume(name: str = "CT") -> Any:
    import slicer

    return slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.int16), name=name)


def node_class() -> Any:
    from slicer.parameterNodeWrapper import Default, WithinRange, parameterNodeWrapper, parameterPack

    from slicer import vtkMRMLScalarVolumeNode

    share = Annotated[float, WithinRange(0, 1)]
    members = {"__annotations__": {"quality": Quality, "share": share}, "quality": Quality.FULL, "share": 0.5}
    settings = parameterPack(type("Settings", (), members))
    shown = Annotated[bool, Default(True)]
    types = {"scan": vtkMRMLScalarVolumeNode, "settings": settings, "shown": shown}
    return parameterNodeWrapper(type("Parameters", (), {"__annotations__": types}))


def parameter_node() -> Any:
    import slicer

    return node_class()(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_properties_are_attributes(host: Host) -> None:
    import qt

    button = qt.QPushButton("Go")
    assert (button.text, button.enabled) == ("Go", True)
    button.enabled = False
    button.setText("Stop")
    assert not button.enabled
    assert button.text == "Stop"
    with pytest.raises(TypeError):
        button.text()
    assert not isinstance(button, qt.QWidget)
    assert button.inherits("QWidget")
    box = qt.QComboBox()
    box.addItem("a", 7)
    assert (box.count, box.currentData, box.sizeHint.isValid()) == (1, 7, True)


@pytest.mark.parametrize(
    ("name", "value"), [("text", None), ("enabled", "no"), ("enabled", 1), ("txet", "a"), ("text", np.str_("a"))]
)
def test_what_pythonqt_takes_wrongly_is_refused(host: Host, name: str, value: object) -> None:
    import qt

    with pytest.raises((TypeError, AttributeError)):
        setattr(qt.QPushButton("Go"), name, value)


def test_keywords_numpy_scalars_and_second_layouts_are_refused(host: Host) -> None:
    import qt

    widget = qt.QWidget()
    with pytest.raises(TypeError):
        qt.QPushButton(text="Go")
    with pytest.raises(TypeError):
        widget.resize(w=1, h=2)
    with pytest.raises(TypeError, match="numpy"):
        qt.QTableWidgetItem().setData(0, np.float64(2))
    widget.setLayout(qt.QVBoxLayout())
    with pytest.raises(TypeError, match="second setLayout"):
        widget.setLayout(qt.QVBoxLayout())


def test_signals_by_attribute_and_by_signature(host: Host, capsys: Any) -> None:
    import qt

    heard: list[Any] = []
    button = qt.QPushButton()
    button.clicked.connect(lambda: heard.append("plain"))
    assert button.connect("clicked(bool)", heard.append)
    button.click()
    assert heard == ["plain", False]
    assert not button.connect("pressed(int)", print)
    assert "No such signal" in capsys.readouterr().out
    button.clicked.connect(lambda: 1 / 0)
    button.click()
    with pytest.raises(ZeroDivisionError):
        host.check()


def test_process_talks_in_byte_arrays(host: Host) -> None:
    import qt

    output, ended = [], []
    process = qt.QProcess()
    process.connect("readyReadStandardOutput()", lambda: output.append(process.readAllStandardOutput()))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append(code))
    process.start(sys.executable, ["-c", "print('out'); raise SystemExit(3)"])
    assert pump(20, until=lambda: ended)
    assert ended == [3]
    assert b"".join(part.data() for part in output) == b"out\n"
    with pytest.raises(TypeError):
        bytes(output[0])
    with pytest.raises(AttributeError):
        process.setUnixProcessParameters({})


def test_node_combo_follows_the_scene(host: Host, ui: Any) -> None:
    import slicer

    heard: list[Any] = []
    ui.input.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    first = volume("first")
    assert ui.input.nodeCount() == 1
    assert ui.input.currentNode() is None
    ui.input.setCurrentNode(first)
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    ui.input.setCurrentNode(table)
    assert ui.input.currentNode() is None
    assert heard == [first, None]
    slicer.mrmlScene.Clear(0)
    assert ui.input.currentNode() is None
    assert ui.input.nodeCount() == 0
    ui.input.noneEnabled = False
    second = volume("second")
    assert ui.input.currentNode() is second
    with pytest.raises(TypeError, match="characters"):
        ui.input.nodeTypes = "vtkMRMLScalarVolumeNode"


def test_node_combo_is_as_late_as_slicers(host: Host, ui: Any, tmp_path: Path) -> None:
    """Nodes come one by one during an import, before Python's observers; the next takes the place of a removed one."""
    import slicer

    scene = slicer.mrmlScene
    first, second, third = volume("first"), volume("second"), volume("third")
    ui.input.setCurrentNode(second)
    seen: list[Any] = []
    tag = scene.AddObserver(scene.NodeAboutToBeRemovedEvent, lambda *_: seen.append(ui.input.currentNode()))
    scene.RemoveNode(second)
    scene.RemoveObserver(tag)
    assert seen[0] is second
    assert ui.input.currentNode() is third
    scene.RemoveNode(third)
    assert ui.input.currentNode() is first
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    counts: list[tuple[int, bool]] = []
    scene.Clear(0)
    tag = scene.AddObserver(
        scene.NodeAddedEvent, lambda *_: counts.append((ui.input.nodeCount(), bool(scene.IsImporting())))
    )
    scene.Import()
    scene.RemoveObserver(tag)
    assert (1, True) in counts


def test_closing_the_scene_with_its_singletons_is_survived(host: Host) -> None:
    """The real layout logic keeps a dangling pointer to its node meanwhile, in whose memory others come to lie."""
    import slicer
    from tests.support.host import open_module

    open_module()
    for _ in range(10):
        volume()
        slicer.mrmlScene.Clear(1)
        node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        assert slicer.mrmlScene.IsNodePresent(node)


def test_choosing_the_open_module_again_does_not_enter_it(host: Host) -> None:
    from tests.support.host import open_module

    widget = open_module()
    entered: list[int] = []
    widget.enter = lambda: entered.append(1)
    open_module()
    assert not entered
    host.modules["CardiacLDM"].leave()
    open_module()
    assert entered == [1]


def test_ui_file_arrives_with_all_its_properties(host: Host, ui: Any, panel: Any) -> None:
    assert ui.input.toolTip == "The scan"
    assert ui.input.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    assert ui.more.text == "More"
    assert not ui.more.collapsed
    assert ui.folder.filters == type(ui.folder).Dirs
    panel.show()
    ui.more.collapsed = True
    assert not ui.quality.visible
    ui.more.collapsed = False
    assert ui.quality.visible


def test_ui_file_with_an_unknown_class_is_refused(host: Host, tmp_path: Path) -> None:
    import slicer

    (tmp_path / "p.ui").write_text(PANEL.replace("ctkPathLineEdit", "ctkNothing"))
    with pytest.raises((LookupError, RuntimeError)):
        slicer.util.loadUI(str(tmp_path / "p.ui"))


def test_parameter_node_keeps_types_and_packs(host: Host) -> None:
    node = parameter_node()
    assert (node.settings.quality, node.settings.share, node.shown, node.scan) == (Quality.FULL, 0.5, True, None)
    node.settings.quality = Quality.FAST
    again = type(node)(node.parameterNode)
    assert again.settings.quality is Quality.FAST
    again.scan = volume()
    assert node.scan.GetName() == "CT"
    for name, value in (("shown", "yes"), ("shwon", True)):
        with pytest.raises((ValueError, AttributeError)):
            setattr(node, name, value)
    with pytest.raises(ValueError, match="not within"):
        node.settings.share = 2.0


def test_parameter_node_and_widgets_follow_each_other(host: Host, ui: Any, panel: Any) -> None:
    node, scan = parameter_node(), volume()
    tag = node.connectGui(panel)
    assert ui.quality.currentText == "FULL"
    ui.input.setCurrentNode(scan)
    ui.quality.currentIndex = 0
    assert node.scan is scan
    assert node.settings.quality is Quality.FAST
    node.settings.quality = Quality.FULL
    assert ui.quality.currentText == "FULL"
    node.disconnectGui(tag)
    ui.quality.currentIndex = 0
    assert node.settings.quality is Quality.FULL


def test_connecting_is_all_or_nothing(host: Host, ui: Any, panel: Any) -> None:
    ui.apply.setProperty("SlicerParameterName", "settings.share")
    with pytest.raises(RuntimeError, match="QPushButton"):
        parameter_node().connectGui(panel)


def test_questions_are_answered_by_the_test(host: Host) -> None:
    import qt

    import slicer

    host.answer("Replace", True)
    assert slicer.util.confirmOkCancelDisplay("Replace it?") is True
    assert slicer.util.confirmOkCancelDisplay("Replace it?") is False
    host.answer("getExistingDirectory", "folder")
    assert qt.QFileDialog.getExistingDirectory(None, "Where?") == "folder"
    assert host.texts("confirm") == ["Replace it?", "Replace it?"]


def test_slices_are_real(host: Host) -> None:
    import slicer

    slicer.util.setSliceViewerLayers(background=volume(), fit=True)
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    assert node.IsA("vtkMRMLSliceNode")
    assert node.GetOrientation() == "Axial"


def test_heartbeat_sees_a_held_loop(host: Host) -> None:
    import time

    with Heartbeat() as beat:
        pump(0.1)
    assert beat.beats > 3
    with Heartbeat() as beat:
        pump(0.05)
        time.sleep(0.15)
        pump(0.05)
    assert beat.longest_ms > 140


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_module_source_has_nothing_that_pythonqt_does_wrong_in_silence(path: Path) -> None:
    assert problems_in_source(path) == []


@pytest.mark.parametrize("path", sorted((MODULE / "Resources" / "UI").glob("*.ui")), ids=lambda path: path.stem)
def test_forms_have_nothing_that_slicer_loads_wrongly(path: Path) -> None:
    assert problems_in_ui(path) == []


WRONG = """
import qt, PySide6
combo.nodeTypes = "vtkMRMLScalarVolumeNode"
label.text = None
box.isChecked()
combo.currentText()
qt.QLabel(text="a")
widget.setLayout(layout=rows)
isinstance(w, qt.QWidget)
bytes(process.readAllStandardOutput())
process.finished.connect(done)
qt.QDialogButtonBox(a | b)
class Item(qt.QTableWidgetItem):
    def __lt__(self, other): pass

table.fontMetrics().horizontalAdvance("a")
if event.type() == qt.QEvent.ShortcutOverride: event.key()
"""


def test_silent_faults_are_found_in_the_source(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    assert {line.split(":")[1] for line in problems_in_source(path)} == {str(n) for n in (*range(2, 14), 16, 17)}
    form = tmp_path / "wrong.ui"
    form.write_text(
        PANEL.replace("stringlist", "list")
        .replace("The scan", "")
        .replace("Apply", "&amp;More")
        .replace(">More", ">&amp;Map")
    )
    words = " ".join(problems_in_ui(form))
    for part in ("input: no tooltip", "nodeTypes is a list", "Alt+m: 2 times"):
        assert part in words

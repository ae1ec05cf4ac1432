"""A search of source and .ui files for code that PythonQt accepts and then silently runs wrongly."""

from __future__ import annotations

import ast
import functools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PySide6 import QtCore, QtWidgets

from . import ui

#: Widgets a person works with: each needs a tooltip.
CONTROLS = {
    "QPushButton", "QToolButton", "QComboBox", "QCheckBox", "QRadioButton", "QLineEdit", "QSpinBox", "QDoubleSpinBox",
    "QSlider", "QTableWidget", "QTreeWidget", "QListWidget", "ctkPathLineEdit", "ctkDirectoryButton",
    "ctkSliderWidget", "ctkComboBox", "qMRMLNodeComboBox",
}  # fmt: skip
#: Widgets that parameterNodeWrapper can tie to a parameter.
TIED = {
    "QCheckBox", "QPushButton", "QSlider", "QSpinBox", "QDoubleSpinBox", "QComboBox", "QLineEdit", "QTextEdit",
    "ctkSliderWidget", "ctkPathLineEdit", "ctkDirectoryButton", "qMRMLNodeComboBox",
}  # fmt: skip
#: Properties of one class that are methods of another that is used more: of QTableWidget and QKeyEvent.
METHODS = {"currentRow", "isAutoRepeat"}
#: Methods that PythonQt's widgets lack, and an event that it passes to filters as a QEvent, which has no key.
NOT_WRAPPED = {"fontMetrics", "fontInfo", "ShortcutOverride"}
GONE_IN_QT6 = {"QTextCodec", "QRegExp", "QDesktopWidget", "QStringRef", "exec_"}


@functools.cache
def widget_getters() -> frozenset[str]:
    """Return getters of widgets' properties that are not plain English words: ``isChecked``, ``currentText``, ..."""
    names: set[str] = set()
    for kind in vars(QtWidgets).values():
        if isinstance(kind, type) and issubclass(kind, QtWidgets.QWidget):
            meta = kind.staticMetaObject
            names |= {meta.property(n).name() for n in range(meta.propertyCount())}
    return frozenset(
        ({f"is{name[0].upper()}{name[1:]}" for name in names} | {n for n in names if not n.islower()}) - METHODS
    )


@functools.cache
def qt_methods() -> frozenset[str]:
    """Return the names of Qt's methods in camelCase, which none of our functions uses."""
    found: set[str] = set()
    for module in (QtWidgets, QtCore):
        for kind in vars(module).values():
            if isinstance(kind, type):
                found |= {name for name in dir(kind) if not name.startswith("_") and not name.islower()}
    return frozenset(found)


def problems_in_source(path: Path) -> list[str]:
    """Return one line for each place in a Python file that PythonQt would run wrongly."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [f"{path.name}:{node.lineno}: {words}" for node in ast.walk(tree) for words in _problems(node)]


def _problems(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        yield from _call(node)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        names = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
        if names & {"nodeTypes", "hideChildNodeTypes"} and isinstance(node.value.value, str):
            yield "a string is split into characters: give a list"
        if names & {"text", "toolTip", "plainText", "styleSheet"} and node.value.value is None:
            yield "None is shown as 'None'"
    if isinstance(node, ast.Attribute) and node.attr in GONE_IN_QT6:
        yield f"{node.attr} is gone in Qt 6"
    if isinstance(node, ast.Attribute) and node.attr in NOT_WRAPPED:
        yield f"{node.attr} is not usable in PythonQt"
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        for name in names & {"PySide6", "PyQt5", "PyQt6"}:
            yield f"{name} is not in a Slicer"
    if isinstance(node, ast.ClassDef) and any(_name(base) == "qt.QTableWidgetItem" for base in node.bases):  # noqa: SIM102
        if any(isinstance(part, ast.FunctionDef) and part.name == "__lt__" for part in node.body):
            yield "__lt__ of a table item is never called: sort by a data role"


def _call(node: ast.Call) -> Iterator[str]:
    name = _name(node.func)
    last = name.rpartition(".")[2]
    is_qt = name.startswith(("qt.", "ctk."))
    if node.keywords and (is_qt or (last in qt_methods() and not name.startswith(("slicer.", "super.")))):
        yield f"{name}: keyword arguments to Qt are refused"
    if "." in name and not is_qt and not node.args and not node.keywords and last in widget_getters():
        yield f"{name}() is a property, not a method"
    if last == "setSelectedSegmentIDs" and isinstance(node.args[0], ast.Constant):
        yield "a string is split into characters: give a list"
    if last == "QDialogButtonBox" and any(isinstance(argument, ast.BinOp) for argument in node.args):
        yield "gives no buttons: setStandardButtons"
    if last == "isinstance" and "qt." in ast.unparse(node.args[1]):
        yield "isinstance() of a Qt class is False: inherits()"
    if last in {"bytes", "len", "str"} and re.search(
        r"\.read(All|Line)\w*\(\)$", ast.unparse(node.args[0]) if node.args else ""
    ):
        yield "a QByteArray's bytes are its data()"
    if name in {"threading.Thread", "Thread", "ThreadPoolExecutor"}:
        yield "Python threads starve while Qt idles: a process and its signals, or a timer"
    if name.endswith("finished.connect"):
        yield 'connect("finished(int,QProcess::ExitStatus)", f): the attribute passes one argument in Qt 6'


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return node.id if isinstance(node, ast.Name) else _name(node.func) if isinstance(node, ast.Call) else ""


def problems_in_ui(path: Path) -> list[str]:
    """Return one line for each fault in a .ui file: wrong in Slicer, or a missing tooltip or shortcut."""
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    widgets = list(root.iter("widget"))
    found = []
    for widget in widgets:
        kind, name = widget.get("class", ""), widget.get("name", "")
        properties = {prop.get("name"): prop for prop in widget.findall("property")}
        if kind not in ui.OWN and not hasattr(QtWidgets, kind):
            found.append(f"{name}: {kind} is unknown to the stand-in")
        if kind in CONTROLS and not (properties.get("toolTip", ET.Element("x")).findtext("string") or "").strip():
            found.append(f"{name}: no tooltip")
        if "SlicerParameterName" in properties and kind not in TIED:
            found.append(f"{name}: {kind} cannot be tied to a parameter")
        if "nodeTypes" in properties and properties["nodeTypes"].find("stringlist") is None:
            found.append(f"{name}: nodeTypes is a list of strings")
    names = Counter(widget.get("name") for widget in widgets)
    found += [f"{name}: {count} widgets of this name" for name, count in names.items() if count > 1]
    keys = Counter(key.lower() for text in root.iter("string") for key in re.findall(r"(?<!&)&(\w)", text.text or ""))
    found += [f"Alt+{key}: {count} times, so none of them works" for key, count in keys.items() if count > 1]
    own = {widget.get("name") for widget in widgets if widget.get("class") == "qMRMLNodeComboBox"}
    with_scene = {connection.findtext("receiver") for connection in root.iter("connection")}
    found += [f"{name}: gets no scene" for name in sorted(own - with_scene, key=str)]
    return [f"{path.name}: {words}" for words in found]

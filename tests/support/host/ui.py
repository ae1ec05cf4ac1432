"""Slicer's loader for .ui files of Qt Designer, with Slicer's and CTK's own widgets."""

from __future__ import annotations

import inspect
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import widgets
from .pythonqt import loading, wrapped

OWN = {**widgets.CTK, **widgets.QMRML}
Values = list[tuple[str, str, Any]]  # widget name, property, value


class Loader(QtUiTools.QUiLoader):
    """Makes every widget, layout and action as the stand-in's class of that name; refuses unknown classes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []

    def createWidget(self, name: str, parent: Any = None, object_name: str = "", /) -> Any:
        kind = OWN.get(name) or getattr(QtWidgets, name, None)
        if kind is None:  # Slicer silently makes it a QWidget
            raise LookupError(f"The .ui file wants {name}, which the stand-in does not have.")
        kind = kind if name in OWN else wrapped(kind)
        made = kind(parent) if parent is not None else kind()
        QtCore.QObject.setObjectName(made, object_name)
        self.made.append(made)
        return made


def load_ui(path: str | Path, parent: Any = None, /) -> Any:
    """Return the widget in a file with all its children. Raises RuntimeError for a missing or invalid file."""
    if not Path(path).is_file():
        raise RuntimeError(f"Could not load UI file: file not found {path}")
    root = ET.fromstring(Path(path).read_text(encoding="utf-8"))
    values, scenes = _take_own_properties(root), _take_scene_connections(root)
    buffer = QtCore.QBuffer()
    buffer.setData(ET.tostring(root))
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    loader = Loader()
    loading.append(str(path))
    try:
        widget = loader.load(buffer)
    finally:
        loading.pop()
    if widget is None or len(loader.made) != sum(1 for _ in root.iter("widget")):
        raise RuntimeError(f"Could not load UI file: {path}: {loader.errorString()}")
    by_name = {QtCore.QObject.objectName(made): made for made in loader.made}
    for name, key, value in values:
        setattr(by_name[name], key, value)
    for sender, receiver in scenes:
        by_name[sender].mrmlSceneChanged.connect(by_name[receiver].setMRMLScene)
    widget._made = loader.made  # Python's side of every widget lives as long as the whole
    return widget


def _take_own_properties(root: ET.Element) -> Values:
    """Cut out the properties that Qt does not know, those of CTK's and Slicer's classes."""
    found: Values = []
    for widget in root.iter("widget"):
        kind = OWN.get(widget.get("class", ""))
        if kind is None:
            continue
        for prop in list(widget.findall("property")):
            name = prop.get("name", "")
            if isinstance(inspect.getattr_static(kind, name, None), property | widgets.switch):
                found.append((widget.get("name", ""), name, _value(prop, kind)))
                widget.remove(prop)
            elif prop.get("stdset") != "0" and not hasattr(kind, name):
                raise AttributeError(f"{kind.__name__} has no property '{name}'")
    return found


def _value(prop: ET.Element, kind: type) -> Any:
    (element,) = prop
    text = element.text or ""
    if element.tag == "stringlist":
        return [string.text or "" for string in element.iter("string")]
    if element.tag in {"enum", "set"}:
        names = [name.rpartition("::")[2] for name in text.split("|")]
        return sum(int(getattr(kind, name, 0)) for name in names)
    return {"bool": lambda: text == "true", "number": lambda: int(text), "double": lambda: float(text)}.get(
        element.tag, lambda: text
    )()


def _take_scene_connections(root: ET.Element) -> list[tuple[str, str]]:
    """Cut out mrmlSceneChanged -> setMRMLScene, which Qt cannot connect for Python's classes."""
    found = []
    for connections in root.iter("connections"):
        for connection in list(connections):
            if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)":
                assert connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
                found.append((connection.findtext("sender", ""), connection.findtext("receiver", "")))
                connections.remove(connection)
    return found

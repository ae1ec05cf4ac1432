"""PySide6 made to look like PythonQt: the modules ``qt`` and, with widgets of its own, ``ctk``.

Every QObject class of ``qt`` is a Python subclass that behaves as PythonQt's: Qt properties are attributes (calling one
is a TypeError), an unknown attribute raises, ``connect("signal(types)", f)`` works like ``signal.connect(f)``, keyword
arguments are refused, lists come back as tuples, bytes as a QByteArray that only knows ``data()``. What PythonQt
accepts and then silently gets wrong is a TypeError here.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import QObject

#: Only in Qt 6, or not wrapped by PythonQt.
MISSING = {
    "setUnixProcessParameters", "setChildProcessModifier", "setCreateProcessArgumentsModifier", "setCursorShape",
    "fontMetrics", "fontInfo",
}  # fmt: skip
#: Qt types whose properties take only these Python types; PythonQt converts anything else to nonsense.
ACCEPTED: dict[str, tuple[type, ...]] = {"QString": (str,), "bool": (bool,), "int": (int,), "double": (int, float)}
MODULES = (QtWidgets, QtGui, QtCore, QtUiTools)
#: Not empty while a .ui file is read.
loading: list[str] = []
_reading: set[tuple[int, str]] = set()
_classes: dict[type, type] = {}


class ByteArray:
    """What PythonQt gives for a QByteArray: ``data()`` is the way to its bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def data(self) -> bytes:
        return self._data

    def isEmpty(self) -> bool:
        return not self._data

    def size(self) -> int:
        return len(self._data)

    def __str__(self) -> str:
        return f"b{self._data!r}"

    def __bytes__(self) -> bytes:
        raise TypeError("a QByteArray's bytes are its data()")

    def __len__(self) -> int:
        raise TypeError("a QByteArray has size(), not len()")


def given(value: Any) -> Any:
    """A value on its way out of Qt."""
    if isinstance(value, QtCore.QByteArray):
        return ByteArray(bytes(value))
    return tuple(value) if isinstance(value, list) else value


def taken(value: Any) -> Any:
    """A value on its way into Qt."""
    if isinstance(value, np.generic):
        raise TypeError(f"PythonQt shows nothing for a numpy scalar ({value!r}): make it a Python number")
    return QtCore.QByteArray(value.data()) if isinstance(value, ByteArray) else value


class Method:
    """A bound method of Qt: positional arguments only."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return given(self._function(*(taken(argument) for argument in arguments)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


class PythonQtObject:
    """Mixed into every QObject class: attributes as PythonQt resolves them, from Qt's own meta-object."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(taken(argument) for argument in arguments))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)
        if name in {"connect", "disconnect"}:  # PySide6 would give its own
            return types.MethodType(vars(PythonQtObject)[name], self)
        if name in MISSING:
            raise AttributeError(f"'{name}' is not there in every Slicer")
        key = (id(self), name)
        if key not in _reading and QObject.metaObject(self).indexOfProperty(name) >= 0:
            _reading.add(key)  # Qt asks for overridden virtual getters on the way
            try:
                return given(QObject.property(self, name))
            finally:
                _reading.discard(key)
        if name == "name":
            return QObject.objectName(self)
        value = super().__getattribute__(name)
        return Method(value) if isinstance(value, types.BuiltinMethodType) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "name":
            name = "objectName"
        meta = QObject.metaObject(self)
        index = meta.indexOfProperty(name)
        if index >= 0:
            _set_property(self, meta.property(index), value)
        elif name.startswith("_") or type(self) not in _classes.values() or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif not loading:  # when PySide6 makes every child of a .ui file an attribute of its root
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")

    def connect(self, signature: str, slot: Callable[..., Any], /) -> bool:
        signal = _signal(self, signature)
        if signal is not None:
            signal.connect(slot)
        return signal is not None

    def disconnect(self, signature: str, slot: Callable[..., Any], /) -> bool:
        signal = _signal(self, signature)
        return signal is not None and bool(signal.disconnect(slot))

    def className(self) -> str:
        return type(self).__name__

    def findChildren(self, kind: type | str = QObject, /, *name: Any) -> tuple[Any, ...]:
        if isinstance(kind, str):
            return tuple(each for each in QObject.findChildren(self, QObject, *name) if QObject.inherits(each, kind))
        return tuple(QObject.findChildren(self, _plain(kind), *name))

    def findChild(self, kind: type = QObject, /, *name: Any) -> Any:
        return QObject.findChild(self, _plain(kind), *name)

    def setLayout(self, layout: Any, /) -> None:
        if QtWidgets.QWidget.layout(self) not in (None, layout):
            raise TypeError("a second setLayout is ignored")
        QtWidgets.QWidget.setLayout(self, layout)

    def delete(self) -> None:
        QObject.deleteLater(self)


def _set_property(target: QObject, prop: QtCore.QMetaProperty, value: Any) -> None:
    kind, value = prop.typeName(), taken(value)
    if not prop.isWritable():
        raise AttributeError(f"{type(target).__name__}.{prop.name()} can only be read")
    accepted = ACCEPTED.get(kind)
    if accepted and (not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool")):
        raise TypeError(
            f"{type(target).__name__}.{prop.name()} = {value!r}: PythonQt makes nonsense of it, give {kind}"
        )
    if kind == "QStringList" and isinstance(value, str):
        raise TypeError(f"{type(target).__name__}.{prop.name()} = {value!r}: a string is split into characters")
    if isinstance(value, tuple):
        value = list(value)
    if not QObject.setProperty(target, prop.name(), value):
        raise TypeError(f"{type(target).__name__}.{prop.name()} does not take {value!r}")


def _signal(target: QObject, signature: str) -> Any:
    """Return the bound signal of a PythonQt signature. A wrong one prints a line and gives None."""
    own = getattr(type(target), "_signatures", {})
    if signature in own:
        return getattr(target, own[signature])
    normal = QtCore.QMetaObject.normalizedSignature(signature)
    normal = normal.data().decode() if isinstance(normal, QtCore.QByteArray) else str(normal)
    if QObject.metaObject(target).indexOfSignal(normal) < 0:
        print(f"QObject::connect: No such signal {type(target).__name__}::{signature}")
        return None
    name, _, arguments = normal.rstrip(")").partition("(")
    signal = object.__getattribute__(target, name)
    try:
        return signal[arguments] if arguments else signal
    except (IndexError, KeyError, TypeError):
        return signal


def _plain(kind: type) -> type:
    return next((plain for plain, wrapped in _classes.items() if wrapped is kind), kind)


def wrapped(kind: type) -> type:
    """Return the PythonQt-like subclass of a PySide6 QObject class."""
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (PythonQtObject, kind), {"__module__": "qt"})
    return _classes[kind]


def register(kind: type) -> type:
    """Class decorator of the stand-in's own widgets: strict about unknown attributes as the generated ones."""
    _classes[kind] = kind
    return kind


class TableWidgetItem(QtWidgets.QTableWidgetItem):
    """Refuses what Slicer's tables show as a blank cell."""

    def __init__(self, *arguments: Any) -> None:
        if arguments and not isinstance(arguments[0], (str, int, QtGui.QIcon)):
            raise TypeError(f"a table item of {arguments[0]!r}")
        super().__init__(*arguments)

    def __init_subclass__(cls) -> None:
        if "__lt__" in vars(cls):
            raise TypeError("__lt__ of a Python QTableWidgetItem is never called: sort by a data role")

    def setData(self, role: int, value: Any, /) -> None:
        super().setData(role, taken(value))

    def setText(self, text: str, /) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a table item's text is a string, not {text!r}")
        super().setText(text)


def find(name: str) -> Any:
    """Return ``qt.name``. Raises AttributeError."""
    if name == "QTableWidgetItem":
        return TableWidgetItem
    for module in MODULES:
        value = getattr(module, name, None)
        if value is not None:
            return wrapped(value) if isinstance(value, type) and issubclass(value, QObject) else value
    raise AttributeError(f"qt has no '{name}' (Slicer's qt holds QtCore, QtGui, QtWidgets and QtUiTools)")


class Namespace(types.ModuleType):
    """A module whose classes are made when they are asked for."""

    def __init__(self, name: str, look_up: Callable[[str], Any]) -> None:
        super().__init__(name)
        self.__dict__["_look_up"] = functools.cache(look_up)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._look_up(name)

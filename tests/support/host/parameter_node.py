"""``slicer.parameterNodeWrapper``: typed Python attributes kept in a vtkMRMLScriptedModuleNode, tied to widgets.

Covers the types a module of this kind needs and is as strict as the real one: ``connectGui`` connects everything that
carries a SlicerParameterName or raises, and matches widget classes exactly. A mistyped name, which the real one takes
for a new attribute, raises.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_args, get_origin

import vtk


@dataclass
class Default:
    value: Any


@dataclass
class Decimals:
    value: int


@dataclass
class SingleStep:
    value: float


@dataclass
class Minimum:
    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is below {self.minimum}")


@dataclass
class Maximum:
    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is above {self.maximum}")


@dataclass
class WithinRange:
    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} to {self.maximum}")


@dataclass
class Choice:
    choices: list[Any]

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


@dataclass
class NotNone:
    def validate(self, value: Any) -> None:
        if value is None:
            raise ValueError("a value is needed")


@dataclass
class Parameter:
    """One parameter: its full name in the node (``pack.member``), bare type, annotations and default."""

    name: str
    kind: Any
    notes: tuple[Any, ...]
    default: Any

    def note(self, kind: type) -> Any:
        return next((note for note in self.notes if isinstance(note, kind)), None)

    def check(self, value: Any) -> None:
        plain = (int, float, str, bool)
        if self.kind in plain and type(value) is not self.kind and not (self.kind is float and type(value) is int):
            raise ValueError(f"{self.name} is {self.kind.__name__}, not {value!r}")
        if (
            isinstance(self.kind, type)
            and issubclass(self.kind, enum.Enum | PurePath)
            and not isinstance(value, self.kind)
        ):
            raise ValueError(f"{self.name} is {self.kind.__name__}, not {value!r}")
        for note in self.notes:
            if hasattr(note, "validate"):
                note.validate(value)

    def read(self, node: Any) -> Any:
        if _node_types(self.kind):
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "True"
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return self.kind[text]
        if get_origin(self.kind) is list:
            return [get_args(self.kind)[0](item) for item in text.split("\n")] if text else []
        return self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        if _node_types(self.kind):
            if isinstance(value, str):
                value = node.GetScene().GetNodeByID(value)
            if value is not None and not any(value.IsA(kind) for kind in _node_types(self.kind)):
                raise TypeError(f"{self.name} takes {_node_types(self.kind)}, not {value.GetClassName()}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        self.check(value)
        if isinstance(value, enum.Enum):
            value = value.name
        node.SetParameter(self.name, "\n".join(map(str, value)) if isinstance(value, list) else str(value))

    def is_in(self, node: Any) -> bool:
        return bool(_node_types(self.kind)) or node.GetParameter(self.name) != ""


def _node_types(kind: Any) -> list[str]:
    """MRML class names if ``kind`` is a node class or a union of some; empty otherwise."""
    kinds = (
        [k for k in get_args(kind) if k is not type(None)]
        if get_origin(kind) in {typing.Union, types.UnionType}
        else [kind]
    )
    names = [k.__name__ for k in kinds if isinstance(k, type) and k.__name__.startswith("vtkMRML")]
    return names if len(names) == len(kinds) else []


def _parameters(kind: type, prefix: str = "") -> dict[str, Parameter | type]:
    """Member name -> parameter, or the pack's class."""
    found: dict[str, Parameter | type] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        bare, *notes = get_args(hint) if get_origin(hint) is typing.Annotated else (hint,)
        if getattr(bare, "_is_parameterPack", False):
            found[name] = bare
            continue
        given = next((note.value for note in notes if isinstance(note, Default)), _empty(bare, notes))
        default = kind.__dict__.get("_defaults", vars(kind)).get(name, given)
        found[name] = Parameter(prefix + name, bare, tuple(n for n in notes if not isinstance(n, Default)), default)
    return found


def _empty(kind: Any, notes: list[Any]) -> Any:
    choice = next((note for note in notes if isinstance(note, Choice)), None)
    if choice:
        return choice.choices[0]
    if _node_types(kind):
        return None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    return {int: 0, float: 0.0, str: "", bool: False}.get(kind, []) if not _is_path(kind) else Path()


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, PurePath)


def parameterPack(kind: type | None = None) -> Any:
    """Class decorator: settings that belong together, a value of one parameter."""
    if kind is None:
        return parameterPack
    members = _parameters(kind)
    if not members:
        raise ValueError("Unable to find any members in parameterPack")

    def start(self: Any, *values: Any, **named: Any) -> None:
        given = dict(zip(members, values, strict=False)) | named
        if set(given) - set(members):
            raise TypeError(f"no such member: {sorted(set(given) - set(members))}")
        for name, member in members.items():
            value = given.get(name, member.default if isinstance(member, Parameter) else member())
            if isinstance(member, Parameter):
                member.check(value)
            self.__dict__[name] = value

    def assign(self: Any, name: str, value: Any) -> None:
        if name not in members:
            raise AttributeError(f"{kind.__name__} has no member '{name}'")
        if isinstance(members[name], Parameter):
            members[name].check(value)
        self.__dict__[name] = value

    kind._defaults = {name: vars(kind)[name] for name in members if name in vars(kind)}
    kind._is_parameterPack, kind.allParameters = True, members
    kind.__init__, kind.__setattr__ = start, assign
    kind.__eq__ = lambda self, other: type(self) is type(other) and vars(self) == vars(other)
    kind.__repr__ = lambda self: f"{kind.__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"
    for name in members:
        if name in vars(kind):
            delattr(kind, name)
    return kind


class _PackInNode:
    """A pack read from a node: what is set on it goes to the node at once."""

    def __init__(self, node: Any, prefix: str, kind: type) -> None:
        self.__dict__.update(_node=node, _prefix=prefix, _kind=kind, _members=_parameters(kind, prefix))

    def __getattr__(self, name: str) -> Any:
        member = self._members.get(name)
        if member is None:
            return types.MethodType(getattr(self._kind, name), self)  # the pack's own methods
        return (
            member.read(self._node)
            if isinstance(member, Parameter)
            else _PackInNode(self._node, f"{self._prefix}{name}.", member)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        member = self._members.get(name)
        if member is None:
            raise AttributeError(f"{self._kind.__name__} has no member '{name}'")
        if isinstance(member, Parameter):
            member.write(self._node, value)
        else:
            _write_pack(self._node, f"{self._prefix}{name}.", member, value)


def _write_pack(node: Any, prefix: str, kind: type, value: Any) -> None:
    was = node.StartModify()
    for name, member in _parameters(kind, prefix).items():
        part = getattr(value, name)
        if isinstance(member, Parameter):
            member.write(node, part)
        else:
            _write_pack(node, f"{prefix}{name}.", member, part)
    node.EndModify(was)


def parameterNodeWrapper(kind: type | None = None) -> Any:
    """Class decorator: the class then takes a vtkMRMLScriptedModuleNode and keeps its attributes there."""
    if kind is None:
        return parameterNodeWrapper
    kind.allParameters, kind._is_parameter_node_wrapper = _parameters(kind), True
    for name in kind.allParameters:
        if hasattr(_Wrapper, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        if name in vars(kind):
            delattr(kind, name)
    return type(kind.__name__, (_Wrapper, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _Wrapper:
    """What every wrapper class gets."""

    allParameters: typing.ClassVar[dict[str, Any]]

    def __init__(self, node: Any) -> None:
        self.__dict__.update(parameterNode=node, _ties={}, _next=0, _updating=False)
        for name, member in self.allParameters.items():
            for parameter in _leaves(name, member):
                if not parameter.is_in(node):
                    parameter.write(node, parameter.default)

    def __getattr__(self, name: str) -> Any:
        member = type(self).allParameters.get(name)
        if member is None:
            raise AttributeError(f"the parameter node has no '{name}'")
        return (
            member.read(self.parameterNode)
            if isinstance(member, Parameter)
            else _PackInNode(self.parameterNode, f"{name}.", member)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        member = self.allParameters.get(name)
        if member is None:
            raise AttributeError(f"the parameter node has no '{name}' (Slicer would take it without a word)")
        if isinstance(member, Parameter):
            member.write(self.parameterNode, value)
        else:
            _write_pack(self.parameterNode, f"{name}.", member, value)

    def dataType(self, name: str) -> Any:
        return self._parameter(name).kind

    def default(self, name: str) -> Default:
        return Default(self._parameter(name).default)

    def getValue(self, name: str) -> Any:
        return self._parameter(name).read(self.parameterNode) if "." in name else getattr(self, name)

    def setValue(self, name: str, value: Any) -> None:
        if "." in name:
            self._parameter(name).write(self.parameterNode, value)
        else:
            setattr(self, name, value)

    def StartModify(self) -> Any:
        return self.parameterNode.StartModify()

    def EndModify(self, was: Any) -> Any:
        return self.parameterNode.EndModify(was)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> Any:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: Any) -> None:
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, gui: Any) -> int:
        """Tie every widget with a SlicerParameterName to its parameter; raises if one cannot be, with none tied."""
        from PySide6 import QtWidgets

        is_widget = isinstance(gui, QtWidgets.QWidget)
        children = QtWidgets.QWidget.findChildren(gui, QtWidgets.QWidget) if is_widget else vars(gui).values()
        named = {child.property("SlicerParameterName"): child for child in children}
        return self.connectParametersToGui({name: child for name, child in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        ties = {name: connector(widget, self._parameter(name)) for name, widget in mapping.items()}
        tag = self._next
        self.__dict__["_next"] += 1
        self._ties[tag] = ties
        for name, tie in ties.items():
            tie.write(self.getValue(name))
            tie.connect(lambda name=name, tie=tie: self._from_gui(name, tie))
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._to_gui())
        return tag

    def disconnectGui(self, tag: int) -> None:
        for tie in self._ties.pop(tag, {}).values():
            tie.disconnect()

    def _parameter(self, name: str) -> Parameter:
        top, _, rest = name.partition(".")
        member = self.allParameters.get(top)
        if member is None:
            raise ValueError(f"Cannot find a param with the given name: {top}")
        prefix = f"{top}."
        while rest:
            if isinstance(member, Parameter):
                raise ValueError(f"{name}: {top} is not a parameter pack")
            top, _, rest = rest.partition(".")
            member, prefix = _parameters(member, prefix)[top], f"{prefix}{top}."
        if not isinstance(member, Parameter):
            raise RuntimeError(f"Unable to create GUI connector for the pack '{name}': name its members")
        return member

    def _from_gui(self, name: str, tie: Tie) -> None:
        if not self._updating:
            was = self.StartModify()
            try:
                self.setValue(name, tie.read())
            finally:
                self.EndModify(was)

    def _to_gui(self) -> None:
        if self._updating:
            return
        self.__dict__["_updating"] = True
        try:
            for ties in list(self._ties.values()):
                for name, tie in ties.items():
                    tie.write(self.getValue(name))
        finally:
            self.__dict__["_updating"] = False


def _leaves(name: str, member: Parameter | type) -> list[Parameter]:
    if isinstance(member, Parameter):
        return [member]
    return [leaf for m in _parameters(member, f"{name}.").items() for leaf in _leaves(f"{name}.{m[0]}", m[1])]


# --- widgets -------------------------------------------------------------------------------------------------------


class Tie:
    """A widget tied to a parameter."""

    def __init__(self, signal: Any, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._signal, self.read, self.write = signal, read, write
        self._slot: Callable[..., None] | None = None

    def connect(self, changed: Callable[[], None]) -> None:
        self._slot = lambda *_: changed()
        self._signal.connect(self._slot)

    def disconnect(self) -> None:
        self._signal.disconnect(self._slot)


def connector(widget: Any, parameter: Parameter) -> Tie:
    """The tie of this widget class and this type; raises RuntimeError when Slicer has none."""
    name, kind = type(widget).__name__, parameter.kind
    if kind is bool and name in {"QCheckBox", "QPushButton"}:
        return Tie(widget.toggled, lambda: widget.checked, lambda v: setattr(widget, "checked", v))
    if kind in {int, float} and name in _NUMBERS[kind]:
        return _number(widget, parameter)
    if name == "QComboBox" and (parameter.note(Choice) or (isinstance(kind, type) and issubclass(kind, enum.Enum))):
        return _choice(widget, parameter)
    if kind is str and name == "QLineEdit":
        return Tie(widget.textChanged, lambda: widget.text, lambda v: setattr(widget, "text", v))
    if kind is str and name == "QTextEdit":
        return Tie(widget.textChanged, widget.toPlainText, widget.setPlainText)
    if _is_path(kind) and name == "ctkPathLineEdit":
        write = lambda v: setattr(widget, "currentPath", str(v))
        return Tie(widget.currentPathChanged, lambda: kind(widget.currentPath), write)
    if _is_path(kind) and name == "ctkDirectoryButton":
        return Tie(
            widget.directoryChanged, lambda: kind(widget.directory), lambda v: setattr(widget, "directory", str(v))
        )
    if _node_types(kind) and name == "qMRMLNodeComboBox":
        widget.nodeTypes = _node_types(kind)
        return Tie(widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{name}'")


_NUMBERS: dict[type, set[str]] = {int: {"QSlider", "QSpinBox"}, float: {"QDoubleSpinBox", "ctkSliderWidget"}}


def _number(widget: Any, parameter: Parameter) -> Tie:
    within = parameter.note(WithinRange)
    low, high = parameter.note(Minimum), parameter.note(Maximum)
    low, high = (within.minimum, within.maximum) if within else (low and low.minimum, high and high.maximum)
    if low is None or high is None:
        if type(widget).__name__ in {"QSlider", "ctkSliderWidget"}:
            raise RuntimeError(f"Cannot have a connection of '{parameter.name}' to a slider where it is unbounded.")
        low, high = (-(2**31) if low is None else low), (2**31 - 1 if high is None else high)
    widget.minimum, widget.maximum = parameter.kind(low), parameter.kind(high)
    for note, name in ((SingleStep, "singleStep"), (Decimals, "decimals")):
        if parameter.note(note) is not None:
            setattr(widget, name, parameter.note(note).value)
    return Tie(widget.valueChanged, lambda: parameter.kind(widget.value), lambda v: setattr(widget, "value", v))


def _choice(widget: Any, parameter: Parameter) -> Tie:
    choice = parameter.note(Choice)
    values = list(choice.choices if choice else parameter.kind)
    label = getattr(parameter.kind, "label", lambda value: value.name)
    widget.clear()
    for value in values:
        widget.addItem(str(value) if choice else label(value))
    return Tie(
        widget.currentIndexChanged,
        lambda: values[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", values.index(value)),
    )

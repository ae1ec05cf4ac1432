"""CTK's and Slicer's own widgets as far as the module uses them; the node combo boxes work on the real scene."""

from __future__ import annotations

from typing import Any

import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Signal
from shiboken6 import isValid

from .pythonqt import PythonQtObject, register


class switch:
    """A property with a plain value of its own, typed like ``default``."""

    def __init__(self, default: Any) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, widget: Any, owner: type) -> Any:
        return self if widget is None else vars(widget).get(self._name, self._default)

    def __set__(self, widget: Any, value: Any) -> None:
        vars(widget)[self._name] = self._checked(widget, value)
        if hasattr(widget, "_changed"):
            widget._changed()

    def _checked(self, widget: Any, value: Any) -> Any:
        kind = type(self._default)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise TypeError(f"{type(widget).__name__}{self._name}: {value!r} is not {kind.__name__}")
        return value


class strings(switch):
    """A property that is a list of strings; a single string is what PythonQt splits into characters."""

    def __init__(self) -> None:
        super().__init__(())

    def _checked(self, widget: Any, value: Any) -> Any:
        if isinstance(value, str):
            raise TypeError(f"{value!r}: PythonQt splits a string into characters, give a list")
        return tuple(value)


# --- CTK -----------------------------------------------------------------------------------------------------------


@register
class ctkCollapsibleButton(PythonQtObject, QtWidgets.QWidget):
    """A header button over its contents, which hide when it is collapsed."""

    contentsCollapsed = Signal(bool)
    clicked = Signal(bool)
    toggled = Signal(bool)
    _signatures = {"contentsCollapsed(bool)": "contentsCollapsed", "clicked(bool)": "clicked", "clicked()": "clicked"}

    flat = switch(False)
    contentsFrameShape = switch(0)
    collapsedHeight = switch(14)
    checkable = switch(True)

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        super().__init__(*(a for a in arguments if not isinstance(a, str)))
        self._text, self._collapsed, self._hidden_here = text, False, []
        self._header = QtWidgets.QToolButton(self)
        self._header.setToolButtonStyle(QtCore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._header.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._header.clicked.connect(lambda: setattr(self, "collapsed", not self._collapsed))
        self.setContentsMargins(0, self._header.sizeHint().height() + 2, 0, 0)
        self._show_header()

    @property
    def text(self) -> str:
        return self._text

    @text.setter
    def text(self, value: str) -> None:
        self._text = value
        self._show_header()

    @property
    def collapsed(self) -> bool:
        return self._collapsed

    @collapsed.setter
    def collapsed(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError("collapsed is a bool")
        if value == self._collapsed:
            return
        self._collapsed = value
        children = [c for c in self.children() if isinstance(c, QtWidgets.QWidget) and c is not self._header]
        if value:
            self._hidden_here = [c for c in children if not QtWidgets.QWidget.isHidden(c)]
        for child in self._hidden_here:
            QtWidgets.QWidget.setVisible(child, not value)
        self._show_header()
        self.contentsCollapsed.emit(value)

    @property
    def checked(self) -> bool:
        return not self._collapsed

    @checked.setter
    def checked(self, value: bool) -> None:
        self.collapsed = not value

    def _show_header(self) -> None:
        self._header.setText(self._text)
        self._header.setArrowType(QtCore.Qt.ArrowType.RightArrow if self._collapsed else QtCore.Qt.ArrowType.DownArrow)

    def resizeEvent(self, event: Any, /) -> None:
        self._header.setGeometry(0, 0, event.size().width(), self._header.sizeHint().height())

    def sizeHint(self) -> Any:
        hint = QtWidgets.QWidget.sizeHint(self)
        return QtCore.QSize(hint.width(), max(hint.height(), self._header.sizeHint().height() + 2))


@register
class ctkCollapsibleGroupBox(PythonQtObject, QtWidgets.QGroupBox):
    """A group box whose contents hide."""

    collapsedHeight = switch(14)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._collapsed = False
        self.setCheckable(True)
        QtWidgets.QGroupBox.setChecked(self, True)
        self.toggled.connect(lambda on: setattr(self, "collapsed", not on))

    @property
    def collapsed(self) -> bool:
        return self._collapsed

    @collapsed.setter
    def collapsed(self, value: bool) -> None:
        self._collapsed = value
        QtWidgets.QGroupBox.setChecked(self, not value)
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                QtWidgets.QWidget.setVisible(child, not value)


@register
class ctkComboBox(PythonQtObject, QtWidgets.QComboBox):
    defaultText = switch("")


@register
class ctkSearchBox(PythonQtObject, QtWidgets.QLineEdit):
    showSearchIcon = switch(False)


@register
class ctkFittedTextBrowser(PythonQtObject, QtWidgets.QTextBrowser):
    collapsed = switch(False)


@register
class ctkExpandableWidget(PythonQtObject, QtWidgets.QFrame):
    pass


@register
class ctkSliderWidget(PythonQtObject, QtWidgets.QWidget):
    """A slider with a spin box."""

    valueChanged = Signal(float)
    _signatures = {"valueChanged(double)": "valueChanged"}
    suffix, prefix = switch(""), switch("")
    decimals, singleStep, pageStep = switch(2), switch(1.0), switch(10.0)
    tracking = switch(True)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._box = QtWidgets.QDoubleSpinBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal))
        row.addWidget(self._box)
        self._box.valueChanged.connect(self.valueChanged.emit)

    minimum = property(lambda s: s._box.minimum(), lambda s, v: s._box.setMinimum(float(v)))
    maximum = property(lambda s: s._box.maximum(), lambda s, v: s._box.setMaximum(float(v)))
    value = property(lambda s: s._box.value(), lambda s, v: s._box.setValue(float(v)))


class _Path(PythonQtObject, QtWidgets.QWidget):
    """A line edit with a button behind it, which would open a file dialog."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._edit, self._button = QtWidgets.QLineEdit(), QtWidgets.QToolButton()
        self._button.setText("...")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._edit)
        row.addWidget(self._button)
        self.setFocusProxy(self._edit)


@register
class ctkPathLineEdit(_Path):
    Files, Dirs, Drives, NoSymLinks, AllEntries = 0x002, 0x001, 0x004, 0x008, 0x007
    Readable, Writable, Executable, Hidden, System = 0x010, 0x020, 0x040, 0x100, 0x200
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    _signatures = {"currentPathChanged(QString)": "currentPathChanged", "validInputChanged(bool)": "validInputChanged"}
    filters = switch(0)
    nameFilters = strings()
    settingKey, label = switch(""), switch("")
    showBrowseButton, showHistoryButton = switch(True), switch(True)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._edit.textChanged.connect(self.currentPathChanged.emit)

    currentPath = property(lambda s: s._edit.text(), lambda s, v: s._edit.setText(_text(v)))

    def setCurrentPath(self, path: str, /) -> None:
        self._edit.setText(_text(path))

    def addCurrentPathToHistory(self) -> None:
        pass


@register
class ctkDirectoryButton(_Path):
    directoryChanged = Signal(str)
    _signatures = {"directoryChanged(QString)": "directoryChanged"}
    caption, text = switch(""), switch("")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._edit.textChanged.connect(self.directoryChanged.emit)

    directory = property(lambda s: s._edit.text(), lambda s, v: s._edit.setText(_text(v)))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


# --- qMRML ---------------------------------------------------------------------------------------------------------


@register
class qMRMLWidget(PythonQtObject, QtWidgets.QWidget):
    """Hands its scene to the children that the .ui file connects to it (see ui.py)."""

    mrmlSceneChanged = Signal(object)
    _signatures = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any, /) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class _Observing:
    """Keeps up with a scene as Slicer's scene models do, and no earlier.

    New nodes arrive one by one, also while a scene is imported, before Python's observers of the scene. Nodes that are
    removed go after these. While the scene closes nothing goes; all is read again at its end.
    """

    def _observe(self, scene: Any) -> None:
        import slicer

        for tag in getattr(self, "_tags", []):
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        kind = slicer.vtkMRMLScene
        observers = (
            (kind.NodeAddedEvent, self._node_added, 10.0),
            (kind.NodeAboutToBeRemovedEvent, self._node_goes, -10.0),
            (kind.EndCloseEvent, self._scene_closed, 0.0),
        )
        for event, call, priority in observers if scene else ():
            self._tags.append(scene.AddObserver(event, call, priority))
        self._changed()

    def _is_gone(self) -> bool:
        if isValid(self):
            return False
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags.clear()
        return True

    def _node_added(self, *_: Any) -> None:
        if not self._is_gone():
            self._changed()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_goes(self, _scene: Any, _event: str, node: Any) -> None:
        if not self._is_gone() and not self._scene.IsClosing():
            self._remove(node)

    def _scene_closed(self, *_: Any) -> None:
        if not self._is_gone():
            self._changed()

    def _changed(self) -> None:
        raise NotImplementedError

    def _remove(self, node: Any) -> None:
        raise NotImplementedError


@register
class qMRMLNodeComboBox(_Observing, PythonQtObject, QtWidgets.QWidget):
    """A node of the scene, of ``nodeTypes``; a node that it filters out cannot be chosen and becomes None."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    _signatures = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged", "currentNodeChanged(bool)": "currentNodeChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged", "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser", "nodeActivated(vtkMRMLNode*)": "nodeActivated",
    }  # fmt: skip

    nodeTypes, hideChildNodeTypes = strings(), strings()
    showHidden, showChildNodeTypes = switch(False), switch(True)
    noneEnabled, addEnabled, removeEnabled = switch(False), switch(True), switch(True)
    editEnabled, renameEnabled = switch(False), switch(False)
    selectNodeUponCreation, interactionNodeSingletonTag = switch(True), switch("")
    noneDisplay, baseName = switch("None"), switch("")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scene: Any = None
        self._node: Any = None
        self._items: list[Any] = []
        self._attributes: list[tuple[str, str, str | None]] = []
        self._combo = QtWidgets.QComboBox()
        self._combo.activated.connect(self._chosen)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setFocusProxy(self._combo)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)

    # what the module calls

    def setMRMLScene(self, scene: Any, /) -> None:
        self._observe(scene)

    def mrmlScene(self) -> Any:
        return self._scene

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any, /) -> None:
        node = node if node is not None and any(node is item for item in self._items) else None
        if node is not self._node:
            self._node = node
            self._show()
            self.currentNodeChanged.emit(node)
            self.currentNodeIDChanged.emit(node.GetID() if node else "")

    def setCurrentNodeID(self, node_id: str, /) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene and node_id else None)

    currentNodeID = property(
        lambda self: self._node.GetID() if self._node else "", lambda self, value: self.setCurrentNodeID(value)
    )

    def addAttribute(self, node_type: str, name: str, value: Any = None, /) -> None:
        self._attributes.append((node_type, name, value))
        self._changed()

    def addNode(self, *node_type: str) -> Any:
        """What "Create new ..." does."""
        if not self.addEnabled:
            return None
        kind = node_type[0] if node_type else self.nodeTypes[0]
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(self.baseName or kind[8:-4]))
        self._changed()
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def nodeCount(self) -> int:
        return len(self._items)

    def nodeFromIndex(self, index: int, /) -> Any:
        return self._items[index]

    def nodes(self) -> tuple[Any, ...]:
        return tuple(self._items)

    # inside

    def _changed(self) -> None:
        if not hasattr(self, "_combo"):
            return
        wanted = self._wanted()
        added = [node for node in wanted if not any(node is old for old in self._items)]
        was_empty = not self._items and not self.noneEnabled
        self._items = wanted
        self._show()
        for node in added:
            self.nodeAdded.emit(node)
        self.setCurrentNode(self._items[0] if was_empty and self._items and self._node is None else self._node)

    def _remove(self, node: Any) -> None:
        """Take a node out. If it was the current one, the next in the list takes its place, as in every QComboBox."""
        place = next((n for n, item in enumerate(self._items) if item is node), None)
        if place is not None:
            del self._items[place]
            if self._node is node:
                self.setCurrentNode(self._items[min(place, len(self._items) - 1)] if self._items else None)
            self._show()

    def _wanted(self) -> list[Any]:
        """Return the scene's nodes that fit. Slicer does it in C++; here each property is read once for all nodes."""
        kinds, hidden_kinds = self.nodeTypes, self.hideChildNodeTypes
        show_hidden, show_children = self.showHidden, self.showChildNodeTypes
        count = self._scene.GetNumberOfNodes() if self._scene and kinds else 0
        return [
            node
            for node in (self._scene.GetNthNode(n) for n in range(count))
            if (any(map(node.IsA, kinds)) if show_children else node.GetClassName() in kinds)
            and (show_hidden or not node.GetHideFromEditors())
            and not any(map(node.IsA, hidden_kinds))
            and self._has_attributes(node)
        ]

    def _has_attributes(self, node: Any) -> bool:
        return all(
            not node.IsA(kind)
            or (node.GetAttribute(name) is not None if value is None else node.GetAttribute(name) == value)
            for kind, name, value in self._attributes
        )

    def _show(self) -> None:
        blocked = self._combo.blockSignals(True)
        self._combo.clear()
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay)
        for node in self._items:
            self._combo.addItem(node.GetName())
        place = next((n for n, node in enumerate(self._items) if node is self._node), None)
        self._combo.setCurrentIndex(place + self.noneEnabled if place is not None else (0 if self.noneEnabled else -1))
        self._combo.blockSignals(blocked)

    def _chosen(self, index: int) -> None:
        index -= self.noneEnabled
        self.setCurrentNode(self._items[index] if index >= 0 else None)


@register
class qMRMLTableView(PythonQtObject, QtWidgets.QTableView):
    """Shows nothing; knows its node."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scene, self._table = None, None

    def setMRMLScene(self, scene: Any, /) -> None:
        self._scene = scene

    def setMRMLTableNode(self, node: Any, /) -> None:
        self._table = node

    def mrmlTableNode(self) -> Any:
        return self._table


CTK = {
    kind.__name__: kind
    for kind in (
        ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkComboBox, ctkSearchBox, ctkFittedTextBrowser,
        ctkExpandableWidget, ctkSliderWidget, ctkPathLineEdit, ctkDirectoryButton,
    )
}  # fmt: skip
QMRML = {kind.__name__: kind for kind in (qMRMLWidget, qMRMLNodeComboBox, qMRMLTableView)}

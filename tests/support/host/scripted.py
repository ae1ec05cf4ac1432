"""``slicer.ScriptedLoadableModule``: the base classes, and the entry of a module in ``slicer.modules``."""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .pythonqt import wrapped
from .widgets import qMRMLWidget


class ModuleManager:
    """Tells widgets when their module goes."""

    def __init__(self) -> None:
        self._slots: list[Callable[[str], Any]] = []

    def connect(self, signature: str, slot: Callable[[str], Any]) -> bool:
        assert signature == "moduleAboutToBeUnloaded(QString)"
        self._slots.append(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[[str], Any]) -> bool:
        self._slots = [other for other in self._slots if other != slot]
        return True

    def unload(self, name: str) -> None:
        for slot in list(self._slots):
            slot(name)

    def factoryManager(self) -> Any:
        return self

    def isLoaded(self, name: str) -> bool:
        import slicer

        return hasattr(slicer.modules, name.lower())

    def module(self, name: str) -> Any:
        import slicer

        return getattr(slicer.modules, name.lower(), None)


class ModuleEntry:
    """``slicer.modules.cardiacldm`` and the ``parent`` that a module's class describes itself to."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.title, self.helpText, self.acknowledgementText = "", "", ""
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.icon = QtGui.QIcon()
        self.hidden = False
        self.entered = False
        self.definition: Any = None
        self.widget: Any = None
        self._window: Any = None

    def open(self) -> Any:
        """The module's widget, set up on first use; then shown and entered, unless it is the one that is open."""
        import slicer

        if self.widget is None:
            window = Panel(self)
            QtWidgets.QWidget.setLayout(window, wrapped(QtWidgets.QVBoxLayout)())
            window.setMRMLScene(slicer.mrmlScene)
            self._window = window
            self._make()
        QtWidgets.QWidget.show(self._window)
        self._enter()
        return self.widget

    def _enter(self) -> None:
        """Choosing the module that is open already does nothing in Slicer."""
        if not self.entered:
            self.entered = True
            if hasattr(self.widget, "enter"):
                self.widget.enter()

    def _make(self) -> None:
        import slicer

        source = importlib.import_module(self.name)
        self.widget = getattr(source, f"{self.name}Widget")(self._window)
        setattr(slicer.modules, f"{self.name}Widget", self.widget)
        self.widget.setup()

    def widgetRepresentation(self) -> Any:
        return self._window

    def logic(self) -> Any:
        return None

    def leave(self) -> None:
        """Another module is chosen."""
        self.entered = False
        if hasattr(self.widget, "exit"):
            self.widget.exit()
        QtWidgets.QWidget.hide(self._window)

    def close(self) -> None:
        import slicer

        slicer.app.moduleManager().unload(self.name)
        if self._window is not None:
            QtCore.QObject.deleteLater(self._window)
            # Outside an event loop Qt deletes nothing by itself: lists of closed windows would still follow the scene.
            QtCore.QCoreApplication.sendPostedEvents(self._window, QtCore.QEvent.Type.DeferredDelete)
        self.widget = self._window = None
        self.entered = False


class Panel(qMRMLWidget):
    """The module's place in the application."""

    def __init__(self, entry: ModuleEntry) -> None:
        super().__init__()
        self._entry = entry

    def reload(self) -> None:
        """A new widget in place of the old one."""
        layout = QtWidgets.QWidget.layout(self)
        while layout.count():
            layout.takeAt(0)
        for child in QtCore.QObject.children(self):
            if isinstance(child, QtWidgets.QWidget):
                QtWidgets.QWidget.hide(child)
                QtCore.QObject.deleteLater(child)
        self._entry._make()
        self._entry.entered = False
        self._entry._enter()


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        import slicer

        self.parent = parent
        self.moduleName = type(self).__name__
        for extension in ("svg", "png"):
            icon = Path(self.resourcePath(f"Icons/{self.moduleName}.{extension}"))
            if icon.is_file():
                parent.icon = QtGui.QIcon(str(icon))
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)

    def getDefaultModuleDocumentationLink(self, docPage: Any = None) -> str:
        return ""

    def runTest(self, msec: int = 100, **options: Any) -> None:
        test = getattr(importlib.import_module(type(self).__module__), f"{self.moduleName}Test")()
        test.messageDelay = msec
        test.runTest(**options)


class ScriptedLoadableModuleWidget:
    developerMode = False

    def __init__(self, parent: Any = None) -> None:
        import slicer

        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        if parent is None:
            raise TypeError("the stand-in gives every module a parent")
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        import slicer

        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def onReload(self) -> None:
        import slicer

        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, name: str) -> None:
        import slicer

        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        import slicer

        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(self.createParameterNode())
        node.SetAttribute("ModuleName", self.moduleName)  # closing the scene takes it away
        return node

    def createParameterNode(self) -> Any:
        import slicer

        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    messageDelay = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments or ("runTest",), **options)

    def delayDisplay(self, message: str, requestedDelay: Any = None, msec: Any = None) -> None:
        import slicer

        slicer.util.delayDisplay(message)

    def runTest(self) -> None:
        pass


CLASSES = {
    kind.__name__: kind
    for kind in (
        ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest
    )
}  # fmt: skip

"""``slicer.app``, ``slicer.util`` and the other modules that a scripted module uses in a running Slicer."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from . import parameter_node, scripted, ui, widgets
from .pythonqt import Namespace, find, wrapped

MODULE = Path(__file__).parents[3] / "CardiacLDM"
_host: Host | None = None


class Host:
    """The running stand-in. Messages are recorded, questions answered from ``answers`` (text -> answer) or with no."""

    def __init__(self, logics: Any) -> None:
        self.logics = logics
        self.errors: list[BaseException] = []
        self.messages: list[tuple[str, str, str]] = []  # kind, text, details
        self.answers: list[tuple[str, Any]] = []  # part of the question's text, answer
        self.installed: list[list[str]] = []  # requirements that slicer.packaging was asked for
        self.modules: dict[str, Any] = {}
        self.library: dict[str, types.ModuleType] = {}  # CardiacLDMLib as it was before the first reload
        self.settings: dict[str, Any] = {}

    def answer(self, part: str, value: Any) -> None:
        """Answer the next question whose text has ``part`` in it with ``value``."""
        self.answers.append((part, value))

    def ask(self, kind: str, text: str, otherwise: Any) -> Any:
        self.messages.append((kind, text, ""))
        for place, (part, value) in enumerate(self.answers):
            if part in text:
                del self.answers[place]
                return value
        return otherwise

    def texts(self, kind: str) -> list[str]:
        """Return the texts of one kind: error, warning, info, confirm, file, status."""
        return [text for k, text, _ in self.messages if k == kind]

    def check(self) -> None:
        """Raise the errors of slots, timers and observers, which Slicer only prints."""
        errors, self.errors = self.errors, []
        if errors:
            raise errors[0]

    def reset(self) -> None:
        """Return to the state after start-up: an empty scene, no messages, no open module."""
        for name in list(self.modules):
            close_module(name)
        import slicer

        slicer.mrmlScene.Clear(0)
        for memory in (self.errors, self.messages, self.answers, self.installed, self.settings):
            memory.clear()


def start_host() -> Host:
    """Start the stand-in once in this process and install the modules ``slicer``, ``qt`` and ``ctk``."""
    global _host  # noqa: PLW0603
    if _host is None:
        import slicer
        from cardiacldm_training.results import views

        _keep_none()
        QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        folder = tempfile.mkdtemp(prefix="host-settings-")
        QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, folder)
        QtCore.QCoreApplication.setOrganizationName("Host")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        _host = Host(views.slicer_app())
        slicer.mrmlScene = _host.logics.scene
        _install_modules(_host)
        _start_feature()
        sys.meta_path.insert(0, Importer())
        sys.excepthook = _record
        atexit.register(lambda: [close_module(name) for name in list(_host.modules)])  # as Slicer does before it ends
    return _host


def _keep_none() -> None:
    """Work around PySide6 6.12, which releases None once too often: before Python 3.12 that ends the process."""
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def _start_feature() -> None:
    """Avoid that the first use of ``__feature__`` reads the source of all modules, which fails for some of torch."""
    from shibokensupport import feature

    look = feature._mod_uses_pyside

    def looked(module: types.ModuleType) -> bool:
        try:
            return bool(look(module))
        except RuntimeError:
            return False

    feature._mod_uses_pyside = looked
    exec("from __feature__ import true_property", {"__name__": "host.first_use"})


def _record(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    assert _host is not None
    _host.errors.append(error)
    sys.__excepthook__(kind, error, trace)


# --- the module under test -----------------------------------------------------------------------------------------


class Loader(SourceFileLoader):
    """Runs the source as it is, with PySide6's properties as attributes where objects come from Qt itself."""

    def exec_module(self, module: types.ModuleType) -> None:
        exec("from __feature__ import true_property", module.__dict__)
        super().exec_module(module)


class Importer(MetaPathFinder):
    """Finds CardiacLDM and CardiacLDMLib.slicer.panels, no other module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "CardiacLDM" and not name.startswith("CardiacLDMLib.slicer.panels"):
            return None
        spec = PathFinder.find_spec(name, path or [str(MODULE)])
        if spec is None or spec.origin is None:
            return spec
        return importlib.util.spec_from_file_location(
            name,
            spec.origin,
            loader=Loader(name, spec.origin),
            submodule_search_locations=spec.submodule_search_locations,
        )


def open_module(name: str = "CardiacLDM") -> Any:
    """Import the module, register it as at Slicer's start-up, open its panel and return its widget."""
    import slicer

    host = start_host()
    if name not in host.modules:
        source = importlib.import_module(name)
        entry = scripted.ModuleEntry(name, str(MODULE / f"{name}.py"))
        host.modules[name] = entry
        setattr(slicer.modules, name.lower(), entry)
        entry.definition = getattr(source, name)(entry)
        slicer.app._startup()
    return host.modules[name].open()


def close_module(name: str = "CardiacLDM") -> None:
    """Unload the module as at Slicer's end. Restore the first version of a library that was reloaded, since other tests
    have imported its classes."""
    import slicer

    host = start_host()
    entry = host.modules.pop(name, None)
    if entry:
        entry.close()
        if hasattr(slicer.modules, f"{name}Widget"):
            delattr(slicer.modules, f"{name}Widget")
    if host.library:
        for other in (*_library(), name):
            sys.modules.pop(other, None)
        sys.modules.update(host.library)
        host.library = {}


def reload_module(name: str = "CardiacLDM") -> Any:
    """Do what the Reload button does and return the new widget."""
    import slicer

    host = start_host()
    host.library = host.library or _library()
    slicer.modules.__dict__[f"{name}Widget"].onReload()
    return host.modules[name].widget


def _library() -> dict[str, types.ModuleType]:
    """Return the loaded modules of CardiacLDMLib."""
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "CardiacLDMLib"}


# --- slicer.* ------------------------------------------------------------------------------------------------------


def _install_modules(host: Host) -> None:
    import slicer.util

    import slicer

    sys.modules["qt"] = Namespace("qt", lambda name: _guarded(host, name))
    sys.modules["ctk"] = Namespace("ctk", lambda name: widgets.CTK[name])
    for name, kind in widgets.QMRML.items():
        setattr(slicer, name, kind)
    slicer.app = Application(host)
    slicer.modules = types.SimpleNamespace(**{name: _Logic(logic) for name, logic in _logics(host.logics).items()})
    slicer.selfTests = {}
    _module("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    _module("slicer.ScriptedLoadableModule", **scripted.CLASSES)
    node = parameter_node
    kinds = (node.Default, node.Decimals, node.SingleStep, node.Minimum, node.Maximum, node.WithinRange, node.Choice)
    _module(
        "slicer.parameterNodeWrapper",
        **{kind.__name__: kind for kind in kinds},
        parameterNodeWrapper=node.parameterNodeWrapper, parameterPack=node.parameterPack,
    )  # fmt: skip
    _module(
        "slicer.packaging",
        load_requirements=_load_requirements,
        pip_ensure=lambda requirements, requester=None, **options: host.installed.append(list(requirements)),
        pip_check=lambda requirements: True,
    )
    _replace_util(host, slicer.util)


def _module(name: str, **contents: Any) -> None:
    import slicer

    module = types.ModuleType(name)
    module.__dict__.update(contents, __all__=list(contents))
    sys.modules[name] = module
    setattr(slicer, name.rpartition(".")[2], module)


def _load_requirements(path: Any) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in Path(path).read_text().splitlines())
    return [line for line in lines if line]


def _logics(app: Any) -> dict[str, Any]:
    return {
        "segmentations": app.segmentations_logic, "volumes": app.volumes_logic, "markups": app.markups_logic,
        "terminologies": app.terminologies_logic, "subjecthierarchy": app.subject_hierarchy_logic,
        "colors": app.color_logic,
    }  # fmt: skip


class _Logic:
    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


def _guarded(host: Host, name: str) -> Any:
    """Return a class of ``qt``. Dialogs that would wait for a user are answered from ``host.answers``."""
    kind = find(name)
    if name not in {"QMessageBox", "QFileDialog", "QInputDialog"}:
        return kind

    def asked(what: str) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            text = " ".join(str(argument) for argument in arguments if isinstance(argument, str))
            return host.ask("file" if name == "QFileDialog" else "confirm", f"{what} {text}", _nothing(name, what))

        return ask

    asking = (
        "question", "warning", "information", "critical", "about", "getOpenFileName", "getOpenFileNames",
        "getExistingDirectory", "getSaveFileName", "getText", "getItem",
    )  # fmt: skip
    return type(name, (kind,), {"__module__": "qt", **{what: staticmethod(asked(what)) for what in asking}})


def _nothing(name: str, what: str) -> Any:
    if name == "QMessageBox":
        return QtWidgets.QMessageBox.StandardButton.No
    return () if what == "getOpenFileNames" else ""


def _replace_util(host: Host, util: Any) -> None:
    """Slicer's own helpers where they need no windows; those that do are recorded."""

    def show(kind: str) -> Callable[..., None]:
        def display(text: str, windowTitle: Any = None, parent: Any = None, detailedText: str = "", **_: Any) -> None:
            host.messages.append((kind, str(text), detailedText))

        return display

    def confirm(text: str, windowTitle: Any = None, parent: Any = None, **_: Any) -> bool:
        return host.ask("confirm", text, False)

    for kind in ("error", "warning", "info"):
        setattr(util, f"{kind}Display", show(kind))
    for name in ("confirmOkCancelDisplay", "confirmYesNoDisplay", "confirmRetryCloseDisplay"):
        setattr(util, name, confirm)
    util.delayDisplay = lambda message, *_, **__: host.messages.append(("status", message, ""))
    util.showStatusMessage = lambda message, duration=0: host.messages.append(("status", message, ""))
    util.loadUI = ui.load_ui
    util.modulePath = lambda name: host.modules[name].path
    util.mainWindow = lambda: None
    util.selectedModule = lambda: next(iter(host.modules), "")
    util.selectModule = open_module
    util.getModuleWidget = lambda name: host.modules[name].widget
    util.getModuleLogic = lambda name: host.modules[name].widget.logic


class Application:
    """``slicer.app``."""

    applicationName, majorVersion, minorVersion, revision = "Slicer", 5, 12, "0"
    applicationVersion, os, arch = "5.12.0-stand-in", "linux", "amd64"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._layout = Layout(host)
        self._manager = scripted.ModuleManager()
        self._startup_slots: list[Callable[..., Any]] = []

    temporaryPath = property(lambda self: tempfile.gettempdir())
    slicerHome = property(lambda self: str(MODULE.parent))
    slicerUserSettingsFilePath = property(lambda self: QtCore.QSettings().fileName())

    def connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        if signature == "startupCompleted()":
            self._startup_slots.append(slot)
        elif signature != "aboutToQuit()":
            raise TypeError(f"slicer.app has no signal {signature}")
        return True

    def disconnect(self, signature: str, slot: Callable[..., Any]) -> bool:
        return signature in {"startupCompleted()", "aboutToQuit()"}

    def _startup(self) -> None:
        slots, self._startup_slots = self._startup_slots, []
        for slot in slots:
            slot()

    def layoutManager(self) -> Layout:
        return self._layout

    def moduleManager(self) -> Any:
        return self._manager

    def applicationLogic(self) -> Any:
        return self._host.logics.app_logic

    def mrmlScene(self) -> Any:
        return self._host.logics.scene

    def processEvents(self, *_: Any) -> None:
        QtCore.QCoreApplication.processEvents()

    def testingEnabled(self) -> bool:
        return False

    def commandOptions(self) -> Any:
        return types.SimpleNamespace(runPythonAndExit=False)

    def setOverrideCursor(self, cursor: Any) -> None:
        QtGui.QGuiApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        QtGui.QGuiApplication.restoreOverrideCursor()

    def userSettings(self) -> Any:
        return wrapped(QtCore.QSettings)()

    settings = userSettings

    def clipboard(self) -> Any:
        return QtGui.QGuiApplication.clipboard()

    def palette(self) -> Any:
        return QtGui.QGuiApplication.palette()

    def pauseRender(self) -> None:
        pass

    resumeRender = pauseRender


class Layout:
    """``slicer.app.layoutManager()``: real layouts, slice nodes and logics; views are windows that nothing draws in.

    ``adopt`` puts a view that draws in place of one of them.
    """

    threeDViewCount = 1

    def __init__(self, host: Host) -> None:
        self._host = host
        self._views: dict[str, Any] = {}
        self._windows: dict[str, Any] = {}
        self._logic: Any = None
        self._node: Any = None
        self._slots: list[Callable[[int], Any]] = []

    def connect(self, signature: str, slot: Callable[[int], Any]) -> bool:
        if signature != "layoutChanged(int)":
            raise TypeError(f"the stand-in's layout manager has no signal {signature}")
        self._slots.append(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[[int], Any]) -> bool:
        self._slots = [other for other in self._slots if other != slot]
        return True

    def layoutLogic(self) -> Any:
        import slicer

        if self._logic is None:
            scene = slicer.mrmlScene
            self._logic = slicer.vtkMRMLLayoutLogic()
            self._logic.SetMRMLScene(scene)
            self._observe_node()
            scene.AddObserver(scene.EndBatchProcessEvent, self._update)
        return self._logic

    def _observe_node(self) -> None:
        """Hold the layout node: the logic does not, and ends the process when closing a scene removes it."""
        node = self._logic.GetLayoutNode()
        if node is not None and node is not self._node:
            self._node = node
            node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._update)

    @property
    def layout(self) -> int:
        return self.layoutLogic().GetLayoutNode().GetViewArrangement()

    def setLayout(self, number: int) -> None:
        node = self.layoutLogic().GetLayoutNode()
        if number != self.layout:
            node.RemoveAllMaximizedViewNodes()
            known = node.IsLayoutDescription(number)
            node.SetViewArrangement(number if known else node.SlicerLayoutConventionalView)

    def _update(self, *_unused: Any) -> None:
        """Show what the layout node says: any change of it builds the views again."""
        import slicer

        if not slicer.mrmlScene.IsBatchProcessing():
            self._observe_node()
            self._slices()
            for slot in list(self._slots):
                slot(self.layout)

    def _slices(self) -> dict[str, Any]:
        import slicer

        known = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
        if self._logic is not None:  # a layout has made others
            known |= {n.GetLayoutName(): n.GetOrientation() for n in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
        for name, orientation in known.items():
            if name in self._views and self._views[name].GetSliceNode().GetScene():
                continue
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._host.logics.app_logic)
            logic.SetMRMLScene(slicer.mrmlScene)
            there = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")
            if there is not None:  # another one of its name would be copied into it
                logic.SetSliceNode(there)
            else:
                logic.AddSliceNode(name)
                logic.GetSliceNode().SetOrientation(orientation)
            self._views[name] = logic
        return self._views

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._slices())

    def sliceWidget(self, name: str) -> Any:
        logic = self._slices().get(name)
        if logic is None:
            return None
        return types.SimpleNamespace(
            sliceLogic=lambda: logic,
            sliceView=lambda: self._view(name),
            mrmlSliceNode=logic.GetSliceNode,
            mrmlSliceCompositeNode=logic.GetSliceCompositeNode,
        )

    def _view(self, name: str) -> Any:
        if name not in self._windows:
            window = vtk.vtkRenderWindow()
            window.AddRenderer(vtk.vtkRenderer())
            self._windows[name] = window
        return types.SimpleNamespace(renderWindow=lambda: self._windows[name], scheduleRender=lambda: None)

    def adopt(self, name: str, window: Any) -> None:
        """Draw the view ``name`` in ``window`` from now on."""
        self._windows[name] = window

    def mrmlSliceLogics(self) -> Any:
        logics = vtk.vtkCollection()
        for logic in self._slices().values():
            logics.AddItem(logic)
        return logics

    def threeDWidget(self, index: int) -> Any:
        nothing = lambda *_: None
        view = types.SimpleNamespace(
            resetFocalPoint=nothing, resetCamera=nothing, rotateToViewAxis=nothing, forceRender=nothing,
            mrmlViewNode=nothing, **vars(self._view(str(index))),
        )  # fmt: skip
        return types.SimpleNamespace(threeDView=lambda: view, threeDController=lambda: view, mrmlViewNode=nothing)

    def resetThreeDViews(self) -> None:
        pass

    def resetSliceViews(self) -> None:
        for logic in self._slices().values():
            logic.FitSliceToAll()

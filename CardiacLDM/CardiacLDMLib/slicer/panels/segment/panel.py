"""The Segment panel: labels a scan and shows the volumes of its structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import vtk
from slicer.i18n import tr as _

import slicer

from ....errors import UserError, VolumeError
from ....progress import Progress, Quality
from ....worker.device import Device
from ....worker.job import Failure
from ... import segmentations, volumes
from ..install import ensure_dependencies
from ..keys import add_apply_keys
from ..parts import Choice, ErrorBox, device_labels, show_progress
from ..process import Dispatcher, Sliced
from ..results import ScanResults
from ..scene_jobs import Listener, SceneJob, Settings
from .showing import show_heart_in_steps

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

    from ..parameters import CardiacLDMParameterNode


#: As in ``packages.store``, which cannot be imported before the libraries are installed.
DEFAULT_PACKAGE = "virtual-heart-v2"


class SegmentPanel:
    """Connects Segment.ui to the worker and to the settings in the scene. ``ui``: the children of Segment.ui."""

    def __init__(self, ui: Any, dispatcher: Dispatcher) -> None:
        self.ui, self._dispatcher = ui, dispatcher
        self._parameters: CardiacLDMParameterNode | None = None
        self._job: SceneJob | None = None
        self._surfaces: Sliced | None = None
        self._showing = False
        self._loaded: tuple[str, str] | None = None  # package and device that the worker was asked to load
        self._observers = slicer.util.VTKObservationMixin()
        self._scan_observers = slicer.util.VTKObservationMixin()
        self._errors, self._results = ErrorBox(ui, self._cause), ScanResults(ui)
        self.package = Choice(ui.package, lambda value: self._remember("package", value))
        self.device = Choice(ui.device, lambda value: self._remember("device", value))
        self.quality = Choice(ui.quality, lambda value: self._remember("quality", value))
        self.quality.offer({"full": _("Full"), "fast": _("Fast"), "flips": _("Full + flips")})
        self.show_devices([])
        self.show_packages()
        ui.inputVolume.connect("nodeAdded(vtkMRMLNode*)", self._volume_added)
        ui.inputVolume.connect("currentNodeChanged(vtkMRMLNode*)", self._volume_chosen)
        ui.outputSegmentation.connect("currentNodeChanged(vtkMRMLNode*)", self._target_chosen)
        ui.apply.connect("clicked()", self._apply_or_cancel)
        add_apply_keys(ui.apply, lambda: self.running)
        ui.harden.connect("clicked()", self._harden)
        for button in (ui.heartWindow, ui.resultWindow):
            button.connect("clicked()", self._show_heart_window)
        self.refresh()

    # --- what the module calls ---

    @property
    def running(self) -> bool:
        """Whether a job of this panel runs."""
        return self._job is not None

    def settings(self) -> Settings:
        """The chosen package, device and quality."""
        return Settings(self.package.value or None, self.device.value, cast("Quality", self.quality.value))

    def set_parameters(self, parameters: CardiacLDMParameterNode | None) -> None:
        """Show and store the choices in this parameter node; None while there is no scene."""
        self._observers.removeObservers()
        self._parameters = parameters
        if parameters is not None:
            node = parameters.parameterNode  # type: ignore[attr-defined]  # made by the decorator
            self._observers.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
            kind = slicer.vtkMRMLScene
            self._observers.addObserver(slicer.mrmlScene, kind.NodeAboutToBeRemovedEvent, self._node_goes)
            for event in (kind.NodeRemovedEvent, kind.NodeAddedEvent, kind.EndBatchProcessEvent):
                self._observers.addObserver(slicer.mrmlScene, event, self._nodes_changed)
        self._parameters_changed()

    def show_devices(self, devices: list[Device]) -> None:
        """Offer the automatic choice, the CPU and the GPUs among ``devices``."""
        self.device.offer(device_labels(devices))
        self._load_choice()

    def show_packages(self) -> None:
        """Offer the packages that are installed now."""
        self.package.offer({name: name for name in installed_segmenters()})
        self.refresh()

    def load_package(self) -> None:
        """Load the chosen package in the worker, in the background, now and whenever the choice changes."""
        self._loaded = ("", "")
        self._load_choice()

    def _load_choice(self) -> None:
        choice = (self.package.value, self.device.value)
        if self._loaded not in (None, choice) and self.package.is_available and self.device.is_available:
            self._loaded = choice
            self._dispatcher.load_segmenter(choice[0] or None, choice[1])

    def show_case(self, segmentation: vtkMRMLSegmentationNode) -> None:
        """Choose the scan of a segmentation, and show both."""
        volume = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        if self._parameters is not None:
            self._parameters.segment.inputVolume = volume
            self._parameters.segment.result = segmentation
        self._show_heart(segmentation)

    def _show_heart(self, segmentation: vtkMRMLSegmentationNode) -> None:
        self._surfaces = Sliced(show_heart_in_steps(segmentation), _check_surfaces)

    def cancel(self) -> None:
        """Stop the job, if one runs."""
        if self._job is not None:
            self.ui.progressLabel.text = _("Cancelling")
            self._job.cancel()

    def cleanup(self) -> None:
        """Stop everything that could call the widgets, before they are deleted."""
        self._loaded = None
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        if self._surfaces is not None:
            self._surfaces.stop()
        self._observers.removeObservers()
        self._scan_observers.removeObservers()
        self._results.hide()

    # --- settings ---

    # Connected by hand, not by connectGui: its observer is never removed, and once the parameter node's wrapper is
    # garbage, VTK calls what is left of it: a crash after a few scenes or reloads.

    def _remember(self, name: str, value: Any) -> None:
        """Store a choice in the scene, unless the widget changed because a scene is loaded or closed."""
        if self._parameters is not None and not self._showing and not slicer.mrmlScene.IsBatchProcessing():
            setattr(self._parameters.segment, name, value)
            self._load_choice()
            self.refresh()

    def _volume_chosen(self, volume: vtkMRMLScalarVolumeNode | None) -> None:
        self._remember("inputVolume", volume)
        if self._loaded is not None and not self._dispatcher.has_worker:  # it has ended after idle minutes
            self.load_package()

    def _target_chosen(self, target: vtkMRMLSegmentationNode | None) -> None:
        self._remember("outputSegmentation", target)

    def _parameters_changed(self, *_unused: Any) -> None:
        if self._showing:
            return
        self._showing = True
        try:
            self._show_choices()
        finally:
            self._showing = False
        self._load_choice()
        self._observe(self._node("inputVolume"))
        self.refresh()

    def _show_choices(self) -> None:
        if self._parameters is not None:
            settings = self._parameters.segment
            self.ui.inputVolume.setCurrentNode(self._node("inputVolume"))
            self.ui.outputSegmentation.setCurrentNode(self._node("outputSegmentation"))
            self.device.set(settings.device)
            self.quality.set(settings.quality)
            self.package.set(settings.package or DEFAULT_PACKAGE)

    def _volume_added(self, volume: vtkMRMLScalarVolumeNode) -> None:
        """Choose the first scan that is loaded. A scene that is being loaded brings its own choice."""
        if self._parameters is not None and self._node("inputVolume") is None and not slicer.mrmlScene.IsImporting():
            self._parameters.segment.inputVolume = volume

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def _node_goes(self, _scene: Any, _event: str, node: Any) -> None:
        """Choose nothing instead of a node that is removed: by itself a selector would take the next in its list."""
        if self._parameters is not None and not self._showing:
            for name in ("inputVolume", "outputSegmentation"):
                if node is not None and getattr(self._parameters.segment, name) is node:
                    setattr(self._parameters.segment, name, None)

    def _nodes_changed(self, *_unused: Any) -> None:
        if not slicer.mrmlScene.IsBatchProcessing():
            self.refresh()

    def _observe(self, volume: vtkMRMLScalarVolumeNode | None) -> None:
        """Watch the volume's transform and image: whether it can be segmented depends on them."""
        self._scan_observers.removeObservers()  # all: those of one slot leave the scan in memory
        if volume is not None:
            kind = slicer.vtkMRMLScalarVolumeNode
            for event in (kind.TransformModifiedEvent, kind.ImageDataModifiedEvent, vtk.vtkCommand.ModifiedEvent):
                self._scan_observers.addObserver(volume, event, self._volume_changed)

    def _volume_changed(self, *_unused: Any) -> None:
        self.refresh()

    def _node(self, name: str) -> Any:
        """Return a node of the settings if it is still in the scene."""
        node = getattr(self._parameters.segment, name) if self._parameters is not None else None
        return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None

    # --- what can be done now ---

    def refresh(self) -> None:
        """Enable what is possible now, and show what is missing."""
        volume = self._node("inputVolume")
        nonlinear = volume is not None and _has_nonlinear_transform(volume)
        hint = self._hint(volume, nonlinear)
        self.ui.hint.text = hint
        self.ui.hint.visible = bool(hint) and not self.running
        self.ui.harden.visible = nonlinear and not self.running
        self.ui.heartWindow.enabled = volume is not None
        self.ui.resultWindow.visible = volume is not None and not volumes.has_heart_window(volume)
        self.ui.apply.text = _("&Cancel") if self.running else _("&Apply")
        self.ui.apply.toolTip = _("Stop the job. The scene stays as it is.") if self.running else _("Segment the scan")
        self.ui.apply.enabled = self.running or not hint
        for widget in ("inputVolume", "package", "device", "quality", "outputSegmentation"):
            getattr(self.ui, widget).enabled = not self.running
        self.ui.progressBox.visible = self.running
        self._errors.hide_outdated()
        if not self.running:
            self._results.show(volume, self._node("outputSegmentation"), self._node("result"))

    def _hint(self, volume: Any, nonlinear: bool) -> str:
        """Return what is missing before Apply, empty if nothing is."""
        if self._parameters is None or volume is None:
            return _("Choose a CT scan that contains the heart.")
        if nonlinear:
            return _("The scan has a nonlinear transform: harden it first.")
        try:
            volumes.volume_from_node(volume)  # refuses an empty or sheared one; shares the voxels
        except VolumeError as error:
            return str(error)
        if not self.package.is_available:
            return _("This model is not installed: choose another, or import it under Models & device.")
        if not self.running and self._dispatcher.busy:
            return _("Another job is running: wait for it, or cancel it.")
        return ""

    def _harden(self) -> None:
        volume = self._node("inputVolume")
        text = _("The scan will be resampled through its transform permanently. Continue?")
        if volume is not None and slicer.util.confirmOkCancelDisplay(text):
            slicer.mrmlScene.SaveStateForUndo()
            volume.HardenTransform()
            self.refresh()

    def _show_heart_window(self) -> None:
        volume = self._node("inputVolume")
        if volume is not None:
            volumes.set_heart_window(volume)
            self.refresh()

    # --- a job ---

    def _apply_or_cancel(self) -> None:
        if self.running:
            self.cancel()
        elif ensure_dependencies():  # the scene may have changed while it asked and installed
            self._apply()

    def _apply(self) -> None:
        volume, target = self._node("inputVolume"), self._node("outputSegmentation")
        if volume is None or (target is not None and not _may_replace(target)):
            return
        self._errors.hide()
        self._results.hide()
        self._progress(Progress(0, 100, "start", 0.0))
        listener = Listener(self._progress, self._done, self._failed, self._ended)
        try:
            self._job = SceneJob(self._dispatcher, volume, target, self.settings(), listener)
        except UserError as error:
            self._errors.show(Failure.from_error(error))
        self.refresh()

    def _cause(self) -> Any:
        """Return what a failure depends on: the settings and the scan with its voxels and place."""
        volume, target = self._node("inputVolume"), self._node("outputSegmentation")
        return self.settings(), self.package.is_available, target, volume, volume and volumes.state(volume)

    def _progress(self, progress: Progress) -> None:
        show_progress(self.ui.progressBar, self.ui.progressLabel, progress)

    def _done(self, segmentation: vtkMRMLSegmentationNode) -> None:
        if self._job is not None:
            if self._parameters is not None:
                self._parameters.segment.result = segmentation
            _show_alone(segmentation)
            self._ended()
            self._show_heart(segmentation)  # the volumes are shown before

    def _failed(self, failure: Failure) -> None:
        if self._job is not None:
            self._ended()
            self._errors.show(failure)

    def _ended(self) -> None:
        """End the job in the panel. After a cancellation the earlier result is shown again."""
        if self._job is not None:
            self._job = None
            self.refresh()


def installed_segmenters() -> list[str]:
    """Return the names of the usable packages; before the libraries are installed, the one that ships."""
    try:
        from ....packages.store import installed_packages
    except ImportError:
        return [DEFAULT_PACKAGE]
    return list(installed_packages("segmenter"))


def _has_nonlinear_transform(volume: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether the volume has a nonlinear transform."""
    transform = volume.GetParentTransformNode()
    return transform is not None and not transform.IsTransformToWorldLinear()


def _may_replace(target: vtkMRMLSegmentationNode) -> bool:
    text = _("Replace all segments of '{name}' by the new ones?").format(name=target.GetName())
    return bool(slicer.util.confirmOkCancelDisplay(text))


def _show_alone(segmentation: vtkMRMLSegmentationNode) -> None:
    """Hide the earlier results of the same scan: they would lie on top of this one."""
    scan = segmentations.scan_of(segmentation)
    for result in segmentations.results_of(scan) if scan is not None else ():
        result.SetDisplayVisibility(result is segmentation)


def _check_surfaces(error: Exception | None) -> None:
    if error is not None:
        raise error

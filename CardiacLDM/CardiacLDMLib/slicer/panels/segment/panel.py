"""The Segment panel: a scan, four choices, Apply; then volumes to click on, and what to know before using them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import vtk
from slicer.i18n import tr as _

import slicer

from ....errors import ClientError, JobError, VolumeError
from ....progress import Progress, Quality
from ....worker.device import Device
from ....worker.job import Failure
from ... import surfaces, volumes
from ..install import ensure_dependencies
from ..parts import Choice, ErrorBox, device_labels, show_progress
from ..process import Dispatcher, Sliced
from ..results import ResultBox
from ..scene_jobs import Listener, SceneJob, Settings

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

    from ..parameters import CardiacLDMParameterNode


#: As in ``package``, which cannot be imported before the libraries are installed.
DEFAULT_PACKAGE = "virtual-heart-v1"


class SegmentPanel:
    """Ties Segment.ui to the worker and to the settings in the scene.

    ``ui``: the children of Segment.ui.
    """

    def __init__(self, ui: Any, dispatcher: Dispatcher) -> None:
        self.ui, self._dispatcher = ui, dispatcher
        self._parameters: CardiacLDMParameterNode | None = None
        self._job: SceneJob | None = None
        self._surfaces: Sliced | None = None
        self._showing = False
        self._observers = slicer.util.VTKObservationMixin()
        self._errors, self._results = ErrorBox(ui), ResultBox(ui)
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
        ui.harden.connect("clicked()", self._harden)
        ui.heartWindow.connect("clicked()", self._show_heart_window)
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
        """Show and keep the choices in this parameter node; ``None`` while there is no scene."""
        self._observers.removeObservers()
        self._parameters = parameters
        if parameters is not None:
            node = parameters.parameterNode  # type: ignore[attr-defined]  # made by the decorator
            self._observers.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
            self._observers.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeRemovedEvent, self._node_removed)
        self._parameters_changed()

    def show_devices(self, devices: list[Device]) -> None:
        """Offer automatic choice, the CPU, and the GPUs that the worker has found."""
        self.device.offer(device_labels(devices))

    def show_packages(self) -> None:
        """Offer the packages that are installed now."""
        self.package.offer({name: name for name in installed()})
        self.refresh()

    def cancel(self) -> None:
        """Stop the job, if one runs."""
        if self._job is not None:
            self.ui.progressLabel.text = _("Cancelling")
            self._job.cancel()

    def cleanup(self) -> None:
        """Before the widgets go: nothing may call them any more."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        if self._surfaces is not None:
            self._surfaces.stop()
        self._observers.removeObservers()

    # --- settings ---

    # Tied by hand and not by connectGui: an observer that connectGui makes is never removed, and once the parameter
    # node's wrapper is garbage, VTK calls what is left of it: a crash after a few scenes or reloads.

    def _remember(self, name: str, value: Any) -> None:
        """Keep a choice in the scene, but not what widgets show for lack of nodes while a scene is loaded or closed."""
        if self._parameters is not None and not self._showing and not slicer.mrmlScene.IsBatchProcessing():
            setattr(self._parameters.segment, name, value)
            self.refresh()

    def _volume_chosen(self, volume: vtkMRMLScalarVolumeNode | None) -> None:
        self._remember("inputVolume", volume)

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
        self._observe(self._node("inputVolume"))
        if not self.running:
            self._results.show(self._node("result"))
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
        """Take the first scan that is loaded; while a scene is, wait for the choice that it holds."""
        if self._parameters is not None and self._node("inputVolume") is None and not slicer.mrmlScene.IsImporting():
            self._parameters.segment.inputVolume = volume

    def _node_removed(self, *_unused: Any) -> None:
        if not self.running:
            self._results.show(self._node("result"))
        self.refresh()

    def _observe(self, volume: vtkMRMLScalarVolumeNode | None) -> None:
        """Hear when the volume's transform or image changes: whether it can be segmented depends on them."""
        self._observers.removeObservers(self._volume_changed)
        if volume is not None:
            for event in (slicer.vtkMRMLTransformableNode.TransformModifiedEvent, vtk.vtkCommand.ModifiedEvent):
                self._observers.addObserver(volume, event, self._volume_changed)

    def _volume_changed(self, *_unused: Any) -> None:
        self.refresh()

    def _node(self, name: str) -> Any:
        """A node of the settings, if it is still in the scene."""
        node = getattr(self._parameters.segment, name) if self._parameters is not None else None
        return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None

    # --- what can be done now ---

    def refresh(self) -> None:
        """Enable what can be done now, and say what is needed where something cannot."""
        volume = self._node("inputVolume")
        bent = volume is not None and _is_bent(volume)
        hint = self._hint(volume, bent)
        self.ui.hint.text = hint
        self.ui.hint.visible = bool(hint) and not self.running
        self.ui.harden.visible = bent and not self.running
        self.ui.heartWindow.enabled = volume is not None
        self.ui.apply.text = _("Cancel") if self.running else _("Apply")
        self.ui.apply.toolTip = _("Stop the job; nothing is changed then") if self.running else _("Segment the scan")
        self.ui.apply.enabled = self.running or not hint
        for widget in ("inputVolume", "package", "device", "quality", "outputSegmentation"):
            getattr(self.ui, widget).enabled = not self.running
        self.ui.progressBox.visible = self.running

    def _hint(self, volume: Any, bent: bool) -> str:
        """What is needed before Apply, empty if nothing is."""
        if self._parameters is None or volume is None:
            return _("Choose a CT scan that holds the heart.")
        if volume.GetImageData() is None:
            return _("This scan holds no image.")
        if bent:
            return _("The scan is under a transform that is not linear: harden it first.")
        if not self.package.offered:
            return _("This model is not installed: choose another, or import it under Models & device.")
        if not self.running and self._dispatcher.busy:
            return _("The worker is busy: wait for the other job, or cancel it.")
        return ""

    def _harden(self) -> None:
        volume = self._node("inputVolume")
        text = _("The scan is resampled through its transform, for good. Go on?")
        if volume is not None and slicer.util.confirmOkCancelDisplay(text):
            slicer.mrmlScene.SaveStateForUndo()
            volume.HardenTransform()
            self.refresh()

    def _show_heart_window(self) -> None:
        volume = self._node("inputVolume")
        if volume is not None:
            volumes.set_heart_window(volume)

    # --- a job ---

    def _apply_or_cancel(self) -> None:
        if self.running:
            self.cancel()
        elif ensure_dependencies():  # may ask and install, meanwhile the scene may have changed
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
        except (VolumeError, ClientError, JobError) as error:
            self._errors.show(Failure(str(error), "", "input"))
        self.refresh()

    def _progress(self, progress: Progress) -> None:
        show_progress(self.ui.progressBar, self.ui.progressLabel, progress)

    def _done(self, segmentation: vtkMRMLSegmentationNode) -> None:
        if self._job is not None:
            if self._parameters is not None:
                self._parameters.segment.result = segmentation
            self._ended()
            self._surfaces = Sliced(_shown_in_3d(segmentation), _surfaces_shown)  # the figures are on the screen before

    def _failed(self, failure: Failure) -> None:
        if self._job is not None:
            self._ended()
            self._errors.show(failure)

    def _ended(self) -> None:
        """Also after cancelling: what was there before is there still, and shown again."""
        if self._job is not None:
            self._job = None
            self._results.show(self._node("result"))
            self.refresh()


def installed() -> list[str]:
    """Names of the packages that can be used; before the libraries are installed, the one that ships."""
    try:
        from ....packages.store import known_packages
    except ImportError:
        return [DEFAULT_PACKAGE]
    return list(known_packages("segmenter"))


def _is_bent(volume: vtkMRMLScalarVolumeNode) -> bool:
    """Whether the volume is under a transform that is not linear."""
    transform = volume.GetParentTransformNode()
    return transform is not None and not transform.IsTransformToWorldLinear()


def _may_replace(target: vtkMRMLSegmentationNode) -> bool:
    text = _("Replace all segments of '{name}' by the new ones?").format(name=target.GetName())
    return bool(slicer.util.confirmOkCancelDisplay(text))


def _shown_in_3d(segmentation: vtkMRMLSegmentationNode) -> Iterator[None]:
    """Make and show the surfaces, one structure a step, as long as there is the segmentation."""
    for _step in surfaces.surfaces_in_steps(segmentation):
        yield
        if not slicer.mrmlScene.IsNodePresent(segmentation):
            return
    slicer.util.resetThreeDViews()


def _surfaces_shown(error: Exception | None) -> None:
    if error is not None:
        raise error

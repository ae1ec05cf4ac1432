"""The Slicer module: what Slicer loads at start-up. Thin: panels and work are in CardiacLDMLib."""

import random
import sys
import unittest
from pathlib import Path

from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer
from CardiacLDMLib.errors import ClientError, JobError, VolumeError
from CardiacLDMLib.slicer import dependencies
from CardiacLDMLib.slicer.panels.generate.jobs import PairListener, PairSettings, PairsJob
from CardiacLDMLib.slicer.panels.generate.panel import MAX_SEED, GeneratePanel
from CardiacLDMLib.slicer.panels.generate.views import start_marks, stop_marks
from CardiacLDMLib.slicer.panels.models.panel import ModelsPanel
from CardiacLDMLib.slicer.panels.parameters import CardiacLDMParameterNode
from CardiacLDMLib.slicer.panels.process import Dispatcher, later
from CardiacLDMLib.slicer.panels.scene_jobs import Listener, SceneJob, Settings
from CardiacLDMLib.slicer.panels.segment.batch import BatchPanel
from CardiacLDMLib.slicer.panels.segment.panel import SegmentPanel

#: Slicer's own contrast CT of the heart, offered under this module's name too.
SAMPLE_SHA256 = "3b0d4eb1a7d8ebb0c5a89cc0504640f76a030b4e869e33ff34c564c3d3b88ad2"
SAMPLE_URL = f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{SAMPLE_SHA256}"


class CardiacLDM(ScriptedLoadableModule):
    """What Slicer's list of modules and its help say."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("CardiacLDM")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Cardiac")]
        parent.dependencies = ["Segmentations", "SubjectHierarchy", "Tables", "Terminologies", "Volumes"]
        parent.contributors = ["The CardiacLDM authors"]
        parent.helpText = _(
            "Labels the chambers of the heart, its muscle and its great vessels in CT scans, and generates synthetic "
            "cardiac CT with labels, on this computer. "
            'Research use, not a medical device. <a href="{url}">Documentation</a>'
        ).format(url="https://github.com/CardiacLDM/SlicerCardiacLDM")
        parent.acknowledgementText = _("The networks that ship were trained on a virtual cohort, on no patient's data.")
        slicer.app.connect("startupCompleted()", register_sample_data)
        slicer.app.connect("startupCompleted()", start_marks)  # a scene with synthetic pairs may be opened first


def register_sample_data():
    """Offer a scan to try the module with. A Slicer without the Sample Data module goes without."""
    try:
        import SampleData
    except ImportError:
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="CardiacLDM",
        sampleName="CardiacLDM-CTA",
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "Icons" / "CardiacLDM.png"),
        uris=SAMPLE_URL,
        fileNames="CTA-cardio.nrrd",
        checksums=f"SHA256:{SAMPLE_SHA256}",
        nodeNames="CTA cardio",
    )


class CardiacLDMWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the panels, and hands them the parameter node of the scene that is open."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameters = None
        self._entered = False

    def setup(self):
        super().setup()
        self.logic = CardiacLDMLogic()
        self.ui = slicer.util.childWidgetVariables(self._load("CardiacLDM", self.layout))
        self.segmentUi = slicer.util.childWidgetVariables(self._load("Segment", self.ui.segmentTab.layout()))
        self.segment = SegmentPanel(self.segmentUi, self.logic.dispatcher)
        self.batch = BatchPanel(self.segmentUi, self.logic.dispatcher, self.segment.settings)
        self.generateUi = slicer.util.childWidgetVariables(self._load("Generate", self.ui.generateTab.layout()))
        self.generate = GeneratePanel(self.generateUi, self.logic.dispatcher)
        self.models = ModelsPanel(self.ui.modelsTab, self.logic)
        self.models.packagesChanged += [self.segment.show_packages, self.generate.show_packages]
        self.logic.busyChanged += [self.segment.refresh, self.batch.refresh, self.generate.refresh]
        start_marks()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneReady)
        self.initializeParameterNode()

    def _load(self, name, layout):
        widget = slicer.util.loadUI(self.resourcePath(f"UI/{name}.ui"))
        layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        return widget

    def cleanup(self):
        """The module goes or is reloaded: no worker, observer or connection may stay."""
        if self.logic is None:  # never shown
            return
        self._entered = False
        self.removeObservers()
        self._setParameters(None)
        self.logic.busyChanged.clear()
        for panel in (self.segment, self.batch, self.generate, self.models):
            panel.cleanup()
        stop_marks()
        self.logic.close()

    def enter(self):
        """The user comes to the module."""
        self._entered = True
        self.initializeParameterNode()
        if not dependencies.missing():  # until then there are automatic choice and the CPU
            self.logic.dispatcher.list_devices(self._showDevices)

    def _showDevices(self, devices):
        for panel in (self.segment, self.generate):
            panel.show_devices(devices)

    def exit(self):
        """The user goes to another module. Jobs go on, and their results are shown when they are there."""
        self._entered = False

    def onReload(self):
        """Reload the library too: what a developer changes is mostly there."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "CardiacLDMLib"]:
            del sys.modules[name]
        super().onReload()

    def onSceneStartClose(self, _caller, _event):
        self._setParameters(None)

    def onSceneReady(self, _caller, _event):
        later(0.0, self._sceneReady)  # the selectors learn of new nodes after this event

    def _sceneReady(self):
        if self._entered:
            self._setParameters(None)
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show the choices kept in this scene; in a new one, choose the scan that the slices show."""
        if self._parameters is None:
            self._setParameters(self.logic.getParameterNode())
        if self._parameters.segment.inputVolume is None:
            self._parameters.segment.inputVolume = shownVolume()

    def _setParameters(self, parameters):
        self._parameters = parameters
        self.segment.set_parameters(parameters)
        self.generate.set_parameters(parameters)


def shownVolume():
    """The scan that the slices show, or any other one; None without a scan."""
    active = slicer.mrmlScene.GetNodeByID(slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID() or "")
    volumes = [active, *slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    # Label maps and vector volumes are scalar volumes too, by inheritance.
    return next((node for node in volumes if node and node.GetClassName() == "vtkMRMLScalarVolumeNode"), None)


class CardiacLDMLogic(ScriptedLoadableModuleLogic):
    """Segments volumes and generates pairs, in a worker process that this object starts when it is first needed.

    Functions in ``busyChanged`` are called whenever a job begins or has ended. :meth:`close` ends the worker, which
    otherwise ends after ten idle minutes, and with Slicer.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self.busyChanged = []
        self._dispatcher = Dispatcher(self._tellBusy)

    def getParameterNode(self):
        return CardiacLDMParameterNode(super().getParameterNode())

    def segment(self, volumeNode, package=None, device="auto", quality="full", segmentationNode=None, progress=None):
        """Segment ``volumeNode`` and return the segmentation node; Slicer stays alive while this waits.

        package: name or folder of a model package, None for the one that ships. device: auto, cpu, cuda:0, ...
        quality: fast, full or flips. segmentationNode: its content is replaced; None makes a new one. progress: called
        with an object that has step, total, stage and seconds. Raises RuntimeError with one sentence when it cannot be
        done, or was cancelled.
        """
        outcome = {}
        job = self.startSegment(
            volumeNode, package, device, quality, segmentationNode, progress,
            done=lambda node: outcome.update(node=node),
            failed=lambda failure: outcome.update(error=failure.message),
            cancelled=lambda: outcome.update(error=_("The segmentation was cancelled.")),
        )  # fmt: skip
        while job.running:
            self._dispatcher.process_events()
        if "error" in outcome:
            raise RuntimeError(outcome["error"])
        return outcome["node"]

    def startSegment(
        self, volumeNode, package=None, device="auto", quality="full", segmentationNode=None, progress=None,
        done=None, failed=None, cancelled=None,
    ):  # fmt: skip
        """As :meth:`segment`, but return at once, with a job that has ``running`` and ``cancel()``.

        One of these is called at the end, from Slicer's event loop: ``done(segmentationNode)``, ``failed(failure)``,
        which has a ``message`` and ``details``, or ``cancelled()``. Raises RuntimeError for a volume that cannot be
        segmented, and while another job runs.
        """
        listener = Listener(*(call or _nothing for call in (progress, done, failed, cancelled)))
        try:
            return SceneJob(
                self._dispatcher, volumeNode, segmentationNode, Settings(package, device, quality), listener
            )
        except (ClientError, JobError, VolumeError, ImportError) as error:
            raise RuntimeError(_sentence(error)) from error

    def generate(
        self, package=None, count=1, seed=None, steps=None, conditions=None, device="auto", check=True, progress=None
    ):  # fmt: skip
        """Draw synthetic pairs into the scene and return them as (volume node, segmentation node), in order.

        Slicer stays alive while this waits. package: name or folder of a generator package, None for the one that
        ships. Pairs 0 to count - 1 of seed are drawn, of a seed by chance without one; the same numbers give the same
        pairs. steps: None for the package's own. conditions: name to value, such as {"sex": "female"}; the rest is
        left to chance. With check a pair is drawn again until it may be kept, and left out if it never may. progress:
        called with an object that has step, total, stage and seconds. Raises RuntimeError with one sentence when it
        cannot be done, was cancelled, or no pair was kept; pairs that are finished by then stay in the scene.
        """
        outcome = {}
        job = self.startGenerate(
            package, count, seed, steps, conditions, device, check, progress,
            done=lambda rejected: outcome.update(rejected=rejected),
            failed=lambda failure: outcome.update(error=failure.message),
            cancelled=lambda: outcome.update(error=_("Generating was cancelled.")),
        )  # fmt: skip
        while job.running:
            self._dispatcher.process_events()
        if "error" not in outcome and not job.pairs:
            outcome["error"] = outcome["rejected"][-1]
        if "error" in outcome:
            raise RuntimeError(outcome["error"])
        return [(pair.volume, pair.segmentation) for pair in job.pairs]

    def startGenerate(
        self, package=None, count=1, seed=None, steps=None, conditions=None, device="auto", check=True, progress=None,
        done=None, failed=None, cancelled=None,
    ):  # fmt: skip
        """As :meth:`generate`, but return at once, with a job that has ``running``, ``pairs`` and ``cancel()``.

        One of these is called at the end, from Slicer's event loop: ``done(rejected)`` with a sentence for each pair
        that was never accepted, ``failed(failure)``, which has a ``message`` and ``details``, or ``cancelled()``.
        Raises RuntimeError for a count that cannot be, and while another job runs.
        """
        tell = progress or _nothing
        listener = PairListener(
            lambda index, progress: tell(progress), _nothing, _nothing,
            *(call or _nothing for call in (done, failed, cancelled)),
        )  # fmt: skip
        seed = random.SystemRandom().randint(0, MAX_SEED) if seed is None else seed
        settings = PairSettings(package, count, seed, steps, conditions or {}, device, check)
        try:
            return PairsJob(self._dispatcher, settings, listener)
        except (ClientError, JobError, ImportError) as error:
            raise RuntimeError(_sentence(error)) from error

    @property
    def client(self):
        """Talks to the worker; see CardiacLDMLib.worker.client."""
        return self._dispatcher.client

    @property
    def dispatcher(self):
        """Gives jobs to the client, one at a time."""
        return self._dispatcher

    def close(self):
        """End the worker and whatever it does."""
        self._dispatcher.close()

    def _tellBusy(self):
        for call in list(self.busyChanged):
            call()


def _nothing(*_unused):
    pass


def _sentence(error):
    """Return an error in one sentence for the user."""
    if isinstance(error, ImportError):
        return _("The Python library {name} is missing: install what the module needs.").format(name=error.name)
    return str(error)


class CardiacLDMTest(ScriptedLoadableModuleTest):
    """Runs the tests in Testing/Python, which need a real Slicer."""

    def runTest(self):
        folder = str(Path(__file__).parent / "Testing" / "Python")
        suite = unittest.defaultTestLoader.discover(folder, pattern="*Test.py")
        result = unittest.TextTestRunner(verbosity=2).run(suite)
        if not result.wasSuccessful():
            raise AssertionError("The module's tests failed: see the Python console.")

"""The Slicer module, which Slicer loads at start-up. The panels and all work are in CardiacLDMLib."""

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
from CardiacLDMLib.errors import UserError
from CardiacLDMLib.slicer import dependencies
from CardiacLDMLib.slicer.panels.closing import CloseGuard
from CardiacLDMLib.slicer.panels.corrections import start_corrections, stop_corrections
from CardiacLDMLib.slicer.panels.generate.jobs import PairListener, PairSettings, PairsJob
from CardiacLDMLib.slicer.panels.generate.panel import MAX_SEED, GeneratePanel
from CardiacLDMLib.slicer.panels.generate.views import scan_chosen, start_views, stop_views
from CardiacLDMLib.slicer.panels.models.panel import ModelsPanel
from CardiacLDMLib.slicer.panels.parameters import CardiacLDMParameterNode
from CardiacLDMLib.slicer.panels.process import Dispatcher
from CardiacLDMLib.slicer.panels.review.panel import ReviewPanel
from CardiacLDMLib.slicer.panels.scene_jobs import Listener, SceneJob, Settings
from CardiacLDMLib.slicer.panels.segment.batch import BatchPanel
from CardiacLDMLib.slicer.panels.segment.panel import SegmentPanel

#: Slicer's own contrast CT of the heart, offered as sample data of this module.
SAMPLE_SHA256 = "3b0d4eb1a7d8ebb0c5a89cc0504640f76a030b4e869e33ff34c564c3d3b88ad2"
#: Priority of an observer of the scene that comes after those of the node selectors, which have the new nodes then.
AFTER_SELECTORS = -100.0
SAMPLE_URL = f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{SAMPLE_SHA256}"


class CardiacLDM(ScriptedLoadableModule):
    """The module's entry in Slicer's list of modules, and its help."""

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
        parent.acknowledgementText = _(
            "The networks that ship were trained on a virtual cohort, on no scan of a patient."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)
        slicer.app.connect("startupCompleted()", start_views)  # a scene may have synthetic pairs
        slicer.app.connect("startupCompleted()", start_corrections)  # and results


def register_sample_data():
    """Offer a sample scan, if Slicer has the Sample Data module."""
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
    """Loads the panels and gives them the parameter node of the open scene."""

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
        self.batch = BatchPanel(self.segmentUi, self.logic.dispatcher, self.segment.settings, self.segment.show_case)
        self.generateUi = slicer.util.childWidgetVariables(self._load("Generate", self.ui.generateTab.layout()))
        self.generate = GeneratePanel(self.generateUi, self.logic.dispatcher)
        self.reviewUi = slicer.util.childWidgetVariables(self._load("Review", self.ui.reviewTab.layout()))
        self.review = ReviewPanel(self.reviewUi, self.ui.reviewTab)
        self.models = ModelsPanel(self.ui.modelsTab, self.logic)
        self.ui.tabs.connect("currentChanged(int)", self._tabChanged)
        self.segmentUi.inputVolume.connect("currentNodeChanged(vtkMRMLNode*)", scan_chosen)
        self.models.packagesChanged += [self.segment.show_packages, self.generate.show_packages]
        self.logic.busyChanged += [self.segment.refresh, self.batch.refresh, self.generate.refresh]
        self.closeGuard = CloseGuard(self._loss, self.generate.leave)
        start_views()
        start_corrections()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneReady, priority=AFTER_SELECTORS)
        self.initializeParameterNode()

    def _load(self, name, layout):
        widget = slicer.util.loadUI(self.resourcePath(f"UI/{name}.ui"))
        layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        return widget

    def _loss(self):
        """Return what would be lost if Slicer were closed now, in a sentence; empty if nothing."""
        if self.logic.dispatcher.busy:
            return _("CardiacLDM is still working. If Slicer is closed now, this job ends without a result.")
        return self.review.loss()

    def cleanup(self):
        """Remove the worker, observers and connections before the module is unloaded or reloaded."""
        if self.logic is None:  # never shown
            return
        self._entered = False
        self.closeGuard.remove()
        self.removeObservers()
        self._setParameters(None)
        self.logic.busyChanged.clear()
        for panel in (self.segment, self.batch, self.generate, self.review, self.models):
            panel.cleanup()
        stop_views()
        stop_corrections()
        self.logic.close()

    def enter(self):
        """Called when the user opens the module."""
        self._entered = True
        self.initializeParameterNode()
        self._showReview(self.ui.tabs.currentIndex)
        if not dependencies.missing():  # until then Automatic and CPU are offered
            self.logic.dispatcher.list_devices(self._showDevices)
            self.segment.load_package()

    def _showDevices(self, devices):
        for panel in (self.segment, self.generate):
            panel.show_devices(devices)

    def exit(self):
        """Called when the user opens another module. Jobs continue, and their results are shown."""
        self._entered = False
        self.generate.leave()
        self.review.leave()

    def _tabChanged(self, index):
        if index != self.ui.tabs.indexOf(self.ui.generateTab):
            self.generate.leave()
        self._showReview(index)

    def _showReview(self, index):
        if self._entered and index == self.ui.tabs.indexOf(self.ui.reviewTab):
            self.review.enter()
        else:
            self.review.leave()

    def onReload(self):
        """Reload the library too, where most changes of a developer are."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "CardiacLDMLib"]:
            del sys.modules[name]
        super().onReload()

    def onSceneStartClose(self, _caller, _event):
        self._setParameters(None)
        self.review.scene_closes()

    def onSceneReady(self, _caller, _event):
        # At once, whether or not the module is open: a script may choose a scan in its next line.
        self._setParameters(None)
        self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show the choices stored in this scene. Without a scan, choose that of the selector or of the slices."""
        if self._parameters is None or not slicer.mrmlScene.IsNodePresent(self._parameters.parameterNode):
            self._setParameters(self.logic.getParameterNode())
        if self._parameters.segment.inputVolume is None:
            self._parameters.segment.inputVolume = self.segmentUi.inputVolume.currentNode() or shownVolume()

    def _setParameters(self, parameters):
        self._parameters = parameters
        self.segment.set_parameters(parameters)
        self.generate.set_parameters(parameters)


def shownVolume():
    """Return the scan that the slices show, or another one; None without a scan."""
    active = slicer.mrmlScene.GetNodeByID(slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID() or "")
    volumes = [active, *slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    # Label maps and vector volumes are scalar volumes too, by inheritance.
    return next((node for node in volumes if node and node.GetClassName() == "vtkMRMLScalarVolumeNode"), None)


class CardiacLDMLogic(ScriptedLoadableModuleLogic):
    """Segments volumes and generates pairs in a worker process, which is started when it is first needed.

    The functions in ``busyChanged`` are called when a job begins and when it has ended. The worker ends by
    :meth:`close`, after ten idle minutes, and with Slicer.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self.busyChanged = []
        self._dispatcher = Dispatcher(self._notifyBusy)

    def getParameterNode(self):
        return CardiacLDMParameterNode(super().getParameterNode())

    def segment(self, volumeNode, package=None, device="auto", quality="full", segmentationNode=None, progress=None):
        """Segment ``volumeNode`` and return the segmentation node. Slicer keeps responding while this waits.

        package: name or folder of a model package, None for the one that ships. device: auto, cpu, cuda:0, ...
        quality: fast, full or flips. segmentationNode: its content is replaced; None makes a new node. progress: called
        with an object that has step, total, stage and seconds. Raises RuntimeError with one sentence if it fails or is
        cancelled.
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
        """Begin as :meth:`segment` does and return at once a job that has ``running`` and ``cancel()``.

        At the end Slicer's event loop calls ``done(segmentationNode)``, ``failed(failure)``, which has ``message`` and
        ``details``, or ``cancelled()``. Raises RuntimeError for a volume or setting that cannot be used, and while
        another job runs.
        """
        listener = Listener(*(call or _nothing for call in (progress, done, failed, cancelled)))
        try:
            return SceneJob(
                self._dispatcher, volumeNode, segmentationNode, Settings(package, device, quality), listener
            )
        except (UserError, ImportError) as error:
            raise RuntimeError(_sentence(error)) from error

    def generate(
        self, package=None, count=1, seed=None, steps=None, conditions=None, device="auto", check=True, progress=None
    ):  # fmt: skip
        """Generate synthetic pairs into the scene; return them as (volume node, segmentation node), in order.

        Slicer keeps responding while this waits. package: name or folder of a generator package, None for the one that
        ships. Pairs 0 to count - 1 of seed are generated; without a seed one is chosen at random. The same numbers give
        the same pairs. steps: None for the package's default. conditions: name to value, such as {"sex": "female"};
        the others are chosen at random. With check a pair is generated again until it passes the checks, and left out
        if it never does. progress: called with an object that has step, total, stage and seconds. Raises RuntimeError
        with one sentence if it fails, is cancelled, or no pair passes; finished pairs stay in the scene.
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
        """Begin as :meth:`generate` does and return at once a job that has ``running``, ``pairs`` and ``cancel()``.

        At the end Slicer's event loop calls ``done(rejected)`` with a sentence for each pair that never passed the
        checks, ``failed(failure)``, which has ``message`` and ``details``, or ``cancelled()``. Raises RuntimeError for
        an invalid count or setting, and while another job runs.
        """
        report = progress or _nothing
        listener = PairListener(
            lambda index, progress: report(progress), _nothing, _nothing,
            *(call or _nothing for call in (done, failed, cancelled)),
        )  # fmt: skip
        seed = random.SystemRandom().randint(0, MAX_SEED) if seed is None else seed
        settings = PairSettings(package, count, seed, steps, conditions or {}, device, check)
        try:
            return PairsJob(self._dispatcher, settings, listener)
        except (UserError, ImportError) as error:
            raise RuntimeError(_sentence(error)) from error

    @property
    def client(self):
        """Submits jobs to the worker; see CardiacLDMLib.worker.client."""
        return self._dispatcher.client

    @property
    def dispatcher(self):
        """Submits jobs to the client, one at a time."""
        return self._dispatcher

    def close(self):
        """End the worker and its job."""
        self._dispatcher.close()

    def _notifyBusy(self):
        for call in list(self.busyChanged):
            call()


def _nothing(*_unused):
    pass


def _sentence(error):
    """Return an error in one sentence for the user."""
    if isinstance(error, ImportError):
        return _("The Python library {name} is missing: install the packages that are needed.").format(name=error.name)
    return str(error)


class CardiacLDMTest(ScriptedLoadableModuleTest):
    """Runs the tests in Testing/Python, which need a real Slicer."""

    def runTest(self):
        folder = str(Path(__file__).parent / "Testing" / "Python")
        suite = unittest.defaultTestLoader.discover(folder, pattern="*Test.py")
        result = unittest.TextTestRunner(verbosity=2).run(suite)
        if not result.wasSuccessful():
            raise AssertionError("The module's tests failed: see the Python console.")

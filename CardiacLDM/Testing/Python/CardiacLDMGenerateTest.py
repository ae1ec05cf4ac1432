"""The Generate panel in a running Slicer, with the steps of a user: choose, Generate, wait, look, save.

Run in the same way as CardiacLDMSegmentTest. Any generator package will do: the quality of the pairs does not matter
here, so few steps are used and no pair is checked.
"""

import re
import tempfile
import time
from pathlib import Path

import slicer.util

import slicer
from slicer import ScriptedLoadableModule

SEED, STEPS = 42, 8


class CardiacLDMGenerateTest(ScriptedLoadableModule.ScriptedLoadableModuleTest):
    """Steps of a user in the Generate panel, and of a script."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("CardiacLDM")
        self.widget = slicer.util.getModuleWidget("CardiacLDM")
        self.ui, self.panel = self.widget.generateUi, self.widget.generate
        from CardiacLDMLib.slicer import dependencies
        from CardiacLDMLib.slicer.panels.generate.facts import installed_generators

        if dependencies.missing():
            self.skipTest("Libraries are missing: press Apply once, so that they are installed.")
        if not installed_generators():
            self.skipTest("No generator package is installed: import one under Models & device.")
        self.package = installed_generators()[0]

    def tearDown(self):
        self.waitFor(lambda: not self.panel.running, cancel=True)
        slicer.mrmlScene.Clear()

    def test_pairs_arrive_side_by_side(self):
        from CardiacLDMLib.slicer.panels.generate.views import IMAGE_VIEW, LABELS_VIEW, LAYOUT

        self.start(count=2)
        self.assertEqual(self.ui.apply.text, "&Cancel")
        self.waitFor(lambda: not self.panel.running)
        self.assertFalse(self.ui.errorBox.visible, self.ui.errorLabel.text)
        self.assertEqual(self.ui.pairs.rowCount, 2)
        manager = slicer.app.layoutManager()
        self.assertEqual(manager.layout, LAYOUT)
        second = self.pairs()[1]
        for name in (IMAGE_VIEW, LABELS_VIEW):
            composite = manager.sliceWidget(name).mrmlSliceCompositeNode()
            self.assertEqual(composite.GetBackgroundVolumeID(), second.volume.GetID())
        display = second.segmentation.GetDisplayNode()
        shown = [
            display.IsDisplayableInView(manager.sliceWidget(name).mrmlSliceNode().GetID())
            for name in (IMAGE_VIEW, LABELS_VIEW)
        ]
        self.assertEqual(shown, [False, True])

    def test_the_layout_is_lent(self):
        manager, tabs = slicer.app.layoutManager(), self.widget.ui.tabs
        tabs.currentIndex = tabs.indexOf(self.widget.ui.generateTab)
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.start()
        self.waitFor(lambda: not self.panel.running)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scene.mrml"
            self.assertTrue(slicer.mrmlScene.Commit(str(file)))
            (number,) = re.findall(r'currentViewArrangement="(\d+)"', file.read_text())
        self.assertLess(int(number), slicer.vtkMRMLLayoutNode.SlicerLayoutFinalView)
        tabs.currentIndex = tabs.indexOf(self.widget.ui.segmentTab)
        self.assertEqual(manager.layout, slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def test_surfaces_come_on_request(self):
        self.start()
        self.waitFor(lambda: not self.panel.running)
        self.ui.surfaces.checked = True
        segmentation = self.pairs()[0].segmentation
        self.waitFor(lambda: segmentation.GetSegmentation().ContainsRepresentation("Closed surface"))
        self.waitFor(lambda: segmentation.GetDisplayNode().GetVisibility3D())
        self.ui.surfaces.checked = False
        self.assertFalse(segmentation.GetDisplayNode().GetVisibility3D())

    def test_synthetic_stands_in_the_corner(self):
        self.start()
        self.waitFor(lambda: not self.panel.running)
        self.assertTrue(self.marked())
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.assertTrue(self.marked())
        slicer.mrmlScene.RemoveNode(self.pairs()[0].volume)
        self.assertFalse(self.marked())

    def test_cancel_keeps_what_is_finished(self):
        self.start(count=15)
        self.waitFor(self.pairs)
        self.ui.apply.click()
        began = time.monotonic()
        self.waitFor(lambda: not self.panel.running)
        self.assertLess(time.monotonic() - began, 4.0)
        self.assertGreaterEqual(len(self.pairs()), 1)
        self.assertLess(len(self.pairs()), 15)

    def test_a_script_gets_the_nodes(self):
        ((volume, segmentation),) = self.widget.logic.generate(self.package, seed=SEED, steps=STEPS, check=False)
        self.assertEqual(volume.GetAttribute("CardiacLDM.synthetic"), "true")
        self.assertIn("Synthetic", segmentation.GetName())
        self.assertEqual(segmentation.GetSegmentation().GetNumberOfSegments(), 8)

    def test_pairs_are_saved_as_files(self):
        from CardiacLDMLib.slicer.panels.generate.saving import SaveJob, SaveListener

        self.widget.logic.generate(self.package, seed=SEED, steps=STEPS, check=False)
        ends = []
        with tempfile.TemporaryDirectory() as folder:
            listener = SaveListener(lambda _: None, ends.append, lambda written, why: ends.append(why))
            SaveJob(self.widget.logic.dispatcher, self.pairs(), Path(folder), listener)
            self.waitFor(lambda: ends)
            self.assertEqual(ends, [1])
            names = sorted(path.name for path in (Path(folder) / "pair_0000").iterdir())
            self.assertEqual(names, ["ct.nii.gz", "labels.nii.gz", "provenance.json"])

    # --- steps ---

    def start(self, count=1):
        self.panel.package.set(self.package)
        self.panel._remember("package", self.package)
        self.ui.count.value, self.ui.seed.value, self.ui.steps.value = count, SEED, STEPS
        self.ui.check.checked = False
        self.assertTrue(self.ui.apply.enabled, self.ui.hint.text)
        self.ui.apply.click()

    def pairs(self):
        from CardiacLDMLib.slicer import pairs

        return pairs.synthetic_pairs(slicer.mrmlScene)

    def marked(self):
        """Return the names of the slice views that show the word Synthetic."""
        manager, found = slicer.app.layoutManager(), []
        for name in manager.sliceViewNames():
            view = manager.sliceWidget(name).sliceView()
            for actor in view.renderWindow().GetRenderers().GetFirstRenderer().GetActors2D():
                if actor.IsA("vtkTextActor") and actor.GetInput() == "Synthetic" and actor.GetVisibility():
                    found.append(name)
        return found

    def waitFor(self, done, seconds=180.0, cancel=False):
        """Let Slicer's event loop run until ``done()``."""
        end = time.monotonic() + seconds
        if cancel and not done():
            self.panel.cancel()
        while not done():
            self.assertLess(time.monotonic(), end, "it takes too long")
            slicer.app.processEvents()
            time.sleep(0.002)

"""The Review panel in a running Slicer, with the steps of a reader: open, look, judge, correct, go on.

Run in the same way as CardiacLDMSegmentTest. The labels are boxes: their anatomy does not matter here. Keys are tested
as far as Qt lets a program press them: what they lead to, and that no other key of Slicer stands in their way.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import qt
import slicer.util

import slicer
from slicer import ScriptedLoadableModule

NAMES = ["pair_0001", "pair_0002", "pair_0003"]
SIDE = 40


def writePair(folder, missing=None):
    """Write a CT and labels of eight boxes, without the structure of the value ``missing``."""
    from CardiacLDMLib.image.files import write_volume
    from CardiacLDMLib.image.grid import Volume

    labels = np.zeros((SIDE,) * 3, np.uint8)
    for value in range(1, 9):
        k = 3 + 4 * value
        labels[8:30, 10:28, k : k + 3] = 0 if value == missing else value
    hu = np.where(labels > 0, 300, 40).astype(np.int16)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -SIDE
    folder.mkdir(parents=True)
    write_volume(Volume(hu, affine), folder / "ct.nii.gz")
    write_volume(Volume(labels, affine), folder / "labels.nii.gz")


class CardiacLDMReviewTest(ScriptedLoadableModule.ScriptedLoadableModuleTest):
    """Steps of a reader in the Review panel."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("CardiacLDM")
        self.widget = slicer.util.getModuleWidget("CardiacLDM")
        from CardiacLDMLib.slicer import dependencies

        if dependencies.missing():
            self.skipTest("Libraries are missing: press Apply once, so that they are installed.")
        self.ui, self.panel, self.desk = self.widget.reviewUi, self.widget.review, self.widget.review.desk
        self.reader = self.ui.readerName.text
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "pairs"
        for name in NAMES:
            writePair(self.folder / name, missing=1 if name == NAMES[1] else None)
        tabs = self.widget.ui.tabs
        tabs.currentIndex = tabs.indexOf(self.widget.ui.reviewTab)

    def tearDown(self):
        self.desk._correction.stop()
        self.panel.close()
        self.ui.readerName.text = self.reader
        self.ui.casesPath.currentPath = ""
        slicer.mrmlScene.Clear()
        self.temporary.cleanup()

    def test_a_case_is_beside_its_findings_in_all_views(self):
        self.open()
        name, nodes = self.desk.name, self.panel._loader.nodes[self.desk.name]
        for view in slicer.app.layoutManager().sliceViewNames():
            composite = slicer.app.layoutManager().sliceWidget(view).mrmlSliceCompositeNode()
            self.assertEqual(composite.GetBackgroundVolumeID(), nodes.volume.GetID())
        self.assertTrue(nodes.segmentation.GetDisplayVisibility())
        self.assertGreater(self.ui.findings.rowCount, 0)
        self.panel._act("next_finding")
        self.panel._act("structure_2")
        display = nodes.segmentation.GetDisplayNode()
        self.assertTrue(display.GetSegmentVisibility2DFill("LV"))
        self.assertFalse(display.GetSegmentVisibility2DFill("RV"))
        self.assertIn("LV", self.ui.accept.text)
        self.assertEqual(self.desk.name, name)

    def test_a_verdict_leads_to_the_next_case_at_once(self):
        self.open()
        first = self.desk.name
        began = time.thread_time()  # other programs use the processor too
        self.panel._act("accept")
        self.assertLess(time.thread_time() - began, 0.5)
        self.assertTrue(self.desk.on_screen)  # nothing was waited for
        self.assertNotEqual(self.desk.name, first)
        self.panel._act("undo")
        self.assertEqual(self.desk.name, first)
        self.assertEqual([line["verdict"] for line in self.journal()], ["accept", "undo"])

    def test_no_other_part_of_slicer_has_one_of_the_keys_meanwhile(self):
        from CardiacLDMLib.slicer.panels.review.keys import KEYS

        ours = {qt.QKeySequence(key).toString() for key, _name, _words in KEYS}
        window = slicer.util.mainWindow() or self.ui.caseTable.window()

        def taken():
            owners = [*window.findChildren("QAction"), *window.findChildren("QAbstractButton")]
            return {owner.property("shortcut").toString() for owner in owners} & ours

        tabs, tab = self.widget.ui.tabs, self.widget.ui.tabs.currentIndex
        self.panel.enter()
        self.assertEqual(taken(), set())
        tabs.currentIndex = 0
        self.panel.leave()
        if slicer.util.mainWindow():
            self.assertEqual(taken(), {"Ctrl+Left", "Ctrl+Right"})  # the history of modules has them back
        tabs.currentIndex = tab
        self.panel.enter()

    def test_keys_with_ctrl_move_through_the_list(self):
        self.open()
        self.desk.choose(self.panel._session.names[0])
        self.panel._act("next_case")
        self.assertEqual(self.desk.name, self.panel._session.names[1])
        self.panel._act("previous_case")
        self.assertEqual(self.desk.name, self.panel._session.names[0])

    def test_corrected_labels_are_saved_and_checked_again(self):
        self.open()
        name, nodes = self.desk.name, self.panel._loader.nodes[self.desk.name]
        before = self.panel._loader.hashes[name]
        if hasattr(slicer.modules, "segmenteditor"):
            self.ui.correct.click()
            self.assertEqual(slicer.util.selectedModule(), "SegmentEditor")
            editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
            self.assertEqual(editor.segmentationNode(), nodes.segmentation)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, "RV", nodes.volume)
        array[:, :, : SIDE // 2] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, nodes.segmentation, "RV", nodes.volume)
        if hasattr(slicer.modules, "segmenteditor"):
            slicer.util.selectModule("CardiacLDM")
        else:
            self.panel.enter()
        self.waitFor(lambda: self.panel._loader.hashes[name] != before)
        self.waitFor(lambda: self.panel._loader.findings(name) is not None)
        self.assertEqual([line["verdict"] for line in self.journal()], ["corrected"])
        self.assertEqual(len(list((self.folder / "review" / "labels").iterdir())), 1)

    def test_the_users_scene_is_as_before(self):
        volume = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8), np.int16), name="A scan")
        slicer.util.setSliceViewerLayers(background=volume)
        self.open()
        self.panel._act("accept")
        self.waitFor(lambda: self.desk.on_screen)
        self.panel.close()
        self.assertEqual(list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")), [volume])
        self.assertEqual(list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), [])
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        self.assertEqual(composite.GetBackgroundVolumeID(), volume.GetID())

    def test_closing_the_scene_keeps_the_verdicts(self):
        self.open()
        self.panel._act("reject")
        slicer.mrmlScene.Clear()
        self.panel._act("accept")  # no case is shown
        self.assertEqual([line["verdict"] for line in self.journal()], ["reject"])
        self.desk.choose(NAMES[0])
        self.waitFor(lambda: self.desk.on_screen)

    # --- steps ---

    def open(self):
        self.ui.readerName.text = "Self-test"
        self.ui.verdictsPath.currentPath = ""
        self.ui.casesPath.currentPath = str(self.folder)
        self.ui.openCases.click()
        self.waitFor(lambda: self.desk.on_screen)
        loader = self.panel._loader
        self.waitFor(lambda: not loader._running and loader._next() is None)

    def journal(self):
        files = sorted((self.folder / "review").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def waitFor(self, done, seconds=120.0):
        """Let Slicer's event loop run until ``done()``."""
        end = time.monotonic() + seconds
        while not done():
            self.assertLess(time.monotonic(), end, "it takes too long")
            slicer.app.processEvents()
            self.panel._dispatcher.process_events()

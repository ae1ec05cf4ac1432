"""The case that is looked at: its findings, its verdicts, its corrections, and the way to the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from ....errors import UserError
from ....worker.job import Failure
from ..process import Sliced, later
from .comparing import CompareBox
from .correcting import Correction, confirm_loss
from .loading import CaseLoader
from .others import OthersBox
from .session import Session
from .tables import CaseTable, FindingTable
from .verdict_box import VerdictBox
from .viewer import CaseViewer
from .words import origin, state, title

if TYPE_CHECKING:
    from ....image.grid import Volume
    from ....review.readers import Disagreement
    from ....review.verdicts import Opinion
    from ....segmentation.findings import Finding
    from ....worker.review_messages import KeptLabels

#: Seconds between two attempts to write verdicts that could not be written.
RETRY_SECONDS = 15.0


class Desk:
    """The lower part of Review.ui.

    ``say`` shows a sentence. ``changed`` is called when something is to be shown anew.
    """

    def __init__(self, ui: Any, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._ui, self._say, self._changed = ui, say, changed
        self.session: Session | None = None
        self.loader: CaseLoader | None = None
        self.name: str | None = None
        self.on_screen = False
        self._finding: Finding | None = None  # that the reader looks at
        self._keeping = False  # whether corrected labels are being read and written
        self._reading: Sliced | None = None
        self._after: Callable[[], None] | None = None  # what waits for that
        self._retry: Any = None
        self._viewer, self._correction = CaseViewer(), Correction()
        self.cases = CaseTable(ui.caseTable, self.choose)
        self.findings = FindingTable(ui.findings, self._go_to_finding)
        self._others = OthersBox(ui, self._settle)
        self._compare = CompareBox(ui, self._viewer, self._go_to_difference)
        self.verdicts = VerdictBox(ui, self.judge, self._show_structure)

    # --- from the first case to the last ---

    def begin(self, session: Session, loader: CaseLoader) -> None:
        """Begin with the first case without a verdict."""
        self.session, self.loader = session, loader
        self.cases.fill(session.worklist, session.names)
        self.choose(session.first())

    def scene_closes(self) -> None:
        """Let go of the nodes of the scene."""
        self._correction.stop()
        self._viewer.forget()
        self._compare.show(None, None)
        if self.loader is not None:
            self.loader.forget()
        self.name, self.on_screen, self._finding = None, False, None
        self.findings.show([])

    def end(self) -> None:
        """Take everything out of the scene and end the process. Labels that were corrected and not saved stay."""
        nodes = self._correction.nodes
        if nodes is not None and self.has_changes:
            nodes.is_own = False
        if self._reading is not None:
            self._reading.stop()
            self._reading = None
        self._correction.stop()
        self.cases.stop()
        self._compare.show(None, None)
        self._viewer.leave()
        if self.loader is not None:
            self.loader.close()
        if self._retry is not None:
            self._retry.stop()
        self.session = self.loader = self.name = self._finding = self._retry = self._after = None
        self.on_screen = self._keeping = False
        self.findings.show([])

    # --- a case ---

    def choose(self, name: str | None) -> None:
        """Look at a case. What was corrected of the one before is saved first."""
        self.after_corrections(lambda: self._choose_now(name))

    def _choose_now(self, name: str | None) -> None:
        session, loader = self.session, self.loader
        if session is None or loader is None or name is None:
            return
        self._correction.stop()
        self._compare.show(loader, None)
        loader.failures.pop(name, None)  # try again
        self.name, self.on_screen, self._finding = name, False, None
        self.verdicts.begin()
        self.findings.show([])
        self._ui.caseLabel.toolTip = origin(session, name)
        session.watch.restart()
        self.cases.mark(name)
        session.stand_at(name)
        self.look_ahead()
        if name in loader.nodes:
            self.loaded(name)
        else:
            self._changed()

    def look_ahead(self) -> None:
        """Load the case that comes next."""
        if self.session is not None and self.loader is not None and self.name is not None:
            self.loader.want(self.name, self.session.next_open(self.name) or self.session.beside(self.name, 1))

    def loaded(self, name: str) -> None:
        loader, session = self.loader, self.session
        if name != self.name or loader is None or session is None or self.on_screen:
            return
        nodes = loader.nodes.get(name)
        if nodes is not None and not nodes.exists:  # the user has removed it
            loader.drop(name)
            self.look_ahead()
            self._changed()
            return
        if nodes is not None:
            self.on_screen = True
            self._viewer.show(nodes)
            self._correction.watch(nodes, loader.labels.get(name))
            self._compare.show(loader, nodes)
            session.watch.restart()
            session.forget(name)
            self.cases.update(session.worklist, name)
            self._show_findings()
            if self._finding is None:
                self._viewer.show_all()
        self._changed()

    def checked(self, name: str) -> None:
        if self.session is not None:
            self.session.forget(name)
            self.cases.update(self.session.worklist, name)
        if name == self.name and self.on_screen:
            self._show_findings()
        self._changed()

    def _show_findings(self) -> None:
        """List the findings of the case and go to the worst, unless the reader has gone somewhere already."""
        found = self.loader.findings(self.name) if self.loader is not None and self.name is not None else None
        self.findings.show(found or [])
        if self._finding is not None:
            self.findings.mark(self._finding)
        elif found and not self.verdicts.structure:
            self.findings.choose(0)

    def _go_to_finding(self, finding: Finding) -> None:
        self._finding = finding
        place: Any = finding.place
        if place is None and finding.structures:
            place = self._viewer.centre_of(finding.structures[0])
        self._viewer.look_at(finding.structures, place)

    def _go_to_difference(self, place: Any, structure: str) -> None:
        self._viewer.look_at((structure,), place)

    def _show_structure(self, name: str) -> None:
        """Show one structure, or all for an empty name."""
        place: Any = self._viewer.centre_of(name) if name else None
        self._viewer.look_at((name,) if name else (), place)
        self._changed()

    def step(self, by: int) -> None:
        if self.session is not None:
            self.choose(self.session.beside(self.name, by))

    # --- verdicts ---

    def judge(self, opinion: Opinion) -> None:
        session, loader, name = self.session, self.loader, self.name
        if session is None or loader is None or name is None or not self._may_judge(opinion):
            return
        structure = self.verdicts.structure
        place = self._finding.place if self._finding is not None else None
        session.judge(name, opinion, structure, self.verdicts.take_comment(), place)
        self._written()
        self.cases.update(session.worklist, name)
        if structure:
            self._say(_("{structure}: {verdict}.").format(structure=structure, verdict=_(opinion)))
            self.verdicts.begin()
            self._show_structure("")
            return
        self._go_on_after(name, opinion)

    def _go_on_after(self, name: str, opinion: Opinion) -> None:
        """Look at the next case without a verdict."""
        following = self.session.next_open(name) if self.session is not None else None
        if following is None:
            self._say(_("All cases of this list have your verdict."))
            self._changed()
        else:
            self._say(_("{case}: {verdict}.").format(case=name, verdict=_(opinion)))
            self.choose(following)

    def _may_judge(self, opinion: Opinion) -> bool:
        """Return whether the case can be judged: what is judged must be what is seen."""
        session, loader, name = self.session, self.loader, self.name
        assert session is not None
        assert loader is not None
        assert name is not None
        if name in loader.failures:
            if opinion == "accept" or self.verdicts.structure:
                self._say(_("Labels that cannot be shown cannot be accepted: reject the case, or mark it to be fixed."))
                return False
            return True
        if not self.on_screen:
            self._say(_("The case is not on the screen yet."))
            return False
        if self.take_over():
            self._say(_("The corrected labels are being saved: give the verdict once they are checked."))
            return False
        if session.worklist.labels_hash(name) != loader.hashes.get(name):
            loader.drop(name)
            self.choose(name)
            self._say(_("The labels have changed since they were shown: look at them again."))
            return False
        return True

    def undo(self) -> None:
        session, loader = self.session, self.loader
        if session is None or loader is None:
            return
        verdict = session.undo()
        self._written()
        if verdict is None:
            self._say(_("There is no verdict of yours to take back."))
            return
        self.cases.update(session.worklist, verdict.case)
        what = f"{verdict.case} {verdict.structure}".strip()
        if verdict.verdict == "corrected":
            loader.drop(verdict.case)
        if verdict.case != self.name or verdict.verdict == "corrected":
            self.choose(verdict.case)
        self._say(_("Taken back: {verdict} of {what}.").format(verdict=_(verdict.verdict), what=what))
        self._changed()

    def _settle(self, disagreement: Disagreement, outcome: Opinion, labels_sha256: str) -> None:
        if self.session is not None:
            self.session.settle(disagreement, outcome, self.verdicts.take_comment(), labels_sha256)
            self._written()
            self._changed()

    def _written(self) -> None:
        """Try again later if something could not be written."""
        if self.session is not None and self.session.worklist.journal.unsaved and self._retry is None:
            self._retry = later(RETRY_SECONDS, self.write_again)

    def write_again(self) -> None:
        """Try to write what could not be written."""
        self._retry = None
        if self.session is not None:
            self.session.write_again()
            self._written()
            self._changed()

    # --- corrections ---

    def correct(self) -> None:
        """Open the case in the Segment Editor."""
        if self.on_screen:
            try:
                self._correction.begin()
            except UserError as error:
                self._say(str(error))

    @property
    def has_changes(self) -> bool:
        """Whether the user has changed labels that are not saved yet."""
        return self._keeping or self._correction.has_changed

    def take_over(self, after: Callable[[], None] | None = None) -> bool:
        """Save the labels if the user has changed them, and have them checked again; return whether that goes on now.

        ``after`` is called once they are on the disk, or may be lost.
        """
        if self.session is None or self.name is None or not self.has_changes:
            return False
        if after is not None:
            self._after = after
        if not self._keeping:
            self._keeping = True
            self._say(_("Saving the corrected labels of {case}").format(case=self.name))
            self._reading = Sliced(self._read_changes(self.name), self._read)
        return True

    def _kept(self) -> None:
        """Go on with what waited for corrected labels."""
        self._keeping = False
        after, self._after = self._after, None
        if after is not None:
            after()

    def _read_changes(self, name: str) -> Iterator[None]:
        """Read the labels in the scene, and keep them if they have changed."""
        labels = yield from self._correction.changes_in_steps()
        loader = self.loader
        if labels is None or loader is None:
            self._say("")
            self._kept()
            return
        self._compare.end()
        if loader.is_of_scene:
            digest = yield from loader.take_labels(name, labels)
            self._corrected(name, digest, labels)
            self._say(_("The corrected labels of {case} are checked again.").format(case=name))
            self._kept()
        else:
            self._keep(name, labels)

    def _read(self, error: Exception | None) -> None:
        self._reading = None
        if error is not None:
            self._keeping, self._after = False, None
            self._correction.keep_changes()
            self._say(str(error))

    def after_corrections(self, call: Callable[[], None]) -> None:
        """Call once the labels that the user changed are on the disk; at once if there are none."""
        if not self.take_over(call):
            call()

    def _keep(self, name: str, labels: Volume) -> None:
        """Write corrected labels in the other process."""
        from ....worker.review_messages import KeepLabels

        assert self.session is not None
        assert self.loader is not None

        def done(reply: KeptLabels) -> None:
            self._corrected(name, reply.labels_sha256, labels)
            self._say(_("The corrected labels of {case} are saved and are checked again.").format(case=name))
            self._kept()

        def failed(failure: Failure) -> None:
            self._say(failure.message)
            if confirm_loss(name):
                self._correction.stop()
                self._kept()
            else:
                self._keeping, self._after = False, None
                self._correction.keep_changes()

        request = KeepLabels(labels=labels, case=name, review=self.session.worklist.folder)
        self.loader.ask(request, done, failed)
        self._changed()

    def _corrected(self, name: str, labels_sha256: str, labels: Volume) -> None:
        """Take note of corrected labels: they have no verdict yet."""
        if self.session is None or self.loader is None:
            return
        self.session.note_correction(name, labels_sha256)
        self._written()
        self._finding = None
        self.findings.show([])
        self.session.forget(name)
        self.loader.corrected(name, labels_sha256, labels)
        if name == self.name:
            self._viewer.remake_surfaces()
        self.cases.update(self.session.worklist, name)
        self._changed()

    # --- what is shown ---

    def refresh(self) -> None:
        """Show the case and what can be done with it now."""
        ui, session, loader, name = self._ui, self.session, self.loader, self.name
        failure = loader.failures.get(name or "", "") if loader is not None else ""
        may_judge = name is not None and (self.on_screen or bool(failure))
        said = session.worklist.status(name) if session is not None and name is not None else None
        self.verdicts.show(said.judgement if said else None, may_judge, may_accept=not failure)
        ui.correct.enabled = self.on_screen and not self._keeping
        ui.undo.enabled = session is not None
        ui.previousCase.enabled = session is not None and session.beside(name, -1) is not None
        ui.nextCase.enabled = session is not None and session.beside(name, 1) is not None
        ui.caseLabel.text = title(session, name)
        ui.stateLabel.text = failure or state(session, loader, name, self.on_screen)
        ui.stateLabel.visible = bool(ui.stateLabel.text)
        self._others.show(session, name)

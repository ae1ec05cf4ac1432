"""The list of a reader: cases in an order, what the reader has said of each, where to go on, how long it will take.

Opening it reads names of files, the journals and the cache, so hundreds of cases are open at once. A file is read only
for a case that is looked at, or that has a verdict and has changed since the cache was written. Nothing heavy is
imported at file scope: the panel uses this within Slicer.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..files import output_errors, sha256, sweep, sync_folder, temporary_folder
from . import sources
from .cache import Cache
from .journal import Journal
from .readers import Disagreement, Judgement, disagreements, judgement, visible
from .sources import ReviewCase, Source
from .verdicts import OPINIONS, Kind, Opinion, Verdict, last_of, standing

if TYPE_CHECKING:
    from ..image.grid import Volume
    from ..segmentation.findings import Finding

#: ``unseen``: without a verdict of the reader on these labels. ``flagged``: with findings that put labels in doubt, or
#: judged fix or reject by the reader. ``mine``: judged by the reader.
Filter = Literal["all", "unseen", "flagged", "mine"]
#: ``worst``: by their findings; cases that were not looked at yet come before those without such
#: findings.
Order = Literal["given", "worst"]
#: Folder of corrected labels within the review folder.
CORRECTED = "labels"
#: Time a case counts at most for the remaining time: longer is a pause, seconds.
LONGEST_SECONDS = 1800.0


@dataclass(frozen=True)
class Status:
    """What the reader has said of a case. ``is_done``: it has a verdict on these labels.

    ``is_outdated``: its verdicts are on labels that have changed since.
    """

    judgement: Judgement
    is_done: bool
    is_outdated: bool


@dataclass(frozen=True)
class Advance:
    """How far the reader is: "14 of 120, about 25 min left". None without a verdict to judge by.

    ``median_seconds``: per case. ``seconds_left``: for the rest at that speed.
    """

    done: int
    total: int
    median_seconds: float | None
    seconds_left: float | None


class Worklist:
    """The cases of ``source`` for the reader of ``journal``."""

    def __init__(self, source: Source, journal: Journal) -> None:
        self.cases, self.journal = source.cases, journal
        self.cache = Cache(source.review)
        self.folder = source.review
        self._by_name = {case.name: case for case in self.cases}
        self._of_scene: dict[str, str] = {}  # hashes of labels without files

    def __getitem__(self, name: str) -> ReviewCase:
        return self._by_name[name]

    # --- labels ---

    def labels_of(self, name: str) -> Path | None:
        """Return the file of a case's labels: those that the reader corrected last, otherwise the first ones."""
        for verdict in reversed(standing(self.journal.of(name))):
            if verdict.verdict == "corrected" and verdict.reader == self.journal.reader:
                path = corrected_file(self.folder, name, verdict.labels_sha256)
                if path.is_file():
                    return path
        return self[name].labels

    def labels_hash(self, name: str) -> str:
        """Return the SHA-256 of the labels that the reader sees. Those of the scene are told by :meth:`set_hash`."""
        path = self.labels_of(name)
        return self._of_scene.get(name) or (self.cache.hash_of(path) if path is not None else "")

    def scan_hash(self, name: str) -> str:
        """Return the SHA-256 of a case's scan, empty without one: a second for a large one the first time."""
        return self.cache.hash_of(*self[name].scan_files)

    def set_hash(self, name: str, labels_sha256: str) -> None:
        """Tell the hash of labels that have no file."""
        self._of_scene[name] = labels_sha256

    def read(self, name: str) -> tuple[Volume, Volume | None]:
        """Return labels and scan of a case, as the reader sees them. Raises ``VolumeError``."""
        return sources.read_both(self[name], self.labels_of(name))

    def correct(self, name: str, labels: Volume, seconds: float = 0.0) -> Verdict:
        """Keep corrected labels as a new file in the review folder; the first labels stay as they are.

        They have no verdict yet. Raises :class:`OutputError`.
        """
        digest = write_corrected(self.folder, name, labels)
        self._of_scene.pop(name, None)
        return self.note_correction(name, digest, seconds)

    def note_correction(self, name: str, labels_sha256: str, seconds: float = 0.0) -> Verdict:
        """Note that the reader made labels: those that :func:`write_corrected` wrote, or those of the scene.

        Raises :class:`OutputError`.
        """
        return self._add(name, "corrected", labels_sha256, seconds=seconds)

    # --- verdicts ---

    def judge(
        self, name: str, opinion: Opinion, structure: str = "", *, reason: str = "",
        place: Sequence[float] | None = None, seconds: float = 0.0,
    ) -> Verdict:  # fmt: skip
        """Give a verdict on a case, or on one structure of it. On return it is on the disk.

        Raises :class:`OutputError` as :meth:`Journal.add` does: the verdict counts and is written with the next one.
        """
        return self._add(name, opinion, self.labels_hash(name), structure=structure, reason=reason, place=place,
                         seconds=seconds)  # fmt: skip

    def settle(
        self, disagreement: Disagreement, outcome: Opinion, reason: str = "", labels_sha256: str = ""
    ) -> Verdict:
        """Note the outcome on which readers who disagreed agreed. Raises :class:`OutputError` as :meth:`judge` does.

        ``labels_sha256``: which labels are right, where readers accepted different ones; without it, the reader's own.
        """
        own = disagreement.labels.get(self.journal.reader) or next(iter(disagreement.labels.values()))
        return self._add(
            disagreement.case, "settled", labels_sha256 or own, structure=disagreement.structure, outcome=outcome,
            reason=reason,
        )  # fmt: skip

    def undo(self) -> Verdict | None:
        """Undo the reader's last verdict on a case of the list, and return it; None without one.

        Raises :class:`OutputError` as :meth:`judge` does.
        """
        listed = [verdict for verdict in self.journal.verdicts if verdict.case in self._by_name]
        last = last_of(listed, self.journal.reader)
        if last is not None:
            self._add(last.case, "undo", last.labels_sha256, structure=last.structure, undoes=last.id)
        return last

    def _add(self, name: str, kind: Kind, labels_sha256: str, **fields: Any) -> Verdict:
        case = self._by_name.get(name, ReviewCase(name))
        scan = self.cache.hash_of(*case.scan_files)
        verdict = self.journal.new(
            name, kind, labels_sha256, scan_sha256=scan, package=sources.package_of(case), **fields
        )
        self.journal.add(verdict)
        return verdict

    def status(self, name: str) -> Status:
        """Return what the reader has said of a case. The labels of a case without a verdict are not read."""
        said = judgement(self.journal.of(name), self.journal.reader, name)
        outdated = bool(said.labels_sha256) and said.labels_sha256 != self.labels_hash(name)
        return Status(said, said.is_done and not outdated, outdated)

    def seen(self, name: str) -> list[Verdict]:
        """Return the verdicts on a case that the reader may see: others' only once both are done with it."""
        return visible(self.journal.of(name), self.journal.reader, name)

    def disagreements(self, name: str | None = None) -> list[Disagreement]:
        """Return the disagreements with other readers that the reader may see, also settled ones.

        Those of one case, or of all without a name.
        """
        verdicts = self.journal.verdicts if name is None else self.journal.of(name)
        return disagreements(verdicts, self.journal.reader)

    # --- order and place ---

    def shown(self, which: Filter = "all", order: Order = "given") -> list[ReviewCase]:
        """Return the cases of a filter, as given or worst first."""
        cases = [case for case in self.cases if self._fits(case.name, which)]
        return sorted(cases, key=lambda case: self.badness(case.name), reverse=True) if order == "worst" else cases

    def _fits(self, name: str, which: Filter) -> bool:
        if which == "all":
            return True
        status = self.status(name)
        if which == "unseen":
            return not status.is_done
        if which == "mine":
            return status.judgement.whole is not None or bool(status.judgement.structures)
        opinions = [status.judgement.of(structure) for structure in ("", *status.judgement.structures)]
        return self.badness(name) > (1.0,) or any(each in OPINIONS[1:] for each in opinions)

    def badness(self, name: str) -> tuple[float, ...]:
        """Return how bad the known findings of a case are, to be compared: nothing is read."""
        found = self.known_findings(name)
        if found is None:
            return (0.5,)
        doubts = sorted((finding.severity for finding in found if finding.severity > 0.0), reverse=True)
        return (1.0, *doubts) if doubts else (0.0,)

    def known_findings(self, name: str) -> list[Finding] | None:
        """Return the findings of a case, worst first, if they are known: nothing but the date of its labels is read."""
        digest = self._known_hash(name)
        return self.cache.known_findings(digest, self[name].scan_files) if digest else None

    def _known_hash(self, name: str) -> str | None:
        path = self.labels_of(name)
        return self._of_scene.get(name) or (self.cache.known_hash(path) if path else None)

    def findings(self, name: str) -> list[Finding]:
        """Return the findings of a case, worst first; look at it if they are not known. Raises ``VolumeError``."""
        known = self.known_findings(name)
        if known is not None:
            return known
        from .checks import check

        found = check(*self.read(name))
        self.keep(name, found)
        return found

    def is_compared(self, name: str, package: str) -> bool:
        """Return whether the known findings of a case include the comparison with the package of this SHA-256."""
        digest = self._known_hash(name)
        return digest is not None and self.cache.is_compared(digest, self[name].scan_files, package)

    def keep(self, name: str, found: list[Finding], save: bool = True, package: str = "") -> None:
        """Remember the findings of a case, which may have been made elsewhere, as in another process.

        Without ``save`` they are written with the next ones, or by :meth:`Cache.save`. ``package``: the SHA-256 of the
        package whose labels they were compared with.
        """
        digest = self.labels_hash(name)
        if digest:
            self.cache.keep_findings(digest, self[name].scan_files, found, package)
            if save:
                self.cache.save()

    def resume(self, order: Order = "given") -> ReviewCase | None:
        """Return the first case without a verdict of the reader on its labels; None if all have one."""
        return next((case for case in self.shown("all", order) if not self.status(case.name).is_done), None)

    def advance(self, known: dict[str, Status] | None = None) -> Advance:
        """Return how far the reader is, and the time for the rest by the median of the cases that are done.

        ``known``: statuses by case, to which the others are added: each looks at a file.
        """
        known = {} if known is None else known
        for case in self.cases:
            if case.name not in known:
                known[case.name] = self.status(case.name)
        statuses = [known[case.name] for case in self.cases]
        times = [min(s.judgement.seconds, LONGEST_SECONDS) for s in statuses if s.is_done and s.judgement.seconds > 0.0]
        median = statistics.median(times) if times else None
        done = sum(status.is_done for status in statuses)
        left = None if median is None else median * (len(statuses) - done)
        return Advance(done, len(statuses), median, left)


def corrected_file(folder: Path, case: str, labels_sha256: str) -> Path:
    """Return the file of corrected labels in a review folder."""
    return folder / CORRECTED / f"{_plain(case)}-{labels_sha256[:16]}.labels.nii.gz"


def write_corrected(review: Path, case: str, labels: Volume) -> str:
    """Write corrected labels to a file in the review folder and return its SHA-256. Raises :class:`OutputError`."""
    from ..image.files import write_volume

    folder = review / CORRECTED
    sweep(folder)
    with temporary_folder(folder) as part, output_errors(folder):
        written = part / "labels.nii.gz"
        write_volume(labels, written)
        digest = sha256(written)
        written.replace(corrected_file(review, case, digest))
        sync_folder(folder)
    return digest


def _plain(name: str) -> str:
    """Return the beginning of a name as part of a file's name on any system."""
    return re.sub(r"[^\w.-]+", "_", name)[:80].encode()[:160].decode(errors="ignore")


def open_worklist(path: Path, reader: str, *, scans: Path | None = None, review: Path | None = None) -> Worklist:
    """Open a folder or table for a reader. ``review``: another folder for journals, as if ``path`` is read-only.

    Raises :class:`UserError`.
    """
    source = sources.open_source(path, scans, review)
    return Worklist(source, Journal(source.review, reader))

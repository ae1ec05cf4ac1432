"""A review as a whole: what all its readers say of each version of a case's labels, and what that comes to.

For reports and exports, which are for the person who leads the review: nothing is hidden here. Readers use
:mod:`.worklist`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..segmentation.findings import Finding
from ..text import join_words
from .cache import Cache
from .journal import read
from .readers import Disagreement, Version, accepted, disagreements, readers_of, versions
from .sources import ReviewCase, Source
from .verdicts import Opinion, Verdict, by_case
from .worklist import corrected_file


@dataclass(frozen=True)
class Outcome:
    """What the verdicts on a case come to, and the labels that they are on.

    Without a ``verdict``, ``reason`` says why there is none.
    """

    verdict: Opinion | None
    version: Version | None = None
    reason: str = ""


class Study:
    """The review of ``source``: verdicts of all readers, findings as far as they are known.

    Raises :class:`JournalError`.
    """

    def __init__(self, source: Source) -> None:
        self.cases, self.folder = source.cases, source.review
        self.cache = Cache(source.review)
        content = read(source.review)
        self.verdicts, self.notes = content.verdicts, content.notes
        self._of_case = by_case(self.verdicts)

    @property
    def readers(self) -> list[str]:
        return readers_of(self.verdicts)

    def of(self, name: str) -> list[Verdict]:
        """Return the verdicts on a case, also undone ones."""
        return self._of_case.get(name, [])

    def labels_of(self, case: ReviewCase) -> Path | None:
        """Return the file of the labels that count: corrected ones if they were accepted, otherwise the first ones."""
        outcome = self.outcome(case)
        if outcome.verdict == "accept" and outcome.version is not None:
            return self.file_of(case, outcome.version.labels_sha256)
        return case.labels

    def findings(self, case: ReviewCase) -> list[Finding] | None:
        """Return the findings of the labels that count, worst first; None if they are not known."""
        labels = self.labels_of(case)
        return self.cache.known_findings(self.cache.hash_of(labels), case.scan_files) if labels is not None else None

    def is_compared(self, case: ReviewCase, package: str) -> bool:
        """Return whether the known findings include the comparison with the package of this SHA-256."""
        labels = self.labels_of(case)
        return labels is not None and self.cache.is_compared(self.cache.hash_of(labels), case.scan_files, package)

    def keep_findings(self, case: ReviewCase, found: Sequence[Finding], package: str = "") -> None:
        """Remember the findings of the labels that count, worst first.

        ``package``: the SHA-256 of the package whose labels they were compared with.
        """
        labels = self.labels_of(case)
        if labels is not None:
            self.cache.keep_findings(self.cache.hash_of(labels), case.scan_files, found, package)

    def labels_hash(self, case: ReviewCase) -> str:
        """Return the SHA-256 of a case's first labels; empty if they cannot be read."""
        return self.cache.hash_of(case.labels) if case.labels is not None else ""

    def disagreements(self) -> list[Disagreement]:
        """Return where readers disagree, from their blinded verdicts; also settled ones."""
        known = {case.name for case in self.cases}
        return [each for each in disagreements(self.verdicts) if each.case in known]

    def versions(self, case: ReviewCase) -> list[Version]:
        """Return the labels of a case that anybody is done with, in the order in which they were judged last."""
        return versions(self.of(case.name), case.name)

    def file_of(self, case: ReviewCase, labels_sha256: str) -> Path | None:
        """Return the file of labels that were judged, first or corrected; None if it is gone or has changed since."""
        corrected = corrected_file(self.folder, case.name, labels_sha256)
        if corrected.is_file():
            return corrected if self.cache.hash_of(corrected) == labels_sha256 else None
        return case.labels if self.labels_hash(case) == labels_sha256 else None

    def is_corrected(self, case: ReviewCase, version: Version) -> bool:
        """Return whether labels that were judged are not the first ones."""
        return version.labels_sha256 != self.labels_hash(case)

    def outcome(self, case: ReviewCase) -> Outcome:
        """Return what the verdicts on a case come to.

        Labels that were accepted come before others: corrected ones replace the first ones.
        """
        judged = self.versions(case)
        if not judged:
            return Outcome(None, reason="It has no verdict yet.")
        there = [version for version in judged if self.file_of(case, version.labels_sha256)]
        if not there:
            return Outcome(None, reason="Its labels have changed since the verdict: judge them again.")
        good = accepted(there)
        if len(good) > 1:
            readers = join_words(sorted({name for version in good for name in version.judgements}))
            return Outcome(None, reason=f"Different labels of it were accepted ({readers}): settle which are right.")
        chosen = (good or [version for version in there if version.settled] or there)[-1]
        if chosen.outcome is None:
            words = [f"{name}: {each.outcome}" for name, each in sorted(chosen.judgements.items())]
            return Outcome(None, chosen, f"Its readers disagree ({', '.join(words)}): settle it.")
        return Outcome(chosen.outcome, chosen)


def worst_first(found: Sequence[tuple[str, list[Finding]]]) -> list[tuple[str, list[Finding]]]:
    """Return cases with their findings, those with the largest share of a structure in doubt first."""
    return sorted(found, key=lambda each: sorted((f.severity for f in each[1]), reverse=True), reverse=True)

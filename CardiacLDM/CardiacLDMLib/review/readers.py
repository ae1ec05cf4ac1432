"""What several readers say of a case: who has judged it, what each may see of the others, where they disagree.

A reader is blinded: verdicts of others on a case are hidden until both have judged it. What a reader said before any
other verdict could be seen is kept apart from what the same reader said later: only that tells how well readers agree.
Only the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..anatomy import NAMES
from .verdicts import OPINIONS, Kind, Opinion, Verdict, by_case, standing


@dataclass(frozen=True)
class Judgement:
    """What a reader says of the labels of a case: the last verdict on the whole case and on each structure.

    ``labels_sha256``: of the labels that the last verdict is on; verdicts on others are left out.
    """

    reader: str
    case: str
    labels_sha256: str = ""
    whole: Verdict | None = None
    structures: dict[str, Verdict] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the case has been judged: as a whole, or every structure of it."""
        return self.whole is not None or len(self.structures) == len(NAMES)

    @property
    def outcome(self) -> Opinion | None:
        """The verdict on the whole case; of one judged by structures alone, the worst of them. None if not done."""
        if self.whole is not None:
            return opinion(self.whole)
        opinions = [opinion(verdict) for verdict in self.structures.values()]
        return max(opinions, key=OPINIONS.index) if self.is_done else None

    def of(self, structure: str) -> Opinion | None:
        """Return the verdict on a structure, or on the whole case for an empty name; None if it is not known.

        A case that was accepted has good structures. Of a case that was not, the structures without a verdict are good
        if others have one: the reader has said which are at fault.
        """
        if not structure:
            return self.outcome
        if structure in self.structures:
            return opinion(self.structures[structure])
        return "accept" if self.outcome == "accept" or (self.is_done and self.structures) else None

    @property
    def seconds(self) -> float:
        """Time spent on these verdicts."""
        verdicts = [*self.structures.values(), *([self.whole] if self.whole else [])]
        return sum(verdict.seconds for verdict in verdicts)


def opinion(verdict: Verdict) -> Opinion:
    """Return what a verdict says of the labels."""
    kind: Kind = verdict.outcome if verdict.verdict == "settled" and verdict.outcome else verdict.verdict
    return next(each for each in OPINIONS if each == kind)


def judgement(verdicts: Iterable[Verdict], reader: str, case: str) -> Judgement:
    """Return what a reader says of the labels of a case that were judged last."""
    return (judgements(verdicts, reader, case) or [Judgement(reader, case)])[-1]


def judgements(verdicts: Iterable[Verdict], reader: str, case: str) -> list[Judgement]:
    """Return what a reader says of each version of the labels of a case, that judged last at the end.

    ``verdicts`` are in the order of their times.
    """
    own = [v for v in standing(verdicts) if v.reader == reader and v.case == case and v.verdict in OPINIONS]
    digests = list(dict.fromkeys(verdict.labels_sha256 for verdict in reversed(own)))
    found = []
    for digest in reversed(digests):
        same = [verdict for verdict in own if verdict.labels_sha256 == digest]
        whole = next((verdict for verdict in reversed(same) if not verdict.structure), None)
        structures = {verdict.structure: verdict for verdict in same if verdict.structure}
        found.append(Judgement(reader, case, digest, whole, structures))
    return found


def readers_of(verdicts: Iterable[Verdict]) -> list[str]:
    """Return the names of the readers who have judged anything."""
    return sorted({verdict.reader for verdict in standing(verdicts) if verdict.verdict in OPINIONS})


# --- blinding ------------------------------------------------------------------------------------------------------


def visible(verdicts: Sequence[Verdict], reader: str, case: str) -> list[Verdict]:
    """Return the verdicts that count on a case and that a reader may see: own ones, and those of readers who are done.

    Those of others are hidden until the reader is done too.
    """
    of_case = [verdict for verdict in standing(verdicts) if verdict.case == case]
    done = {name for name in {v.reader for v in of_case} if judgement(of_case, name, case).is_done}
    seen = {reader} | (done if reader in done else set())
    return [verdict for verdict in of_case if verdict.reader in seen]


def blinded(verdicts: Sequence[Verdict], case: str) -> list[Judgement]:
    """Return what each reader who is done with a case said of it before seeing any verdict of another.

    A reader could see another's as soon as both were done. A reader who corrected the labels has several judgements.
    """
    of_case = [verdict for verdict in verdicts if verdict.case == case]
    frozen: dict[str, list[Judgement]] = {}
    for end in range(1, len(of_case) + 1):
        now = _all_done(of_case[:end], case)
        if len(now) > 1:
            frozen |= {name: each for name, each in now.items() if name not in frozen}
    return [each for _, done in sorted({**_all_done(of_case, case), **frozen}.items()) for each in done]


def _all_done(of_case: Sequence[Verdict], case: str) -> dict[str, list[Judgement]]:
    """Return the judgements of the readers who are done, by reader."""
    found = {name: judgements(of_case, name, case) for name in readers_of(of_case)}
    return {name: done for name, each in found.items() if (done := [j for j in each if j.is_done])}


# --- versions of labels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """Labels of a case that readers are done with. ``settled``: the outcome on which they agreed if they disagreed."""

    labels_sha256: str
    judgements: dict[str, Judgement]
    settled: Opinion | None = None

    @property
    def outcome(self) -> Opinion | None:
        """What the readers say, if it is one thing, or has been settled."""
        said = {each.outcome for each in self.judgements.values()}
        return self.settled or (said.pop() if len(said) == 1 else None)


def versions(of_case: Sequence[Verdict], case: str) -> list[Version]:
    """Return the labels of a case that anybody is done with, in the order in which they were judged last."""
    verdicts = standing(of_case)
    settled = {v.labels_sha256: opinion(v) for v in verdicts if v.verdict == "settled" and not v.structure}
    found: dict[str, dict[str, Judgement]] = {}
    for reader in readers_of(verdicts):
        for each in judgements(verdicts, reader, case):
            if each.is_done:
                found.setdefault(each.labels_sha256, {})[reader] = each
    last = {verdict.labels_sha256: place for place, verdict in enumerate(verdicts)}
    return [Version(digest, found[digest], settled.get(digest)) for digest in sorted(found, key=last.__getitem__)]


def accepted(of_case: Sequence[Version]) -> list[Version]:
    """Return the accepted ones of several versions; if more than one was, those that were settled, if any."""
    good = [version for version in of_case if version.outcome == "accept"]
    return good if len(good) < 2 else [version for version in good if version.settled] or good


# --- disagreements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disagreement:
    """Readers who are done with a case and say different things of a structure, or of the whole case if it is empty.

    ``opinions`` and ``labels`` (SHA-256): by reader. The labels are the same, unless readers accepted labels that they
    had corrected in different ways. ``settled``: the outcome on which they agreed; None while they have not.
    """

    case: str
    structure: str
    opinions: dict[str, Opinion]
    labels: dict[str, str]
    settled: Opinion | None = None


def disagreements(verdicts: Sequence[Verdict], reader: str = "") -> list[Disagreement]:
    """Return where readers disagree, from their blinded verdicts on the same labels, and where labels differ.

    For a ``reader`` only the disagreements of cases that this reader has judged are returned: the others are hidden.
    """
    found = []
    for case, of_case in by_case(verdicts).items():
        done = blinded(of_case, case)
        if reader and reader not in {each.reader for each in done}:
            continue
        settled = {(v.structure, v.labels_sha256): v for v in standing(of_case) if v.verdict == "settled"}
        for structure in ("", *NAMES):
            opinions, labels = opinions_on(done, structure)
            if len(set(opinions.values())) > 1:
                outcome = settled.get((structure, labels))
                same = dict.fromkeys(opinions, labels)
                found.append(Disagreement(case, structure, opinions, same, opinion(outcome) if outcome else None))
        good = accepted(versions(of_case, case))
        if len(good) > 1:
            by = {name: version.labels_sha256 for version in good for name in version.judgements}
            found.append(Disagreement(case, "", dict.fromkeys(by, OPINIONS[0]), by))
    return found


def opinions_on(done: Sequence[Judgement], structure: str) -> tuple[dict[str, Opinion], str]:
    """Return, by reader, what is known of a structure of those labels that most readers saw, and their SHA-256."""
    known = [(each, said) for each in done if (said := each.of(structure)) is not None]
    digests = [each.labels_sha256 for each, _ in known]
    common = max(digests, key=digests.count, default="")
    return {each.reader: said for each, said in known if each.labels_sha256 == common}, common

"""Verdicts on labels as lines of a journal, and which of them count. Only the standard library."""

from __future__ import annotations

import datetime
import json
import math
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from .. import __version__
from ..anatomy import NAMES
from ..errors import UserError
from ..text import printable

#: Increase when a line of an earlier version could be misread, or its reader could misread one of this version.
FORMAT = 1

#: A verdict on labels.
Opinion = Literal["accept", "fix", "reject"]
OPINIONS: tuple[Opinion, ...] = get_args(Opinion)
#: What a line holds. ``settled``: what readers who disagreed agreed on. ``corrected``: the reader has made the labels
#: of ``labels_sha256``. ``undo``: the line ``undoes`` does not count any more.
Kind = Literal["accept", "fix", "reject", "settled", "corrected", "undo"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: How some fields are written.
_FORMS = {
    "labels_sha256": re.compile(r"[0-9a-f]{64}|"), "scan_sha256": re.compile(r"[0-9a-f]{64}|"),
    "id": re.compile(r"[0-9a-f]{32}"), "undoes": re.compile(r"[0-9a-f]{32}|"),
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII),
}  # fmt: skip


class JournalError(UserError):
    """A journal that cannot be read, or a verdict that it cannot hold."""


class NewerJournal(JournalError):  # noqa: N818 - an outcome, which reading tells from damage
    """A line of a newer version of CardiacLDM."""


def utc_now() -> str:
    """Return the time as in "2026-11-29T07:44:47.123456+00:00"."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Verdict:
    """One line. ``structure``: a name of :data:`anatomy.NAMES`, empty for the whole case.

    ``labels_sha256``, ``scan_sha256``: of the files that were seen, empty if there are none. ``package``: name and
    version of the model package that made the labels, if known. ``outcome``: that of a ``settled`` disagreement.
    ``place``: the point that was looked at, RAS mm. ``seconds``: spent on it. ``time``: UTC. ``undoes``: the ``id`` of
    another line. Raises :class:`JournalError` for anything else.
    """

    case: str
    reader: str
    verdict: Kind
    labels_sha256: str
    scan_sha256: str = ""
    package: str = ""
    structure: str = ""
    reason: str = ""
    outcome: Opinion | Literal[""] = ""
    place: tuple[float, float, float] | None = None
    seconds: float = 0.0
    undoes: str = ""
    time: str = field(default_factory=utc_now)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if self.place is not None:
            object.__setattr__(self, "place", tuple(float(x) for x in self.place))
        object.__setattr__(self, "seconds", float(self.seconds))
        for name in ("case", "reader", "package", "reason"):  # half a character could not be written to a report
            if isinstance(text := getattr(self, name), str):
                object.__setattr__(self, name, text.encode("utf-8", "replace").decode("utf-8"))
        wrong = [name for name, is_right in _rules(self).items() if not is_right]
        if wrong:
            raise JournalError(f"A verdict cannot have the {wrong[0]} {printable(str(getattr(self, wrong[0])))}.")


def _rules(v: Verdict) -> dict[str, bool]:
    """Return, by the name of a field, whether it holds what it may."""
    texts = {name: isinstance(getattr(v, name), str) for name in ("case", "reader", "package", "reason", *_FORMS)}
    if not all(texts.values()):
        return texts
    forms = {name: form.fullmatch(getattr(v, name)) is not None for name, form in _FORMS.items()}
    return forms | {
        "case": bool(v.case),
        "reader": bool(v.reader),
        "verdict": v.verdict in KINDS,
        "structure": v.structure in ("", *NAMES),
        "outcome": v.outcome in (OPINIONS if v.verdict == "settled" else ("",)),
        "place": v.place is None or (len(v.place) == 3 and all(map(math.isfinite, v.place))),
        "seconds": math.isfinite(v.seconds) and v.seconds >= 0.0,
        "undoes": forms["undoes"] and bool(v.undoes) == (v.verdict == "undo"),
    }


# --- lines ---------------------------------------------------------------------------------------------------------


def line_of(verdict: Verdict) -> bytes:
    """Return the line of a verdict, with its end. The case comes first: it is what a torn line still tells."""
    content = {**asdict(verdict), "format": FORMAT, "software": __version__}
    return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"


def verdict_of(line: bytes) -> Verdict | None:
    """Return the verdict of a line; None for a line that is damaged.

    Raises :class:`NewerJournal`.
    """
    try:
        content = json.loads(line.strip(b"\0 \r\n"))
        version = content.pop("format")
        if isinstance(version, int) and version > FORMAT:
            raise NewerJournal(f"The line was written by a newer version of CardiacLDM (format {version}).")
        return Verdict(**{name: content[name] for name in Verdict.__dataclass_fields__})
    except NewerJournal:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


# --- what counts ---------------------------------------------------------------------------------------------------


def standing(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that count: those not undone by their own reader, without the lines that undo."""
    verdicts = list(verdicts)
    undone = {(verdict.reader, verdict.undoes) for verdict in verdicts if verdict.verdict == "undo"}
    return [v for v in verdicts if v.verdict != "undo" and (v.reader, v.id) not in undone]


def by_case(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """Return the verdicts of each case, also undone ones."""
    cases: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        cases.setdefault(verdict.case, []).append(verdict)
    return cases


def last_of(verdicts: Sequence[Verdict], reader: str) -> Verdict | None:
    """Return the last verdict of a reader that counts, which the reader may undo; None without one."""
    return next((v for v in reversed(standing(verdicts)) if v.reader == reader), None)

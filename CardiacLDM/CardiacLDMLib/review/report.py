"""The report of a review: tables of verdicts and findings (CSV, Markdown), and one HTML page with pictures.

The page holds everything itself: no script, no style and no picture comes from elsewhere, so it can be sent and kept.
It names cases as the list does, and readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..anatomy import NAMES
from ..files import write_text
from ..results.html import Cells, Table
from ..segmentation.findings import Finding, sentence
from ..tables import csv_text
from ..text import duration_text, plural
from .readers import Disagreement, Judgement
from .study import Outcome, Study, worst_first
from .verdicts import OPINIONS, standing

FINDINGS_FILE, VERDICTS_FILE, MARKDOWN_FILE = "findings.csv", "verdicts.csv", "review.md"
#: What stands where a verdict of a blinded review is not shown.
HIDDEN = "blinded"


@dataclass(frozen=True)
class Found:
    """The findings of all cases, worst case first, and the reason for each case that cannot be read."""

    findings: list[tuple[str, list[Finding]]]
    unreadable: dict[str, str]


# --- findings ------------------------------------------------------------------------------------------------------


def collect(study: Study, unreadable: dict[str, str]) -> Found:
    """Return what is known of the cases of a study, apart from those that could not be read."""
    known = [
        (c.name, found) for c in study.cases if c.name not in unreadable and (found := study.findings(c)) is not None
    ]
    return Found(worst_first(known), unreadable)


def write_findings(found: Found, out: Path) -> Path:
    """Write ``findings.csv`` to the folder ``out``: a row per finding, worst case first. Raises :class:`OutputError`.

    A case without findings has one row without a rule, one that cannot be read the rule ``unreadable``.
    """
    columns = ("case", "rule", "structures", "severity", "value", "limit", "right_mm", "anterior_mm", "superior_mm",
               "finding")  # fmt: skip
    blank = [""] * (len(columns) - 3)
    rows: list[Cells] = [(name, "unreadable", *blank, why) for name, why in found.unreadable.items()]
    for name, findings in found.findings:
        rows += [_finding_row(name, finding) for finding in findings] or [(name, "", *blank, "")]
    write_text(out / FINDINGS_FILE, csv_text([columns, *rows]))
    return out / FINDINGS_FILE


def _finding_row(name: str, f: Finding) -> Cells:
    place = [f"{x:.1f}" for x in f.place] if f.place is not None else [""] * 3
    numbers = ["" if x is None else f"{x:.4g}" for x in (f.severity, f.value, f.limit)]
    return (name, f.rule, " ".join(f.structures), *numbers, *place, sentence(f))


def findings_table(found: Found) -> Table:
    """Return the cases with findings that put labels in doubt, worst first."""
    doubtful = [(name, each) for name, each in found.findings if any(f.severity > 0.0 for f in each)]
    rows = [(name, f"{each[0].severity:.2f}", sentence(each[0]), _others(len(each) - 1)) for name, each in doubtful]
    clean = len(found.findings) - len(doubtful)
    note = f"{plural(clean, 'case')} without findings that put labels in doubt. Doubt: share of the smallest structure."
    return Table("Findings, worst case first", ("case", "doubt", "worst finding", "more"), rows, note)


def _others(count: int) -> str:
    return f"+{count}" if count else ""


# --- verdicts ------------------------------------------------------------------------------------------------------


def write_verdicts(study: Study, hidden: set[str], out: Path) -> Path:
    """Write ``verdicts.csv`` to the folder ``out``: a row per verdict that counts; none of the cases ``hidden``.

    Raises :class:`OutputError`.
    """
    columns = ("case", "reader", "structure", "verdict", "outcome", "outdated", "reason", "right_mm", "anterior_mm",
               "superior_mm", "seconds", "time", "package", "labels_sha256", "scan_sha256")  # fmt: skip
    rows = []
    for case in study.cases:
        digests = {verdict.labels_sha256 for verdict in study.of(case.name)}
        there = {digest for digest in digests if study.file_of(case, digest)}
        for v in standing(study.of(case.name)):
            place = [f"{x:.1f}" for x in v.place] if v.place is not None else [""] * 3
            if case.name not in hidden:
                rows.append((
                    v.case, v.reader, v.structure, v.verdict, v.outcome, "" if v.labels_sha256 in there else "yes",
                    v.reason, *place, f"{v.seconds:.1f}", v.time, v.package, v.labels_sha256, v.scan_sha256,
                ))  # fmt: skip
    write_text(out / VERDICTS_FILE, csv_text([columns, *rows]))
    return out / VERDICTS_FILE


def still_blinded(study: Study) -> set[str]:
    """Return the cases that some readers of a study with several have judged, but not two of them yet."""
    if len(study.readers) < 2:
        return set()
    done = {case.name: {r for v in study.versions(case) for r in v.judgements} for case in study.cases}
    return {name for name, readers in done.items() if len(readers) < 2 and study.of(name)}


def verdict_tables(study: Study, hidden: set[str]) -> list[Table]:
    """Return the tables of a review: outcomes, readers, cases, disagreements."""
    outcomes = {case.name: study.outcome(case) for case in study.cases}
    return [
        _counts(study, outcomes, hidden), _readers(study), _cases(study, outcomes, hidden),
        _disagreements([each for each in study.disagreements() if each.case not in hidden]),
    ]  # fmt: skip


def _counts(study: Study, outcomes: dict[str, Outcome], hidden: set[str]) -> Table:
    said = [HIDDEN if name in hidden else each.verdict or "open" for name, each in outcomes.items()]
    rows = [(kind, str(said.count(kind))) for kind in (*OPINIONS, HIDDEN, "open") if kind != HIDDEN or hidden]
    return Table("Outcome", ("verdict", "cases"), rows, f"{plural(len(study.cases), 'case')} in all.")


def _readers(study: Study) -> Table:
    rows = []
    for reader in study.readers:
        done = [j for case in study.cases for v in study.versions(case) if (j := v.judgements.get(reader))]
        times = sorted(each.seconds for each in done if each.seconds > 0.0)
        middle = duration_text(times[len(times) // 2]) if times else ""
        rows.append((reader, str(len({each.case for each in done})), middle))
    return Table("Readers", ("reader", "cases done", "median time of a case"), rows)


def _cases(study: Study, outcomes: dict[str, Outcome], hidden: set[str]) -> Table:
    rows = []
    for case in study.cases:
        name, outcome = case.name, outcomes[case.name]
        done = outcome.version.judgements if outcome.version is not None else {}
        if name in hidden:
            rows.append((name, HIDDEN, "", "Waits for a second reader."))
        elif study.of(name):
            said = [f"{reader}: {_words(each)}" for reader, each in sorted(done.items())]
            corrected = (
                "Labels were corrected." if outcome.version and study.is_corrected(case, outcome.version) else ""
            )
            rows.append((name, outcome.verdict or "open", "; ".join(said), outcome.reason or corrected))
    return Table("Cases with verdicts", ("case", "outcome", "readers", "remark"), rows)


def _words(judgement: Judgement) -> str:
    """Return a judgement in a few words, as in "fix (LAA fix: too short)"."""
    verdicts = [v for v in judgement.structures.values() if v.verdict != "accept"]
    parts = [f"{v.structure} {v.verdict}{f': {v.reason}' if v.reason else ''}" for v in verdicts]
    whole = [judgement.whole.reason] if judgement.whole is not None and judgement.whole.reason else []
    remarks = "; ".join(whole + parts)
    return f"{judgement.outcome}{f' ({remarks})' if remarks else ''}"


def _disagreements(found: Sequence[Disagreement]) -> Table:
    rows = [
        (each.case, each.structure or "whole case", ", ".join(f"{r}: {o}" for r, o in sorted(each.opinions.items())),
         each.settled or ("to settle" if len(set(each.labels.values())) == 1 else "settle whose labels are right"))
        for each in sorted(found, key=lambda d: (d.case, ("", *NAMES).index(d.structure)))
    ]  # fmt: skip
    columns = ("case", "structure", "readers", "settled")
    return Table("Disagreements", columns, rows, "Verdicts that were given blinded, on the same labels.")


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(title: str, tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Return the tables that have rows as a page of Markdown; ``remarks`` are listed below the title."""
    parts = [f"# {_cell(title)}"]
    if remarks:
        parts.append("\n".join(f"- {_cell(remark)}" for remark in remarks))
    for table in tables:
        if table.rows:
            parts += [f"## {table.title}", markdown_table(table)]
            parts += [table.note] if table.note else []
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, without its heading."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text on one line that no cell of a table ends at."""
    return " ".join(text.split()).replace("|", "\\|")

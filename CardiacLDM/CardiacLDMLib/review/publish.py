"""Write the report of a review: ``review.html``, ``review.md``, ``verdicts.csv`` and ``findings.csv``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..files import write_text
from ..results.html import Table
from ..segmentation.findings import Place
from ..text import plural
from .page import Picture, draw_case, write_page
from .report import (
    MARKDOWN_FILE,
    Found,
    findings_table,
    markdown,
    verdict_tables,
    write_findings,
    write_verdicts,
)
from .sources import ReviewCase
from .study import Study
from .verdicts import standing


def write_report(
    study: Study, found: Found, title: str, out: Path, *, hidden: set[str], more: Sequence[Table] = (),
    pictures: int = 20, done: Callable[[int, int], None] = lambda number, total: None,
) -> Path:  # fmt: skip
    """Write the report to the folder ``out``; return the page.

    ``hidden``: cases whose verdicts are not shown. ``more``: further tables, as of the readers' agreement.
    ``pictures``: how many cases to draw at most; ``done`` receives the number of those drawn and of all. Raises
    :class:`OutputError`.
    """
    counts, readers, cases, differences = verdict_tables(study, hidden)
    tables = [counts, readers, *more, differences, findings_table(found), cases]
    unread = [f"Not checked: {name}: {why}" for name, why in found.unreadable.items()]
    remarks = [*study.notes, *without_scan(study), *unread]
    write_verdicts(study, hidden, out)
    write_findings(found, out)
    write_text(out / MARKDOWN_FILE, markdown(title, tables, remarks))
    return write_page(title, tables, remarks, _draw(study, found, hidden, pictures, done), out)


def without_scan(study: Study) -> list[str]:
    """Return a sentence if the scans of some cases were not found."""
    count = sum(not case.scan_files for case in study.cases)
    if not count:
        return []
    return [f"The labels of {plural(count, 'case')} were checked without a scan: --scans names the folder of scans."]


def _draw(study: Study, found: Found, hidden: set[str], count: int, done: Callable[[int, int], None]) -> list[Picture]:
    """Draw the worst cases: first those with findings, then those without that were not accepted."""
    findings = {name: each for name, each in found.findings if each}
    said = {case.name: _doubts(study, case) for case in study.cases if case.name not in hidden}
    names = [*findings, *(name for name, (remarks, _) in said.items() if remarks and name not in findings)][:count]
    cases = {case.name: case for case in study.cases}
    pictures = []
    for number, name in enumerate(names, start=1):
        remarks, place = said.get(name, ([], None))
        case, found_there = cases[name], findings.get(name, [])
        labels = study.labels_of(case)
        pictures.append(draw_case(case, found_there, labels=labels, remarks=remarks, place=place))
        done(number, len(names))
    return pictures


def _doubts(study: Study, case: ReviewCase) -> tuple[list[str], Place | None]:
    """Return what readers said of a case that was not accepted, and where the last of them looked."""
    if study.outcome(case).verdict == "accept":
        return [], None
    doubts = [v for v in standing(study.of(case.name)) if v.verdict in ("fix", "reject")]
    remarks = [" ".join([f"{v.reader}:", v.structure, v.verdict, v.reason and f"({v.reason})"]) for v in doubts]
    return [" ".join(each.split()) for each in remarks], next((v.place for v in reversed(doubts) if v.place), None)

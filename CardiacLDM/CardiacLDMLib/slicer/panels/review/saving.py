"""The verdicts of a review as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from ....files import write_text

if TYPE_CHECKING:
    from ....review.worklist import Worklist

COLUMNS = (
    "case", "reader", "structure", "verdict", "outcome", "comment", "outdated", "seconds", "time", "package",
    "labels_sha256", "scan_sha256",
)  # fmt: skip


def save_verdicts(worklist: Worklist, path: Path) -> int:
    """Write the verdicts that count and that the reader may see; return their number. Raises :class:`OutputError`."""
    rows = []
    for case in worklist.cases:
        for each in worklist.seen(case.name):
            is_outdated = each.labels_sha256 != worklist.labels_hash(case.name)
            rows.append((
                each.case, each.reader, each.structure, each.verdict, each.outcome, each.reason,
                "yes" if is_outdated else "no", f"{each.seconds:g}", each.time, each.package, each.labels_sha256,
                each.scan_sha256,
            ))  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([[_plain(cell) for cell in row] for row in rows])
    write_text(path, "\ufeff" + text.getvalue())  # Excel takes a file without this mark for another encoding
    return len(rows)


def _plain(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell

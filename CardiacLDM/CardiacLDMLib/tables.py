"""Tables as CSV files: read as spreadsheets write them, written so that a spreadsheet runs nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import UserError
from .text import printable


def read_rows(path: Path, error: type[UserError], needed: Sequence[str], columns: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file by its columns in lower case, without spaces around cells and without empty rows.

    Commas, semicolons or tabs separate. ``needed``: columns that must be there; ``columns``: how a sentence lists all
    of them. Raises ``error`` for a file that is no such table.
    """
    name = printable(path.name)
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise error(f"{name} cannot be read: {problem.strerror or problem}.") from problem
    if b"\0" in data:
        raise error(f"{name} is no table of text: save it as CSV.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # as spreadsheets on Windows write
    head = text.lstrip().partition("\n")[0]
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count)))
    except csv.Error as problem:
        raise error(f"{name} is no table that can be read: {problem}.") from problem
    table = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    titles = [cell.lower() for cell in table[0]] if table else []
    if not set(needed) <= set(titles):
        raise error(f"{name} needs a first line with the columns {columns}.")
    return [dict(zip(titles, row + [""] * len(titles), strict=False)) for row in table[1:]]


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as CSV. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_plain_cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def _plain_cell(cell: str) -> str:
    if cell[:1] not in ("=", "+", "-", "@", "\t", "\r"):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell

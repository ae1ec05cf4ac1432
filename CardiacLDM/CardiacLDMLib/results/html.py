"""Self-contained HTML pages: pictures lie within, and a rule of the page forbids to load anything from elsewhere."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from .. import anatomy
from ..image.files import write_image
from .report import NOTICE

#: Quality of the JPEG pictures, 0 to 100.
QUALITY = 85
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2em auto; max-width: 72em;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; } h3 { font-size: 1em; margin: 1.6em 0 .3em; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25em .8em .25em 0; vertical-align: top;
  border-bottom: 1px solid #d8dde3; overflow-wrap: anywhere; } th { font-weight: 600; }
img { width: 100%; max-width: 72em; background: #000; display: block; } p.note, footer { color: #57606a; }
p { margin: .3em 0; }
"""
Cells = Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table with a heading; ``note`` explains it."""

    title: str
    columns: Cells
    rows: Sequence[Cells]
    note: str = ""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page of these ``parts`` in HTML, below its title."""
    rule = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{rule}">\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join([f"<h1>{escape(title)}</h1>", *parts])
        + f"\n<footer><p>{NOTICE}</p></footer>\n</body></html>\n"
    )


def paragraph(text: str, *, note: bool = False) -> str:
    """Return a paragraph of plain text; a ``note`` is grey."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    """Return a heading of plain text."""
    return f"<h{level}>{escape(text)}</h{level}>"


def table(content: Table) -> str:
    """Return a table of plain text with its heading and its note."""
    head = "".join(f"<th>{escape(title)}</th>" for title in content.columns)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in content.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    note = paragraph(content.note, note=True) if content.note else ""
    return f"{heading(content.title)}\n<table><tr>{head}</tr>\n{body}</table>{note}"


def picture(data: bytes, words: str, kind: str = "jpeg") -> str:
    """Return a picture, ``jpeg`` or ``png``; ``words`` stand for it where it cannot be seen."""
    return f'<img alt="{escape(words)}" src="data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}">'


def colours() -> str:
    """Return the colours of the structures in HTML."""
    boxes = [
        f'<span style="background:rgb{s.colour}">&emsp;</span> {s.name} {escape(s.title.lower())}'
        for s in anatomy.STRUCTURES
    ]
    return "; ".join(boxes)


def jpeg(pixels: np.ndarray) -> bytes:
    """Return (rows, columns, 3) uint8 as JPEG."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(prefix="cardiacldm-") as folder:
        path = Path(folder, "picture.jpg")
        write_image(sitk.GetImageFromArray(np.ascontiguousarray(pixels), isVector=True), path, True, QUALITY)
        return path.read_bytes()

"""The HTML page of a review's report: its tables, and the worst places of its worst cases as pictures.

Pictures lie in the page itself as JPEG. A rule of the page forbids to load anything from elsewhere.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from .. import anatomy
from ..errors import explain
from ..files import write_text
from ..image.files import write_image
from ..image.grid import AIR_HU, Volume
from ..results.pictures import AMBER, PLANES, Field, heart_field, labelled_plane
from ..results.report import NOTICE
from ..segmentation.findings import Finding, Place, sentence
from .report import Table
from .sources import ReviewCase, read_both

PAGE_FILE = "review.html"
#: Side of the field around the place of a finding, mm, unless the heart is smaller.
FIELD_MM = 140.0
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


@dataclass(frozen=True)
class Picture:
    """Three planes through the worst place of a case, as JPEG; empty if it cannot be read. ``words``: its findings."""

    case: str
    jpeg: bytes
    words: list[str]


def draw_case(
    case: ReviewCase, findings: Sequence[Finding], *, labels: Path | None = None, remarks: Sequence[str] = (),
    place: Place | None = None,
) -> Picture:  # fmt: skip
    """Draw the planes through the place of the worst finding that has one, marked; without one through ``place``.

    Without either they go through the heart. ``labels``: a file of corrected labels. ``remarks``: sentences to show
    before those of the findings. A case that cannot be read has a sentence instead of a picture.
    """
    words = [*remarks, *(sentence(finding) for finding in findings)]
    try:
        volume, image = read_both(case, labels)
        field = heart_field(volume)
        place = next((finding.place for finding in findings if finding.place is not None), place)
        if place is not None:
            field = Field(np.array(place), min(FIELD_MM, field.size_mm))
        shown = image if image is not None else Volume(np.full((1, 1, 1), AIR_HU, np.float32), volume.affine)
        planes = [labelled_plane(shown, volume, plane, field) for plane in PLANES]
        if place is not None:
            for plane in planes:
                _mark_middle(plane)
        return Picture(case.name, _jpeg(np.concatenate(planes, axis=1)), words)
    except Exception as error:  # one case must not hide the others
        return Picture(case.name, b"", [*words, explain(error).message])


def _mark_middle(picture: np.ndarray) -> None:
    """Draw a cross around the middle of a picture (rows, columns, 3; uint8), which it leaves free."""
    near, far, half = 14, 40, 1
    for axis in (0, 1):
        middle = [n // 2 for n in picture.shape[:2]]
        for low, high in ((-far, -near), (near, far)):
            box = [slice(m - half, m + half + 1) for m in middle]
            box[axis] = slice(middle[axis] + low, middle[axis] + high)
            picture[tuple(box)] = AMBER


def _jpeg(picture: np.ndarray) -> bytes:
    """Return (rows, columns, 3) uint8 as JPEG."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(prefix="cardiacldm-") as folder:
        path = Path(folder, "picture.jpg")
        write_image(sitk.GetImageFromArray(np.ascontiguousarray(picture), isVector=True), path, True, QUALITY)
        return path.read_bytes()


def write_page(
    title: str, tables: Sequence[Table], remarks: Sequence[str], pictures: Sequence[Picture], out: Path
) -> Path:
    """Write the page to the folder ``out``. Raises :class:`OutputError`."""
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(remark)}</p>" for remark in remarks)]
    parts += [_table(table) for table in tables if table.rows]
    if pictures:
        parts += ["<h2>Worst places</h2>", _legend(), *map(_picture, pictures)]
    rule = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{rule}">\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + f"\n<footer><p>{NOTICE}</p></footer>\n</body></html>\n"
    )
    write_text(out / PAGE_FILE, page)
    return out / PAGE_FILE


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in table.columns)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f"<h2>{escape(table.title)}</h2>\n<table><tr>{head}</tr>\n{body}</table>{note}"


def _legend() -> str:
    """Return the colours of the structures."""
    boxes = [
        f'<span style="background:rgb{s.colour}">&emsp;</span> {s.name} {escape(s.title.lower())}'
        for s in anatomy.STRUCTURES
    ]
    return f'<p class="note">A cross marks the place. {"; ".join(boxes)}</p>'


def _picture(picture: Picture) -> str:
    source = base64.b64encode(picture.jpeg).decode("ascii")
    image = f'<img alt="{escape(picture.case)}" src="data:image/jpeg;base64,{source}">' if source else ""
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in picture.words)
    return f"<h3>{escape(picture.case)}</h3>{words}{image}"

"""The HTML page of a review's report: its tables, and the worst places of its worst cases as pictures.

Pictures lie in the page itself as JPEG. A rule of the page forbids to load anything from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import explain
from ..files import write_text
from ..image.grid import AIR_HU, Volume
from ..results import html
from ..results.html import Table
from ..results.pictures import AMBER, PLANES, Field, heart_field, labelled_plane
from ..segmentation.findings import Finding, Place, sentence
from .sources import ReviewCase, read_both

PAGE_FILE = "review.html"
#: Side of the field around the place of a finding, mm, unless the heart is smaller.
FIELD_MM = 140.0


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
        return Picture(case.name, html.jpeg(np.concatenate(planes, axis=1)), words)
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


def write_page(
    title: str, tables: Sequence[Table], remarks: Sequence[str], pictures: Sequence[Picture], out: Path
) -> Path:
    """Write the page to the folder ``out``. Raises :class:`OutputError`."""
    parts = [*map(html.paragraph, remarks), *(html.table(table) for table in tables if table.rows)]
    if pictures:
        legend = f'<p class="note">A cross marks the place. {html.colours()}</p>'
        parts += [html.heading("Worst places"), legend, *map(_picture, pictures)]
    write_text(out / PAGE_FILE, html.page(title, parts))
    return out / PAGE_FILE


def _picture(picture: Picture) -> str:
    image = html.picture(picture.jpeg, picture.case) if picture.jpeg else ""
    return html.heading(picture.case, 3) + "".join(map(html.paragraph, picture.words)) + image

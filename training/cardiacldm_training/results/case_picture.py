"""The picture of a segmented case with matplotlib's lettering: planes of the runtime, legend, volumes and warnings."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import AIR_HU, Volume
from CardiacLDMLib.results.pictures import (
    PLANE_PIXELS,
    PLANES,
    Field,
    Plane,
    heart_field,
    sample_plane,
    tint,
    to_grey,
)
from CardiacLDMLib.results.report import NOTICE, CaseReport
from CardiacLDMLib.text import volume_text

from .pictures import rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Size of the picture, and the lower left corners of the planes, in pixels.
_WIDTH, _HEIGHT = 1100, 1140
_CORNERS = ((19, 557), (19, 27), (569, 557))
#: Compression level of the PNG: takes half the time of 6, for a tenth more bytes.
COMPRESSION = 3


def load_matplotlib() -> None:
    """Import what :func:`draw_case` needs, for callers that have other work to do meanwhile: it takes half a second."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def draw_case(volume: Volume, labels: Volume, report: CaseReport, path: Path) -> None:
    """Write a PNG: axial, coronal and sagittal plane through the heart, labels over the scan, and a legend.

    Without labels the planes go through the middle of the scan.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a case name in a script that the font lacks
        figure = _figure(volume, labels, report)
        figure.savefig(path, format="png", facecolor="black", pil_kwargs={"compress_level": COMPRESSION})


def _figure(volume: Volume, labels: Volume, report: CaseReport) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    field = heart_field(labels)
    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    for plane, corner in zip(PLANES, _CORNERS, strict=True):
        _draw_plane(figure, corner, plane, volume, labels, field)
    _write_legend(figure, report)
    return figure


def _draw_plane(
    figure: Figure, corner: tuple[int, int], plane: Plane, volume: Volume, labels: Volume, field: Field
) -> None:
    """Draw one view with the letters of its directions, pixel by pixel. ``corner``: the lower left one.

    It is put on the figure itself: axes take longer to make than the view.
    """
    from matplotlib.patheffects import withStroke

    grey = to_grey(sample_plane(volume, plane, field, PLANE_PIXELS, linear=True, outside=AIR_HU))
    names = sample_plane(labels, plane, field, PLANE_PIXELS, linear=False, outside=anatomy.BACKGROUND)
    figure.figimage(tint(grey, names.astype(np.uint8)).astype(np.uint8), *corner, origin="upper")
    style: dict[str, Any] = {
        "color": "white", "fontsize": 13, "path_effects": [withStroke(linewidth=2.5, foreground="black")]
    }  # fmt: skip

    def write(x: float, y: float, text: str, **alignment: Any) -> None:
        """Write at a place given as shares of the view's sides."""
        place = (corner[0] + x * PLANE_PIXELS) / _WIDTH, (corner[1] + y * PLANE_PIXELS) / _HEIGHT
        figure.text(*place, text, **(style | alignment))

    left, right, top, bottom = tuple(plane.letters)
    write(0.015, 0.5, left, ha="left", va="center")
    write(0.985, 0.5, right, ha="right", va="center")
    write(0.5, 0.985, top, ha="center", va="top")
    write(0.5, 0.015, bottom, ha="center", va="bottom")
    write(0.015, 0.985, plane.title, ha="left", va="top", fontsize=11, color="0.7")


def _write_legend(figure: Figure, report: CaseReport) -> None:
    """Write the case's name above, and in the fourth quarter structures with volumes, warnings and the notice."""
    # A dollar sign in a name would start a formula.
    figure.text(
        0.02, 0.975, textwrap.shorten(report.case, 80), color="white", fontsize=16, va="center", parse_math=False
    )
    top = 0.44
    if not report.heart_found:
        figure.text(
            0.54, top, "No heart was found in this scan.", color="#ffb454", fontsize=17, va="top", weight="bold"
        )
        top -= 0.05
    top = _write_volumes(figure, report.volumes_ml, top)
    lines = [line for warning in report.warnings for line in textwrap.wrap(warning, 62)]
    if len(lines) > 9:
        lines = [*lines[:8], "... (all warnings are in the report)"]
    figure.text(0.54, top - 0.01, "\n".join(lines), color="#ffb454", fontsize=9.5, va="top", parse_math=False)
    package = f"{report.package.name} {report.package.version}"
    figure.text(0.54, 0.03, f"{package}\n{NOTICE}", color="0.7", fontsize=9.5, va="bottom", parse_math=False)


def _write_volumes(figure: Figure, volumes_ml: Mapping[str, float], top: float) -> float:
    """Write the rows of the legend from ``top`` down; return where they end."""
    for structure in anatomy.STRUCTURES:
        volume = volumes_ml[structure.name]
        colour = "white" if volume else "0.45"
        figure.text(0.54, top, "\N{BLACK SQUARE}", color=rgb(structure), fontsize=15, va="center")
        figure.text(0.57, top, structure.name, color=colour, fontsize=12, va="center", weight="bold")
        figure.text(0.63, top, structure.title, color=colour, fontsize=12, va="center")
        figure.text(
            0.97, top, volume_text(volume) if volume else "none", color=colour, fontsize=12, va="center", ha="right"
        )
        top -= 0.028
    return top

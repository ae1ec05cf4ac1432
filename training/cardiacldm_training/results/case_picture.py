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
    TINT,
    Field,
    Plane,
    heart_field,
    sample_plane,
)
from CardiacLDMLib.results.report import NOTICE, CaseReport
from CardiacLDMLib.text import volume_text

from .pictures import rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_case(volume: Volume, labels: Volume, report: CaseReport, path: Path) -> None:
    """Write a PNG: axial, coronal and sagittal plane through the heart, labels over the scan, and a legend.

    Without labels the planes go through the middle of the scan.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a case name in a script that the font lacks
        _figure(volume, labels, report).savefig(path, format="png", facecolor="black")


def _figure(volume: Volume, labels: Volume, report: CaseReport) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    field = heart_field(labels)
    figure = Figure(figsize=(11.0, 11.4), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    places = ((0.0, 0.485), (0.0, 0.02), (0.5, 0.485))
    for plane, (left, bottom) in zip(PLANES, places, strict=True):
        _draw_plane(figure.add_axes((left + 0.01, bottom, 0.48, 0.455)), plane, volume, labels, field)
    _write_legend(figure, report)
    return figure


def _tints() -> np.ndarray:
    """Return (9, 4): translucent colour by label value."""
    table = np.zeros((anatomy.NUM_CLASSES, 4))
    for structure in anatomy.STRUCTURES:
        table[structure.value] = (*rgb(structure), TINT)
    return table


def _draw_plane(axes: Axes, plane: Plane, volume: Volume, labels: Volume, field: Field) -> None:
    """Draw one view in millimetres around the field's centre, so that voxels keep their true proportions."""
    from matplotlib.patheffects import withStroke

    half = field.size_mm / 2
    extent = (-half, half, -half, half)
    image = sample_plane(volume, plane, field, PLANE_PIXELS, linear=True, outside=AIR_HU)[::-1]
    label = sample_plane(labels, plane, field, PLANE_PIXELS, linear=False, outside=anatomy.BACKGROUND)[::-1]
    low, high = anatomy.PICTURE_WINDOW
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
    axes.imshow(_tints()[label.astype(np.uint8)], origin="lower", extent=extent, interpolation="nearest")
    for structure in anatomy.STRUCTURES:
        mask = label == structure.value
        if mask.any():
            colour = rgb(structure)
            axes.contour(mask.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1.2, extent=extent)
    axes.set_axis_off()
    outline = [withStroke(linewidth=2.5, foreground="black")]
    style: dict[str, Any] = {"color": "white", "fontsize": 13, "transform": axes.transAxes, "path_effects": outline}
    left, right, top, bottom = tuple(plane.letters)
    axes.text(0.015, 0.5, left, ha="left", va="center", **style)
    axes.text(0.985, 0.5, right, ha="right", va="center", **style)
    axes.text(0.5, 0.985, top, ha="center", va="top", **style)
    axes.text(0.5, 0.015, bottom, ha="center", va="bottom", **style)
    axes.text(0.015, 0.985, plane.title, ha="left", va="top", **(style | {"fontsize": 11, "color": "0.7"}))


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

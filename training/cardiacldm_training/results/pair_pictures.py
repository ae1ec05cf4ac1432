"""Pictures of synthetic pairs: an overview of each, and contact sheets of many. All say that they are synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import replace_file
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.image.grid import AIR_HU, Volume
from CardiacLDMLib.results.pictures import (
    AXIAL,
    COLOURS,
    CORONAL,
    PLANES,
    Field,
    Plane,
    heart_index,
    sample_plane,
    tint,
    to_grey,
)
from CardiacLDMLib.text import plural, volume_text

from .pictures import normal_axis, rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Side of a view in pixels, on the overview and on contact sheets, and what lies between views.
VIEW_PIXELS, SMALL_PIXELS, GAP_PIXELS = 320, 150, 6
#: Pairs on a sheet, side by side and in all; height of what is written below each.
SHEET_COLUMNS, SHEET_PAIRS, CAPTION_PIXELS = 3, 60, 20
LEGEND_PIXELS = 84
#: How strongly labels colour the scan; their outlines are drawn in full.
PAIR_TINT = 0.35
_DPI = 100
_AMBER, _GREY = "#ffb454", "0.75"


def draw_overview(pair: Pair, title: str) -> Figure:
    """Draw three planes through the heart, the scan above, labels over it below, and a legend."""
    rows = zip(*(both_views(pair, plane, VIEW_PIXELS) for plane in PLANES), strict=True)
    canvas = np.concatenate([_row(row) for row in rows])
    canvas = np.pad(canvas, ((0, LEGEND_PIXELS), (0, 0), (0, 0)))
    figure = _figure(canvas)
    height, step = canvas.shape[0], VIEW_PIXELS + GAP_PIXELS
    for row, column in np.ndindex(2, 3):
        _write(figure, column * step + 6, row * step + 14, "Synthetic", color=_AMBER, fontsize=10)
    _write_legend(figure, pair, title, height - LEGEND_PIXELS)
    return figure


def draw_sheet(pairs: Sequence[tuple[str, Pair]]) -> Figure:
    """Draw pairs, each with its name as an axial and a coronal plane, without and with labels."""
    columns = min(SHEET_COLUMNS, len(pairs))
    tiles = [_tile(pair) for _, pair in pairs]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    canvas = np.concatenate(
        [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    )
    figure = _figure(canvas)
    height, width = blank.shape[:2]
    for number, (name, pair) in enumerate(pairs):
        row, column = divmod(number, columns)
        x, y = column * width, row * height
        _write(figure, x + 4, y + 10, "Synthetic", color=_AMBER, fontsize=8)
        text = f"{name}  {_conditions_text(pair.provenance, brief=True)}"
        _write(figure, x + 4, y + height - GAP_PIXELS - CAPTION_PIXELS / 2, text, color=_GREY, fontsize=8)
    return figure


def draw_cleaning(pair: Pair, title: str) -> Figure:
    """Draw labels as decoded above and after clean-up below, in the slices where most voxels changed.

    White lines surround the voxels that changed. The pair must come from the generator, not from files, which lack the
    labels as decoded.
    """
    assert pair.raw_labels is not None
    raw, clean = pair.raw_labels.array, pair.labels.array
    changed = raw != clean
    rows = [_row(_changed_views(pair, labels, changed)) for labels in (raw, clean)]
    figure = _figure(np.pad(np.concatenate(rows), ((0, LEGEND_PIXELS), (0, 0), (0, 0))))
    step, bottom = VIEW_PIXELS + GAP_PIXELS, 2 * (VIEW_PIXELS + GAP_PIXELS)
    for row, heading in enumerate(("Synthetic: labels as decoded", "Synthetic: cleaned up")):
        ground = {"facecolor": "black", "linewidth": 0, "pad": 2}
        _write(figure, 6, row * step + 14, heading, color=_AMBER, fontsize=10, bbox=ground)
    count = int(np.count_nonzero(changed))
    share = count / max(int(np.count_nonzero(raw)), 1)
    text = f"{title}: {plural(count, 'voxel')} changed, {share:.2%} of the labelled ones (in white lines)"
    _write(figure, 6, bottom + 18, text, color="white", fontsize=10)
    _write(figure, 6, bottom + 44, _changes_text(raw, clean), color=_GREY, fontsize=8)
    return figure


def _changed_views(pair: Pair, labels: np.ndarray, changed: np.ndarray) -> list[np.ndarray]:
    """Return a view of ``labels`` across each axis, in the slice where most voxels changed."""
    views = []
    for plane in PLANES:
        axis = normal_axis(plane)
        others = tuple(a for a in range(3) if a != axis)
        index = int(changed.sum(axis=others).argmax()) if changed.any() else None
        content = Pair(pair.image, Volume(labels, pair.labels.affine), pair.provenance)
        views.append(view(content, plane, VIEW_PIXELS, labelled=True, index=index, marked=changed))
    return views


def _changes_text(before: np.ndarray, after: np.ndarray) -> str:
    """Return how many voxels each structure lost and gained."""
    words = []
    for structure in anatomy.STRUCTURES:
        lost, gained = ((a == structure.value) & (b != structure.value) for a, b in ((before, after), (after, before)))
        if lost.any() or gained.any():
            words.append(f"{structure.name} -{np.count_nonzero(lost)} +{np.count_nonzero(gained)}")
    return "   ".join(words) or "Nothing had to be cleaned up."


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all; equal pictures give equal bytes. Raises ``OutputError``."""
    with replace_file(path) as part:
        figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})


def view(
    pair: Pair, plane: Plane, pixels: int, *, labelled: bool, index: int | None = None, marked: np.ndarray | None = None
) -> np.ndarray:
    """Return (pixels, pixels, 3) uint8: a pair (RAS grid) on ``plane`` through the heart, or at slice ``index``.

    The longest side of the grid fills the square. With ``labelled`` the labels are drawn over the scan; voxels that are
    ``marked`` (I, J, K; bool) are drawn in full colour, with a white line around them.
    """
    field = _slice_field(pair.labels, plane, index)
    grey, labels = _sample(pair, plane, field, pixels)
    colours = tint(grey, labels if labelled else np.zeros_like(labels), PAIR_TINT)
    if marked is not None:
        here = _nearest(marked.astype(np.uint8), pair.labels, plane, field, pixels) > 0
        if labelled:
            colours[here & (labels > 0)] = COLOURS[labels[here & (labels > 0)]]
        colours[ndimage.binary_dilation(here, iterations=2) & ~here] = 255
    return colours.astype(np.uint8)


def both_views(pair: Pair, plane: Plane, pixels: int) -> list[np.ndarray]:
    """Return :func:`view` on ``plane`` through the heart without labels and with them, of one sampling."""
    grey, labels = _sample(pair, plane, _slice_field(pair.labels, plane, None), pixels)
    return [tint(grey, each, PAIR_TINT).astype(np.uint8) for each in (np.zeros_like(labels), labels)]


def _sample(pair: Pair, plane: Plane, field: Field, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return grey levels and labels (pixels, pixels) of a pair on a plane."""
    grey = to_grey(sample_plane(pair.image, plane, field, pixels, linear=True, outside=AIR_HU))
    return grey, _nearest(pair.labels.array, pair.labels, plane, field, pixels)


def _slice_field(labels: Volume, plane: Plane, index: int | None) -> Field:
    """Return the field of the whole grid in slice ``index``, by default the one in the middle of the heart."""
    axis, shape = normal_axis(plane), np.array(labels.array.shape)
    if index is None:
        middle = heart_index(labels)
        index = int(middle[axis]) if middle is not None else int(shape[axis]) // 2
    centre = (shape - 1) / 2
    centre[axis] = index
    return Field(labels.affine[:3, :3] @ centre + labels.affine[:3, 3], float(labels.grid.size_mm.max()))


def _nearest(array: np.ndarray, volume: Volume, plane: Plane, field: Field, pixels: int) -> np.ndarray:
    """Return (pixels, pixels) uint8: ``array`` on the voxels of ``volume``, without interpolation."""
    values = sample_plane(Volume(array, volume.affine), plane, field, pixels, linear=False, outside=anatomy.BACKGROUND)
    return values.astype(np.uint8)


def _row(views: Sequence[np.ndarray]) -> np.ndarray:
    """Return views side by side, with the gap to the next row."""
    gap = np.zeros((views[0].shape[0], GAP_PIXELS, 3), dtype=np.uint8)
    parts = [part for each in views for part in (each, gap)]
    return np.pad(np.concatenate(parts[:-1], axis=1), ((0, GAP_PIXELS), (0, 0), (0, 0)))


def _tile(pair: Pair) -> np.ndarray:
    views = [each for plane in (AXIAL, CORONAL) for each in both_views(pair, plane, SMALL_PIXELS)]
    return np.pad(np.concatenate(views, axis=1), ((0, CAPTION_PIXELS + GAP_PIXELS), (0, GAP_PIXELS), (0, 0)))


# --- text ---------------------------------------------------------------------------------------------------------


def _figure(canvas: np.ndarray) -> Figure:
    """Return a figure that shows ``canvas`` (rows, columns, 3; uint8) pixel by pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    figure.figimage(canvas, origin="upper")
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write text from pixel ``x`` on, its middle ``y`` pixels below the upper edge."""
    width, height = figure.get_size_inches() * _DPI
    figure.text(x / width, 1 - y / height, text, va="center", parse_math=False, **style)


def _write_legend(figure: Figure, pair: Pair, title: str, top: int) -> None:
    """Write structures with their volumes, conditions and settings of sampling, from pixel ``top`` down."""
    step = (3 * VIEW_PIXELS + 2 * GAP_PIXELS - 12) / len(anatomy.STRUCTURES)
    for number, structure in enumerate(anatomy.STRUCTURES):
        volume = pair.provenance["volumes_ml"][structure.name]
        x = 6 + number * step
        _write(figure, x, top + 14, "\N{BLACK SQUARE}", color=rgb(structure), fontsize=13)
        text = f"{structure.name} {volume_text(volume)}" if volume else f"{structure.name} none"
        _write(figure, x + 17, top + 14, text, color="white" if volume else "0.45", fontsize=9)
    _write(figure, 6, top + 40, f"{title}: {_conditions_text(pair.provenance)}", color="white", fontsize=10)
    _write(figure, 6, top + 64, _sampling_text(pair.provenance), color=_GREY, fontsize=8)


def _conditions_text(provenance: dict[str, Any], brief: bool = False) -> str:
    """Return the conditions, those sampled from their frequencies last.

    ``brief`` leaves out the name of a condition where its value identifies it.
    """
    parts = [_values_text(provenance["conditions"], brief)]
    if provenance.get("drawn_conditions"):
        parts.append("by chance " + _values_text(provenance["drawn_conditions"], brief))
    return "; ".join(filter(None, parts)) or "no condition set"


def _values_text(conditions: dict[str, str | float], brief: bool) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else value if brief and value != "none" else f"{name} {value}"
        for name, value in conditions.items()
    )


def _sampling_text(provenance: dict[str, Any]) -> str:
    package = provenance["package"]
    return (
        f"{provenance['notice']} {package['name']} {package['version']}, seed {provenance['seed']}, pair "
        f"{provenance['index']}, attempt {provenance['attempt']}, {provenance['solver']}, "
        f"{plural(provenance['steps'], 'step')}, guidance {provenance['guidance']:g}"
    )

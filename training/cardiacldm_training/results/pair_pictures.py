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
from CardiacLDMLib.image.grid import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Side of a view in pixels, on the overview and on contact sheets, and what lies between views.
VIEW_PIXELS, SMALL_PIXELS, GAP_PIXELS = 320, 150, 6
#: Pairs on a sheet, side by side and in all; height of what is written below each.
SHEET_COLUMNS, SHEET_PAIRS, CAPTION_PIXELS = 3, 60, 20
LEGEND_PIXELS = 84
#: How strongly labels tint the scan; their outlines are drawn in full.
TINT = 0.35
_AXIAL, _CORONAL, _SAGITTAL = 2, 1, 0
_DPI = 100
_COLOURS = np.array([(0, 0, 0), *(s.colour for s in anatomy.STRUCTURES)], dtype=np.float32)
_AMBER, _GREY = "#ffb454", "0.75"


def draw_overview(pair: Pair, title: str) -> Figure:
    """Three planes through the heart, the scan above, labels over it below; and what the pair is."""
    rows = [
        [view(pair, axis, VIEW_PIXELS, labelled=labelled) for axis in (_AXIAL, _CORONAL, _SAGITTAL)]
        for labelled in (False, True)
    ]
    canvas = np.concatenate([_row(row) for row in rows])
    canvas = np.pad(canvas, ((0, LEGEND_PIXELS), (0, 0), (0, 0)))
    figure = _figure(canvas)
    height, step = canvas.shape[0], VIEW_PIXELS + GAP_PIXELS
    for row, column in np.ndindex(2, 3):
        _write(figure, column * step + 6, row * step + 14, "Synthetic", color=_AMBER, fontsize=10)
    _write_legend(figure, pair, title, height - LEGEND_PIXELS)
    return figure


def draw_sheet(pairs: Sequence[tuple[str, Pair]]) -> Figure:
    """Pairs by name, each as an axial and a coronal plane, without and with labels."""
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
        text = f"{name}  {_asked(pair.provenance, brief=True)}"
        _write(figure, x + 4, y + height - GAP_PIXELS - CAPTION_PIXELS / 2, text, color=_GREY, fontsize=8)
    return figure


def draw_cleaning(pair: Pair, title: str) -> Figure:
    """Labels as decoded above, and cleaned up below, where most voxels changed; a white line is around these.

    The pair must have been drawn, not read.
    """
    assert pair.raw_labels is not None
    raw = pair.raw_labels.array
    changed = raw != pair.labels.array
    rows = []
    for labels in (raw, pair.labels.array):
        views = []
        for axis in (_AXIAL, _CORONAL, _SAGITTAL):
            others = tuple(a for a in range(3) if a != axis)
            index = int(changed.sum(axis=others).argmax()) if changed.any() else int(_middle(pair.labels)[axis])
            shown = Pair(pair.image, Volume(labels, pair.labels.affine), pair.provenance)
            views.append(view(shown, axis, VIEW_PIXELS, labelled=True, index=index, marked=changed))
        rows.append(_row(views))
    figure = _figure(np.pad(np.concatenate(rows), ((0, LEGEND_PIXELS), (0, 0), (0, 0))))
    step, bottom = VIEW_PIXELS + GAP_PIXELS, 2 * (VIEW_PIXELS + GAP_PIXELS)
    for row, what in enumerate(("Synthetic: labels as decoded", "Synthetic: cleaned up")):
        ground = {"facecolor": "black", "linewidth": 0, "pad": 2}
        _write(figure, 6, row * step + 14, what, color=_AMBER, fontsize=10, bbox=ground)
    count = int(np.count_nonzero(changed))
    share = count / max(int(np.count_nonzero(raw)), 1)
    text = f"{title}: {count} voxels changed, {share:.2%} of the labelled ones (in white lines)"
    _write(figure, 6, bottom + 18, text, color="white", fontsize=10)
    _write(figure, 6, bottom + 44, _changes(raw, pair.labels.array), color=_GREY, fontsize=8)
    return figure


def _changes(before: np.ndarray, after: np.ndarray) -> str:
    """Voxels that each structure lost and won."""
    words = []
    for structure in anatomy.STRUCTURES:
        lost, won = ((a == structure.value) & (b != structure.value) for a, b in ((before, after), (after, before)))
        if lost.any() or won.any():
            words.append(f"{structure.name} -{np.count_nonzero(lost)} +{np.count_nonzero(won)}")
    return "   ".join(words) or "Nothing had to be cleaned up."


def write_png(figure: Figure, path: Path) -> None:
    """The same bytes for the same picture; whole or not at all. Raises OutputError."""
    with replace_file(path) as part:
        figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})


def view(
    pair: Pair, axis: int, pixels: int, *, labelled: bool, index: int | None = None, marked: np.ndarray | None = None
) -> np.ndarray:
    """(pixels, pixels, 3) uint8: the plane across ``axis`` through the heart or at ``index``, as radiologists look at
    it.

    The longest side of the grid fills the square. With ``labelled`` the labels are drawn over the scan; voxels that are
    ``marked`` (I, J, K; bool) are drawn in full colour, with a white line around them.
    """
    index = int(_middle(pair.labels)[axis]) if index is None else index
    scale = pixels / max(pair.image.array.shape)
    grey = _zoomed(pair.image, axis, index, scale, order=1)
    low, high = anatomy.PICTURE_WINDOW
    rgb = np.repeat(((grey - low) / (high - low) * 255).clip(0, 255)[..., None], 3, axis=2)
    if labelled:
        labels = _zoomed(pair.labels, axis, index, scale, order=0).astype(np.uint8)
        share = np.where(_edges(labels), 1.0, TINT)[..., None] * (labels > 0)[..., None]
        rgb = (1 - share) * rgb + share * _COLOURS[labels]
    if marked is not None:
        here = _zoomed(Volume(marked.astype(np.uint8), pair.labels.affine), axis, index, scale, order=0) > 0
        if labelled:
            rgb[here & (labels > 0)] = _COLOURS[labels[here & (labels > 0)]]
        rgb[ndimage.binary_dilation(here, iterations=2) & ~here] = 255
    spare = [pixels - side for side in rgb.shape[:2]]
    margins = [(side // 2, side - side // 2) for side in spare]
    return np.pad(rgb.astype(np.uint8), (*margins, (0, 0)))


def _middle(labels: Volume) -> np.ndarray:
    """(3,) voxel in the middle of the chambers, or of the grid without any."""
    inside = np.argwhere(np.isin(labels.array, [anatomy.VALUE[name] for name in anatomy.HEART]))
    return inside.mean(0).astype(int) if len(inside) else np.array(labels.array.shape) // 2


def _zoomed(volume: Volume, axis: int, index: int, scale: float, order: int) -> np.ndarray:
    """A plane of a RAS grid, rows from anterior or superior, columns from the patient's right or from anterior."""
    plane = np.flip(volume.array.take(index, axis=axis)).T
    size = [max(round(side * scale), 1) for side in plane.shape]
    factors = [new / old for new, old in zip(size, plane.shape, strict=True)]
    zoomed: np.ndarray = ndimage.zoom(
        plane.astype(np.float32), factors, order=order, mode="nearest", grid_mode=True, prefilter=False
    )
    return zoomed


def _edges(labels: np.ndarray) -> np.ndarray:
    """Where a labelled pixel has a neighbour of another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        change = np.diff(labels, axis=axis) != 0
        behind = [(0, 0), (0, 0)]
        behind[axis] = (1, 0)
        edges |= np.pad(change, behind) | np.pad(change, [pair[::-1] for pair in behind])
    return edges


def _row(views: Sequence[np.ndarray]) -> np.ndarray:
    """Views side by side, with the gap to the next row."""
    gap = np.zeros((views[0].shape[0], GAP_PIXELS, 3), dtype=np.uint8)
    parts = [part for each in views for part in (each, gap)]
    return np.pad(np.concatenate(parts[:-1], axis=1), ((0, GAP_PIXELS), (0, 0), (0, 0)))


def _tile(pair: Pair) -> np.ndarray:
    views = [
        view(pair, axis, SMALL_PIXELS, labelled=labelled) for axis in (_AXIAL, _CORONAL) for labelled in (False, True)
    ]
    return np.pad(np.concatenate(views, axis=1), ((0, CAPTION_PIXELS + GAP_PIXELS), (0, GAP_PIXELS), (0, 0)))


# --- words ---------------------------------------------------------------------------------------------------------


def _figure(canvas: np.ndarray) -> Figure:
    """A figure that shows ``canvas`` (rows, columns, 3; uint8) pixel by pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    figure.figimage(canvas, origin="upper")
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text from pixel ``x`` on, its middle ``y`` pixels below the upper edge."""
    width, height = figure.get_size_inches() * _DPI
    figure.text(x / width, 1 - y / height, text, va="center", parse_math=False, **style)


def _write_legend(figure: Figure, pair: Pair, title: str, top: int) -> None:
    """The structures with their volumes, what was asked for, and how it was drawn, from pixel ``top`` down."""
    step = (3 * VIEW_PIXELS + 2 * GAP_PIXELS - 12) / len(anatomy.STRUCTURES)
    for number, structure in enumerate(anatomy.STRUCTURES):
        red, green, blue = structure.colour
        volume = pair.provenance["volumes_ml"][structure.name]
        x = 6 + number * step
        _write(figure, x, top + 14, "\N{BLACK SQUARE}", color=(red / 255, green / 255, blue / 255), fontsize=13)
        text = f"{structure.name} {volume:.0f} mL" if volume else f"{structure.name} none"
        _write(figure, x + 17, top + 14, text, color="white" if volume else "0.45", fontsize=9)
    _write(figure, 6, top + 40, f"{title}: {_asked(pair.provenance)}", color="white", fontsize=10)
    _write(figure, 6, top + 64, _drawn(pair.provenance), color=_GREY, fontsize=8)


def _asked(provenance: dict[str, Any], brief: bool = False) -> str:
    """The conditions in words, those left to chance last; ``brief`` leaves out names that a value makes plain."""
    parts = [_in_words(provenance["conditions"], brief)]
    if provenance.get("drawn_conditions"):
        parts.append("by chance " + _in_words(provenance["drawn_conditions"], brief))
    return "; ".join(filter(None, parts)) or "no condition asked for"


def _in_words(conditions: dict[str, str | float], brief: bool) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else value if brief and value != "none" else f"{name} {value}"
        for name, value in conditions.items()
    )


def _drawn(provenance: dict[str, Any]) -> str:
    package = provenance["package"]
    return (
        f"{provenance['notice']} {package['name']} {package['version']}, seed {provenance['seed']}, pair "
        f"{provenance['index']}, attempt {provenance['attempt']}, {provenance['solver']}, {provenance['steps']} steps, "
        f"guidance {provenance['guidance']:g}"
    )

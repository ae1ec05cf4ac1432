"""Virtual cases, generated pairs and real scans side by side, to judge by eye what distinguishes them.

Every scan is one tile of three planes (axial, coronal, sagittal) through the middle of the heart, all in the same
window and at the same scale. Real scans are mixed with virtual ones. One sheet has captions that say which is which;
the other has numbers only, for a blind reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib.anatomy import BACKGROUND, CHEST_WINDOW, NUM_CLASSES
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import AIR_HU, Volume
from CardiacLDMLib.results.pictures import PLANES, Field, heart_index, sample_plane, to_grey, write_png

from ...cases.readers.cases import read_case
from ...cases.readers.files import CaseFiles

#: Side of a plane in mm and in pixels, and the planes averaged over the depth of a pixel.
FIELD_MM, PLANE_PIXELS, LAYERS = 240.0, 232, 3
COLUMNS, CAPTION_PIXELS, GAP_PIXELS = 4, 26, 8


@dataclass(frozen=True)
class Tile:
    """Three planes side by side (rows, columns; uint8) and the caption for the marked sheet."""

    planes: np.ndarray
    caption: str


def virtual_tile(files: CaseFiles) -> Tile:
    """Return the tile of a case with labels. Raises ``VolumeError``."""
    record = files.labels.parent / "case.json"
    content = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return _labelled_tile(files, f"{files.name}: {caption(content)}")


def pair_tile(files: CaseFiles) -> Tile:
    """Return the tile of a generated pair. Raises ``VolumeError``."""
    return _labelled_tile(files, f"GENERATED {files.name}")


def _labelled_tile(files: CaseFiles, words: str) -> Tile:
    case = read_case(files)
    labels = np.where(case.labels.array < NUM_CLASSES, case.labels.array, np.uint8(BACKGROUND))
    return Tile(_planes(case.image, Volume(labels, case.labels.affine)), words)


def real_tile(path: Path, number: int, find_heart: Callable[[Volume], Volume]) -> Tile:
    """Return the tile of a real scan, whose heart ``find_heart`` labels. Raises ``VolumeError``.

    The caption has the number instead of the file's name, which may identify a patient.
    """
    scan = read_volume(path)
    return Tile(_planes(scan, find_heart(scan)), f"REAL scan {number}")


def caption(record: dict[str, Any]) -> str:
    """Return sex, contrast phase, scanner, implant and findings of a case.json, as far as it has them."""
    conditions = record.get("conditions") or {"contrast_phase": record.get("scan", {}).get("phase")}
    words = [
        str(conditions[key]) for key in ("sex", "contrast_phase", "scan_location", "implant") if conditions.get(key)
    ]
    return ", ".join([*words, *record.get("findings", [])])


def _planes(scan: Volume, labels: Volume) -> np.ndarray:
    """Return (PLANE_PIXELS, 3 PLANE_PIXELS) uint8 through the middle of the heart, or of the scan without one."""
    index, affine = heart_index(labels), labels.affine
    if index is None:
        index, affine = (np.array(scan.array.shape) - 1) / 2, scan.affine
    field = Field(affine[:3, :3] @ index + affine[:3, 3], FIELD_MM)
    planes = [
        sample_plane(scan, plane, field, PLANE_PIXELS, linear=True, outside=AIR_HU, layers=LAYERS) for plane in PLANES
    ]
    return to_grey(np.concatenate(planes, axis=1), CHEST_WINDOW).astype(np.uint8)


# --- the sheets ----------------------------------------------------------------------------------------------------


def write_sheets(tiles: Sequence[Tile], path: Path, seed: int = 0) -> list[Path]:
    """Shuffle the tiles; write ``path`` with numbers only, and the sheet with captions beside it. Return both paths.

    Raises ``OutputError``.
    """
    order = np.random.default_rng(seed).permutation(len(tiles))
    shuffled = [tiles[i] for i in order]
    captions = [f"{n}  {tile.caption}" for n, tile in enumerate(shuffled, start=1)]
    marked = path.with_name(f"{path.stem}_marked{path.suffix}")
    write_png(_sheet(shuffled, [text.split()[0] for text in captions]), path)
    write_png(_sheet(shuffled, captions), marked)
    return [path, marked]


def _sheet(tiles: Sequence[Tile], captions: Sequence[str]) -> np.ndarray:
    """Return (rows, columns) uint8: the planes, with captions by matplotlib. It is grey to keep the file small."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = PLANE_PIXELS + CAPTION_PIXELS, 3 * PLANE_PIXELS + GAP_PIXELS
    rows = -(-len(tiles) // COLUMNS)
    canvas = np.zeros((rows * height, COLUMNS * width), dtype=np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / 100, canvas.shape[0] / 100), dpi=100, facecolor="black")
    renderer = FigureCanvasAgg(figure)
    for n, text in enumerate(captions):
        row, column = divmod(n, COLUMNS)
        y = (row * height + PLANE_PIXELS + CAPTION_PIXELS / 2) / canvas.shape[0]
        figure.text(column * width / canvas.shape[1], 1 - y, text, color="white", fontsize=11, va="center")
    renderer.draw()
    canvas[:] = np.asarray(renderer.buffer_rgba())[..., 0]
    for n, tile in enumerate(tiles):
        row, column = divmod(n, COLUMNS)
        start = column * width
        canvas[row * height : row * height + PLANE_PIXELS, start : start + 3 * PLANE_PIXELS] = tile.planes
    return canvas

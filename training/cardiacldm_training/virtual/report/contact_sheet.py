"""Virtual cases and real scans side by side, to find out by looking what gives the virtual ones away.

Every scan is one tile of three planes (axial, coronal, sagittal) through the middle of the heart, all in the same
window and at the same scale. Real scans lie among the virtual ones. One sheet says which they are and what each virtual
case is; the other bears numbers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import CHEST_WINDOW, HEART, VALUE
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import replace_file
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import AIR_HU, Volume

from ...cases.readers.folders import CaseFiles

#: What a plane shows, and its side in pixels.
FIELD_MM, PLANE_PIXELS = 240.0, 232
COLUMNS, CAPTION_PIXELS, GAP_PIXELS = 4, 26, 8
#: (right, up) of the axial, coronal and sagittal plane in RAS, as radiologists look at them.
PLANES = (((-1, 0, 0), (0, 1, 0)), ((-1, 0, 0), (0, 0, 1)), ((0, -1, 0), (0, 0, 1)))


@dataclass(frozen=True)
class Tile:
    """Three planes side by side (rows, columns; uint8) and what the marked sheet says below them."""

    planes: np.ndarray
    caption: str


def virtual_tile(files: CaseFiles) -> Tile:
    """A case with labels. Raises :class:`VolumeError`."""
    record = files.labels.parent / "case.json"
    content = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return Tile(_planes(read_volume(files.image), read_volume(files.labels)), f"{files.name}: {caption(content)}")


def real_tile(path: Path, number: int, find_heart: Callable[[Volume], Volume]) -> Tile:
    """A real scan, whose heart ``find_heart`` labels; its file's name is not shown. Raises :class:`VolumeError`."""
    scan = read_volume(path)
    return Tile(_planes(scan, find_heart(scan)), f"REAL scan {number}")


def caption(record: dict[str, Any]) -> str:
    """Sex, contrast phase, scanner and implant of a case.json, as far as it has them."""
    conditions = record.get("conditions") or {"contrast_phase": record.get("scan", {}).get("phase")}
    words = [
        str(conditions[key]) for key in ("sex", "contrast_phase", "scan_location", "implant") if conditions.get(key)
    ]
    return ", ".join([*words, *record.get("findings", [])])


def _planes(scan: Volume, labels: Volume) -> np.ndarray:
    """(PLANE_PIXELS, 3 PLANE_PIXELS) uint8 through the middle of the chambers, or of the scan if it has none."""
    inside = np.argwhere(np.isin(labels.array, [VALUE[name] for name in HEART]))
    index = inside.mean(0) if len(inside) else (np.array(scan.array.shape) - 1) / 2
    affine = labels.affine if len(inside) else scan.affine
    centre = affine[:3, :3] @ index + affine[:3, 3]
    low, high = CHEST_WINDOW
    grey = [((_plane(scan, centre, *axes) - low) / (high - low)).clip(0, 1) * 255 for axes in PLANES]
    return np.concatenate(grey, axis=1).astype(np.uint8)


def _plane(scan: Volume, centre: np.ndarray, right: tuple[int, ...], up: tuple[int, ...]) -> np.ndarray:
    """(rows, columns) HU of a plane, the uppermost row first; a millimetre and a half are averaged through it."""
    pixel = FIELD_MM / PLANE_PIXELS
    depth = 3
    directions = np.array([right, up, np.cross(right, up)], dtype=float).T * pixel
    directions[:, 2] /= depth
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = centre - directions @ ([(PLANE_PIXELS - 1) / 2] * 2 + [(depth - 1) / 2])
    to_index = np.linalg.inv(scan.affine) @ affine
    values = ndimage.affine_transform(
        scan.array, to_index[:3, :3], to_index[:3, 3], (PLANE_PIXELS, PLANE_PIXELS, depth), output=np.float32, order=1,
        mode="constant", cval=AIR_HU,
    )  # fmt: skip
    return values.mean(2).T[::-1]


# --- the sheets ----------------------------------------------------------------------------------------------------


def write_sheets(tiles: Sequence[Tile], path: Path, seed: int = 0) -> list[Path]:
    """Shuffle the tiles and write ``path`` (numbers only) and the sheet with captions beside it. Raises OutputError."""
    order = np.random.default_rng(seed).permutation(len(tiles))
    shuffled = [tiles[i] for i in order]
    captions = [f"{n}  {tile.caption}" for n, tile in enumerate(shuffled, start=1)]
    marked = path.with_name(f"{path.stem}_marked{path.suffix}")
    _write(shuffled, [text.split()[0] for text in captions], path)
    _write(shuffled, captions, marked)
    return [path, marked]


def _write(tiles: Sequence[Tile], captions: Sequence[str], path: Path) -> None:
    import SimpleITK as sitk

    sheet = _sheet(tiles, captions)
    with replace_file(path) as part:
        try:
            sitk.WriteImage(sitk.GetImageFromArray(sheet), str(part), True)
        except RuntimeError as error:
            raise OutputError(f"{path.name} could not be written: is the disk full, or its ending not .png?") from error


def _sheet(tiles: Sequence[Tile], captions: Sequence[str]) -> np.ndarray:
    """(rows, columns) uint8: planes as they are, text drawn by matplotlib. Grey, to stay small."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = PLANE_PIXELS + CAPTION_PIXELS, 3 * PLANE_PIXELS + GAP_PIXELS
    rows = -(-len(tiles) // COLUMNS)
    canvas = np.zeros((rows * height, COLUMNS * width), dtype=np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / 100, canvas.shape[0] / 100), dpi=100, facecolor="black")
    drawn = FigureCanvasAgg(figure)
    for n, text in enumerate(captions):
        row, column = divmod(n, COLUMNS)
        y = (row * height + PLANE_PIXELS + CAPTION_PIXELS / 2) / canvas.shape[0]
        figure.text(column * width / canvas.shape[1], 1 - y, text, color="white", fontsize=11, va="center")
    drawn.draw()
    canvas[:] = np.asarray(drawn.buffer_rgba())[..., 0]
    for n, tile in enumerate(tiles):
        row, column = divmod(n, COLUMNS)
        start = column * width
        canvas[row * height : row * height + PLANE_PIXELS, start : start + 3 * PLANE_PIXELS] = tile.planes
    return canvas

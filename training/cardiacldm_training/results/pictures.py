"""The picture of the training log, and small functions that all pictures share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import replace_file
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.pictures import PLANES, Field, Plane, sample_plane, tint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: How strongly labels colour the image.
PANEL_TINT = 0.5


def normal_axis(plane: Plane) -> int:
    """Return the array axis of a RAS grid that is perpendicular to ``plane``."""
    return int(np.abs(np.cross(plane.right, plane.up)).argmax())


def rgb(structure: anatomy.Structure) -> tuple[float, float, float]:
    """Return the colour of a structure from 0 to 1, as matplotlib takes it."""
    red, green, blue = structure.colour
    return red / 255, green / 255, blue / 255


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of some inches that needs no display and arranges what is drawn on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figures(figures: Mapping[str, Figure], out: Path) -> None:
    """Write figures as PNG by file name, each whole or not at all. Raises :class:`OutputError`."""
    for name, figure in figures.items():
        with replace_file(out / name) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a name in a script that the font lacks
            figure.savefig(part, dpi=110)


def panel(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, predicted_image: np.ndarray | None = None
) -> np.ndarray:
    """Return (H, W, 3) uint8: middle slices of the labels in three planes, reference above, prediction below.

    All arrays are (I, J, K) on one RAS grid: images from 0 to 1, labels with the values of ``anatomy``. The prediction
    is drawn over ``predicted_image`` if there is one.
    """
    middle = np.argwhere(reference).mean(0).astype(int) if reference.any() else np.array(reference.shape) // 2
    above = _row(image, reference, middle)
    below = _row(image if predicted_image is None else predicted_image, prediction, middle)
    return np.concatenate([above, below], axis=0).clip(0, 255).astype(np.uint8)


def row_of_slices(image: np.ndarray) -> np.ndarray:
    """Return (S, 3 S, 3) uint8: the middle slices of an image (I, J, K; 0 to 1) in three planes."""
    middle = np.array(image.shape) // 2
    return _row(image, np.zeros(image.shape, np.uint8), middle).clip(0, 255).astype(np.uint8)


def _row(image: np.ndarray, labels: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return (S, 3 S, 3) float, S the longest side: slices ``middle`` of an image with labels, a voxel per pixel."""
    side = max(image.shape)
    # A plane's first pixel is the voxel with the highest index, so that each slice lies in the upper left corner.
    centre = np.array(image.shape) - 1 - (side - 1) / 2
    tiles = []
    for plane in PLANES:
        axis = normal_axis(plane)
        at = centre.copy()
        at[axis] = middle[axis]
        field = Field(at, float(side))
        grey = sample_plane(Volume(image, np.eye(4)), plane, field, side, linear=True, outside=0.0)
        names = sample_plane(Volume(labels, np.eye(4)), plane, field, side, linear=False, outside=anatomy.BACKGROUND)
        tiles.append(tint(grey * np.float32(255), names.astype(np.uint8), PANEL_TINT, outline=False))
    return np.concatenate(tiles, axis=1)

"""Pictures of three planes through the heart: sampling, window, colours of labels, file.

Planes are seen as in radiology: from the feet, from the front and from the patient's left. Only numpy and SimpleITK
are needed, so this runs in Slicer's Python too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import anatomy
from ..files import replace_file
from ..image.files import itk_errors, write_image
from ..image.grid import AIR_HU, Volume
from ..image.labels import foreground_box
from ..text import volume_text
from .lettering import ADVANCE, HEIGHT, write_text
from .report import NOTICE, CaseReport

#: Margin around the heart, and the least side of a picture, in mm.
MARGIN_MM, LEAST_FIELD_MM = 30.0, 120.0
#: Side of a plane in pixels.
PLANE_PIXELS = 512
#: Share of the label's colour in a picture; outlines have its full colour.
TINT = 0.3
#: Colour (0 to 255) by label value.
COLOURS = np.array([(0, 0, 0), *(s.colour for s in anatomy.STRUCTURES)], dtype=np.float32)
AMBER, GREY, DIM, WHITE = (255, 180, 84), (178, 178, 178), (115, 115, 115), (255, 255, 255)


@dataclass(frozen=True)
class Plane:
    """A view: RAS directions to the right and up on the screen; letters at its left, right, top and bottom edge."""

    title: str
    right: tuple[int, int, int]
    up: tuple[int, int, int]
    letters: str


AXIAL = Plane("Axial", (-1, 0, 0), (0, 1, 0), "RLAP")
CORONAL = Plane("Coronal", (-1, 0, 0), (0, 0, 1), "RLSI")
SAGITTAL = Plane("Sagittal", (0, -1, 0), (0, 0, 1), "APSI")
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Field:
    """The square that a plane shows: its centre (RAS mm), which the plane passes through, and its side in mm."""

    centre: np.ndarray
    size_mm: float


# --- the field of view ---------------------------------------------------------------------------------------------


def heart_index(labels: Volume) -> np.ndarray | None:
    """Return the centroid of chambers, wall and appendage in voxel indices (3,); None if all are absent."""
    counts = _heart_counts(labels)
    return _centroid(counts) if counts is not None else None


def heart_field(labels: Volume) -> Field:
    """Return the field around the heart's centroid that holds the whole heart; without a heart, the whole scan."""
    counts = _heart_counts(labels)
    if counts is None:
        low, high = labels.grid.bounds_ras()
        return Field((low + high) / 2, float((high - low).max()))
    occupied = [np.flatnonzero(count) for count in counts]
    start, stop = np.array([o[0] for o in occupied]), np.array([o[-1] + 1 for o in occupied])
    low, high = labels.grid.crop(start, stop).bounds_ras()
    centre = labels.affine[:3, :3] @ _centroid(counts) + labels.affine[:3, 3]
    reach = np.maximum(high - centre, centre - low).max()
    return Field(centre, max(2 * (float(reach) + MARGIN_MM), LEAST_FIELD_MM))


def _heart_counts(labels: Volume) -> list[np.ndarray] | None:
    """Return the number of heart voxels in each slice across i, j and k; None if there are none."""
    box = foreground_box(labels.array)
    if box is None:
        return None
    table = np.zeros(256, dtype=bool)
    table[[anatomy.VALUE[name] for name in anatomy.HEART]] = True
    heart = table[labels.array[box]]
    if not heart.any():
        return None
    flat = heart.sum(axis=2)
    counts = [np.zeros(n, dtype=flat.dtype) for n in labels.array.shape]
    for count, side, inside in zip(counts, box, (flat.sum(1), flat.sum(0), heart.sum((0, 1))), strict=True):
        count[side] = inside
    return counts


def _centroid(counts: list[np.ndarray]) -> np.ndarray:
    """Return the mean index (3,) along each axis."""
    return np.array([(count * np.arange(len(count))).sum() / count.sum() for count in counts])


# --- sampling planes -----------------------------------------------------------------------------------------------


def sample_plane(
    volume: Volume, plane: Plane, field: Field, pixels: int, *, linear: bool, outside: float, layers: int = 1
) -> np.ndarray:
    """Return the volume's values on a plane, (pixels, pixels) float32, the top row first.

    Values are interpolated if ``linear``, otherwise taken from the nearest voxel; beyond the volume they are
    ``outside``. With several ``layers``, the mean of that many planes is returned, spread over the depth of one pixel.
    Only the voxels under the plane are read.
    """
    pixel = field.size_mm / pixels
    to_index = np.linalg.inv(volume.affine)
    right, up = (to_index[:3, :3] @ np.array(axis, dtype=float) * pixel for axis in (plane.right, plane.up))
    ahead = to_index[:3, :3] @ np.cross(plane.right, plane.up) * (pixel / layers)
    steps = np.arange(pixels) - (pixels - 1) / 2
    centre = to_index[:3, :3] @ field.centre + to_index[:3, 3]
    places = []  # along each axis of the array; of length 1 along sides of the plane on which they do not depend
    for middle, across, along in zip(centre, right, up, strict=True):
        rows, columns = (steps if step else np.zeros(1) for step in (along, across))
        places.append(middle - rows[:, None] * along + columns[None, :] * across)
    depths = np.arange(layers) - (layers - 1) / 2
    layered = ([place + depth * step for place, step in zip(places, ahead, strict=True)] for depth in depths)
    planes = (_values_at(volume.array, index, linear, outside) for index in layered)
    return np.mean([np.broadcast_to(values, (pixels, pixels)) for values in planes], axis=0)


def _values_at(array: np.ndarray, places: list[np.ndarray], linear: bool, outside: float) -> np.ndarray:
    """Return the values, float32, at voxel indices, which may be fractions.

    ``places``: the index along each axis of ``array``, as arrays that are broadcast together.
    """
    within = np.ones((1, 1), dtype=bool)
    inside = []
    for place, length in zip(places, array.shape, strict=True):
        within = within & (place > -0.5 - 1e-6) & (place < length - 0.5 + 1e-6)
        inside.append(place.clip(0, length - 1))
    if linear:
        values = _interpolate(array, inside)
    else:
        i, j, k = (np.floor(place + 0.5).astype(np.intp) for place in inside)
        values = array[i, j, k]
    return np.where(within, values.astype(np.float32), np.float32(outside))


def _interpolate(array: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """Return float64 values, interpolated trilinearly at ``places`` as in :func:`_values_at`, within the array."""
    axes = []  # of each axis, the weights of both neighbours and their indices
    for place, length in zip(places, array.shape, strict=True):
        below = np.minimum(np.floor(place).astype(np.intp), max(length - 2, 0))
        share = place - below
        axes.append(((1 - share, below), (share, np.minimum(below + 1, length - 1))))
    values = np.zeros(np.broadcast_shapes(*(place.shape for place in places)))
    for (first, i), (second, j), (third, k) in itertools.product(*axes):
        weight = first * second * third
        # 0 * NaN is NaN: a neighbour of weight 0 must not count
        values += np.where(weight > 0, array[i, j, k] * weight, 0.0)
    return values


# --- drawing planes ------------------------------------------------------------------------------------------------


def to_grey(hu: np.ndarray, window_hu: tuple[float, float] = anatomy.PICTURE_WINDOW) -> np.ndarray:
    """Return grey levels (float) of HU: 0 at the lower end of the window, 255 at the upper end; NaN is black."""
    low, high = window_hu
    return np.nan_to_num((hu - low) / (high - low) * 255).clip(0, 255)


def tint(grey: np.ndarray, labels: np.ndarray, share: float = TINT, *, outline: bool = True) -> np.ndarray:
    """Return a colour picture (rows, columns, 3; float): grey levels mixed with the labels' colours.

    ``share``: of the label's colour, 0 to 1. With ``outline`` the edges of labels have their full colour.
    """
    strength = np.full(labels.shape, share)
    if outline:
        strength[label_edges(labels)] = 1.0
    strength = (strength * (labels > 0))[..., None]
    return (1 - strength) * grey[..., None] + strength * COLOURS[labels]


def label_edges(labels: np.ndarray) -> np.ndarray:
    """Return a mask of the pixels with another label beside, above or below them."""
    edges = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        change = np.diff(labels, axis=axis) != 0
        behind = [(0, 0), (0, 0)]
        behind[axis] = (1, 0)
        edges |= np.pad(change, behind) | np.pad(change, [pair[::-1] for pair in behind])
    return edges


def labelled_plane(volume: Volume, labels: Volume, plane: Plane, field: Field) -> np.ndarray:
    """Return a picture (rows, columns, 3; uint8) of the scan with its labels and the letters of the directions."""
    grey = to_grey(sample_plane(volume, plane, field, PLANE_PIXELS, linear=True, outside=AIR_HU))
    names = sample_plane(labels, plane, field, PLANE_PIXELS, linear=False, outside=anatomy.BACKGROUND)
    picture = tint(grey, names.astype(np.uint8)).astype(np.uint8)
    scale, middle, edge = 3, PLANE_PIXELS // 2, 6
    width, height = ADVANCE * scale, HEIGHT * scale
    left, right, top, bottom = tuple(plane.letters)
    write_text(picture, left, edge, middle - height // 2, scale=scale)
    write_text(picture, right, PLANE_PIXELS - edge - width + scale, middle - height // 2, scale=scale)
    write_text(picture, top, middle - width // 2, edge, scale=scale)
    write_text(picture, bottom, middle - width // 2, PLANE_PIXELS - edge - height, scale=scale)
    write_text(picture, plane.title, edge, edge, colour=GREY)
    return picture


def draw_planes(volume: Volume, labels: Volume, report: CaseReport, path: Path) -> None:
    """Write a PNG of axial, coronal and sagittal plane through the heart, with labels over the scan, and a legend.

    Without labels the planes go through the middle of the scan.
    """
    field = heart_field(labels)
    axial, coronal, sagittal = (labelled_plane(volume, labels, plane, field) for plane in PLANES)
    rows = [np.concatenate(pair, axis=1) for pair in ((axial, sagittal), (coronal, _legend(report)))]
    write_png(np.concatenate(rows), path)


def _legend(report: CaseReport) -> np.ndarray:
    """Return a picture (rows, columns, 3; uint8) with the case, each structure's colour and volume, and the notice."""
    canvas = np.zeros((PLANE_PIXELS, PLANE_PIXELS, 3), dtype=np.uint8)
    width = PLANE_PIXELS // (2 * ADVANCE) - 4
    write_text(canvas, report.case[:width], 24, 24)
    if not report.heart_found:
        write_text(canvas, "No heart was found", 24, 60, colour=AMBER)
    for row, structure in enumerate(anatomy.STRUCTURES):
        y, volume = 100 + 36 * row, report.volumes_ml[structure.name]
        canvas[y - 4 : y + 18, 24:46] = structure.colour
        colour = WHITE if volume else DIM
        write_text(canvas, f"{structure.name:4}{structure.title}", 54, y, colour=colour)
        amount = volume_text(volume) if volume else "none"
        write_text(canvas, amount, PLANE_PIXELS - 12 - 2 * ADVANCE * len(amount), y, colour=colour)
    if report.warnings:
        write_text(canvas, f"Warnings in the report: {len(report.warnings)}", 24, 410, colour=AMBER)
    write_text(canvas, f"{report.package.name} {report.package.version}"[:width], 24, 450, colour=GREY)
    write_text(canvas, NOTICE, 24, 476, colour=GREY)
    return canvas


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write (rows, columns) or (rows, columns, 3) uint8 as PNG, whole or not at all. Raises :class:`OutputError`."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(picture), isVector=picture.ndim == 3)
    question = "is the disk full, or does the name not end in .png?"
    with replace_file(path) as part, itk_errors(path.name, question):
        write_image(image, part, True)

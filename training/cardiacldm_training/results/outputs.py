"""What a segmented case leaves behind: labels for programs, a segmentation for Slicer, a report, and a picture.

The four files of a case are written aside and moved into place together once all are whole. The report is moved last,
so a case with a report is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import AIR_HU, Volume
from CardiacLDMLib.results.report import LABELS, NOTICE, REPORT, CaseReport
from CardiacLDMLib.slicer import segmentations

from ..errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SEGMENTATION, PICTURE = ".seg.nrrd", ".png"
#: Endings of a case's files, in the order they are moved into place.
ENDINGS = (LABELS, SEGMENTATION, PICTURE, REPORT)

#: Level of zlib: on labels half the time of slicerio's default 9 for a tenth more bytes, and a third of those of 3.
COMPRESSION = 6
#: HU that are drawn from black to white.
WINDOW_HU = (-200.0, 500.0)
#: What is shown around the heart, and the least that is shown, in mm.
MARGIN_MM, LEAST_FIELD_MM = 30.0, 120.0
#: Pixels of a plane along each side.
PLANE_PIXELS = 512


def check_folder(out: Path) -> None:
    """Make the folder for results and see whether files can be made in it; :class:`OutputError` if not."""
    with _aside(out):
        pass


def write_results(out: Path, volume: Volume, labels: Volume, report: CaseReport) -> CaseReport:
    """Write the four files of a case to the folder ``out``, replacing earlier ones; all of them whole, or none.

    Returns the report as written, with the seconds of writing. Raises :class:`OutputError` when the folder cannot be
    written to or the disk is full.
    """
    began = time.perf_counter()
    with _moved_when_whole(out, report.case) as aside:
        write_volume(labels, aside / (report.case + LABELS))
        write_segmentation(labels, aside / (report.case + SEGMENTATION))
        draw_planes(volume, labels, report, aside / (report.case + PICTURE))
        seconds = {**report.seconds, "write": time.perf_counter() - began}
        report = report.model_copy(update={"seconds": {stage: round(s, 3) for stage, s in seconds.items()}})
        (aside / (report.case + REPORT)).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


@contextlib.contextmanager
def _moved_when_whole(out: Path, name: str) -> Iterator[Path]:
    """Give an empty folder within ``out``; move a case's files from it into ``out`` once they are on the disk."""
    with _aside(out) as aside:
        yield aside
        files = [name + ending for ending in ENDINGS]
        for file in files:
            with (aside / file).open("rb") as handle:
                os.fsync(handle.fileno())
        (out / files[-1]).unlink(missing_ok=True)  # an old report must not vouch for new labels
        for file in files:
            (aside / file).replace(out / file)


@contextlib.contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """An empty folder within ``out``, gone afterwards. Makes ``out``; trouble with it is an :class:`OutputError`."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"The results need a folder, but {out.name} is a file.")
    aside = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
        yield aside
    except OSError as error:
        where = out.resolve().name
        raise OutputError(f"The results cannot be written to {where}: {error.strerror or error}.") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


# --- the segmentation for Slicer -----------------------------------------------------------------------------------


def write_segmentation(labels: Volume, path: Path) -> None:
    """Write labels (uint8, IJK) as ``.seg.nrrd``: eight segments, empty ones too, with colours and SNOMED CT codes."""
    import slicerio
    from slicerio.segmentation import terminology_entry_from_string

    segments = [
        {
            "id": structure.name,
            "name": structure.title,
            "color": [round(channel / 255, 6) for channel in structure.colour],
            "labelValue": structure.value,
            "layer": 0,
            "status": "inprogress",
            "terminology": terminology_entry_from_string(segmentations.terminology_entry(structure)),
        }
        for structure in anatomy.STRUCTURES
    ]
    segmentation = {
        "voxels": labels.array.astype(np.uint8, copy=False),
        "ijkToLPS": np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.affine,
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": segments,
    }
    slicerio.write_segmentation(str(path), segmentation, compression_level=COMPRESSION)


# --- the picture ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plane:
    """A view: RAS directions to the right and up on the screen, and the letters left, right, top and bottom."""

    title: str
    right: tuple[int, int, int]
    up: tuple[int, int, int]
    letters: str


#: As radiologists look: from the feet, from the front, and from the patient's left.
_PLANES = (
    _Plane("Axial", (-1, 0, 0), (0, 1, 0), "RLAP"),
    _Plane("Coronal", (-1, 0, 0), (0, 0, 1), "RLSI"),
    _Plane("Sagittal", (0, -1, 0), (0, 0, 1), "APSI"),
)


def draw_planes(volume: Volume, labels: Volume, report: CaseReport, path: Path) -> None:
    """Draw an axial, a coronal and a sagittal plane through the heart, labels over the scan, and a legend, as PNG.

    Only the voxels under the three planes are read. Without labels the planes go through the middle of the scan.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a case name in a script that the font lacks
        _figure(volume, labels, report).savefig(path, format="png", facecolor="black")


def _figure(volume: Volume, labels: Volume, report: CaseReport) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    field = _field(labels)
    figure = Figure(figsize=(11.0, 11.4), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    places = ((0.0, 0.485), (0.0, 0.02), (0.5, 0.485))
    for plane, (left, bottom) in zip(_PLANES, places, strict=True):
        _draw_plane(figure.add_axes((left + 0.01, bottom, 0.48, 0.455)), plane, volume, labels, field)
    _write_legend(figure, report)
    return figure


@dataclass(frozen=True)
class _Field:
    """Where the planes meet (RAS mm), and how many mm each shows."""

    centre: np.ndarray
    size_mm: float


def _field(labels: Volume) -> _Field:
    """Where the planes meet (RAS mm) and how much they show (mm): the heart, or the whole scan without one."""
    import cc3d

    statistics = cc3d.statistics(labels.array)
    values = [v for v in (anatomy.VALUE[name] for name in anatomy.HEART) if v < len(statistics["voxel_counts"])]
    counts = statistics["voxel_counts"][values].astype(np.float64)
    if not counts.sum():
        low, high = labels.grid.bounds_ras()
        return _Field((low + high) / 2, float((high - low).max()))
    boxes = [statistics["bounding_boxes"][v] for v, count in zip(values, counts, strict=True) if count]
    start = np.min([[s.start for s in box] for box in boxes], axis=0)
    stop = np.max([[s.stop for s in box] for box in boxes], axis=0)
    low, high = labels.grid.crop(start, stop).bounds_ras()
    present = counts > 0  # the centroid of a structure that is absent is not a number
    index = np.average(statistics["centroids"][values][present], axis=0, weights=counts[present])
    centre = labels.affine[:3, :3] @ index + labels.affine[:3, 3]
    reach = np.maximum(high - centre, centre - low).max()
    return _Field(centre, max(2 * (float(reach) + MARGIN_MM), LEAST_FIELD_MM))


def _sampled(volume: Volume, plane: _Plane, field: _Field, *, linear: bool) -> np.ndarray:
    """(rows, columns) of a plane, lowest row first, as float32; air, or 0 for labels, outside the volume."""
    from scipy.ndimage import affine_transform

    pixel = field.size_mm / PLANE_PIXELS
    normal = np.cross(plane.right, plane.up)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([plane.right, plane.up, normal], axis=1) * pixel
    affine[:3, 3] = field.centre - affine[:3, :2].sum(axis=1) * (PLANE_PIXELS - 1) / 2
    to_index = np.linalg.inv(volume.affine) @ affine
    shape = (PLANE_PIXELS, PLANE_PIXELS, 1)
    values = affine_transform(
        volume.array, to_index[:3, :3], to_index[:3, 3], shape, output=np.float32, order=int(linear),
        mode="constant", cval=AIR_HU if linear else anatomy.BACKGROUND,
    )  # fmt: skip
    return values[:, :, 0].T


def _rgb(structure: anatomy.Structure) -> tuple[float, float, float]:
    red, green, blue = structure.colour
    return red / 255, green / 255, blue / 255


def _tints() -> np.ndarray:
    """(9, 4): translucent colour by label value."""
    table = np.zeros((anatomy.NUM_CLASSES, 4))
    for structure in anatomy.STRUCTURES:
        table[structure.value] = (*_rgb(structure), 0.3)
    return table


def _draw_plane(axes: Axes, plane: _Plane, volume: Volume, labels: Volume, field: _Field) -> None:
    """One view, in millimetres around the field's centre, so that voxels keep their true proportions."""
    from matplotlib.patheffects import withStroke

    half = field.size_mm / 2
    extent = (-half, half, -half, half)
    image = _sampled(volume, plane, field, linear=True)
    label = _sampled(labels, plane, field, linear=False)
    axes.imshow(image, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], origin="lower", extent=extent)
    axes.imshow(_tints()[label.astype(np.uint8)], origin="lower", extent=extent, interpolation="nearest")
    for structure in anatomy.STRUCTURES:
        mask = label == structure.value
        if mask.any():
            colour = _rgb(structure)
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
    """Title above, and in the fourth quarter each structure's colour and volume, the warnings and the notice."""
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
    """The rows of the legend from ``top`` down; returns where they end."""
    for structure in anatomy.STRUCTURES:
        volume = volumes_ml[structure.name]
        colour = "white" if volume else "0.45"
        figure.text(0.54, top, "\N{BLACK SQUARE}", color=_rgb(structure), fontsize=15, va="center")
        figure.text(0.57, top, structure.name, color=colour, fontsize=12, va="center", weight="bold")
        figure.text(0.63, top, structure.title, color=colour, fontsize=12, va="center")
        figure.text(
            0.97, top, f"{volume:.0f} mL" if volume else "none", color=colour, fontsize=12, va="center", ha="right"
        )
        top -= 0.028
    return top

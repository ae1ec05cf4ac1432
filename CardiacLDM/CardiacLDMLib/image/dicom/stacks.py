"""Stacks of DICOM slices: their geometry, and why some form no volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...text import plural
from ..grid import LPS_TO_RAS, MAX_SHEAR
from .headers import Header

#: Largest shift of a slice from its evenly spaced place, as a share of the slice distance: headers are rounded.
MAX_UNEVENNESS = 0.1
#: Distance in mm below which two images lie at the same place.
SAME_PLACE_MM = 0.01
#: Least cosine between the normal of axial slices and the body axis (about 25 degrees).
MIN_AXIAL = 0.9
#: Largest cosine between an image axis and the way from slice to slice that counts as rounded, not as a tilted gantry.
MAX_ROUNDED_TILT = 2e-3
#: Largest shift of the last slice against the first, in pixels, that counts as rounded too.
MAX_DRIFT = 0.5
#: Largest tilt in degrees; scanners' gantries reach 30.
MAX_TILT = 45.0


@dataclass(frozen=True)
class Series:
    """DICOM slices that can form one volume, in the order of their position.

    ``number``: the scanner's series number, made unique. ``shape``: voxels along i, j, k; ``spacing``: mm along them.
    ``length_mm``: from the first slice to the last. ``kind``: the modality, or "scout". ``derived``: computed from
    other images. ``mark``: what tells it apart from others of the same series ("acquisition 2"). ``notes``: sentences
    for the user on what was done to it. ``problem``: the reason why they are no CT volume, as the end of a sentence
    that begins with the series ("is a scout view"); ``misplaced``: the reason is where the slices lie, not what they
    are. Without a problem, ``affine`` (4x4) takes IJK to RAS mm, at right angles; slice k lies ``k * tilt`` (2,) mm
    further along i and j than that, if the gantry was tilted.
    """

    number: str
    uid: str = field(repr=False)
    headers: tuple[Header, ...] = field(repr=False)
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    length_mm: float
    kind: str
    axial: bool
    derived: bool
    affine: np.ndarray | None = field(repr=False, compare=False)
    tilt: tuple[float, float]
    problem: str | None
    misplaced: bool
    mark: str = ""
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(header.path for header in self.headers)

    @property
    def title(self) -> str:
        """Number, slices and spacing, for the user."""
        plane = "axial" if self.axial else "not axial"
        kind = self.kind if self.kind == "scout" else f"{self.kind}, {plane}, {self.spacing[2]:.3g} mm apart"
        mark = f", {self.mark}" if self.mark else ""
        return f"series {self.number} ({plural(self.shape[2], 'slice')}, {kind}{mark})"


def make_series(slices: Sequence[Header], mark: str = "", notes: tuple[str, ...] = ()) -> Series:
    """Return the series of ``slices``, ordered by position, with the problem if they form no volume."""
    first = slices[0]
    problem, misplaced = wrong_kind(first), False
    affine, tilt, distance, length, axial = None, (0.0, 0.0), 0.0, 0.0, False
    rows, columns = np.median([s.spacing for s in slices], axis=0) if first.spacing else (0.0, 0.0)
    if is_placed(slices):
        slices = in_order(slices)
        places = along_normal(slices)
        axial = bool(abs(np.cross(*common_axes(slices))[2]) >= MIN_AXIAL)
        gaps = np.diff(places)
        distance = float(np.median(gaps[gaps >= SAME_PLACE_MM])) if (gaps >= SAME_PLACE_MM).any() else 0.0
        length = float(places[-1] - places[0])
        if problem is None:
            problem = unevenness(slices) or _strays(slices)
            misplaced = problem is not None
        if problem is None:
            affine, tilt = _geometry(slices, float(rows), float(columns))
    elif problem is None:
        problem, misplaced = "has headers that do not say where the slices lie", True
    if np.hypot(*tilt) > 0:
        degrees = np.degrees(np.arctan(np.hypot(*tilt) / distance))
        notes = (*notes, f"The gantry was tilted by {degrees:.3g} degrees: the slices were resampled to right angles.")
    if problem is None and any(s.mirror is not None for s in slices):
        notes = (*notes, "Voxels are marked as inverted (MONOCHROME1): the reading that is like CT was taken.")
    return Series(
        number=first.number,
        uid=first.uid,
        headers=tuple(slices),
        shape=(*first.size, max(len(slices), first.frames)),
        spacing=(float(columns), float(rows), distance),
        length_mm=length,
        kind=first.kind,
        axial=axial,
        derived=all(s.derived for s in slices),
        affine=affine,
        tilt=tilt,
        problem=problem,
        misplaced=misplaced,
        mark=mark,
        notes=notes,
    )


def wrong_kind(header: Header) -> str | None:
    """Return why slices of this kind are no CT volume, or None."""
    if header.kind == "scout":
        return "is a scout view"
    if header.kind != "CT":
        return f"is {header.kind}, not CT"
    if header.colour:
        return "holds colour pictures, not CT numbers"
    if header.frames > 1:
        return "is a multi-frame file: convert it to NIfTI (with dcm2niix) first"
    if header.spacing is None or min(header.spacing) <= 0:
        return "has headers that do not say how large a voxel is"
    return None


# --- places of slices ----------------------------------------------------------------------------------------------


def is_placed(slices: Sequence[Header]) -> bool:
    return all(s.axes and s.position for s in slices)


def common_axes(slices: Sequence[Header]) -> np.ndarray:
    """Return the direction cosines (2, 3; LPS) of a row and a column, at right angles: headers are rounded."""
    axes = np.array([s.axes for s in slices]).reshape(-1, 2, 3)
    mean = axes[0] if (axes == axes[0]).all() else axes.mean(axis=0)
    if np.abs(mean @ mean.T - np.eye(2)).max() > 1e-6:
        u, _, vh = np.linalg.svd(mean, full_matrices=False)
        mean = u @ vh
    return np.asarray(mean)


def along_normal(slices: Sequence[Header]) -> np.ndarray:
    """Return the places (n,) of slices along the normal of their planes, in mm."""
    return np.array([s.position for s in slices]) @ np.cross(*common_axes(slices))


def in_order(slices: Sequence[Header]) -> list[Header]:
    """Return the slices in the order of their places."""
    return [slices[i] for i in np.argsort(along_normal(slices), kind="stable")]


def is_even(slices: Sequence[Header]) -> bool:
    """Return whether slices, in any order, are evenly spaced."""
    return count_missing(slices) == 0


def count_missing(slices: Sequence[Header]) -> int | None:
    """Return how many slices, in any order, lack to be evenly spaced; None if they are uneven in another way."""
    if len(slices) < 2:
        return None
    places = along_normal(in_order(slices))
    gaps = np.diff(places)
    if gaps.min() < SAME_PLACE_MM:
        return None
    usual = _usual_gap(gaps)
    slack = MAX_UNEVENNESS * usual
    rounding = 1.02 * _rounding(slices)
    if np.ptp(gaps) <= rounding <= usual / 2:  # else a wide gap could pass for a rounded one
        slack = max(slack, rounding)
    if np.abs(places - np.linspace(places[0], places[-1], len(places))).max() <= slack:
        return 0
    wide = gaps > 1.5 * usual
    missing = int(np.round(gaps[wide] / usual - 1).sum())
    return missing if missing and np.abs(gaps[~wide] - usual).max() <= slack else None


def _usual_gap(gaps: np.ndarray) -> float:
    return float(np.quantile(gaps, 0.25))  # the median fails if many slices are missing


def unevenness(slices: Sequence[Header]) -> str | None:
    """Return why slices in the order of their places are not evenly spaced, or None."""
    if len(slices) < 2:
        return "is a single slice"
    gaps = np.diff(along_normal(slices))
    same = int((gaps < SAME_PLACE_MM).sum())
    if same:
        return _same_places(len(slices), same)
    missing = count_missing(slices)
    if missing == 0:
        return None
    if missing is None:
        return f"has unevenly spaced slices ({gaps.min():.3g} to {gaps.max():.3g} mm): resample it first"
    usual = _usual_gap(gaps)
    first = int(np.flatnonzero(gaps > 1.5 * usual)[0])
    where = f"after slice {first + 1} the next is {gaps[first]:.3g} mm away, elsewhere {usual:.3g} mm"
    return f"lacks {plural(missing, 'slice')} ({where}): export it again, whole"


def _same_places(images: int, same: int) -> str:
    """Return the problem of ``images`` of which ``same`` lie where another one does; they are no copies."""
    if same < images / 4:
        return f"holds different images at {plural(same, 'place')}: acquisitions overlap, export one of them alone"
    times = images / (images - same)
    return (
        f"holds {times:.3g} images at each place, and its headers do not tell them apart (a 4D series?): "
        "export one phase of the heart beat alone"
    )


def _rounding(slices: Sequence[Header]) -> float:
    """Return the value in mm of the last decimal with which places along the normal are given."""
    axis = int(np.abs(np.cross(*common_axes(slices))).argmax())
    return min(s.precision[axis] for s in slices)


def _strays(slices: Sequence[Header]) -> str | None:
    """Return the problem of evenly spaced slices that do not lie on a straight line, or None."""
    positions = np.array([s.position for s in slices])
    strays = positions - np.linspace(positions[0], positions[-1], len(positions))
    step = np.linalg.norm(positions[-1] - positions[0]) / (len(positions) - 1)
    if np.linalg.norm(strays, axis=1).max() > max(step, *(slices[0].spacing or ())):
        return "has slices that are shifted against each other: resample it first"
    depth = np.ptp(along_normal(slices)) / (len(slices) - 1)
    if depth < step * np.cos(np.radians(MAX_TILT)):
        return "has slices that lie obliquely above each other, more than a tilted gantry allows: resample it first"
    return None


def _geometry(slices: Sequence[Header], rows: float, columns: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the affine (4x4, IJK -> RAS mm) of evenly spaced slices, and their shift (2,) in mm per slice."""
    axes = common_axes(slices)
    first, last = (np.array(s.position) for s in (slices[0], slices[-1]))
    step = (last - first) / (len(slices) - 1)
    tilt = axes @ step
    lean = float(np.abs(tilt).max() / np.linalg.norm(step))
    tilted = lean > MAX_ROUNDED_TILT and float(np.abs(tilt).max()) * (len(slices) - 1) > MAX_DRIFT * min(rows, columns)
    if lean > MAX_ROUNDED_TILT:
        step = step - axes.T @ tilt
    elif lean > 0.9 * MAX_SHEAR:
        axes = axes - np.outer(tilt, step) / (step @ step)
        u, _, vh = np.linalg.svd(axes, full_matrices=False)
        axes = u @ vh
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = axes[0] * columns, axes[1] * rows, step, first
    return LPS_TO_RAS @ affine, (float(tilt[0]), float(tilt[1])) if tilted else (0.0, 0.0)

"""Stacks of DICOM slices: their geometry, and why some form no volume."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import VolumeError
from ...text import plural
from ..grid import LPS_TO_RAS, Grid
from .headers import Header

#: Largest shift of a slice from its evenly spaced place, as a share of the slice distance: headers are rounded.
MAX_UNEVENNESS = 0.1
#: Least cosine between the normal of axial slices and the body axis (about 25 degrees).
MIN_AXIAL = 0.9


@dataclass(frozen=True)
class Series:
    """DICOM slices that can form one volume, in the order of their position.

    ``number``: the scanner's series number, made unique. ``shape``: voxels along i, j, k; ``spacing``: mm along them.
    ``kind``: the modality, or "scout". ``derived``: computed from other images. ``problem``: the reason why they are no
    CT volume, as the end of a sentence that begins with the series ("is a scout view"); if it is None, ``affine`` (4x4)
    takes IJK to RAS mm.
    """

    number: str
    uid: str = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    kind: str
    axial: bool
    derived: bool
    affine: np.ndarray | None = field(repr=False, compare=False)
    problem: str | None

    @property
    def title(self) -> str:
        """Number, slices and spacing, for the user."""
        plane = "axial" if self.axial else "not axial"
        kind = self.kind if self.kind == "scout" else f"{self.kind}, {plane}, {self.spacing[2]:.3g} mm apart"
        return f"series {self.number} ({plural(self.shape[2], 'slice')}, {kind})"


def make_series(slices: list[Header]) -> Series:
    """Return the series of slices with one key, ordered by position, with the problem if they form no volume."""
    first = slices[0]
    affine, problem, distance, axial = None, _wrong_kind(first), 0.0, False
    if first.axes and all(s.position for s in slices):
        normal = np.cross(first.axes[:3], first.axes[3:])
        axial = bool(abs(normal[2]) >= MIN_AXIAL)
        slices = sorted(slices, key=lambda s: float(np.dot(normal, s.position or ())))
        positions = np.array([s.position for s in slices])
        distance = float(np.median(np.diff(positions @ normal))) if len(slices) > 1 else 0.0
        problem = problem or _uneven(positions @ normal)
        if problem is None:
            affine, problem = _affine(first, positions)
    elif problem is None:
        problem = "has headers that do not say where the slices lie"
    rows, columns = first.spacing or (0.0, 0.0)
    return Series(
        number=first.number,
        uid=first.uid,
        files=tuple(s.path for s in slices),
        shape=(*first.size, max(len(slices), first.frames)),
        spacing=(columns, rows, distance),
        kind=first.kind,
        axial=axial,
        derived=first.derived,
        affine=affine,
        problem=problem,
    )


def _wrong_kind(header: Header) -> str | None:
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


def _uneven(along: np.ndarray) -> str | None:
    """Return why slices at these positions (mm, ascending) are not evenly spaced, or None."""
    if len(along) < 2:
        return "is a single slice"
    gaps = np.diff(along)
    same = int((gaps < 0.01).sum())
    if same:
        times = len(along) / (len(along) - same)
        if same < len(along) / 4:
            return f"has {plural(same, 'slice')} twice: remove the copies"
        return f"holds {times:.3g} images at each place (a 4D series): export one phase of the heart beat alone"
    usual = float(np.quantile(gaps, 0.25))  # the median fails if many slices are missing
    even = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - even).max() <= MAX_UNEVENNESS * usual:
        return None
    wide = np.flatnonzero(gaps > 1.5 * usual)
    missing = int(np.round(gaps[wide] / usual - 1).sum())
    narrow = np.delete(gaps, wide)
    if missing and np.abs(narrow - usual).max() <= MAX_UNEVENNESS * usual:
        where = f"after slice {int(wide[0]) + 1} the next is {gaps[wide[0]]:.3g} mm away, elsewhere {usual:.3g} mm"
        return f"lacks {plural(missing, 'slice')} ({where}): export it again, whole"
    return f"has unevenly spaced slices ({gaps.min():.3g} to {gaps.max():.3g} mm): resample it first"


def _affine(header: Header, positions: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Return the affine (IJK -> RAS mm) of evenly spaced slices, or None and the problem."""
    assert header.axes is not None
    assert header.spacing is not None
    affine = np.eye(4)
    affine[:3, 0] = np.array(header.axes[:3]) * header.spacing[1]
    affine[:3, 1] = np.array(header.axes[3:]) * header.spacing[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    strays = positions - np.linspace(positions[0], positions[-1], len(positions))
    if np.linalg.norm(strays, axis=1).max() > max(np.linalg.norm(affine[:3, :3], axis=0)):
        return None, "has slices that are shifted against each other: resample it first"
    try:
        return Grid((*header.size, len(positions)), LPS_TO_RAS @ affine).affine, None
    except VolumeError:  # only shear is left: everything else was checked before
        return None, "is sheared (a tilted gantry?): resample it to right angles first"

"""DICOM files to stacks of slices, and the choice of the stack to segment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import VolumeError
from ..text import plural
from .files import from_sitk
from .grid import Grid, Volume

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

#: How far a slice may lie from its place in an even stack, as a share of the slice distance (headers are rounded).
MAX_UNEVENNESS = 0.1
#: Cosine between a stack's normal and the body axis from which its slices count as axial (some 25 degrees).
MIN_AXIAL = 0.9
#: Another series with at least this share of the slices of the largest one could be meant as well.
RIVAL_SHARE = 0.5

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A stack of DICOM slices of one series, in the order of their position.

    ``number`` is the series number of the scanner, made unique; ``kind`` the modality, or "scout"; ``derived`` means
    computed from other images. ``problem`` says why the stack is no CT volume, as the end of a sentence that begins
    with the series ("is a scout view"); without one ``affine`` (4x4) takes IJK to RAS mm.
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
        """For lists shown to the user: number, slices and spacing."""
        plane = "axial" if self.axial else "not axial"
        what = self.kind if self.kind == "scout" else f"{self.kind}, {plane}, {self.spacing[2]:.3g} mm apart"
        return f"series {self.number} ({plural(self.shape[2], 'slice')}, {what})"


#: Asked for one of several series that could be meant: (case name, series, best first) -> the chosen one.
Ask = Callable[[str, Sequence[Series]], Series]


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM object, by its mark or, where old software left that out, its ending."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in ``folder`` and below."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(p for p in files if p.is_file() and is_dicom(p))


# --- DICOM: from files to stacks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    """What the header of one DICOM image says about its place and kind."""

    path: Path
    study: str
    uid: str
    number: str
    kind: str  # modality, or "scout"
    derived: bool
    size: tuple[int, int]
    colour: bool
    frames: int
    axes: tuple[float, ...] | None  # direction cosines of a row and of a column, LPS
    position: tuple[float, ...] | None  # centre of the first voxel, LPS mm
    spacing: tuple[float, ...] | None  # between rows, between columns, mm

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for slices that can form one volume."""
        axes = tuple(round(x, 3) + 0.0 for x in self.axes) if self.axes else None
        spacing = tuple(round(x, 4) for x in self.spacing) if self.spacing else None
        kind = (self.kind, self.derived, self.size, self.colour, self.frames > 1)
        return (self.uid, self.number, *kind, axes, spacing)


def _header(path: Path) -> _Slice | None:
    """The header of a DICOM image, ``None`` if the file is damaged or no image (a report, a presentation state)."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def text(tag: str) -> str:
        return str(reader.GetMetaData(tag)).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(x) for x in text(tag).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and np.isfinite(values).all() else None

    image_type = text("0008|0008").upper().split("\\")
    return _Slice(
        path=path,
        study=text("0020|000d"),
        uid=text("0020|000e"),
        number=text("0020|0011"),
        kind="scout" if "LOCALIZER" in image_type else text("0008|0060") or "of unknown kind",
        derived="DERIVED" in image_type,
        size=(int(reader.GetSize()[0]), int(reader.GetSize()[1])),
        colour=reader.GetNumberOfComponents() != 1,
        frames=int(reader.GetSize()[2]) if reader.GetDimension() > 2 else 1,
        axes=numbers("0020|0037", 6),
        position=numbers("0020|0032", 3),
        spacing=numbers("0028|0030", 2),
    )


def _study(path: Path) -> str:
    """What tells the study of a DICOM file from others; a file that cannot be read is one of its own."""
    header = _header(path)
    return header.study if header else str(path)


def _stacks(files: Iterable[Path]) -> tuple[list[Series], int]:
    """The stacks that DICOM files form, ordered by number, and how many files hold no readable image."""
    groups: dict[tuple[object, ...], list[_Slice]] = {}
    unread = 0
    for file in files:
        header = _header(file)
        if header is None:
            unread += 1
        else:
            groups.setdefault(header.key, []).append(header)
    stacks = [_stack(slices) for slices in groups.values()]
    stacks.sort(key=lambda s: (not s.number.isdigit(), int(s.number) if s.number.isdigit() else 0, -s.shape[2], s.uid))
    return _numbered(stacks), unread


def _numbered(stacks: list[Series]) -> list[Series]:
    """Each stack with a number of its own: scanners and copies give one twice, or none."""
    taken: set[str] = set()
    out = []
    for stack in stacks:
        number = base = stack.number or "unnumbered"
        count = 1
        while number in taken:
            count += 1
            number = f"{base}-{count}"
        taken.add(number)
        out.append(replace(stack, number=number))
    return out


def _stack(slices: list[_Slice]) -> Series:
    """Slices of one kind in the order of their position, and whether they make a volume."""
    first = slices[0]
    affine, problem, distance, axial = None, _unusable(first), 0.0, False
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


def _unusable(header: _Slice) -> str | None:
    """Why slices of this kind are no CT volume, if so."""
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
    """Why slices at these places (mm, ascending) are no even stack, if so."""
    if len(along) < 2:
        return "is a single slice"
    gaps = np.diff(along)
    same = int((gaps < 0.01).sum())
    if same:
        times = len(along) / (len(along) - same)
        if same < len(along) / 4:
            return f"has {plural(same, 'slice')} twice: remove the copies"
        return f"holds {times:.3g} images at each place (a 4D series): export one phase of the heart beat alone"
    usual = float(np.quantile(gaps, 0.25))  # the median is of no use where many are missing
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


def _affine(header: _Slice, positions: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """IJK -> RAS of an even stack, or why there is none: slices shifted evenly (a tilted gantry) or singly."""
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
    affine[:3] = _LPS_TO_RAS @ affine[:3]
    try:
        return Grid((*header.size, len(positions)), affine).affine, None
    except VolumeError:  # all else that a Grid refuses was looked at before
        return None, "is sheared (a tilted gantry?): resample it to right angles first"


# --- DICOM: choosing and reading -----------------------------------------------------------------------------------


def _choose(name: str, stacks: list[Series], wanted: str | None, ask: Ask | None) -> tuple[Series, list[str]]:
    """The series to segment and what the user should know about the choice; raises :class:`VolumeError` without one."""
    if wanted is not None:
        return _wanted(stacks, wanted), []
    usable = sorted((s for s in stacks if s.problem is None), key=_preference)
    if not usable:
        raise VolumeError(_none_usable(stacks))
    best = usable[0]
    rivals = [s for s in usable[1:] if s.axial == best.axial and s.shape[2] >= RIVAL_SHARE * best.shape[2]]
    if rivals and ask:
        return ask(name, [best, *rivals]), []
    notes = []
    others = [s for s in stacks if s is not best]
    if others:
        notes.append(f"Of several series in the folder, {best.title} was taken, not {_listed(others)}.")
    if rivals:
        notes.append("More than one series could be meant: choose with --series NUMBER.")
    larger = [s for s in stacks if s.problem and s.axial and s.kind != "scout" and s.shape[2] > best.shape[2]]
    notes += [f"Larger, but passed over: series {s.number} {s.problem}." for s in larger]
    return best, notes


def _preference(series: Series) -> tuple[bool, bool, int, bool]:
    """Sorts the series first that most likely is the scan: axial slices, most of them, as scanned."""
    return series.problem is not None, not series.axial, -series.shape[2], series.derived


def _wanted(stacks: list[Series], wanted: str) -> Series:
    matching = [s for s in stacks if wanted.strip() in (s.number, s.uid)]
    if not matching:
        raise VolumeError(f"There is no series {wanted}, only {_listed(stacks)}.")
    best = min(matching, key=_preference)
    if best.problem:
        raise VolumeError(f"Series {best.number} {best.problem}.")
    return best


def _none_usable(stacks: list[Series]) -> str:
    if len(stacks) == 1:
        return f"Its only series {stacks[0].problem}."
    return (
        f"None of its {len(stacks)} series can be used: " + "; ".join(f"{s.number} {s.problem}" for s in stacks) + "."
    )


def _listed(stacks: Sequence[Series]) -> str:
    return ", ".join(s.title for s in stacks)


def _read_series(series: Series) -> Volume:
    import SimpleITK as sitk

    assert series.affine is not None
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(p) for p in series.files])
    try:
        volume = from_sitk(reader.Execute())
    except RuntimeError as error:
        raise VolumeError("The DICOM slices cannot be read: a file is damaged or cut short.") from error
    if volume.array.shape != series.shape:
        raise VolumeError("The DICOM slices cannot be read: they differ in size.")
    # ITK takes slice distance from two slices and cannot express a tilt: the geometry is the one from all headers.
    return Volume(volume.array, series.affine)

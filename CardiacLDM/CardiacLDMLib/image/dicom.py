"""Sort DICOM files into series, choose one of them, and read its voxels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import VolumeError
from ..text import plural, unique_name
from .files import from_sitk
from .grid import LPS_TO_RAS, Grid, Volume

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

#: Largest shift of a slice from its evenly spaced place, as a share of the slice distance: headers are rounded.
MAX_UNEVENNESS = 0.1
#: Least cosine between the normal of axial slices and the body axis (about 25 degrees).
MIN_AXIAL = 0.9
#: A series with at least this share of the best one's slices is a likely choice too.
RIVAL_SHARE = 0.5


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


#: Asks the user to choose: (case name, likely series, best first) -> the chosen one.
Ask = Callable[[str, Sequence[Series]], Series]


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM object, by its ending or by the mark ``DICM``, which old files may lack."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files in ``folder`` and its sub-folders."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(p for p in files if p.is_file() and is_dicom(p))


# --- from files to series ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    """Place and kind of one DICOM image, from its header."""

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
        """A key that slices which can form one volume share."""
        axes = tuple(round(x, 3) + 0.0 for x in self.axes) if self.axes else None
        spacing = tuple(round(x, 4) for x in self.spacing) if self.spacing else None
        kind = (self.kind, self.derived, self.size, self.colour, self.frames > 1)
        return (self.uid, self.number, *kind, axes, spacing)


def _read_header(path: Path) -> _Slice | None:
    """Read the header of a DICOM image; None if the file is damaged or no image (a report, a presentation state)."""
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


def study_of(path: Path) -> str:
    """Return the study UID of a DICOM file; a file that cannot be read gets a study of its own."""
    header = _read_header(path)
    return header.study if header else str(path)


def find_series(files: Iterable[Path]) -> tuple[list[Series], int]:
    """Return the series in DICOM files, sorted by number, and the number of files without a readable image."""
    groups: dict[tuple[object, ...], list[_Slice]] = {}
    unread = 0
    for file in files:
        header = _read_header(file)
        if header is None:
            unread += 1
        else:
            groups.setdefault(header.key, []).append(header)
    candidates = [_make_series(slices) for slices in groups.values()]
    candidates.sort(key=_number_order)
    return _make_numbers_unique(candidates), unread


def _number_order(series: Series) -> tuple[bool, int, int, str]:
    """Return the key that sorts by number, then by falling number of slices; series without a number come last."""
    number = int(series.number) if series.number.isdigit() else 0
    return not series.number.isdigit(), number, -series.shape[2], series.uid


def _make_numbers_unique(candidates: list[Series]) -> list[Series]:
    """Return the series with unique numbers: scanners and copies may use a number twice, or none."""
    taken: set[str] = set()
    return [replace(series, number=unique_name(series.number or "unnumbered", taken)) for series in candidates]


def _make_series(slices: list[_Slice]) -> Series:
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


def _wrong_kind(header: _Slice) -> str | None:
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


def _affine(header: _Slice, positions: np.ndarray) -> tuple[np.ndarray | None, str | None]:
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


# --- choosing and reading ------------------------------------------------------------------------------------------


def choose_series(
    name: str, candidates: list[Series], wanted: str | None = None, ask: Ask | None = None
) -> tuple[Series, list[str]]:
    """Choose the series to segment: ``wanted`` by number or UID, else the axial CT with most slices.

    ``ask`` is called with the case's ``name`` if several are likely. Returns the series and sentences on the choice for
    the user. Raises :class:`VolumeError` if no series can be used.
    """
    if wanted is not None:
        return _find_wanted(candidates, wanted), []
    usable = sorted((s for s in candidates if s.problem is None), key=_preference)
    if not usable:
        raise VolumeError(_none_usable(candidates))
    best = usable[0]
    rivals = [s for s in usable[1:] if s.axial == best.axial and s.shape[2] >= RIVAL_SHARE * best.shape[2]]
    if rivals and ask:
        return ask(name, [best, *rivals]), []
    notes = []
    others = [s for s in candidates if s is not best]
    if others:
        notes.append(f"Of several series in the folder, {best.title} was taken, not {_titles(others)}.")
    if rivals:
        notes.append("More than one series could be meant: choose with --series NUMBER.")
    larger = [s for s in candidates if s.problem and s.axial and s.kind != "scout" and s.shape[2] > best.shape[2]]
    notes += [f"Larger, but passed over: series {s.number} {s.problem}." for s in larger]
    return best, notes


def _preference(series: Series) -> tuple[bool, bool, int, bool]:
    """Return the key that sorts the most likely series first: axial, with most slices, not derived."""
    return series.problem is not None, not series.axial, -series.shape[2], series.derived


def _find_wanted(candidates: list[Series], wanted: str) -> Series:
    matching = [s for s in candidates if wanted.strip() in (s.number, s.uid)]
    if not matching:
        raise VolumeError(f"There is no series {wanted}, only {_titles(candidates)}.")
    best = min(matching, key=_preference)
    if best.problem:
        raise VolumeError(f"Series {best.number} {best.problem}.")
    return best


def _none_usable(candidates: list[Series]) -> str:
    if len(candidates) == 1:
        return f"Its only series {candidates[0].problem}."
    problems = "; ".join(f"{series.number} {series.problem}" for series in candidates)
    return f"None of its {len(candidates)} series can be used: {problems}."


def _titles(candidates: Sequence[Series]) -> str:
    return ", ".join(series.title for series in candidates)


def read_series(series: Series) -> Volume:
    """Read the voxels of a series without a ``problem``, in Hounsfield units. Raises :class:`VolumeError`."""
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
    # ITK takes the slice distance from two slices and cannot express a tilt; this geometry comes from all headers.
    return Volume(volume.array, series.affine)

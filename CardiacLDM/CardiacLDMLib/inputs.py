"""Finding the cases among what the user names, and reading each as a :class:`~.volume.Volume`.

A case is a volume file (NIfTI, NRRD, MHA/MHD) or a folder of DICOM slices. Of DICOM only what says where the voxels lie
and what they mean is read: no name, number or description of a patient is taken from a header. Cases are named after
their file or folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .volume import Grid, Volume, VolumeError, from_sitk, read_volume

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
#: Results of this program and labels of cohorts, left out when a folder is searched.
LABEL_ENDINGS = (".seg.nrrd", ".labels.nii.gz", ".labels.nii")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

#: How far a slice may lie from its place in an even stack, as a share of the slice distance (headers are rounded).
MAX_UNEVENNESS = 0.1
#: Cosine between a stack's normal and the body axis from which its slices count as axial (some 25 degrees).
MIN_AXIAL = 0.9
#: Another series with at least this share of the slices of the largest one could be meant as well.
RIVAL_SHARE = 0.5

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class InputError(ValueError):
    """Something named as input that cannot be used; the message is one sentence for the user."""


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
        return f"series {self.number} ({self.shape[2]} slice{'s' if self.shape[2] > 1 else ''}, {what})"


@dataclass(frozen=True)
class Case:
    """One scan to be segmented: a file, or the slices of ``series`` in the folder ``path``."""

    name: str
    path: Path = field(repr=False)
    series: Series | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """An input that is no case, with the reason in one sentence."""

    name: str
    reason: str


#: Asked for one of several series that could be meant: (case name, series, best first) -> the chosen one.
Ask = Callable[[str, Sequence[Series]], Series]


def find_cases(inputs: Iterable[Path], series: str | None = None, ask: Ask | None = None) -> list[Case | Refused]:
    """The cases that the ``inputs`` hold, in their order, each with a name of its own; what is none says why.

    A file is a case. A folder with DICOM slices is a case, as is one whose sub-folders hold series of one study; of
    any other folder each volume file and each sub-folder is a case. ``series`` picks one of several by its number or
    UID; without it ``ask`` is asked where several could be meant, and without ``ask`` the largest is taken.
    """
    found: list[Case | Refused] = []
    seen: set[Path] = set()
    names: set[str] = set()
    for path in inputs:
        for name, place, slices in _expand(path):
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            unique = _unique(name, names)
            try:
                found.append(_case(unique, place, slices, series, ask))
            except InputError as error:
                found.append(Refused(unique, str(error)))
    return found


def read_case(case: Case) -> Volume:
    """The voxels of a case in Hounsfield units, as int16 where that holds them, otherwise float32.

    Raises :class:`VolumeError` when they cannot be read.
    """
    return _compact(read_volume(case.path) if case.series is None else _read_series(case.series))


def _case(name: str, path: Path, slices: list[Path] | None, series: str | None, ask: Ask | None) -> Case:
    if slices is None:
        _check_file(path)
        return Case(name, path)
    stacks, unread = _stacks(slices)
    if not stacks:
        raise InputError(f"{path.resolve().name} holds no DICOM images that can be read.")
    chosen, notes = _choose(name, stacks, series, ask)
    if unread:
        notes = [*notes, f"{unread} DICOM file{'s' if unread > 1 else ''} without a readable image left out."]
    return Case(name, path, chosen, tuple(notes))


# --- files and folders ---------------------------------------------------------------------------------------------

_Found = tuple[str, Path, list[Path] | None]  # name, file or folder, its DICOM files


def _expand(path: Path) -> Iterator[_Found]:
    """What is to be looked at under ``path``: volume files, and folders with their DICOM files."""
    if not path.is_dir():
        yield _stem(path), path, None
        return
    folders = [(p, _dicom_files(p)) for p in _entries(path) if p.is_dir()]
    with_slices = [(p, files) for p, files in folders if files]
    own = [p for p in _entries(path) if p.is_file() and is_dicom(p)]
    volumes = _volumes(path)
    if own or (not volumes and len(with_slices) > 1 and len({_study(files[0]) for _, files in with_slices}) == 1):
        yield _stem(path), path, own + [file for _, files in with_slices for file in files]
        with_slices = []
    yield from ((_stem(p), p, None) for p in volumes)
    for folder, files in folders:
        inner = _volumes(folder)
        yield from ((_stem(folder) if len(inner) == 1 else f"{_stem(folder)}-{_stem(p)}", p, None) for p in inner)
        if (folder, files) in with_slices:
            yield _stem(folder), folder, files
    if not (own or volumes or any(files or _volumes(p) for p, files in folders)):
        yield _stem(path), path, None


def _check_file(path: Path) -> None:
    name = path.resolve().name
    if path.is_dir():
        raise InputError(f"{name} holds no NIfTI, NRRD or MHA volume and no DICOM slices.")
    if not path.exists():
        raise InputError(f"There is no file or folder {name}.")
    if not path.is_file():
        raise InputError(f"{name} is not a file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{name} may not be read: check its permissions.")
    if is_dicom(path):
        raise InputError(f"{name} is a single DICOM slice: name the folder that holds the series.")
    if path.stat().st_size and not path.name.lower().endswith(VOLUME_ENDINGS):
        raise InputError(f"{name} is not a NIfTI, NRRD or MHA volume (by its ending).")


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


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return []


def _volumes(folder: Path) -> list[Path]:
    """The volume files directly in ``folder``, without those that hold labels."""
    return [
        p
        for p in _entries(folder)
        if p.name.lower().endswith(VOLUME_ENDINGS)
        and not p.name.lower().endswith(LABEL_ENDINGS)
        and _stem(p).lower() != "labels"
        and p.is_file()
    ]


def _dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in ``folder`` and below."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(p for p in files if p.is_file() and is_dicom(p))


def _stem(path: Path) -> str:
    """The name of a case: of the file without its ending, or of the folder."""
    path = path.resolve()
    name = path.name
    if not path.is_dir():
        ending = next((e for e in VOLUME_ENDINGS if name.lower().endswith(e)), path.suffix)
        name = name[: len(name) - len(ending)]
    return name.strip(" .") or "case"


def _unique(name: str, taken: set[str]) -> str:
    """``name``, or ``name-2``, ``name-3``, ... if taken; case is ignored, as some file systems do."""
    unique, count = name, 1
    while unique.casefold() in taken:
        count += 1
        unique = f"{name}-{count}"
    taken.add(unique.casefold())
    return unique


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
            return f"has {same} slice{'s' if same > 1 else ''} twice: remove the copies"
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
        return f"lacks {missing} slice{'s' if missing > 1 else ''} ({where}): export it again, whole"
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
    """The series to segment and what the user should know about the choice; raises :class:`InputError` without one."""
    if wanted is not None:
        return _wanted(stacks, wanted), []
    usable = sorted((s for s in stacks if s.problem is None), key=_preference)
    if not usable:
        raise InputError(_none_usable(stacks))
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
        raise InputError(f"There is no series {wanted}, only {_listed(stacks)}.")
    best = min(matching, key=_preference)
    if best.problem:
        raise InputError(f"Series {best.number} {best.problem}.")
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


def _compact(volume: Volume) -> Volume:
    """The same values in fewer bytes: readers return 64-bit floats for any slope, 32-bit integers for 16-bit data."""
    array = volume.array
    if array.dtype == np.float64:
        return Volume(array.astype(np.float32), volume.affine)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1 and array.dtype != np.int16:
        limits = np.iinfo(np.int16)
        fits = limits.min <= array.min() and array.max() <= limits.max
        return Volume(array.astype(np.int16 if fits else np.float32), volume.affine)
    return volume

"""Find cases in files and folders that the user names, and read each as a :class:`~.grid.Volume`.

A case is a volume file (NIfTI, NRRD, MHA/MHD) or a folder of DICOM slices, and is named after that file or folder. From
DICOM headers only the geometry and the meaning of the voxels are read: no name, number or description of a patient.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import VolumeError, explain
from ..text import plural, printable, unique_name
from .case_names import Place, case_name, names_in_tree
from .dicom.choice import Ask, choose_series
from .dicom.headers import is_dicom
from .dicom.series import find_series
from .dicom.stacks import Series
from .dicom.voxels import read_series
from .files import read_with_notes
from .grid import Volume
from .headers import is_segmentation
from .tree import VOLUME_ENDINGS, Contents, Study, common_folder, search


@dataclass(frozen=True)
class Case:
    """One scan: a file, or the slices of ``series`` in the folder ``path``; ``notes`` are sentences for the user.

    ``study`` tells the DICOM study from others in the same folder; it is empty for a file.
    """

    name: str
    path: Path = field(repr=False)
    series: Series | None = None
    notes: tuple[str, ...] = ()
    study: str = ""


@dataclass(frozen=True)
class Refused:
    """An input that cannot be used as a case, with the reason in one sentence."""

    name: str
    reason: str


def find_cases(inputs: Iterable[Path], series: str | None = None, ask: Ask | None = None) -> list[Case | Refused]:
    """Return the cases in ``inputs``, in their order, with unique names; :class:`Refused` for other inputs.

    A file is a case. In a folder each volume file and each DICOM study is a case, however deep it lies. ``series``
    chooses a DICOM series by its number or UID; a UID leaves out the studies of a folder that lack it. Without it
    ``ask`` is called if several are likely, and without ``ask`` the largest is taken.
    """
    cases: list[Case | Refused] = []
    places: set[str] = set()
    names: set[str] = set()
    for path in inputs:
        for name, found in _expand(path, series):
            place = os.path.realpath(found.place)
            if place in places:
                continue
            places.add(place)
            unique = unique_name(name, names)
            try:
                cases.append(_case(unique, found, series, ask))
            except Exception as error:  # one input must not hide the others
                cases.append(Refused(unique, explain(error).message))
    return cases


def read_case(case: Case) -> Volume:
    """Read a case as :func:`read_case_with_notes` does, without the notes."""
    return read_case_with_notes(case)[0]


def read_case_with_notes(case: Case) -> tuple[Volume, tuple[str, ...]]:
    """Read the voxels of a case in Hounsfield units: int16 if that holds them, otherwise float32.

    Returns the volume, and sentences for the user on its place. Raises :class:`VolumeError`.
    """
    volume, notes = read_with_notes(case.path) if case.series is None else (read_series(case.series), ())
    return _compact(volume), notes


# --- one case ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What may be a case: a volume file, a DICOM study with its series, or what cannot be used for ``reason``."""

    path: Path
    study: Study | None = None
    candidates: list[Series] = field(default_factory=list)
    reason: str = ""

    @property
    def place(self) -> Path:
        """A file or folder that no other case shares."""
        return self.study.headers[0].path if self.study and self.study.headers else self.path


def _case(name: str, found: _Found, series: str | None, ask: Ask | None) -> Case:
    """Return the case. Raises :class:`VolumeError`, with a reason, if there is none."""
    if found.reason:
        raise VolumeError(found.reason)
    if found.study is None:
        _check_file(found.path)
        return Case(name, found.path)
    left_out = f"{plural(found.study.unread, 'DICOM file')} without a readable image left out."
    try:
        chosen, notes = choose_series(name, found.candidates, series, ask)
    except VolumeError as error:
        if not found.study.unread:
            raise
        raise VolumeError(f"{error} {left_out}") from error  # damaged files are why slices are missing
    if found.study.unread:
        notes = [*notes, left_out]
    return Case(name, found.path, chosen, tuple(notes), found.study.key)


def _check_file(path: Path) -> None:
    """Raise :class:`VolumeError` unless ``path`` can be a volume file."""
    name = printable(_base_name(path))
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise VolumeError(_why_absent(path, name, error)) from error
    if stat.S_ISDIR(status.st_mode):
        raise VolumeError(f"{name} holds no NIfTI, NRRD or MHA volume and no DICOM slices.")
    if not stat.S_ISREG(status.st_mode):
        raise VolumeError(f"{name} is not a file.")
    if not os.access(path, os.R_OK):
        raise VolumeError(f"{name} may not be read: check its permissions.")
    if is_dicom(path):
        raise VolumeError(f"{name} is a single DICOM slice: name the folder that holds the series.")
    if status.st_size and not path.name.lower().endswith(VOLUME_ENDINGS):
        raise VolumeError(f"{name} is not a NIfTI, NRRD or MHA volume (by its ending).")
    if is_segmentation(path):
        raise VolumeError(f"{name} is a segmentation, not a scan.")


def _why_absent(path: Path, name: str, error: OSError | ValueError) -> str:
    """Return the reason why nothing is known about a file or folder."""
    number = error.errno if isinstance(error, OSError) else errno.ENOENT
    if number == errno.ELOOP:
        return f"{name} is a link that leads to itself."
    if number == errno.ENAMETOOLONG:
        return f"{name} cannot be opened: its path is too long for this computer."
    if number in (errno.EACCES, errno.EPERM):
        return f"{name} may not be read: check its permissions."
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"{name} is a link to nothing." if _is_link(path) else f"There is no file or folder {name}."
    return f"{name} cannot be opened: {os.strerror(number) if number else error}."


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except ValueError:
        return False


# --- files and folders ---------------------------------------------------------------------------------------------


def _expand(path: Path, series: str | None) -> Iterator[tuple[str, _Found]]:
    """Yield what may be a case under ``path``, with its name."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        is_folder = False
    if not is_folder:
        yield case_name(_stem(path)), _Found(path)
        return
    found = _in_folder(path, search(path))
    if not found:
        yield case_name(_base_name(path)), _Found(path)  # which _check_file refuses
        return
    found.sort(key=lambda pair: pair[0].parts)
    names = names_in_tree(_base_name(path), [place for place, _ in found])
    holds = [any(s.uid == (series or "").strip() for s in each.candidates) for _, each in found]
    for name, (_, each), has_it in zip(names, found, holds, strict=True):
        if has_it or not any(holds):
            yield name, each


def _in_folder(root: Path, contents: Contents) -> list[tuple[Place, _Found]]:
    found = [(Place(path.parent.relative_to(root).parts, _stem(path)), _Found(path)) for path in contents.volumes]
    for study in contents.studies:
        place = Place(_own_folder(study, contents.studies).relative_to(root).parts)
        candidates, reason = [], study.problem
        if not reason:
            try:
                candidates = find_series(study.headers)
            except Exception as error:  # one study must not hide the others
                reason = explain(error).message
        found.append((place, _Found(study.folder, study, candidates, reason)))
    for folder, why in contents.closed:
        reason = f"The folder {printable(_base_name(folder))} cannot be opened: {why}."
        found.append((Place(folder.relative_to(root).parts), _Found(folder, reason=reason)))
    return found


def _own_folder(study: Study, studies: list[Study]) -> Path:
    """Return a folder that holds the study and, if possible, no other one."""
    if not study.headers or sum(other.folder == study.folder for other in studies) == 1:
        return study.folder
    return common_folder(header.path.parent for header in study.headers if header.uid == study.headers[0].uid)


def _base_name(path: Path) -> str:
    """Return the name of a file or folder without its parents, also for "."."""
    return os.path.basename(os.path.abspath(path))


def _stem(path: Path) -> str:
    """Return the name of a volume file without its ending."""
    name = _base_name(path)
    ending = next((e for e in VOLUME_ENDINGS if name.lower().endswith(e)), os.path.splitext(name)[1])
    return name[: len(name) - len(ending)].strip(" .") or "case"


def _compact(volume: Volume) -> Volume:
    """Return the same values in fewer bytes: readers return float64 for any slope, and int32 for 16-bit data."""
    array = volume.array
    if array.dtype == np.float64:
        return Volume(array.astype(np.float32), volume.affine)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1 and array.dtype != np.int16:
        limits = np.iinfo(np.int16)
        fits = limits.min <= array.min() and array.max() <= limits.max
        return Volume(array.astype(np.int16 if fits else np.float32), volume.affine)
    return volume

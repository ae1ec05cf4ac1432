"""Find cases in files and folders that the user names, and read each as a :class:`~.grid.Volume`.

A case is a volume file (NIfTI, NRRD, MHA/MHD) or a folder of DICOM slices, and is named after that file or folder. From
DICOM headers only the geometry and the meaning of the voxels are read: no name, number or description of a patient.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import VolumeError
from ..text import plural, unique_name
from .dicom.choice import Ask, choose_series
from .dicom.headers import find_dicom_files, is_dicom, study_of
from .dicom.series import find_series
from .dicom.stacks import Series
from .dicom.voxels import read_series
from .files import read_with_notes
from .grid import Volume

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
#: Endings of label files, which are left out when a folder is searched.
LABEL_ENDINGS = (".seg.nrrd", ".labels.nii.gz", ".labels.nii")


@dataclass(frozen=True)
class Case:
    """One scan: a file, or the slices of ``series`` in the folder ``path``; ``notes`` are sentences for the user."""

    name: str
    path: Path = field(repr=False)
    series: Series | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """An input that cannot be used as a case, with the reason in one sentence."""

    name: str
    reason: str


def find_cases(inputs: Iterable[Path], series: str | None = None, ask: Ask | None = None) -> list[Case | Refused]:
    """Return the cases in ``inputs``, in their order, with unique names; :class:`Refused` for other inputs.

    A file is a case. A folder with DICOM slices is a case, and so is a folder whose sub-folders hold series of one
    study; in any other folder each volume file and each sub-folder is a case. ``series`` chooses a DICOM series by its
    number or UID. Without it ``ask`` is called if several are likely, and without ``ask`` the largest is taken.
    """
    cases: list[Case | Refused] = []
    places: set[Path] = set()
    names: set[str] = set()
    for path in inputs:
        for name, place, slices in _expand(path):
            if place.resolve() in places:
                continue
            places.add(place.resolve())
            unique = unique_name(name, names)
            try:
                cases.append(_case(unique, place, slices, series, ask))
            except VolumeError as error:
                cases.append(Refused(unique, str(error)))
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


def _case(name: str, path: Path, slices: list[Path] | None, series: str | None, ask: Ask | None) -> Case:
    if slices is None:
        _check_file(path)
        return Case(name, path)
    candidates, unread = find_series(slices)
    if not candidates:
        raise VolumeError(f"{path.resolve().name} holds no DICOM images that can be read.")
    chosen, notes = choose_series(name, candidates, series, ask)
    if unread:
        notes = [*notes, f"{plural(unread, 'DICOM file')} without a readable image left out."]
    return Case(name, path, chosen, tuple(notes))


# --- files and folders ---------------------------------------------------------------------------------------------


def _expand(path: Path) -> Iterator[tuple[str, Path, list[Path] | None]]:
    """Yield the cases under ``path``: name, volume file or folder, and the DICOM files of a folder (None for a file).

    A folder without any case is yielded as if it were a file; :func:`_check_file` refuses it.
    """
    if not path.is_dir():
        yield _stem(path), path, None
        return
    folders = [(p, find_dicom_files(p)) for p in _entries(path) if p.is_dir()]
    with_slices = [(p, files) for p, files in folders if files]
    own = [p for p in _entries(path) if p.is_file() and is_dicom(p)]
    volumes = _volumes(path)
    if own or (not volumes and len(with_slices) > 1 and len({study_of(files[0]) for _, files in with_slices}) == 1):
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
    """Raise :class:`VolumeError` unless ``path`` can be a volume file."""
    name = path.resolve().name
    if path.is_dir():
        raise VolumeError(f"{name} holds no NIfTI, NRRD or MHA volume and no DICOM slices.")
    if not path.exists():
        raise VolumeError(f"There is no file or folder {name}.")
    if not path.is_file():
        raise VolumeError(f"{name} is not a file.")
    if not os.access(path, os.R_OK):
        raise VolumeError(f"{name} may not be read: check its permissions.")
    if is_dicom(path):
        raise VolumeError(f"{name} is a single DICOM slice: name the folder that holds the series.")
    if path.stat().st_size and not path.name.lower().endswith(VOLUME_ENDINGS):
        raise VolumeError(f"{name} is not a NIfTI, NRRD or MHA volume (by its ending).")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return []


def _volumes(folder: Path) -> list[Path]:
    """Return the volume files directly in ``folder``, without label files."""
    return [
        p
        for p in _entries(folder)
        if p.name.lower().endswith(VOLUME_ENDINGS)
        and not p.name.lower().endswith(LABEL_ENDINGS)
        and _stem(p).lower() != "labels"
        and p.is_file()
    ]


def _stem(path: Path) -> str:
    """Return the name of a case: that of the folder, or of the file without its ending."""
    path = path.resolve()
    name = path.name
    if not path.is_dir():
        ending = next((e for e in VOLUME_ENDINGS if name.lower().endswith(e)), path.suffix)
        name = name[: len(name) - len(ending)]
    return name.strip(" .") or "case"


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

"""Find volume files and DICOM studies in a folder, however deep they lie.

Every study is a case of its own, also if its series lie in several sub-folders or share a folder with another study.
A folder that links lead to is searched once.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import VolumeError
from ..text import printable
from .dicom.encoding import read_head
from .dicom.headers import Header, is_dicom, read_headers

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
#: Endings of label files, which are left out when a folder is searched.
LABEL_ENDINGS = (".seg.nrrd", ".labels.nii.gz", ".labels.nii", ".seg.dcm")
#: Folders that systems make beside the data.
SYSTEM_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")
#: Beginnings of the kinds of DICOM files that are no images: reports, presentation states, documents, plans, raw data.
_OTHER_KINDS = tuple(f"1.2.840.10008.5.1.4.1.1.{kind}".encode() for kind in ("88.", "11.", "104.", "481.", "66\0"))


@dataclass(frozen=True)
class Study:
    """The images of one DICOM study, or files without a readable image, which belong to none.

    ``key`` tells it from others and identifies nobody. ``folder``: the lowest one that holds all its files. ``unread``:
    number of DICOM files without a readable image. ``problem``: why there are no images, if there are none.
    """

    key: str
    folder: Path
    headers: tuple[Header, ...] = field(default=(), repr=False)
    unread: int = 0
    problem: str = ""


@dataclass
class Contents:
    """What a folder and its sub-folders hold. ``closed``: folders that cannot be opened, with the reason."""

    volumes: list[Path] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)
    closed: list[tuple[Path, str]] = field(default_factory=list)


def search(root: Path) -> Contents:
    """Return what lies in the folder ``root`` and its sub-folders, in the order of the paths."""
    found, slices = Contents(), []
    for folder, files in _folders(root, found.closed):
        found.volumes += [path for path in files if _is_volume(path)]
        others = (path for path in files if not path.name.lower().endswith((*VOLUME_ENDINGS, *LABEL_ENDINGS)))
        dicom = [path for path in others if _is_dicom_file(path)]
        if dicom:
            slices.append(_read_folder(folder, dicom))
    found.volumes.sort()
    found.studies = _studies(root, slices)
    return found


# --- folders -------------------------------------------------------------------------------------------------------


def _folders(root: Path, closed: list[tuple[Path, str]]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield every folder once, with its files. Those that only links lead to come last, under the link's name."""
    waiting, linked, seen = [root], list[Path](), set[tuple[int, int]]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            status = os.stat(folder)
            if status.st_ino and (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            closed.append((folder, error.strerror or str(error)))
            continue
        files = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                continue
            if _is_folder(entry):
                (linked if entry.is_symlink() else waiting).append(folder / entry.name)
            else:
                files.append(folder / entry.name)
        yield folder, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_volume(path: Path) -> bool:
    """Return whether a file is a volume by its ending, and no label map. It may be no file at all, which is refused."""
    name = path.name.lower()
    ending = next((ending for ending in VOLUME_ENDINGS if name.endswith(ending)), None)
    return ending is not None and not name.endswith(LABEL_ENDINGS) and name.removesuffix(ending) != "labels"


def _is_dicom_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and is_dicom(path)  # reading a pipe would wait for ever
    except OSError:
        return False


# --- studies -------------------------------------------------------------------------------------------------------


@dataclass
class _Slices:
    """The DICOM files directly in a folder: headers of images, and the files without a readable image."""

    folder: Path
    headers: list[Header]
    unread: list[Path]
    problem: str = ""


def _read_folder(folder: Path, files: list[Path]) -> _Slices:
    try:
        return _Slices(folder, *read_headers(files))
    except VolumeError as error:
        return _Slices(folder, [], files, str(error))


def _studies(root: Path, slices: Sequence[_Slices]) -> list[Study]:
    """Return the studies, ordered by folder, and then one entry for each folder with files that belong to none."""
    groups = _groups(slices)
    folders = {key: {header.path.parent for header in headers} for key, headers in groups.items()}
    unread: dict[str, int] = dict.fromkeys(groups, 0)
    strays = []
    for each in slices:
        if each.unread:
            key = _nearest(root, each.folder, folders)
            if key is not None:
                unread[key] += len(each.unread)
            elif not groups or any(_may_be_image(path) for path in each.unread):
                strays.append(each)
    studies = [Study(key, common_folder(folders[key]), tuple(headers), unread[key]) for key, headers in groups.items()]
    studies.sort(key=lambda study: (study.folder, study.headers[0].path))
    return studies + [_stray(each) for each in _joined(root, strays, joined=not groups)]


def _groups(slices: Sequence[_Slices]) -> dict[str, list[Header]]:
    """Return the headers by the key of their study. Images that name no study belong together within a folder.

    So do images that all name different ones: some tools give every file UIDs of its own.
    """
    by_study: dict[str, dict[str, list[Header]]] = {}
    for each in slices:
        headers = each.headers
        if len(headers) > 2 and len({header.study for header in headers}) == len(headers):
            headers = [replace(header, study="") for header in headers]
        for header in headers:
            study = header.study or os.path.realpath(each.folder)
            by_study.setdefault(study, {}).setdefault(header.patient, []).append(header)
    groups = {}
    for study, patients in by_study.items():
        nameless = patients.pop("", [])
        if not patients:
            patients[""] = []
        max(patients.values(), key=len).extend(nameless)
        for patient, headers in patients.items():
            groups[hashlib.sha256(os.fsencode(f"{study}\n{patient}")).hexdigest()[:16]] = headers
    return groups


def _nearest(root: Path, folder: Path, folders: Mapping[str, Iterable[Path]]) -> str | None:
    """Return the key of the study whose images lie nearest to ``folder``: in it, beside it, or above.

    Below ``root`` itself only the one study that there is counts: next to several patients a folder is one of its own.
    """
    while True:
        near = [key for key, places in folders.items() if any(place.is_relative_to(folder) for place in places)]
        if folder == root:
            return near[0] if len(folders) == 1 or any(root in places for places in folders.values()) else None
        if near:
            return near[0]
        folder = folder.parent


def _may_be_image(path: Path) -> bool:
    """Return whether a DICOM file may be a damaged image, and is no report, plan or the like."""
    return not any(kind in read_head(path) for kind in _OTHER_KINDS)


def _joined(root: Path, strays: list[_Slices], *, joined: bool) -> list[_Slices]:
    """Return the folders without images, as one if there are no images anywhere."""
    if not joined or not strays:
        return strays
    unread = [path for each in strays for path in each.unread]
    return [_Slices(root, [], unread, next((each.problem for each in strays if each.problem), ""))]


def _stray(slices: _Slices) -> Study:
    name = printable(os.path.basename(os.path.abspath(slices.folder)))
    problem = slices.problem or f"{name} holds no DICOM images that can be read."
    return Study("", slices.folder, (), len(slices.unread), problem)


def common_folder(folders: Iterable[Path]) -> Path:
    """Return the lowest folder that holds all ``folders``, of which there is at least one."""
    return Path(os.path.commonpath([os.fspath(folder) for folder in folders]))

"""Packages as zip files: export, and import from a zip or folder.

An import goes to a temporary folder beside its goal, is verified down to the last tensor, and is then renamed into
place: an installed package is whole or absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import PackageError
from ..files import replace_file, sweep, temporary_folder
from ..text import base_name, printable
from .manifest import MANIFEST
from .store import (
    MAX_BYTES,
    MAX_FILES,
    ModelPackage,
    _files_in,
    _no_manifest,
    _os_errors,
    _too_many,
    shipped_packages_dir,
    user_packages_dir,
)
from .weights import verify_package
from .write import install_folder

if TYPE_CHECKING:
    pass


#: Weights hardly shrink in a zip. Files below a megabyte may: text does.
MAX_RATIO, RATIO_FREE_BYTES = 100, 1024**2
#: The table of contents of a zip of ``MAX_FILES`` files is far smaller; zipfile reads it in one piece.
MAX_ZIP_READ = 256 * 1024


def export_package(package: ModelPackage, path: Path, overwrite: bool = False) -> Path:
    """Write the package as a zip, whole or not at all: the same bytes for the same package. Returns its path.

    An existing folder as ``path`` receives ``NAME.zip``.
    """
    name = package.manifest.name
    path = path / f"{name}.zip" if os.path.isdir(path) else path
    if os.path.lexists(path) and not overwrite:
        raise PackageError(f"{path.name} exists already: choose another name, or use --overwrite.")
    with replace_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        for file in (MANIFEST, *sorted(package.manifest.files)):
            entry = zipfile.ZipInfo(f"{name}/{file}")  # its date is 1980: contents alone decide the bytes
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as writer, (package.folder / file).open("rb") as reader:
                shutil.copyfileobj(reader, writer)
    return path


# --- importing -----------------------------------------------------------------------------------------------------


def import_package(source: str | os.PathLike[str], models_dir: Path, replace: bool = False) -> ModelPackage:
    """Install a package from a zip or folder as ``models_dir/NAME``, after verifying all of it.

    Raises :class:`PackageError` with nothing installed and nothing left behind when anything is wrong.
    """
    source, models_dir = Path(source), Path(models_dir)
    sweep(models_dir)
    with _os_errors(f"{base_name(source)} could not be imported"), unpacked(source, models_dir) as content:
        package = verify_package(content, base_name(source))
        name = package.manifest.name
        if models_dir.resolve() == user_packages_dir().resolve() and (shipped_packages_dir() / name).exists():
            raise PackageError(f"{name} is the name of a package that ships with CardiacLDM: it cannot be installed.")
        install_folder(content, models_dir / name, replace)
    return dataclasses.replace(package, folder=models_dir / name)


@contextlib.contextmanager
def unpacked(source: Path, parent: Path | None = None) -> Iterator[Path]:
    """A private copy of the files of a package, from a zip or folder, in a temporary folder inside ``parent``.

    Nothing is known about the copy but that its files are plain, few and not too large. ``parent`` defaults to the
    system's temporary folder.
    """
    with temporary_folder(parent or Path(tempfile.gettempdir())) as temporary:
        content = temporary / "content"
        content.mkdir()
        if os.path.isdir(source):
            _copy_folder(source, content)
        elif os.path.isfile(source):
            _unpack_zip(source, content)
        else:
            raise PackageError(f"There is no file or folder {printable(base_name(source))}.")
        yield content


def _copy_folder(source: Path, content: Path) -> None:
    called = base_name(source)
    if not (source / MANIFEST).is_file():
        raise PackageError(_no_manifest(called))  # before listing: it may be any folder of a disk
    budget = MAX_BYTES
    for name, path in _files_in(source, called).items():
        with path.open("rb") as reader:
            budget = _copy(reader, content / name, budget, called)


def _unpack_zip(source: Path, content: Path) -> None:
    called = printable(base_name(source))
    try:
        with _SmallReads(source, "rb") as file, zipfile.ZipFile(file) as archive:
            budget = MAX_BYTES
            for name, entry in _zip_files(archive, called).items():
                with archive.open(entry) as reader:
                    budget = _copy(reader, content / name, budget, called)
    except PackageError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise PackageError(f"{called} is damaged, cut short, or not a zip file.") from error


class _SmallReads(io.FileIO):
    """A file that refuses to be read in large pieces: zipfile loads a table of contents of any length at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_ZIP_READ:
            raise PackageError(_too_many(Path(os.fsdecode(self.name)).name))
        return super().read(size) or b""


def _copy(reader: IO[bytes], target: Path, budget: int, called: str) -> int:
    """Copy to ``target`` and return what is left of ``budget`` bytes; counted here, whatever a header may claim."""
    with target.open("xb") as writer:
        while block := reader.read(MAX_ZIP_READ // 2):
            budget -= len(block)
            if budget < 0:
                raise PackageError(_too_large(called))
            writer.write(block)
    return budget


def _too_large(called: str) -> str:
    return f"{printable(called)} is refused: it holds more than {MAX_BYTES // 1024**3} GB."


def _zip_files(archive: zipfile.ZipFile, called: str) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name, all at its top or all in one folder there; refuses every entry that is odd."""
    entries = archive.infolist()
    if len(entries) > MAX_FILES + 1:
        raise PackageError(_too_many(called))
    files: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in entries:
        folder, name = _safe_name(entry, called)
        _refuse_odd_entry(entry, called)
        folders.add(folder)
        if not name:
            continue
        if name.casefold() in {other.casefold() for other in files}:
            raise PackageError(f"{called} is refused: it holds two files named {printable(name)}.")
        files[name] = entry
    if MANIFEST not in files:
        raise PackageError(_no_manifest(called))
    if len(folders) > 1:
        raise PackageError(f"{called} is refused: its files are not all in one folder.")
    if sum(entry.file_size for entry in files.values()) > MAX_BYTES:
        raise PackageError(_too_large(called))
    return files


def _safe_name(entry: zipfile.ZipInfo, called: str) -> tuple[str, str]:
    """Folder and name of an entry, either may be empty; refuses whatever could lead out of the temporary folder."""
    raw = entry.orig_filename  # as stored: zipfile cleans its own copy in ways that depend on the system
    parts = raw.removesuffix("/").split("/")
    odd = any(part in ("", ".", "..") or part != part.strip() for part in parts)
    if odd or not raw.isprintable() or any(c in raw for c in '\\:*?"<>|'):
        raise PackageError(f"{called} is refused: {printable(raw)!r} is not a safe file name.")
    if len(parts) > (1 if entry.is_dir() else 2):
        raise PackageError(f"{called} is refused: {printable(raw)} is in a sub-folder.")
    if entry.is_dir():
        return parts[0], ""
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _refuse_odd_entry(entry: zipfile.ZipInfo, called: str) -> None:
    name = printable(entry.filename)
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise PackageError(f"{called} is refused: {name} is a link or a device, not a file.")
    if entry.flag_bits & 1:
        raise PackageError(f"{called} is refused: {name} is protected by a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackageError(f"{called} is refused: {name} is compressed in an unusual way.")
    if entry.file_size > RATIO_FREE_BYTES + MAX_RATIO * entry.compress_size:
        raise PackageError(f"{called} is refused: {name} would unpack to more than {MAX_RATIO} times its size.")

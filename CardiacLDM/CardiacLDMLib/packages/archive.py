"""Export packages as zip files, and import them from a zip or folder.

An imported package is copied to a temporary folder in the models folder, verified down to the last tensor, and renamed
into place: an installed package is complete or absent.
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
from typing import IO

from ..errors import PackageError
from ..files import replace_file, sweep, temporary_folder
from ..text import base_name, printable
from .manifest import MANIFEST
from .store import (
    MAX_BYTES,
    MAX_FILES,
    ModelPackage,
    is_litter,
    no_manifest,
    package_files,
    read_errors,
    shipped_packages_dir,
    too_many_files,
    user_packages_dir,
)
from .weights import verify_package
from .write import install_folder

#: Largest ratio of compression. Weights hardly shrink; files below a megabyte, such as text, may shrink more.
MAX_RATIO, RATIO_FREE_BYTES = 100, 1024**2
#: Largest read from a zip. zipfile reads the table of contents in one piece; that of ``MAX_FILES`` files is smaller.
MAX_ZIP_READ = 256 * 1024


def export_package(package: ModelPackage, path: Path, overwrite: bool = False) -> Path:
    """Write the package as a zip and return its path. The same package gives the same bytes.

    If ``path`` is a folder, the zip is ``NAME.zip`` in it. After an error no zip is left behind. Raises
    :class:`PackageError` for an existing file unless ``overwrite``, and ``OutputError``.
    """
    name = package.manifest.name
    path = path / f"{name}.zip" if os.path.isdir(path) else path
    if os.path.lexists(path) and not overwrite:
        raise PackageError(f"{path.name} exists already: choose another name, or use --overwrite.")
    with replace_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        for file in (MANIFEST, *sorted(package.manifest.files)):
            entry = zipfile.ZipInfo(f"{name}/{file}")  # dated 1980, so that the bytes depend on the contents alone
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as writer, (package.folder / file).open("rb") as reader:
                shutil.copyfileobj(reader, writer)
    return path


# --- importing -----------------------------------------------------------------------------------------------------


def import_package(source: str | os.PathLike[str], models_dir: Path, replace: bool = False) -> ModelPackage:
    """Verify the package in a zip or folder, install it as ``models_dir/NAME`` and return it.

    Raises :class:`PackageError` for an invalid package, and ``PackageExists`` for an installed one of its name unless
    ``replace``; then nothing is installed and no file is left behind.
    """
    source, models_dir = Path(source), Path(models_dir)
    sweep(models_dir)
    with read_errors(f"{base_name(source)} could not be imported"), unpacked(source, models_dir) as content:
        package = verify_package(content, base_name(source))
        name = package.manifest.name
        if models_dir.resolve() == user_packages_dir().resolve() and (shipped_packages_dir() / name).exists():
            raise PackageError(f"{name} is the name of a package that ships with CardiacLDM: it cannot be installed.")
        install_folder(content, models_dir / name, replace)
    return dataclasses.replace(package, folder=models_dir / name)


@contextlib.contextmanager
def unpacked(source: Path, parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder with a copy of a package's files, from a zip or folder, in a temporary folder in ``parent``.

    Only the number, size and kind of the files are checked. ``parent`` defaults to the system's temporary folder.
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
    label = base_name(source)
    if not (source / MANIFEST).is_file():
        raise no_manifest(label)  # before listing its files: it may be any folder of a disk
    budget = MAX_BYTES
    for name, path in package_files(source, label).items():
        with path.open("rb") as reader:
            budget = _copy(reader, content / name, budget, label)


def _unpack_zip(source: Path, content: Path) -> None:
    label = printable(base_name(source))
    try:
        with _SmallReads(source, "rb") as file, zipfile.ZipFile(file) as archive:
            budget = MAX_BYTES
            for name, entry in _zip_files(archive, label).items():
                with archive.open(entry) as reader:
                    budget = _copy(reader, content / name, budget, label)
    except PackageError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise PackageError(f"{label} is damaged, cut short, or not a zip file.") from error


class _SmallReads(io.FileIO):
    """A file that refuses large reads: zipfile would read a table of contents of any length at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_ZIP_READ:
            raise too_many_files(Path(os.fsdecode(self.name)).name)
        return super().read(size) or b""


def _copy(reader: IO[bytes], target: Path, budget: int, label: str) -> int:
    """Copy to ``target`` and return the rest of ``budget``, in bytes read, since sizes in headers may be wrong."""
    with target.open("xb") as writer:
        while block := reader.read(MAX_ZIP_READ // 2):
            budget -= len(block)
            if budget < 0:
                raise _too_large(label)
            writer.write(block)
    return budget


def _too_large(label: str) -> PackageError:
    return PackageError(f"{printable(label)} is refused: it holds more than {MAX_BYTES // 1024**3} GB.")


def _zip_files(archive: zipfile.ZipFile, label: str) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip by name, which must all be at its top or all in one folder there."""
    entries = [entry for entry in archive.infolist() if not any(map(is_litter, entry.orig_filename.split("/")))]
    if len(entries) > MAX_FILES + 1:
        raise too_many_files(label)
    files: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in entries:
        folder, name = _safe_name(entry, label)
        _check_entry(entry, label)
        folders.add(folder)
        if not name:
            continue
        if name.casefold() in {other.casefold() for other in files}:
            raise PackageError(f"{label} is refused: it holds two files named {printable(name)}.")
        files[name] = entry
    if MANIFEST not in files:
        raise no_manifest(label)
    if len(folders) > 1:
        raise PackageError(f"{label} is refused: its files are not all in one folder.")
    if sum(entry.file_size for entry in files.values()) > MAX_BYTES:
        raise _too_large(label)
    return files


def _safe_name(entry: zipfile.ZipInfo, label: str) -> tuple[str, str]:
    """Return folder and name of an entry, either may be empty; refuse paths that lead out of the folder."""
    raw = entry.orig_filename  # as stored: zipfile changes its own copy, differently on each system
    parts = raw.removesuffix("/").split("/")
    odd = any(part in ("", ".", "..") or part != part.strip() for part in parts)
    if odd or not raw.isprintable() or any(c in raw for c in '\\:*?"<>|'):
        raise PackageError(f"{label} is refused: {printable(raw)!r} is not a safe file name.")
    if len(parts) > (1 if entry.is_dir() else 2):
        raise PackageError(f"{label} is refused: {printable(raw)} is in a sub-folder.")
    if entry.is_dir():
        return parts[0], ""
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _check_entry(entry: zipfile.ZipInfo, label: str) -> None:
    name = printable(entry.filename)
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise PackageError(f"{label} is refused: {name} is a link or a device, not a file.")
    if entry.flag_bits & 1:
        raise PackageError(f"{label} is refused: {name} is protected by a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackageError(f"{label} is refused: {name} is compressed in an unusual way.")
    if entry.file_size > RATIO_FREE_BYTES + MAX_RATIO * entry.compress_size:
        raise PackageError(f"{label} is refused: {name} would unpack to more than {MAX_RATIO} times its size.")

"""Where packages are, and opening them: the manifest and the hash of every file are checked.

Opening a package runs no code from it and reads nothing that its manifest does not list. Needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import (
    ValidationError,
)

from ..errors import PackageError
from ..files import RESOURCES, sha256
from ..text import base_name, first_problem, printable
from .manifest import MANIFEST, Manifest
from .upgrade import SCHEMA_VERSION, upgrade

if TYPE_CHECKING:
    pass


#: The package that ships with the program and is used when none is named.
DEFAULT_PACKAGE = "virtual-heart-v1"
#: The one that draws pairs where none is named.
DEFAULT_GENERATOR = "virtual-pairs-v1"

#: Limits far above any honest package, so that a hostile one can fill neither memory nor disk.
MAX_BYTES = 2 * 1024**3
MAX_MANIFEST_BYTES = 1024**2
MAX_FILES = 32
#: Left in folders by file managers; never read, never copied.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class ModelPackage:
    """An opened package; ``sha256`` is that of manifest.json and, through it, of every file."""

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum((self.folder / name).stat().st_size for name in (MANIFEST, *self.manifest.files))


def require_kind(package: ModelPackage, kind: str) -> None:
    """Raises :class:`PackageError` when the package cannot do the work of ``kind`` ("segmenter", "generator")."""
    found = package.manifest.kind
    if found != kind:
        does = {"segmenter": "labels scans", "generator": "generates pairs of scan and labels"}
        raise PackageError(
            f"{package.manifest.name} is a {found} package, which {does[found]}: choose one that {does[kind]}."
        )


# --- opening -------------------------------------------------------------------------------------------------------


def open_package(path: str | os.PathLike[str], called: str = "", hashed: bool = True) -> ModelPackage:
    """The package in a folder, with the manifest and the hash of every file checked; needs no torch.

    Messages name it ``called``, or by its folder. Without ``hashed`` the weights are not read: enough to show it, not
    to use it. Raises :class:`PackageError` when it is no package, is of a newer version, or any file was changed.
    """
    folder = Path(path)
    called = called or base_name(folder)
    with _os_errors(f"{called} cannot be read"):
        return _open(folder, called, hashed)


def _open(folder: Path, called: str, hashed: bool) -> ModelPackage:
    if not folder.is_dir():
        raise PackageError(f"There is no folder {printable(called)}.")
    data = _read_manifest(folder, called)
    manifest = _parse_manifest(data, called)
    present = set(_files_in(folder, called)) - {MANIFEST}
    wanted = manifest.file_names()
    _refuse_difference(set(manifest.files), wanted, called, "its manifest lists {}, which no network uses",
                       "its manifest gives no hash for {}")  # fmt: skip
    _refuse_difference(present, wanted, called, "it holds {}, which its manifest does not list", "{} is missing")
    for name, expected in manifest.files.items() if hashed else ():
        _check_file(folder / name, expected, called)
    return ModelPackage(folder, manifest, hashlib.sha256(data).hexdigest())


def _refuse_difference(found: set[str], wanted: set[str], called: str, extra: str, missing: str) -> None:
    for names, message in ((found - wanted, extra), (wanted - found, missing)):
        if names:
            raise PackageError(f"{printable(called)} is refused: {message.format(printable(min(names)))}.")


def _read_manifest(folder: Path, called: str) -> bytes:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise PackageError(_no_manifest(called))
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackageError(f"{printable(called)} is refused: its manifest.json is larger than a manifest can be.")
    return data


def _no_manifest(called: str) -> str:
    return f"{printable(called)} is not a CardiacLDM package: it holds no manifest.json."


def _parse_manifest(data: bytes, called: str) -> Manifest:
    """Parse strictly, after a look at the version: a newer manifest has fields that would only confuse the message."""
    try:
        peek = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{printable(called)} is refused: its manifest.json is not valid JSON.") from error
    version = peek.get("schema_version") if isinstance(peek, dict) else None
    if type(version) is not int or not {"structures", "networks"} <= set(peek):
        raise PackageError(
            f"{printable(called)} is not a CardiacLDM package: its manifest.json describes something else."
        )
    if version > SCHEMA_VERSION:
        raise PackageError(f"{printable(called)} was made for a newer version of CardiacLDM: update the program first.")
    try:
        return Manifest.model_validate_json(json.dumps(upgrade(peek)), strict=True)
    except ValidationError as error:
        raise PackageError(f"{printable(called)} is refused: in its manifest.json, {first_problem(error)}.") from error


def _files_in(folder: Path, called: str) -> dict[str, Path]:
    """The files of a folder by name; refuses sub-folders, links and devices, and more than ``MAX_FILES``."""
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in LITTER:
                continue
            if not entry.is_file(follow_symlinks=False):
                what = "a link" if entry.is_symlink() else "a sub-folder" if entry.is_dir() else "a device"
                raise PackageError(f"{printable(called)} is refused: {printable(entry.name)} is {what}, not a file.")
            files[entry.name] = Path(entry.path)
            if len(files) > MAX_FILES:
                raise PackageError(_too_many(called))
    return files


def _too_many(called: str) -> str:
    return f"{printable(called)} is refused: it holds more than {MAX_FILES} files."


def _check_file(path: Path, expected: str, called: str) -> None:
    if sha256(path) == expected:
        return
    if path.suffix == ".safetensors" and _cut_short(path):
        raise PackageError(f"{printable(called)} is refused: {path.name} is cut short, fetch the package again.")
    raise PackageError(f"{printable(called)} is refused: {path.name} was changed, it does not match its SHA-256.")


def _cut_short(path: Path) -> bool:
    """Whether a safetensors file ends before its own header says it should (only to choose the better message)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        header_bytes = int.from_bytes(start, "little")
        if len(start) < 8 or (header_bytes <= MAX_MANIFEST_BYTES and header_bytes > size - 8):
            return True
        if header_bytes > MAX_MANIFEST_BYTES:
            return False
        try:
            header = json.loads(file.read(header_bytes))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
            return False
    return max(ends, default=0) > size - 8 - header_bytes


@contextlib.contextmanager
def _os_errors(what: str) -> Iterator[None]:
    """Turn an error of the operating system into a sentence, without the path that it would show."""
    try:
        yield
    except OSError as error:
        raise PackageError(f"{printable(what)}: {(error.strerror or 'unknown error').lower()}.") from error


# --- where packages are --------------------------------------------------------------------------------------------


def shipped_packages_dir() -> Path:
    """The folder of the packages that come with the program."""
    return RESOURCES / "Models"


def user_packages_dir() -> Path:
    """The folder of the packages that this user imported; may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "CardiacLDM" / "Models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "CardiacLDM" / "Models"
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))  # the specification says to ignore a relative one
    return (data_home if data_home.is_absolute() else Path.home() / ".local" / "share") / "cardiacldm" / "models"


def known_packages(kind: str | None = None) -> dict[str, Path]:
    """Name and folder of every package that can be used by name; not opened. Shipped ones come first and win.

    With ``kind`` those that say to be of another one are left out.
    """
    known: dict[str, Path] = {}
    for parent in (shipped_packages_dir(), user_packages_dir()):
        with contextlib.suppress(OSError):
            for folder in sorted(parent.iterdir()):
                if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                    known.setdefault(folder.name, folder)
    return {name: folder for name, folder in known.items() if kind is None or _may_be(kind, folder)}


def _may_be(kind: str, folder: Path) -> bool:
    """Whether its manifest says so, or says nothing: what cannot be read is refused in words when it is opened."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(manifest, dict) or manifest.get("kind", kind) == kind


def locate_package(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a package by name or path; ``None`` stands for the default one. Not opened."""
    wanted = os.fspath(name_or_path) if name_or_path is not None else DEFAULT_PACKAGE
    known = known_packages()
    if wanted in known:
        return known[wanted]
    path = Path(wanted)
    if os.path.isdir(path):  # pathlib's raises where a folder may not be looked into
        return path
    if os.path.isfile(path):
        raise PackageError(f"{printable(path.name)} is a file: import it first with 'cardiacldm package import'.")
    names = ", ".join(known) or "none"
    raise PackageError(f"There is no package {printable(wanted)!r} (installed: {names}).")


def find_package(name_or_path: str | os.PathLike[str] | None = None) -> ModelPackage:
    """Open a package by name or folder; ``None`` stands for the default one."""
    return open_package(locate_package(name_or_path))

"""Find model packages, and open them: check the manifest and the hash of every file.

Opening a package runs no code from it, and reads nothing that its manifest does not list. It needs no torch.
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

from pydantic import ValidationError

from ..errors import PackageError
from ..files import RESOURCES, sha256
from ..text import base_name, first_problem, printable
from .manifest import MANIFEST, Manifest
from .upgrade import SCHEMA_VERSION, upgrade

#: The shipped segmenter, used when no package is named.
DEFAULT_PACKAGE = "virtual-heart-v2"
#: The shipped generator, used when no package is named.
DEFAULT_GENERATOR = "virtual-pairs-v2"

#: Limits far above any valid package, so that a hostile one can fill neither memory nor disk.
MAX_BYTES = 2 * 1024**3
MAX_MANIFEST_BYTES = 1024**2
MAX_FILES = 32
#: Files and folders that file managers write to folders and zips. They are never read or copied.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})


@dataclass(frozen=True)
class ModelPackage:
    """An opened package. ``sha256``: the hash of manifest.json, which in turn holds the hashes of all other files."""

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Return the size of all files together, in bytes."""
        return sum((self.folder / name).stat().st_size for name in (MANIFEST, *self.manifest.files))


def require_kind(package: ModelPackage, kind: str) -> None:
    """Raise :class:`PackageError` unless the package is of ``kind`` ("segmenter" or "generator")."""
    own = package.manifest.kind
    if own != kind:
        tasks = {"segmenter": "labels scans", "generator": "generates pairs of scan and labels"}
        raise PackageError(
            f"{package.manifest.name} is a {own} package, which {tasks[own]}: choose one that {tasks[kind]}."
        )


# --- opening -------------------------------------------------------------------------------------------------------


def open_package(path: str | os.PathLike[str], label: str = "", check_hashes: bool = True) -> ModelPackage:
    """Return the package in a folder after checking its manifest and the hash of every file.

    Messages name it ``label``, or by its folder. Without ``check_hashes`` the weights are not read, which is enough to
    list the package, but not to use it. Raises :class:`PackageError` for a folder that is no package, a package of a
    newer schema version, and a changed file.
    """
    folder = Path(path)
    label = label or base_name(folder)
    with read_errors(f"{label} cannot be read"):
        return _open(folder, label, check_hashes)


def _open(folder: Path, label: str, check_hashes: bool) -> ModelPackage:
    if not folder.is_dir():
        raise PackageError(f"There is no folder {printable(label)}.")
    data = _read_manifest(folder, label)
    manifest = _parse_manifest(data, label)
    present = set(package_files(folder, label)) - {MANIFEST}
    required = manifest.file_names()
    _refuse_difference(set(manifest.files), required, label, "its manifest lists {}, which no network uses",
                       "its manifest gives no hash for {}")  # fmt: skip
    _refuse_difference(present, required, label, "it holds {}, which its manifest does not list", "{} is missing")
    for name, expected in manifest.files.items() if check_hashes else ():
        _check_file(folder / name, expected, label)
    return ModelPackage(folder, manifest, hashlib.sha256(data).hexdigest())


def _refuse_difference(present: set[str], wanted: set[str], label: str, extra: str, missing: str) -> None:
    """Raise :class:`PackageError` unless both sets are equal, with the message for an extra or a missing name."""
    for names, message in ((present - wanted, extra), (wanted - present, missing)):
        if names:
            raise PackageError(f"{printable(label)} is refused: {message.format(printable(min(names)))}.")


def _read_manifest(folder: Path, label: str) -> bytes:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise no_manifest(label)
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackageError(f"{printable(label)} is refused: its manifest.json is larger than a manifest can be.")
    return data


def no_manifest(label: str) -> PackageError:
    """Return the error for a folder or zip without a manifest."""
    return PackageError(f"{printable(label)} is not a CardiacLDM package: it holds no manifest.json.")


def _parse_manifest(data: bytes, label: str) -> Manifest:
    """Return the validated manifest, upgraded to today's schema.

    The version is compared first, since unknown fields of a newer version would give a misleading message.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{printable(label)} is refused: its manifest.json is not valid JSON.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or not {"structures", "networks"} <= set(content):
        raise PackageError(
            f"{printable(label)} is not a CardiacLDM package: its manifest.json describes something else."
        )
    if version > SCHEMA_VERSION:
        raise PackageError(f"{printable(label)} was made for a newer version of CardiacLDM: update the program first.")
    try:
        return Manifest.model_validate_json(json.dumps(upgrade(content)), strict=True)
    except ValidationError as error:
        raise PackageError(f"{printable(label)} is refused: in its manifest.json, {first_problem(error)}.") from error


def is_litter(name: str) -> bool:
    """Return whether a file or folder is a file manager's own. macOS keeps a file's attributes in ``._NAME``."""
    return name in LITTER or name.startswith("._")


def package_files(folder: Path, label: str) -> dict[str, Path]:
    """Return the files of a folder by name.

    Raises :class:`PackageError` for sub-folders, links and devices, and for more than ``MAX_FILES`` files.
    """
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            if not entry.is_file(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "a sub-folder" if entry.is_dir() else "a device"
                raise PackageError(f"{printable(label)} is refused: {printable(entry.name)} is {kind}, not a file.")
            files[entry.name] = Path(entry.path)
            if len(files) > MAX_FILES:
                raise too_many_files(label)
    return files


def too_many_files(label: str) -> PackageError:
    """Return the error for a folder or zip of more than ``MAX_FILES`` files."""
    return PackageError(f"{printable(label)} is refused: it holds more than {MAX_FILES} files.")


def _check_file(path: Path, expected: str, label: str) -> None:
    if sha256(path) == expected:
        return
    if path.suffix == ".safetensors" and _cut_short(path):
        raise PackageError(f"{printable(label)} is refused: {path.name} is cut short, fetch the package again.")
    raise PackageError(f"{printable(label)} is refused: {path.name} was changed, it does not match its SHA-256.")


def _cut_short(path: Path) -> bool:
    """Return whether a safetensors file is shorter than its header states. Only the message depends on it."""
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
def read_errors(beginning: str) -> Iterator[None]:
    """Turn an ``OSError`` into a :class:`PackageError` that starts with ``beginning`` and shows no path."""
    try:
        yield
    except OSError as error:
        raise PackageError(f"{printable(beginning)}: {(error.strerror or 'unknown error').lower()}.") from error


# --- where packages are --------------------------------------------------------------------------------------------


def shipped_packages_dir() -> Path:
    """Return the folder of the packages that ship with the program."""
    return RESOURCES / "Models"


def user_packages_dir() -> Path:
    """Return the folder of the packages that this user imported; it may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "CardiacLDM" / "Models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "CardiacLDM" / "Models"
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))  # the XDG specification says to ignore a relative path
    return (data_home if data_home.is_absolute() else Path.home() / ".local" / "share") / "cardiacldm" / "models"


def installed_packages(kind: str | None = None) -> dict[str, Path]:
    """Return the folder of every installed package by name, shipped ones first, without opening any.

    An imported package with the name of a shipped one is left out. With ``kind``, packages of other kinds are too.
    """
    packages: dict[str, Path] = {}
    for parent in (shipped_packages_dir(), user_packages_dir()):
        with contextlib.suppress(OSError):
            for folder in sorted(parent.iterdir()):
                if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                    packages.setdefault(folder.name, folder)
    return {name: folder for name, folder in packages.items() if kind is None or _may_be(kind, folder)}


def _may_be(kind: str, folder: Path) -> bool:
    """Return False if the manifest names another kind; True for an unreadable one, which opening it will refuse."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(manifest, dict) or manifest.get("kind", kind) == kind


def locate_package(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a package by name or path, without opening it. None stands for the shipped segmenter.

    Raises :class:`PackageError` if there is none.
    """
    name = os.fspath(name_or_path) if name_or_path is not None else DEFAULT_PACKAGE
    installed = installed_packages()
    if name in installed:
        return installed[name]
    path = Path(name)
    if os.path.isdir(path):  # Path.is_dir raises an error for a folder without permission
        return path
    if os.path.isfile(path):
        raise PackageError(f"{printable(path.name)} is a file: import it first with 'cardiacldm package import'.")
    names = ", ".join(installed) or "none"
    raise PackageError(f"There is no package {printable(name)!r} (installed: {names}).")


def find_package(name_or_path: str | os.PathLike[str] | None = None) -> ModelPackage:
    """Open a package by name or folder (None: the shipped segmenter) and return it. Raises :class:`PackageError`."""
    return open_package(locate_package(name_or_path))

"""Synthetic pairs on disk: a folder ``pair_NNNN`` with four :data:`FILES` each, shared settings, contact sheets.

A pair's folder is made aside and renamed when its files are on the disk: it is whole or absent. A folder that was
begun is continued with the same settings only, by one run at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from CardiacLDMLib.generator import Pair, Settings
from CardiacLDMLib.package import ModelPackage
from CardiacLDMLib.volume import VolumeError, read_volume, write_volume, written_aside

from .pair_pictures import SHEET_PAIRS, draw_overview, draw_sheet, write_png

SETTINGS, SHEET = "generation.json", "contact_sheet.png"
#: CT and labels bear the names under which training and evaluation look for cases.
IMAGE, LABELS, PROVENANCE, OVERVIEW = FILES = ("ct.nii.gz", "labels.nii.gz", "provenance.json", "overview.png")
_PART = ".part-"


class PairsError(ValueError):
    """Pairs that cannot be kept where they should; the message is one sentence for the user."""


def pair_folder(out: Path, index: int) -> Path:
    return out / f"pair_{index:04d}"


def record(package: ModelPackage, seed: int, settings: Settings) -> dict[str, Any]:
    """What all pairs of a folder share; neither their number nor where they were computed."""
    manifest = package.manifest
    described = f"{manifest.name} {manifest.version} (SHA-256 {package.sha256})"
    return {"package": described, "seed": seed, **asdict(settings)}


@contextlib.contextmanager
def opened(out: Path, wanted: dict[str, Any]) -> Iterator[None]:
    """Hold the folder for one run; made if needed, and cleared of what a killed run left half-made.

    Raises :class:`PairsError` if it holds pairs of other settings, if another run is at work there, or if it cannot be
    written to.
    """
    if out.exists() and not out.is_dir():
        raise PairsError(f"The pairs need a folder, but {out.name} is a file.")
    try:
        if not (out / SETTINGS).is_file():
            _write_json(wanted, out / SETTINGS)
        with (out / SETTINGS).open("rb") as file:
            if not _locked(file.fileno()):
                raise PairsError(
                    f"Another run is drawing pairs into {out.name}: wait for it, or choose another folder."
                )
            _refuse_other(out, file.read(), wanted)
            for left in out.glob(f"{_PART}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield
    except (OSError, VolumeError) as error:
        raise PairsError(f"{out.name} cannot be used for the pairs: {_why(error)}") from error


def _locked(file: int) -> bool:
    """Take the lock on an open file unless another process has it; file systems without locks do without."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _refuse_other(out: Path, stored: bytes, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(stored)
        names = sorted({*found, *wanted})
    except (ValueError, TypeError) as error:
        raise PairsError(f"{out.name}/{SETTINGS} is damaged: choose another folder.") from error
    for name in names:
        old, new = found.get(name), json.loads(json.dumps(wanted.get(name)))
        if old != new:
            raise PairsError(f"{out.name} holds pairs whose {name} is {old!r}, not {new!r}: choose another folder.")


def finished(out: Path, count: int) -> set[int]:
    """The numbers below ``count`` whose pair is there. Raises :class:`PairsError` if one has lost a file since."""
    done = set()
    for entry in os.scandir(out):
        match = re.fullmatch(r"pair_(\d{4,})", entry.name)
        if match and int(match[1]) < count:
            missing = [name for name in FILES if not os.path.isfile(os.path.join(entry.path, name))]
            if missing:
                raise PairsError(f"{entry.name} has lost its {missing[0]}: remove that folder to have it drawn again.")
            done.add(int(match[1]))
    return done


def write_pair(pair: Pair, out: Path) -> int:
    """Write a pair to ``out``, whole or not at all; returns its bytes on disk. Raises :class:`PairsError`."""
    folder = pair_folder(out, pair.provenance["index"])
    aside = out / f"{_PART}{folder.name}"
    try:
        aside.mkdir()
        try:
            write_volume(pair.image, aside / IMAGE)
            write_volume(pair.labels, aside / LABELS)
            write_png(draw_overview(pair, folder.name), aside / OVERVIEW)
            _write_json(pair.provenance, aside / PROVENANCE)
            size = sum((aside / name).stat().st_size for name in FILES)
            _to_disk(aside)
            aside.rename(folder)
            _to_disk(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except (OSError, VolumeError) as error:
        raise PairsError(f"{folder.name} could not be written: {_why(error)}") from error
    return size


def read_pair(out: Path, index: int) -> Pair:
    """A pair as it was written. Raises ``VolumeError`` or :class:`PairsError`."""
    folder = pair_folder(out, index)
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairsError(f"{folder.name}/{PROVENANCE} cannot be read.") from error
    return Pair(read_volume(folder / IMAGE), read_volume(folder / LABELS), provenance)


def write_sheets(out: Path, count: int) -> list[Path]:
    """Contact sheets of the pairs below ``count``: contact_sheet.png, then contact_sheet_2.png and so on.

    Raises :class:`PairsError`.
    """
    paths = []
    try:
        for page, start in enumerate(range(0, count, SHEET_PAIRS), start=1):
            indices = range(start, min(start + SHEET_PAIRS, count))
            paths.append(out / (SHEET if page == 1 else f"{SHEET.removesuffix('.png')}_{page}.png"))
            write_png(draw_sheet([(pair_folder(out, i).name, read_pair(out, i)) for i in indices]), paths[-1])
    except (OSError, VolumeError) as error:
        raise PairsError(f"The contact sheet could not be made: {_why(error)}") from error
    return paths


def _why(error: OSError | VolumeError) -> str:
    """The end of a sentence."""
    return str(error) if isinstance(error, VolumeError) else f"{error.strerror or error}."


def _write_json(content: dict[str, Any], path: Path) -> None:
    with written_aside(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _to_disk(folder: Path) -> None:
    """See that the folder's entries are on the disk, where systems can tell."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

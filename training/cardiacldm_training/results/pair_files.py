"""Synthetic pairs on disk: a folder ``pair_NNNN`` with four :data:`FILES` each, shared settings, contact sheets.

A pair's folder is complete or absent. A pair that failed the checks in every attempt leaves
``pair_NNNN.rejected.json`` with the reasons. An unfinished run can be continued with the same settings, by one process
group at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import lock, sweep, write_json
from CardiacLDMLib.generation.acceptance import Judge
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.generation.settings import Settings
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.results import pairs
from CardiacLDMLib.results.pairs import IMAGE, LABELS, PROVENANCE, pair_name

from ..errors import DatasetError
from .pair_pictures import SHEET_PAIRS, draw_overview, draw_sheet, write_figure

SETTINGS, SHEET, RATES = "generation.json", "contact_sheet.png", "acceptance.json"
OVERVIEW = "overview.png"
FILES = (IMAGE, LABELS, PROVENANCE, OVERVIEW)
REJECTED = ".rejected.json"


def pair_folder(out: Path, index: int) -> Path:
    """Return the folder of pair ``index``."""
    return out / pair_name(index)


def shared_settings(package: ModelPackage, seed: int, settings: Settings, judge: Judge | None = None) -> dict[str, Any]:
    """Return what all pairs of a folder have in common, for generation.json.

    The number of pairs and the device are not part of it, so that a run can be extended and moved.
    """
    check = None
    if judge is not None and judge.segmenter is not None:
        check = f"{_package_text(judge.segmenter.package)}, Dice {judge.least_agreement:g}"
        check += "".join(f", {name} {value}" for part in judge.further for name, value in part.record().items())
    return {"package": _package_text(package), "seed": seed, **asdict(settings), "check": check}


def _package_text(package: ModelPackage) -> str:
    return f"{package.manifest.name} {package.manifest.version} (SHA-256 {package.sha256})"


@contextlib.contextmanager
def hold_folder(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Lock the folder for one run with these ``settings`` (see :func:`shared_settings`); make it if needed.

    Unfinished files of a killed run are removed. Raises :class:`OutputError` if the folder holds pairs of other
    settings, if another run uses it, or if it cannot be used.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"The pairs need a folder, but {out.name} is a file.")
    try:
        if not (out / SETTINGS).is_file():
            write_json(out / SETTINGS, settings)
        with (out / SETTINGS).open("rb") as file:
            if not _take_lock(file.fileno()):
                raise OutputError(f"Another run writes to {out.name}: wait for its end, or choose another folder.")
            _refuse_other_settings(out, file.read(), settings)
            sweep(out, older_than=0)
            yield
    except OSError as error:
        raise OutputError(f"{out.name} cannot be used for the pairs: {error.strerror or error}.") from error


def _take_lock(file: int) -> bool:
    """Take the lock on an open file; False if another process has it. A file system without locks counts as locked."""
    try:
        return lock(file)
    except OSError:
        return True


def _refuse_other_settings(out: Path, stored: bytes, settings: dict[str, Any]) -> None:
    try:
        existing = json.loads(stored)
        names = sorted({*existing, *settings})
    except (ValueError, TypeError) as error:
        raise OutputError(f"{out.name}/{SETTINGS} is damaged: choose another folder.") from error
    for name in names:
        old, new = existing.get(name), json.loads(json.dumps(settings.get(name)))
        if old != new:
            raise OutputError(f"{out.name} holds pairs whose {name} is {old!r}, not {new!r}: choose another folder.")


def pair_indices(out: Path, count: int) -> set[int]:
    """Return the indices below ``count`` whose pair exists. Raises :class:`DatasetError` if a pair lacks a file."""
    indices = set()
    for entry in os.scandir(out):
        match = re.fullmatch(r"pair_(\d{4,})", entry.name)
        if match and int(match[1]) < count:
            missing = [name for name in FILES if not os.path.isfile(os.path.join(entry.path, name))]
            if missing:
                raise DatasetError(f"{entry.name} lacks {missing[0]}: remove that folder to generate the pair again.")
            indices.add(int(match[1]))
    return indices


def write_pair(pair: Pair, out: Path) -> int:
    """Write a pair with its overview to ``out``; return the bytes on disk. Raises ``OutputError``."""
    folder = pair_folder(out, pair.provenance["index"])

    def draw(part: Path) -> None:
        write_figure(draw_overview(pair, folder.name), part / OVERVIEW)

    pairs.write_pair(folder, None, pair.image, pair.labels, pair.provenance, draw=draw)
    return sum((folder / name).stat().st_size for name in FILES)


def read_pair(out: Path, index: int) -> Pair:
    """Read pair ``index``. Raises ``VolumeError`` or :class:`DatasetError`."""
    folder = pair_folder(out, index)
    provenance = _read_json(folder / PROVENANCE)
    return Pair(read_volume(folder / IMAGE), read_volume(folder / LABELS), provenance)


# --- rejected pairs ------------------------------------------------------------------------------------------------


def write_rejection(out: Path, index: int, faults: Sequence[Sequence[str]]) -> None:
    """Record the faults of each attempt at a pair of which none was accepted. Raises ``OutputError``."""
    path = out / f"{pair_name(index)}{REJECTED}"
    write_json(path, {"index": index, "rejected": faults})


def rejections(out: Path, count: int) -> dict[int, list[list[str]]]:
    """Return the indices below ``count`` whose pair was never accepted, with the faults of each attempt."""
    faults = {}
    for path in sorted(out.glob(f"pair_*{REJECTED}")):
        content = _read_json(path)
        if content["index"] < count:
            faults[int(content["index"])] = content["rejected"]
    return faults


@dataclass(frozen=True)
class Rates:
    """Counts over a folder, written as acceptance.json.

    Pairs ``accepted``, attempts ``drawn`` and ``rejected``, rejected attempts by rule, and names of the pairs of which
    no attempt was accepted.
    """

    accepted: int
    drawn: int
    rejected: int
    rules: dict[str, int]
    never_accepted: list[str]


def acceptance_rates(out: Path, count: int) -> Rates:
    """Count the pairs below ``count`` and their rejected attempts from the files, over all runs."""
    never, done = rejections(out, count), pair_indices(out, count)
    faults = [attempt for attempts in never.values() for attempt in attempts]
    for index in done:
        faults += _read_json(pair_folder(out, index) / PROVENANCE).get("acceptance", {}).get("rejected", [])
    rules = Counter(rule for attempt in faults for rule in {fault.partition(":")[0] for fault in attempt})
    names = [pair_name(index) for index in sorted(never)]
    return Rates(len(done), len(done) + len(faults), len(faults), dict(sorted(rules.items())), names)


def write_rates(out: Path, rates: Rates) -> None:
    """Write acceptance.json. Raises ``OutputError``."""
    write_json(out / RATES, asdict(rates))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path.parent.name}/{path.name} cannot be read.") from error


# --- sheets --------------------------------------------------------------------------------------------------------


def write_sheets(out: Path, count: int) -> list[Path]:
    """Write contact sheets of the pairs below ``count``: contact_sheet.png, then contact_sheet_2.png and so on.

    Raises :class:`OutputError`, ``VolumeError`` or :class:`DatasetError`.
    """
    paths: list[Path] = []
    done = sorted(pair_indices(out, count))
    for page, start in enumerate(range(0, len(done), SHEET_PAIRS), start=1):
        indices = done[start : start + SHEET_PAIRS]
        paths.append(out / (SHEET if page == 1 else f"{SHEET.removesuffix('.png')}_{page}.png"))
        write_figure(draw_sheet([(pair_folder(out, i).name, read_pair(out, i)) for i in indices]), paths[-1])
    return paths

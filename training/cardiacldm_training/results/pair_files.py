"""Synthetic pairs on disk: a folder ``pair_NNNN`` with four :data:`FILES` each, shared settings, contact sheets.

A pair's folder is made aside and renamed when its files are on the disk: it is whole or absent. Of a pair that was
never accepted there is ``pair_NNNN.rejected.json`` with the reasons. A folder that was begun is continued with the
same settings only, by one run at a time.
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

from CardiacLDMLib.files import lock, replace_folder, sweep, write_json
from CardiacLDMLib.generation.acceptance import Judge
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.generation.settings import Settings
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.results.pairs import IMAGE, LABELS, PROVENANCE, pair_name

from ..errors import PairsError
from .pair_pictures import SHEET_PAIRS, draw_overview, draw_sheet, write_figure

SETTINGS, SHEET, RATES = "generation.json", "contact_sheet.png", "acceptance.json"
OVERVIEW = "overview.png"
FILES = (IMAGE, LABELS, PROVENANCE, OVERVIEW)
REJECTED = ".rejected.json"


def pair_folder(out: Path, index: int) -> Path:
    return out / pair_name(index)


def record(package: ModelPackage, seed: int, settings: Settings, judge: Judge | None = None) -> dict[str, Any]:
    """What all pairs of a folder share; neither their number nor where they were computed."""
    check = None
    if judge is not None and judge.segmenter is not None:
        check = f"{_described(judge.segmenter.package)}, Dice {judge.least_agreement:g}"
        check += "".join(f", {name} {value}" for part in judge.further for name, value in part.record().items())
    return {"package": _described(package), "seed": seed, **asdict(settings), "check": check}


def _described(package: ModelPackage) -> str:
    return f"{package.manifest.name} {package.manifest.version} (SHA-256 {package.sha256})"


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
            write_json(out / SETTINGS, wanted)
        with (out / SETTINGS).open("rb") as file:
            if not _locked(file.fileno()):
                raise PairsError(
                    f"Another run is drawing pairs into {out.name}: wait for it, or choose another folder."
                )
            _refuse_other(out, file.read(), wanted)
            sweep(out, older_than=0)
            yield
    except OSError as error:
        raise PairsError(f"{out.name} cannot be used for the pairs: {error.strerror or error}.") from error


def _locked(file: int) -> bool:
    """Take the lock on an open file unless another process has it; file systems without locks do without."""
    try:
        return lock(file)
    except OSError:
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
    """Write a pair to ``out``, whole or not at all; returns its bytes on disk. Raises ``OutputError``."""
    folder = pair_folder(out, pair.provenance["index"])
    with replace_folder(folder) as part:
        write_volume(pair.image, part / IMAGE)
        write_volume(pair.labels, part / LABELS)
        write_figure(draw_overview(pair, folder.name), part / OVERVIEW)
        write_json(part / PROVENANCE, pair.provenance)
        return sum((part / name).stat().st_size for name in FILES)


def read_pair(out: Path, index: int) -> Pair:
    """A pair as it was written. Raises ``VolumeError`` or :class:`PairsError`."""
    folder = pair_folder(out, index)
    provenance = _read_json(folder / PROVENANCE)
    return Pair(read_volume(folder / IMAGE), read_volume(folder / LABELS), provenance)


# --- pairs that were not accepted ----------------------------------------------------------------------------------


def write_rejected(out: Path, index: int, faults: Sequence[Sequence[str]]) -> None:
    """Note why no attempt at a pair was accepted. Raises ``OutputError``."""
    path = out / f"{pair_name(index)}{REJECTED}"
    write_json(path, {"index": index, "rejected": faults})


def rejected(out: Path, count: int) -> dict[int, list[list[str]]]:
    """The numbers below ``count`` whose pair was never accepted, with the faults of each attempt."""
    found = {}
    for path in sorted(out.glob(f"pair_*{REJECTED}")):
        content = _read_json(path)
        if content["index"] < count:
            found[int(content["index"])] = content["rejected"]
    return found


@dataclass(frozen=True)
class Rates:
    """How many pairs below a count were ``accepted``, how often one was ``drawn`` and ``rejected``, for which rules."""

    accepted: int
    drawn: int
    rejected: int
    rules: dict[str, int]
    never_accepted: list[str]


def rates(out: Path, count: int) -> Rates:
    """From what is on the disk, so that it does not matter in how many runs the pairs were drawn."""
    never, done = rejected(out, count), finished(out, count)
    faults = [attempt for attempts in never.values() for attempt in attempts]
    for index in done:
        faults += _read_json(pair_folder(out, index) / PROVENANCE).get("acceptance", {}).get("rejected", [])
    rules = Counter(rule for attempt in faults for rule in {fault.partition(":")[0] for fault in attempt})
    names = [pair_name(index) for index in sorted(never)]
    return Rates(len(done), len(done) + len(faults), len(faults), dict(sorted(rules.items())), names)


def write_rates(out: Path, found: Rates) -> None:
    """Write acceptance.json. Raises ``OutputError``."""
    write_json(out / RATES, asdict(found))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PairsError(f"{path.parent.name}/{path.name} cannot be read.") from error


# --- sheets --------------------------------------------------------------------------------------------------------


def write_sheets(out: Path, count: int) -> list[Path]:
    """Contact sheets of the pairs below ``count``: contact_sheet.png, then contact_sheet_2.png and so on.

    Raises :class:`PairsError` or ``OutputError``.
    """
    paths: list[Path] = []
    done = sorted(finished(out, count))
    for page, start in enumerate(range(0, len(done), SHEET_PAIRS), start=1):
        indices = done[start : start + SHEET_PAIRS]
        paths.append(out / (SHEET if page == 1 else f"{SHEET.removesuffix('.png')}_{page}.png"))
        write_figure(draw_sheet([(pair_folder(out, i).name, read_pair(out, i)) for i in indices]), paths[-1])
    return paths

"""Synthetic pairs on disk: a folder ``pair_NNNN`` with four :data:`FILES` each, shared settings, contact sheets.

A pair's folder is complete or absent. A pair that failed the checks in every attempt leaves
``pair_NNNN.rejected.json`` with the reasons. An unfinished run can be continued with the same settings, by one process
group at a time.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from CardiacLDMLib.errors import OutputError, VolumeError
from CardiacLDMLib.files import lock, remove_folder, sweep, write_json
from CardiacLDMLib.generation.acceptance import Judge
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.generation.settings import Settings
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.progress import Say
from CardiacLDMLib.results import pairs
from CardiacLDMLib.results.pairs import IMAGE, LABELS, PROVENANCE, pair_name

from ..errors import DatasetError
from .pair_pictures import SHEET_PAIRS, draw_overview, draw_sheet, write_figure

SETTINGS, SHEET, RATES = "generation.json", "contact_sheet.png", "acceptance.json"
OVERVIEW = "overview.png"
_PNG_END = b"IEND\xaeB`\x82"
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
    if judge is not None:
        check = "labels, image"
        if judge.segmenter is not None:
            check += f", {_package_text(judge.segmenter.package)}, Dice {judge.least_agreement:g}"
        check += "".join(f", {name} {value}" for part in judge.further for name, value in part.record().items())
    return {"package": _package_text(package), "seed": seed, **asdict(settings), "check": check}


def package_of(out: Path) -> str:
    """Return the name, version and hash of the package that generated the pairs of a folder; "" if it does not say."""
    try:
        return str(json.loads((out / SETTINGS).read_text(encoding="utf-8"))["package"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


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
    for index, folder in _folders(out, count):
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise DatasetError(f"{folder.name} lacks {missing[0]}: remove that folder to generate the pair again.")
        indices.add(index)
    return indices


def _folders(out: Path, count: int) -> Iterator[tuple[int, Path]]:
    """Yield the index and folder of each pair below ``count`` that exists."""
    for entry in os.scandir(out):
        match = re.fullmatch(r"pair_(\d{4,})", entry.name)
        if match and int(match[1]) < count:
            yield int(match[1]), Path(entry.path)


def finished_indices(out: Path, count: int, say: Say) -> set[int]:
    """Return the indices below ``count`` that need no more work: their pair is whole, or was never accepted.

    Damaged pairs and records are removed, since their seed and index give them again; ``say`` receives a sentence for
    each. Raises :class:`DatasetError` for a damaged pair whose labels were edited, which nothing can give again.
    """
    finished = set()
    for index, folder in sorted(_folders(out, count)):
        damage = _damage(folder)
        if damage is None:
            finished.add(index)
            continue
        if _was_edited(folder):
            raise DatasetError(f"{folder.name} was edited and is damaged ({damage}): repair it, or move it away.")
        remove_folder(folder)
        say(f"{folder.name} is damaged ({damage}): it is generated again.")
    for path in sorted(out.glob(f"pair_*{REJECTED}")):
        try:
            index = _read_rejection(path)[0]
        except DatasetError:
            path.unlink()
            say(f"{path.name} is damaged: the pair is generated again.")
        else:
            finished |= {index} if index < count else set()
    return finished


def _damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a pair, or None. Every byte is read: a checksum tells changed ones."""
    for name in FILES:
        if not (folder / name).is_file():
            return f"it lacks {name}"
    for name in (IMAGE, LABELS):
        try:
            with gzip.open(folder / name) as file:
                while file.read(1 << 20):
                    pass
        except (OSError, EOFError, zlib.error):
            return f"{name} cannot be read"
    if not (folder / OVERVIEW).read_bytes().endswith(_PNG_END):
        return f"{OVERVIEW} is cut short"
    try:
        _read_json(folder / PROVENANCE)
        sizes = {read_volume(folder / name).array.shape for name in (IMAGE, LABELS)}
    except (DatasetError, VolumeError) as error:
        return str(error).removesuffix(".")
    return None if len(sizes) == 1 else "its scan and labels differ in size"


def _was_edited(folder: Path) -> bool:
    try:
        return bool(_read_json(folder / PROVENANCE).get("edited"))
    except DatasetError:
        return False


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
        index, rejected = _read_rejection(path)
        if index < count:
            faults[index] = rejected
    return faults


def _read_rejection(path: Path) -> tuple[int, list[list[str]]]:
    """Return index and faults of a pair that was never accepted. Raises :class:`DatasetError` for a damaged record."""
    content = _read_json(path)
    try:
        return int(content["index"]), [[str(fault) for fault in attempt] for attempt in content["rejected"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path.name} is damaged.") from error


@dataclass(frozen=True)
class Rates:
    """Counts over a folder, written as acceptance.json.

    Pairs ``accepted``, attempts ``drawn`` and ``rejected``, rejected attempts by rule, accepted pairs with a remark by
    rule, and names of the pairs of which no attempt was accepted.
    """

    accepted: int
    drawn: int
    rejected: int
    rules: dict[str, int]
    remarks: dict[str, int]
    never_accepted: list[str]


def acceptance_rates(out: Path, count: int) -> Rates:
    """Count the pairs below ``count`` and their rejected attempts from the files, over all runs."""
    never, done = rejections(out, count), pair_indices(out, count)
    faults = [attempt for attempts in never.values() for attempt in attempts]
    remarks = []
    for index in done:
        acceptance = _read_json(pair_folder(out, index) / PROVENANCE).get("acceptance", {})
        faults += acceptance.get("rejected", [])
        remarks.append(acceptance.get("remarks", []))
    names = [pair_name(index) for index in sorted(never)]
    return Rates(len(done), len(done) + len(faults), len(faults), _by_rule(faults), _by_rule(remarks), names)


def _by_rule(findings: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return how many of the lists of ``rule: clause`` name each rule."""
    rules = Counter(rule for texts in findings for rule in {text.partition(":")[0] for text in texts})
    return dict(sorted(rules.items()))


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

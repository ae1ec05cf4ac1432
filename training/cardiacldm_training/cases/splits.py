"""Splits by patient, stored in one JSON file: which cases train, validate and test in each of several folds.

A case belongs to a group: its patient's, as the layout or the user tells, otherwise its own. Groups that share a scan
are one. A group is never on two sides. A case that was added later belongs to no fold until the split is extended.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from CardiacLDMLib.files import write_text
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.text import first_problem, join_words, plural, printable

from ..errors import ConfigError, DatasetError
from .readers.files import ImageFiles
from .readers.label_map import read_table

#: Increase it when the file changes its shape.
FORMAT: Final = 1
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
#: Most names of cases in a sentence.
_MOST_NAMES = 5
_CHUNK = 1 << 22


class SplitCase(Record):
    """Group and fold of a case. ``fold``: the one in which it validates; None for a case to test on.

    ``group`` tells groups apart and names no patient.
    """

    group: str
    fold: Annotated[int, Field(ge=0)] | None


class Splits(Record):
    """All folds of a split, as stored. ``cases``: by "FOLDER/NAME"."""

    format: Literal[1] = FORMAT
    folds: Annotated[int, Field(ge=2)]
    seed: int
    group_by: str = ""
    cases: dict[str, SplitCase]

    @model_validator(mode="after")
    def _check(self) -> Splits:
        folds: dict[str, int | None] = {}
        for name, case in self.cases.items():
            if case.fold is not None and case.fold >= self.folds:
                raise ValueError(f"the case {name} is in fold {case.fold} of {self.folds}")
            if folds.setdefault(case.group, case.fold) != case.fold:
                raise ValueError(f"cases of the group {case.group} are on two sides, {name} for one")
        return self


@dataclass(frozen=True)
class Fold:
    """One fold of a stored split. ``title`` names its file in messages."""

    splits: Splits
    number: int
    title: str

    @property
    def held_out(self) -> frozenset[str]:
        """The names of the cases to validate on."""
        return frozenset(name for name, case in self.splits.cases.items() if case.fold == self.number)

    def part(self, name: str) -> Part | None:
        """Return the part that a case belongs to; None for a case that the split does not name."""
        case = self.splits.cases.get(name)
        if case is None:
            return None
        return "test" if case.fold is None else "validation" if case.fold == self.number else "train"

    def differences(self, names: Sequence[str]) -> list[str]:
        """Return sentences on the cases that the split lacks, and on those that are not among ``names`` any more."""
        new = [name for name in names if name not in self.splits.cases]
        gone = [name for name in self.splits.cases if name not in set(names) and self.part(name) != "test"]
        sentences = []
        if new:
            sentences.append(
                f"{plural(len(new), 'case')} not in {self.title}, left out: {_listed(new)}. Extend the split with "
                "cardiacldm data split --extend."
            )
        if gone:
            sentences.append(f"{plural(len(gone), 'case')} of {self.title} not in the data: {_listed(gone)}.")
        return sentences


def read_fold(path: Path, number: int) -> Fold:
    """Read one fold of a stored split. Raises :class:`DatasetError`, and :class:`ConfigError` for no such fold."""
    splits = read_splits(path)
    if not 0 <= number < splits.folds:
        raise ConfigError(f"{printable(path.name)} has the folds 0 to {splits.folds - 1}, and no fold {number}.")
    return Fold(splits, number, printable(path.name))


def read_splits(path: Path) -> Splits:
    """Read a stored split. Raises :class:`DatasetError`."""
    name = printable(path.name)
    try:
        return Splits.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{name} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise DatasetError(f"{name} is no split of this version: {first_problem(error)}.") from error
    except ValueError as error:
        raise DatasetError(f"{name} is no split: it is not written as JSON.") from error


def write_splits(splits: Splits, path: Path) -> None:
    """Write a split, whole or not at all. Raises OutputError."""
    write_text(path, splits.model_dump_json(indent=2) + "\n")


# --- groups --------------------------------------------------------------------------------------------------------


def groups_of(cases: Mapping[str, ImageFiles], group_by: str | None) -> dict[str, str]:
    """Return the group of each case by its name, as the layout or ``group_by`` tells.

    ``group_by``: a column of the data's table, a CSV file with the columns case and patient, or a regular expression
    that finds the patient in a case's name. Raises :class:`DatasetError` for a case that it does not fit.
    """
    if group_by is None:
        return {name: case.patient or name for name, case in cases.items()}
    if group_by.lower().endswith(".csv"):
        rows = read_table(Path(group_by), ("case", "patient"))
        found = {row["case"]: row["patient"] for row in rows if row["patient"]}
        groups = {name: found.get(name) or found.get(name.partition("/")[2]) for name in cases}
    elif any(group_by.lower() in case.columns for case in cases.values()):
        groups = {name: case.columns.get(group_by.lower()) for name, case in cases.items()}
    else:
        groups = {name: _found(group_by, name.partition("/")[2]) for name in cases}
    lacking = [name for name, group in groups.items() if not group]
    if lacking:
        raise DatasetError(f"{group_by} tells no patient of {plural(len(lacking), 'case')}: {_listed(lacking)}.")
    return {name: group or name for name, group in groups.items()}


def _found(expression: str, name: str) -> str:
    """Return what a regular expression finds in a name: its first group, or all of it."""
    try:
        match = re.search(expression, name)
    except re.error as error:
        raise ConfigError(f"--group-by {expression} is no regular expression: {error}.") from error
    if match is None:
        return ""
    return (match.group(1) if match.re.groups else match.group(0)) or ""


def joined_groups(groups: Mapping[str, str], digests: Mapping[str, str]) -> tuple[dict[str, str], list[list[str]]]:
    """Return the groups, of which those that share a scan are one, and the cases of each such scan.

    ``digests``: of the scan of each case, see :func:`scan_digest`.
    """
    by_scan: dict[str, list[str]] = {}
    for name in sorted(groups):
        by_scan.setdefault(digests[name], []).append(name)
    copies = [names for names in by_scan.values() if len(names) > 1]
    parent = {group: group for group in groups.values()}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    for names in copies:
        first, *others = sorted({root(groups[name]) for name in names})
        for other in others:
            parent[other] = first
    return {name: root(group) for name, group in groups.items()}, copies


def scan_digest(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the content of a scan's files, without the compression of gzip. Raises ``OSError``."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            try:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            except (EOFError, OSError, zlib.error):
                digest.update(path.name.encode())  # a damaged file, which reading refuses later
    return digest.hexdigest()


# --- folds ---------------------------------------------------------------------------------------------------------


def make_splits(
    groups: Mapping[str, str], folds: int, *, test: float = 0.0, seed: int = 0, group_by: str = "",
    tests: Iterable[str] = (), known: Splits | None = None,
) -> Splits:  # fmt: skip
    """Assign every group to one of ``folds``, as even in cases as the groups allow, or to the test cases.

    ``test``: the share of the cases to test on. ``tests``: cases that the data set itself sets aside; the others of
    their groups follow. ``known``: a split that stays as it is; only new cases are assigned. Raises
    :class:`DatasetError` for fewer groups than folds.
    """
    groups = _without_patients(groups, known)
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    place: dict[str, int | None] = {groups[name]: None for name in tests}
    for name, case in (known.cases if known else {}).items():
        if place.setdefault(groups.get(name, case.group), case.fold) != case.fold:
            raise DatasetError(f"The patient of {name} would be on two sides: make a new split.")
    order = sorted(members, key=lambda group: (-len(members[group]), _rank(group, seed)))
    sizes = Counter({group: len(names) for group, names in members.items()})
    aim = test * sizes.total() if known is None else 0
    for group in sorted(order, key=lambda group: _rank(group, seed)):
        if sum(sizes[each] for each, fold in place.items() if fold is None) + sizes[group] / 2 > aim:
            break
        place.setdefault(group, None)
    counts = Counter({fold: 0 for fold in range(folds)})
    counts.update(fold for group, fold in place.items() for _ in members.get(group, ()) if fold is not None)
    for group in order:
        if group not in place:
            fold = min(range(folds), key=lambda number: (counts[number], number))
            place[group] = fold
            counts[fold] += sizes[group]
    empty = [fold for fold in range(folds) if not counts[fold]]
    if empty and known is None:
        raise DatasetError(
            f"{plural(len(members), 'patient')} cannot make {folds} folds{' and test cases' if test else ''}: choose "
            "fewer --folds."
        )
    cases = {name: SplitCase(group=group, fold=place[group]) for name, group in sorted(groups.items())}
    kept = {name: case for name, case in (known.cases if known else {}).items() if name not in cases}
    return Splits(folds=folds, seed=seed, group_by=group_by, cases={**kept, **cases})


def _without_patients(groups: Mapping[str, str], known: Splits | None) -> dict[str, str]:
    """Return the group of each case named after one of its cases, as in a ``known`` split: the file names no patient.

    A hash would name them: there are few enough patient numbers to try them all.
    """
    codes: dict[str, str] = {}
    for name in sorted(groups, key=lambda name: (known is None or name not in known.cases, name)):
        codes.setdefault(groups[name], known.cases[name].group if known and name in known.cases else name)
    return {name: codes[group] for name, group in groups.items()}


def _rank(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {group}".encode()).hexdigest()


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return join_words([*names[:_MOST_NAMES], f"{more} more"] if more > 0 else list(names))

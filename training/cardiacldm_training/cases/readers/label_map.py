"""What the values or names of labels mean: the tables of the layouts, and those that a user writes.

A table is a CSV file with the columns ``label`` (a value, or the name of a segment), ``structure`` (LA, LV, ...,
``background``, or ``unknown`` for voxels that teach nothing), and if wanted ``whole``: ``no`` for a structure of which
the data set labels only a part, such as an aorta that is cut. What the table lacks, the data set does not label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from CardiacLDMLib import anatomy
from CardiacLDMLib.tables import read_rows
from CardiacLDMLib.text import printable

from ...errors import DatasetError

BACKGROUND, UNKNOWN = "background", "unknown"
#: Value of voxels that teach nothing.
IGNORED = 255
TABLES = Path(__file__).parent / "tables"
_COLUMNS = ("label", "structure", "whole")
_TARGETS = (*anatomy.NAMES, BACKGROUND, UNKNOWN)
#: Cells of the column ``whole``.
_WORDS = {"": True, "yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class Meaning(NamedTuple):
    """What a label stands for: a structure, the background, or unknown; ``whole``: and all of it is labelled."""

    target: str
    whole: bool = True

    @property
    def value(self) -> int:
        """The value of the project's labels."""
        return {BACKGROUND: anatomy.BACKGROUND, UNKNOWN: IGNORED}.get(self.target) or anatomy.VALUE.get(self.target, 0)


@dataclass(frozen=True)
class LabelMap:
    """The meaning of values (whole numbers) and of names (see :func:`plain`). ``title`` names it in messages.

    ``named``: the names that a data set itself gives its values, which tell their meaning. ``chosen``: the names of a
    user's table, which come before codes. ``only_one``: the end of the sentence that refuses labels with a single
    value, if that is a sign of other labels.
    """

    title: str
    values: Mapping[int, Meaning] = field(repr=False)
    names: Mapping[str, Meaning] = field(repr=False)
    named: Mapping[int, str] = field(default_factory=dict, repr=False)
    chosen: Mapping[str, Meaning] = field(default_factory=dict, repr=False)
    only_one: str = field(default="", repr=False)

    def of_name(self, name: str) -> Meaning | None:
        """Return what the name of a segment or mask stands for; None for an unfamiliar one.

        A code can be a name too: "SCT 45341000".
        """
        return self.names.get(plain(name))

    def of_choice(self, name: str) -> Meaning | None:
        """Return what a name stands for in a user's table; None if there is none."""
        return self.chosen.get(plain(name))

    @property
    def record(self) -> str:
        """A text that differs between maps that read labels differently."""
        return repr([sorted(each.items()) for each in (self.values, self.names, self.chosen)])


def unknown_structures(meanings: Iterable[Meaning]) -> frozenset[str]:
    """Return the structures that none of ``meanings`` labels as a whole."""
    meanings = list(meanings)
    whole = {meaning.target for meaning in meanings if meaning.whole}
    return frozenset(anatomy.NAMES) - whole | {meaning.target for meaning in meanings if not meaning.whole} - {
        BACKGROUND, UNKNOWN
    }  # fmt: skip


def plain(name: str) -> str:
    """Return a name without case, spaces and marks: "Left Atrium", "left_atrium" and "left-atrium" are the same."""
    return re.sub(r"[\W_]+", "", name.casefold())


@cache
def shipped(name: str) -> LabelMap:
    """Return the table that ships for a layout, with the names that all layouts know."""
    path = TABLES / f"{name}.csv"
    return read_label_map(path) if path.is_file() else LabelMap(name, {}, _known_names())


@cache
def _known_names() -> Mapping[str, Meaning]:
    return _read(TABLES / "names.csv")[1]


def read_label_map(path: Path) -> LabelMap:
    """Read a table. Its names come before those that are known anyway. Raises :class:`DatasetError`, naming the row."""
    values, names = _read(path)
    return LabelMap(printable(path.name), values, {**_known_names(), **names}, chosen=names)


def overridden(label_map: LabelMap, table: LabelMap | None) -> LabelMap:
    """Return ``label_map`` as a user's ``table`` changes it: its values replace all values, its names come first."""
    if table is None:
        return label_map
    names = {**label_map.names, **table.names}
    if table.values:
        return LabelMap(table.title, table.values, names, chosen=table.chosen)
    if label_map.named:
        return by_names(label_map.title, label_map.named, names)
    return replace(label_map, names=names, chosen=table.chosen)


def by_names(title: str, named: Mapping[int, str], names: Mapping[str, Meaning] | None = None) -> LabelMap:
    """Return the map of a data set that gives its values names; a value with an unfamiliar name teaches nothing."""
    names = _known_names() if names is None else names
    values = {value: names.get(plain(name), Meaning(UNKNOWN)) for value, name in named.items()}
    return LabelMap(title, values, names, named)


def _read(path: Path) -> tuple[dict[int, Meaning], dict[str, Meaning]]:
    rows = read_table(path, needed=("label", "structure"))
    values: dict[int, Meaning] = {}
    names: dict[str, Meaning] = {}
    targets = {target.casefold(): target for target in _TARGETS}
    for number, row in enumerate(rows, start=2):
        where = f"{printable(path.name)}, line {number}"
        target, whole = targets.get(row["structure"].casefold()), _WORDS.get(row.get("whole", "").casefold())
        if target is None:
            raise DatasetError(f"{where}: {row['structure']!r} is none of {', '.join(_TARGETS)}.")
        if whole is None:
            raise DatasetError(f"{where}: the column whole holds yes or no, not {row['whole']!r}.")
        label, meaning = row["label"], Meaning(target, whole)
        if not label:
            raise DatasetError(f"{where}: the column label is empty.")
        if re.fullmatch(r"\d+(\.0*)?", label):
            known, key = values.setdefault(int(float(label)), meaning), label
        else:
            known, key = names.setdefault(plain(label), meaning), label
        if known != meaning:
            raise DatasetError(f"{where}: the label {key!r} has two meanings, {known.target} and {target}.")
    if not values and not names:
        raise DatasetError(f"{printable(path.name)} holds no labels.")
    return values, names


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file, see :func:`read_rows`. Raises :class:`DatasetError`."""
    return read_rows(path, DatasetError, needed, ", ".join(needed))


#: This project's own values.
OWN = shipped("cardiacldm")

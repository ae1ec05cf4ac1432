"""What is known of a case beside its voxels, and how a generator is told: sex, contrast phase, site, implant, spacing.

Cases come with it in ``NAME/case.json`` (what ``cardiacldm cohort`` writes, under ``conditions``), or all together in
``DIR/conditions.csv`` with a column ``case`` and one for each condition. Everything may be unknown.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib.generation.settings import scale_number

from ..errors import DatasetError
from .condition_names import IMPLANTS, PHASES, SCANNER_STYLES
from .readers.folders import find_cases
from .settings import Frozen

#: The conditions that are one of several values, in the networks' order; None where a hospital has its own names.
CHOICES: dict[str, tuple[str, ...] | None] = {
    "sex": ("female", "male"), "contrast_phase": PHASES, "scan_location": None, "implant": IMPLANTS,
}  # fmt: skip
#: The conditions that are a number above 0, in the networks' order.
NUMBERS = ("spacing_mm",)
TABLE = "conditions.csv"
#: As many values, and as long ones, as a package may list.
_MOST_VALUES, _LONGEST = 64, 60

Conditions = Mapping[str, str | float]


class Vocabulary(Frozen):
    """The conditions that a generator learns: the values of each choice, the range of each number.

    ``chances``: the share of cases with each value, among those that have any.
    """

    choices: dict[str, tuple[str, ...]]
    numbers: dict[str, tuple[float, float]]
    chances: dict[str, tuple[float, ...]]

    def encoded(self, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """The place of each choice's value, (A,) int64, and the numbers about -1..1, (B,) float32.

        -1 and NaN stand for what is unknown, or was not there to be learned.
        """
        places = [
            values.index(str(conditions[name])) if conditions.get(name) in values else -1
            for name, values in self.choices.items()
        ]
        numbers = [
            scale_number(float(conditions[name]), *span) if name in conditions else math.nan
            for name, span in self.numbers.items()
        ]
        return np.array(places, dtype=np.int64), np.array(numbers, dtype=np.float32)


def learned(cases: Sequence[Conditions]) -> Vocabulary:
    """What can be learned from ``cases``: the values and ranges that they have; a condition that none has is left out.

    Raises :class:`DatasetError` for more values than a package can list.
    """
    choices, numbers, chances = {}, {}, {}
    for name, known in CHOICES.items():
        found = Counter(str(case[name]) for case in cases if name in case)
        order = list(known or SCANNER_STYLES)
        values = [value for value in order if value in found] + sorted(found.keys() - set(order))
        if len(values) > _MOST_VALUES:
            raise DatasetError(f"The cases have {len(values)} values of {name}: {_MOST_VALUES} are possible.")
        if values:
            choices[name] = tuple(values)
            chances[name] = tuple(round(found[value] / found.total(), 3) for value in values)
    for name in NUMBERS:
        measured = [float(case[name]) for case in cases if name in case]
        if measured:
            numbers[name] = (min(measured), max(measured))
    return Vocabulary(choices=choices, numbers=numbers, chances=chances)


def digest(conditions: Mapping[str, Conditions]) -> str:
    """SHA-256 over the conditions of all cases."""
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()


# --- reading -------------------------------------------------------------------------------------------------------


def read_conditions(folders: Iterable[Path]) -> dict[str, Conditions]:
    """What is known of every case of ``folders``, by the names that :func:`finetune.gather` gives them.

    Raises :class:`DatasetError` for a file that cannot be read, and for a condition or value that nobody knows.
    """
    found: dict[str, Conditions] = {}
    for folder in folders:
        table = _table(folder / TABLE) if (folder / TABLE).is_file() else {}
        for case in find_cases(folder):
            record = case.image.parent / "case.json"
            known = _record(record) if record.is_file() and case.image.parent.name == case.name else {}
            found[f"{folder.resolve().name}/{case.name}"] = {**known, **table.get(case.name, {})}
    return found


def _record(path: Path) -> Conditions:
    """The conditions in a case.json; names that are not conditions of this version are left out."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        given = content.get("conditions") or {}
        named = {name: given[name] for name in (*CHOICES, *NUMBERS) if given.get(name) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path} cannot be read as the record of a case.") from error
    return _checked(named, str(path))


def _table(path: Path) -> dict[str, Conditions]:
    """The conditions of each case in a table; empty cells are unknown."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table of conditions.") from error
    known = [*CHOICES, *NUMBERS]
    if "case" not in columns:
        raise DatasetError(f"{path} needs a column named case, beside those of the conditions: {', '.join(known)}.")
    strange = [column for column in columns if column not in ("case", *known)]
    if strange:
        raise DatasetError(f"{path} has the column {strange[0]!r}: there are case, {', '.join(known)}.")
    table: dict[str, Conditions] = {}
    for row in rows:
        case = row.pop("case").strip()
        if case in table:
            raise DatasetError(f"{path} has two rows for the case {case}.")
        given = {name: value.strip() for name, value in row.items() if name in known and value.strip()}
        table[case] = _checked(given, f"{path}, case {case}")
    return table


def _checked(given: Mapping[str, Any], where: str) -> Conditions:
    return {
        name: _number(name, value, where) if name in NUMBERS else _choice(name, value, where)
        for name, value in given.items()
    }


def _choice(name: str, value: Any, where: str) -> str:
    known = CHOICES[name]
    if known is not None and value not in known:
        raise DatasetError(f"{where}: {name} is {value!r}, which must be {' or '.join(known)}, or left out.")
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise DatasetError(f"{where}: {name} must be a name of at most {_LONGEST} characters.")
    return value


def _number(name: str, value: Any, where: str) -> float:
    number = math.nan
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            number = float(value)
    if not 0 < number < math.inf:
        raise DatasetError(f"{where}: {name} is {value!r}, which must be a number above 0, or left out.")
    return number

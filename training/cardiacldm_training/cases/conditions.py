"""Conditions of cases, which a generator learns: sex, contrast phase, scan location, implant, spacing.

They are read from ``NAME/case.json`` (the entry ``conditions``, as ``cardiacldm cohort`` writes it) or from
``DIR/conditions.csv``, which has a column ``case`` and one for each condition. Any condition may be unknown.
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
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.text import folder_name

from ..errors import DatasetError
from .condition_names import IMPLANTS, PHASES, SCANNER_STYLES
from .readers.layouts import Reading, find_cases

#: The conditions that are one of several values, in the network's order; None: any names, such as those of hospitals.
CHOICES: dict[str, tuple[str, ...] | None] = {
    "sex": ("female", "male"), "contrast_phase": PHASES, "scan_location": None, "implant": IMPLANTS,
}  # fmt: skip
#: The conditions that are a number above 0, in the network's order.
NUMBERS = ("spacing_mm",)
TABLE = "conditions.csv"
#: A package lists at most so many values, each of at most so many characters.
_MOST_VALUES, _LONGEST = 64, 60

Conditions = Mapping[str, str | float]
#: The conditions of cases by their names.
CaseConditions = Mapping[str, Conditions]


class Vocabulary(Record):
    """The conditions of a set of training cases: the values of each choice, the range of each number.

    ``chances``: the frequency of each value among the cases in which the condition is known.
    """

    choices: dict[str, tuple[str, ...]]
    numbers: dict[str, tuple[float, float]]
    chances: dict[str, tuple[float, ...]]

    def encode(self, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of each choice's value, (A,) int64, and the numbers scaled to about -1..1, (B,) float32.

        -1 and NaN stand for an unknown condition, and for a value that the training cases lack.
        """
        indices = [
            values.index(str(conditions[name])) if conditions.get(name) in values else -1
            for name, values in self.choices.items()
        ]
        numbers = [
            scale_number(float(conditions[name]), *span) if name in conditions else math.nan
            for name, span in self.numbers.items()
        ]
        return np.array(indices, dtype=np.int64), np.array(numbers, dtype=np.float32)


def vocabulary(cases: Sequence[Conditions]) -> Vocabulary:
    """Return the values and ranges that ``cases`` have, without the conditions that none of them has.

    Raises :class:`DatasetError` for more values than a package can list.
    """
    choices, numbers, chances = {}, {}, {}
    for name, allowed in CHOICES.items():
        counts = Counter(str(case[name]) for case in cases if name in case)
        order = list(allowed or SCANNER_STYLES)
        values = [value for value in order if value in counts] + sorted(counts.keys() - set(order))
        if len(values) > _MOST_VALUES:
            raise DatasetError(f"The cases have {len(values)} values of {name}: {_MOST_VALUES} are possible.")
        if values:
            choices[name] = tuple(values)
            chances[name] = tuple(round(counts[value] / counts.total(), 3) for value in values)
    for name in NUMBERS:
        values_of_cases = [float(case[name]) for case in cases if name in case]
        if values_of_cases:
            numbers[name] = (min(values_of_cases), max(values_of_cases))
    return Vocabulary(choices=choices, numbers=numbers, chances=chances)


def digest(conditions: CaseConditions) -> str:
    """Return the SHA-256 over the conditions of all cases."""
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()


# --- reading -------------------------------------------------------------------------------------------------------


def read_conditions(folders: Iterable[Path], reading: Reading | None = None) -> dict[str, Conditions]:
    """Return the known conditions of every case of ``folders``, by the names that :func:`store.gather` gives them.

    Raises :class:`DatasetError` for a file that cannot be read, and for a wrong condition or value.
    """
    conditions: dict[str, Conditions] = {}
    for folder in folders:
        table = _table(folder / TABLE) if (folder / TABLE).is_file() else {}
        for case in find_cases(folder, reading):
            record = case.image.parent / "case.json"
            case_values = _record(record) if record.is_file() and case.image.parent.name == case.name else {}
            sex = {"sex": case.sex} if case.sex else {}  # as a data set's own table tells
            conditions[f"{folder_name(folder)}/{case.name}"] = {**sex, **case_values, **table.get(case.name, {})}
    return conditions


def _record(path: Path) -> Conditions:
    """Return the conditions in a case.json; other names are ignored."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        entries = content.get("conditions") or {}
        values = {name: entries[name] for name in (*CHOICES, *NUMBERS) if entries.get(name) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path} cannot be read as the record of a case.") from error
    return _check(values, str(path))


def _table(path: Path) -> dict[str, Conditions]:
    """Return the conditions of each case in a table; empty cells are unknown."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table of conditions.") from error
    names = [*CHOICES, *NUMBERS]
    if "case" not in columns:
        raise DatasetError(f"{path} needs a column named case, beside those of the conditions: {', '.join(names)}.")
    others = [column for column in columns if column not in ("case", *names)]
    if others:
        raise DatasetError(f"{path} has the column {others[0]!r}; columns may be case, {', '.join(names)}.")
    table: dict[str, Conditions] = {}
    for row in rows:
        case = row.pop("case").strip()
        if case in table:
            raise DatasetError(f"{path} has two rows for the case {case}.")
        values = {name: value.strip() for name, value in row.items() if name in names and value.strip()}
        table[case] = _check(values, f"{path}, case {case}")
    return table


def _check(values: Mapping[str, Any], where: str) -> Conditions:
    return {
        name: _number(name, value, where) if name in NUMBERS else _choice(name, value, where)
        for name, value in values.items()
    }


def _choice(name: str, value: Any, where: str) -> str:
    allowed = CHOICES[name]
    if allowed is not None and value not in allowed:
        raise DatasetError(f"{where}: {name} is {value!r}, which must be {' or '.join(allowed)}, or left out.")
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

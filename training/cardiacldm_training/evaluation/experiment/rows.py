"""The rows of an experiment on disk: one file for each finished run, never made again.

``OUT/plan.json`` is the plan that the rows belong to, ``OUT/rows/NAME.json`` one row each. A plan may gain seeds, sets,
arms and protocols later; what earlier rows depend on may not change.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from CardiacLDMLib.files import sweep, write_text
from CardiacLDMLib.packages.fields import Record

from ...errors import EvaluationError
from ..metrics import StructureScore
from .plan import Plan

PLAN_FILE, ROWS = "plan.json", "rows"
#: Fields of a plan whose entries, by name, may be added to.
_MAY_GROW = ("sets", "pretrainings", "arms", "protocols")


class TestCase(Record):
    """Scores of one test case, on the network's grid."""

    __test__ = False  # no test of pytest

    case: str
    structures: tuple[StructureScore, ...]

    def mean(self, measure: str) -> float:
        """Return the mean of a measure over the case's structures."""
        return sum(getattr(score, measure) for score in self.structures) / len(self.structures)


class Row(Record):
    """One trained and tested network.

    ``updates``: optimiser steps of fine-tuning. ``core_seconds``: CPU time of fine-tuning with its validations; that of
    the pre-training, which several arms may share, is counted apart. ``curve``: (step, mean Dice) of each validation.
    ``best_step``: the step of the weights that were tested.
    """

    protocol: str
    arm: str
    seed: int
    cases: int
    pairs: int
    updates: int
    best_step: int
    stopped_early: bool
    core_seconds: float
    test_core_seconds: float
    pretraining_updates: int = 0
    pretraining_core_seconds: float = 0.0
    curve: tuple[tuple[int, float], ...]
    tests: dict[str, tuple[TestCase, ...]]


def file_name(*parts: str | int) -> str:
    """Return a file name for the names of a run: readable, and different for different names."""
    text = "--".join(str(part) for part in parts)
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9-]+', '-', text).strip('-')[:80]}-{digest}"


def row_path(out: Path, protocol: str, arm: str, seed: int) -> Path:
    """Return the file of a run's row."""
    return out / ROWS / f"{file_name(protocol, arm, seed)}.json"


def write_row(row: Row, out: Path) -> None:
    """Write a row as a whole. Raises :class:`OutputError`."""
    write_text(row_path(out, row.protocol, row.arm, row.seed), row.model_dump_json() + "\n")


def read_row(path: Path) -> Row:
    """Read a row. Raises :class:`EvaluationError`."""
    try:
        return Row.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is damaged: delete it, and the run makes it again.") from error


def read_rows(plan: Plan, out: Path) -> list[Row]:
    """Return the rows of a plan that are there, in its order: protocols, arms, seeds. Raises EvaluationError."""
    paths = [
        row_path(out, name, arm, seed)
        for name, protocol in plan.protocols.items()
        for arm in protocol.arms
        for seed in plan.seeds
    ]
    return [read_row(path) for path in paths if path.is_file()]


def keep_plan(plan: Plan, out: Path) -> None:
    """Store the plan in ``out``. Raises :class:`EvaluationError` if ``out`` has rows of a plan that does not fit it."""
    path = out / PLAN_FILE
    new = json.loads(plan.model_dump_json())
    if path.is_file():
        try:
            old = json.loads(Plan.model_validate_json(path.read_text(encoding="utf-8")).model_dump_json())
        except (OSError, ValidationError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read: choose another folder.") from error
        changed = _first_change(old, new)
        if changed:
            raise EvaluationError(f"{out} contains results of another plan ({changed}): choose another folder.")
    sweep(out)
    write_text(path, json.dumps(new, indent=1) + "\n")


def _first_change(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return the first field of ``old`` that is not in ``new`` as it was; None if the plan only grew."""
    for field, value in old.items():
        if field == "seeds":
            changed = not set(value) <= set(new[field])
        elif field in _MAY_GROW:
            names = [name for name, entry in value.items() if new[field].get(name) != entry]
            if names:
                return f"{field}: {names[0]}"
            continue
        else:
            changed = new[field] != value and field != "title"
        if changed:
            return field
    return None

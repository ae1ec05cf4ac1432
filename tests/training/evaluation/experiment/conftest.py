"""A small experiment on phantoms: two ways to train besides the baseline, two seeds, seconds in all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardiacldm_training.evaluation.experiment.plan import Plan, read_plan
from tests.support.training import TINY, write_case, write_cases

MakePlan = Callable[..., Path]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of six cases; beside it lies ``tested`` with two others."""
    folder = tmp_path_factory.mktemp("phantoms")
    for seed in (6, 7):
        write_case(folder / "tested" / f"case_{seed:04d}", seed)
    return write_cases(folder / "cases", 6)


def content(phantoms: Path) -> dict[str, Any]:
    def some(count: int, folder: Path = phantoms) -> dict[str, Any]:
        return {"kind": "folders", "folders": [str(folder)], "cases": count}

    return {
        "seeds": [3, 4],
        "sets": {
            "train": some(4), "validation": some(1), "test": some(2, phantoms.parent / "tested"), "pairs": some(6),
        },
        "tests": ["test"],
        "network": {"arguments": TINY, "spacing_mm": 6.0, "patch": [16, 16, 16]},
        "pretrainings": {"own": {"images": "pairs", "mask": {"kind": "mae", "side": 4}, "steps": 4, "validations": 2}},
        "arms": {"baseline": {}, "ssl": {"pretraining": "own"}, "mix": {"mix": "pairs", "share": 1.5}},
        "protocols": {
            "equal": {"arms": ["baseline", "ssl", "mix"], "baseline": "baseline", "steps": 6, "validations": 2,
                      "frozen_steps": 2, "encoder_rate": 0.5},
        },
        "primary": {"protocol": "equal", "test": "test"},
    }  # fmt: skip


@pytest.fixture
def write_plan(tmp_path: Path, phantoms: Path) -> MakePlan:
    """Write the plan with changes: a function of its content, or new values of fields."""

    def write(change: Callable[[dict[str, Any]], object] = lambda plan: None, **fields: object) -> Path:
        plan = {**content(phantoms), **fields}
        change(plan)
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(plan))
        return path

    return write


@pytest.fixture
def plan(write_plan: MakePlan) -> Plan:
    return read_plan(write_plan())

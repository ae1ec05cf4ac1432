"""Ablation of the virtual cohort: small segmenters trained with the same budget on cohorts that differ in one aspect.

It is an experiment (:mod:`.experiment`) whose arms are cohorts. All are tested on held-out virtual cases (realistic,
complete, another seed) and on real labelled scans. The heart's box comes from the ground truth, so no locator is
involved. Augmentation is limited to rotation and scale, so that variation comes from the cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import write_text
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.progress import Say

from .experiment import plan as experiment
from .experiment.plan import read_record
from .experiment.rows import Row
from .experiment.runner import Outcome, run_experiment

MARKDOWN_FILE = "results.md"
#: Added to the plan's seed for the held-out cohort.
_HELD_OUT_SEED = 1_000_003
_PROTOCOL, _VIRTUAL, _REAL = "ablation", "held out", "real"


class Arm(Record):
    """One kind of cohort. By default: template and parametric hearts, both appearances, surroundings."""

    name: experiment.Name
    hearts: Literal["parametric", "templates", "both"] = "both"
    appearance: Literal["realistic", "randomised", "both"] = "both"
    surroundings: bool = True
    deformation: Annotated[float, Field(ge=0, le=2)] = 1.0


ARMS = (
    Arm(name="everything"),
    Arm(name="parametric hearts only", hearts="parametric"),
    Arm(name="template hearts only", hearts="templates"),
    Arm(name="realistic only", appearance="realistic"),
    Arm(name="randomised only", appearance="randomised"),
    Arm(name="no surroundings", surroundings=False),
    Arm(name="deformation 0", deformation=0.0),
    Arm(name="deformation 0.5", deformation=0.5),
    Arm(name="deformation 1.5", deformation=1.5),
)


class Budget(Record):
    """The small network of an ablation, and how long it is trained."""

    spacing_mm: Annotated[float, Field(ge=0.7, le=4)] = 4.0
    patch: Annotated[int, Field(ge=16, multiple_of=8)] = 40
    channels: tuple[int, ...] = (16, 32, 64, 128)
    batch: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)] = 600
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3

    def network(self) -> experiment.Network:
        """Return the network of the experiment."""
        return experiment.Network(
            arguments={"channels": list(self.channels), "strides": [2] * (len(self.channels) - 1), "norm": "instance"},
            spacing_mm=self.spacing_mm, patch=(self.patch,) * 3, batch=self.batch, learning_rate=self.learning_rate,
            ema_decay=0.998,
        )  # fmt: skip

    def protocol(self, arms: Sequence[str]) -> experiment.Protocol:
        """Return a protocol of this many steps, with one validation at their end."""
        return experiment.Protocol(arms=tuple(arms), baseline=arms[0], steps=self.steps, validations=1)


class Plan(Budget):
    """Arms, seeds and the budget of each run. ``real`` is a folder of labelled scans to test on."""

    anatomies: Path
    real: Path | None = None
    cases: Annotated[int, Field(ge=2)] = 80
    held_out: Annotated[int, Field(ge=1)] = 12
    cohort_seed: Annotated[int, Field(ge=0)] = 0
    seeds: Annotated[tuple[int, ...], Field(min_length=2)] = (0, 1)
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ARMS

    @model_validator(mode="after")
    def _check(self) -> Plan:
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("two arms have the same name")
        return self

    def to_experiment(self) -> experiment.Plan:
        """Return the experiment of this plan."""
        sets: dict[str, experiment.Source] = {_VIRTUAL: self._held_out()}
        tests = [_VIRTUAL]
        if self.real:
            sets[_REAL] = experiment.Folders(folders=(self.real,))
            tests.append(_REAL)
        arms = {}
        for arm in self.arms:
            cohorts = self.cohorts(arm)
            sets |= cohorts
            arms[arm.name] = experiment.Arm(train=tuple(cohorts))
        return experiment.Plan(
            title="Ablation of the virtual cohort", seeds=self.seeds, sets=sets, validation=_VIRTUAL,
            tests=tuple(tests), network=self.network(), arms=arms, protocols={_PROTOCOL: self.protocol(list(arms))},
            primary=experiment.Endpoint(protocol=_PROTOCOL, test=_VIRTUAL),
        )  # fmt: skip

    def cohorts(self, arm: Arm) -> dict[str, experiment.Virtual]:
        """Return the cohorts of an arm by name; equal ones of several arms are made once."""
        every: tuple[Literal["realistic", "randomised"], ...] = ("realistic", "randomised")
        kinds = [kind for kind in every if arm.appearance in (kind, "both")]
        around = "" if arm.surroundings else ", bare"
        parts = {}
        for index, kind in enumerate(kinds):
            count = self.cases // len(kinds) + (index < self.cases % len(kinds))
            name = f"{arm.hearts}, {kind}, {arm.deformation:g}{around}, {count}"
            parts[name] = self._cohort(arm, kind, count, self.cohort_seed)
        return parts

    def _held_out(self) -> experiment.Virtual:
        return self._cohort(Arm(name=_VIRTUAL), "realistic", self.held_out, self.cohort_seed + _HELD_OUT_SEED)

    def _cohort(
        self, arm: Arm, appearance: Literal["realistic", "randomised"], cases: int, seed: int
    ) -> experiment.Virtual:
        return experiment.Virtual(
            cases=cases, seed=seed, spacing_mm=self.spacing_mm, anatomies=self.anatomies,
            template_share={"parametric": 0.0, "templates": 1.0, "both": 0.5}[arm.hearts], appearance=appearance,
            surroundings=arm.surroundings, deformation=arm.deformation,
        )  # fmt: skip


def read_plan(path: Path) -> Plan:
    """Read a plan from JSON; missing fields get their defaults. Raises :class:`EvaluationError`."""
    return read_record(path, Plan)


def run_ablation(plan: Plan, out: Path, workers: int = 1, say: Say = print) -> Outcome:
    """Make the cohorts and train the missing networks; write their table to ``out``.

    Raises :class:`EvaluationError`, ``AnatomyError`` or ``DatasetError``.
    """
    outcome = run_experiment(plan.to_experiment(), out, workers, say=say)
    write_text(out / MARKDOWN_FILE, table(outcome.rows) + "\n")
    return outcome


def structure_means(row: Row, test: str) -> dict[str, float]:
    """Return the mean Dice of each structure over the cases of a test set in which reference or prediction has it."""
    found: dict[str, list[float]] = {}
    for case in row.tests.get(test, ()):
        for score in case.structures:
            found.setdefault(score.structure, []).append(score.dice)
    return {name: float(np.mean(found[name])) for name in anatomy.NAMES if name in found}


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table, one arm per row: the mean Dice over its seeds, and the range if there are several."""
    lines = [
        "| cohort | seeds | virtual | real | " + " | ".join(f"real {name}" for name in anatomy.NAMES) + " |",
        "|---" * (4 + len(anatomy.NAMES)) + "|",
    ]
    for name in dict.fromkeys(row.arm for row in rows):
        runs = [row for row in rows if row.arm == name]
        real = [means for row in runs if (means := structure_means(row, _REAL))]
        cells = [_cell([means.get(part, float("nan")) for means in real]) for part in anatomy.NAMES]
        virtual = [float(np.mean(list(structure_means(row, _VIRTUAL).values()))) for row in runs]
        lines.append(
            f"| {name} | {len(runs)} | {_cell(virtual, spread=True)} "
            f"| {_cell([float(np.mean(list(means.values()))) for means in real], spread=True)} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(values: Sequence[float], spread: bool = False) -> str:
    if not values:
        return ""
    text = f"{np.mean(values):.2f}"
    return f"{text} ({min(values):.2f} to {max(values):.2f})" if spread and len(values) > 1 else text

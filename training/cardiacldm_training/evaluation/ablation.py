"""Ablation of the virtual cohort: small segmenters trained with the same budget on cohorts that differ in one aspect.

Every arm writes its cohort, trains the same network for the same number of steps, and is tested on held-out virtual
cases (realistic, complete, another seed) and on real labelled scans. The heart's box comes from the ground truth, so no
locator is involved. Augmentation is limited to rotation and scale, so that variation comes from the cohort.

``OUT/results.json`` has one entry for each run and ``OUT/results.md`` its table. Finished runs are not repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import write_text
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ..cases import store
from ..cases.settings import AugmentConfig, SamplingConfig
from ..cases.workers import run_unordered
from ..errors import EvaluationError
from ..stages import config, loop, run_folder, segmenter
from ..virtual.cohort import CohortSettings, write_cohort

RESULTS_FILE, MARKDOWN_FILE = "results.json", "results.md"
COHORTS, PREPARED, RUNS = "cohorts", "prepared", "runs"
#: Added to the plan's seed for the held-out cohort.
_HELD_OUT_SEED = 1_000_003


class Arm(Record):
    """One kind of cohort. By default: template and parametric hearts, both appearances, surroundings."""

    name: str
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


class Plan(Record):
    """Arms, seeds and the budget of each run. ``real`` is a folder of labelled scans to test on."""

    anatomies: Path
    real: Path | None = None
    cases: Annotated[int, Field(ge=2)] = 80
    held_out: Annotated[int, Field(ge=1)] = 12
    spacing_mm: Annotated[float, Field(ge=0.7, le=4)] = 4.0
    patch: Annotated[int, Field(ge=16, multiple_of=8)] = 40
    channels: tuple[int, ...] = (16, 32, 64, 128)
    batch: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)] = 600
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    cohort_seed: int = 0
    seeds: tuple[int, ...] = (0, 1)
    arms: tuple[Arm, ...] = ARMS

    @property
    def budget(self) -> dict[str, object]:
        """The fields that all runs of a table share; arms and seeds may be added later."""
        return json.loads(self.model_dump_json(exclude={"arms", "seeds", "anatomies", "real"}))


class Scores(Record):
    """Dice of each structure, and the mean over the structures."""

    mean: float
    structures: dict[str, float]


class Run(Record):
    """One trained network: its arm, seed, Dice and time."""

    arm: Arm
    seed: int
    virtual: Scores
    real: Scores | None
    cases: int
    seconds: float


class Results(Record):
    """All runs of a table, and the fields of the plan that they share."""

    budget: dict[str, object]
    runs: tuple[Run, ...] = ()


def read_plan(path: Path) -> Plan:
    """Read a plan from JSON; missing fields get their defaults. Raises :class:`EvaluationError`."""
    try:
        plan = Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "text"
        raise EvaluationError(f"{path.name} is no plan: its {where} is wrong ({first['msg']}).") from error
    if len({arm.name for arm in plan.arms}) < len(plan.arms):
        raise EvaluationError(f"{path.name} has two arms of the same name.")
    return plan


# --- all runs ------------------------------------------------------------------------------------------------------


def run_ablation(plan: Plan, out: Path, workers: int = 1, say: Say = print) -> Results:
    """Make the cohorts and train the missing networks, one seed after the other so that a first table is early.

    Raises :class:`EvaluationError`, ``AnatomyError``, ``TrainingError``, ``DatasetError`` or ``VolumeError``.
    """
    results = _load_results(plan, out)
    missing = [(arm, seed) for seed in plan.seeds for arm in plan.arms if not _is_done(results, arm, seed)]
    if not missing:
        return results
    say(f"{len(missing)} of {len(plan.arms) * len(plan.seeds)} networks to train, {plural(plan.steps, 'step')} each.")
    for _, line in run_unordered(_make_cohort, _list_cohorts(plan, [arm for arm, _ in missing], out), workers):
        say(line)
    for _, run in run_unordered(train_arm, [(plan, arm, seed, out) for arm, seed in missing], workers):
        results = Results(budget=results.budget, runs=(*results.runs, run))
        _write(results, out)
        real = f", real {run.real.mean:.3f}" if run.real else ""
        say(f"{run.arm.name}, seed {run.seed}: virtual {run.virtual.mean:.3f}{real} ({run.seconds:.0f} s)")
    return results


def _load_results(plan: Plan, out: Path) -> Results:
    """Read the results of earlier calls. Raises EvaluationError for those of another plan."""
    path = out / RESULTS_FILE
    if not path.is_file():
        return Results(budget=plan.budget)
    try:
        results = Results.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: choose another folder.") from error
    arms = {arm.name: arm for arm in plan.arms}
    if results.budget != plan.budget or any(arms.get(run.arm.name, run.arm) != run.arm for run in results.runs):
        raise EvaluationError(f"{out} contains results of another plan: choose another folder.")
    return results


def _is_done(results: Results, arm: Arm, seed: int) -> bool:
    return any(run.arm == arm and run.seed == seed for run in results.runs)


# --- cohorts -------------------------------------------------------------------------------------------------------


def plan_cohorts(plan: Plan, arm: Arm) -> dict[str, tuple[CohortSettings, int]]:
    """Return settings and number of cases of an arm's cohorts by folder name; equal cohorts of arms share a folder."""
    every: tuple[Literal["realistic", "randomised"], ...] = ("realistic", "randomised")
    kinds = [kind for kind in every if arm.appearance in (kind, "both")]
    parts: dict[str, tuple[CohortSettings, int]] = {}
    for index, kind in enumerate(kinds):
        count = plan.cases // len(kinds) + (index < plan.cases % len(kinds))
        around = "" if arm.surroundings else "-bare"
        parts[f"{arm.hearts}-{kind}-{arm.deformation:g}{around}"] = (
            _cohort_settings(plan, arm, kind, plan.cohort_seed),
            count,
        )
    return parts


def _cohort_settings(plan: Plan, arm: Arm, appearance: Literal["realistic", "randomised"], seed: int) -> CohortSettings:
    share = {"parametric": 0.0, "templates": 1.0, "both": 0.5}[arm.hearts]
    return CohortSettings(
        seed=seed, spacing_mm=plan.spacing_mm, anatomies=plan.anatomies, template_share=share, appearance=appearance,
        surroundings=arm.surroundings, deformation=arm.deformation,
    )  # fmt: skip


def _held_out_settings(plan: Plan) -> CohortSettings:
    return _cohort_settings(plan, Arm(name="held out"), "realistic", plan.cohort_seed + _HELD_OUT_SEED)


def _list_cohorts(plan: Plan, arms: Sequence[Arm], out: Path) -> list[tuple[CohortSettings, int, Path]]:
    """Return settings, number of cases and folder of every cohort that ``arms`` and the test need."""
    cohorts = {"held-out": (_held_out_settings(plan), plan.held_out)}
    for arm in arms:
        for name, (settings, count) in plan_cohorts(plan, arm).items():
            cohorts[name] = (settings, max(count, cohorts.get(name, (settings, 0))[1]))
    return [(settings, count, out / COHORTS / name) for name, (settings, count) in cohorts.items()]


def _make_cohort(settings: CohortSettings, count: int, folder: Path) -> str:
    """Write a cohort and return a line about it. Raises EvaluationError if a case failed."""
    started = time.monotonic()
    failed = write_cohort(settings, count, folder)
    if failed:
        raise EvaluationError(f"The cohort {folder.name} lacks {plural(len(failed), 'case')}: {failed[0]}")
    return f"Cohort {folder.name}: {plural(count, 'case')}, {time.monotonic() - started:.0f} s."


def _prepare_cases(folder: Path, plan: Plan, out: Path, count: int | None = None) -> list[store.PreparedCase]:
    """Prepare the first ``count`` cases of a folder, or all, at the plan's spacing."""
    prepared = store.prepare(store.gather([folder], out / PREPARED)[:count], plan.spacing_mm)
    if prepared.skipped:
        raise EvaluationError(f"A case of {folder} cannot be used: {prepared.skipped[0][1]}")
    return prepared.cases


# --- one run -------------------------------------------------------------------------------------------------------


def network_config(plan: Plan) -> config.NetworkConfig:
    """Return network and training settings, the same for every arm, with rotation and scale as only augmentation."""
    rotation_and_scale = AugmentConfig(
        rotation_deg=10.0, scale=(0.9, 1.1), flip=0.0, warp_mm=0.0, contrast=0.0, bias=0.0, blur=0.0, thick_slices=0.0,
        noise=0.0, scale_hu=0.0, shift_hu=0.0, gamma=0.0, view=0.0,
    )  # fmt: skip
    return config.NetworkConfig(
        architecture="unet",
        arguments={"channels": plan.channels, "strides": (2,) * (len(plan.channels) - 1), "norm": "instance"},
        spacing_mm=plan.spacing_mm, patch=(plan.patch,) * 3, batch=plan.batch, steps=plan.steps,
        augment=rotation_and_scale, validate_every=plan.steps, patience=1, learning_rate=plan.learning_rate,
        warmup_steps=min(50, plan.steps // 10), sampling=SamplingConfig(anywhere=0.0),
    )  # fmt: skip


def train_arm(plan: Plan, arm: Arm, seed: int, out: Path) -> Run:
    """Train and test one network, continuing from its last checkpoint."""
    started = time.monotonic()
    cases = [
        case
        for name, (_, count) in plan_cohorts(plan, arm).items()
        for case in _prepare_cases(out / COHORTS / name, plan, out, count)
    ]
    test_sets = [_prepare_cases(out / COHORTS / "held-out", plan, out, plan.held_out)]
    if plan.real:
        test_sets.append(_prepare_cases(plan.real, plan, out))
    folder = out / RUNS / f"{arm.name.replace(' ', '_')}-{seed}"
    virtual, *real = train_and_score(plan, cases, test_sets, seed, folder, title=arm.name)
    seconds = round(time.monotonic() - started, 1)
    return Run(arm=arm, seed=seed, cases=len(cases), virtual=virtual, real=real[0] if real else None, seconds=seconds)


def train_and_score(
    plan: Plan, cases: Sequence[store.PreparedCase], test_sets: Sequence[Sequence[store.PreparedCase]], seed: int,
    folder: Path, *, title: str,
) -> list[Scores]:  # fmt: skip
    """Train the network of ``plan`` on ``cases`` and score it on each test set.

    It continues from a checkpoint in ``folder``. The first test set is also used for validation during training.
    """
    import torch
    from lightning.fabric import Fabric

    settings = network_config(plan)
    fabric = Fabric(accelerator="auto", devices=1)
    fabric.launch()
    torch.manual_seed(seed)
    network = build_network(settings.architecture, settings.arguments)
    stages = [
        segmenter.SegmentationStage("segmenter", settings, seed=seed, train=list(cases), held_out=list(test_set))
        for test_set in test_sets
    ]
    loop.train_network(fabric, settings, network, stages[0], folder, title=title, resume=True, say=lambda line: None)
    network.load_state_dict(run_folder.averaged_weights(folder / run_folder.LAST))
    network.eval()
    with torch.inference_mode():
        scores = [stage.score(fabric, network) for stage in stages]
    return [Scores(mean=score.value, structures=score.parts) for score in scores]


# --- files ---------------------------------------------------------------------------------------------------------


def _write(results: Results, out: Path) -> None:
    write_text(out / RESULTS_FILE, results.model_dump_json(indent=1) + "\n")
    write_text(out / MARKDOWN_FILE, table(results) + "\n")


def table(results: Results) -> str:
    """Return a Markdown table, one arm per row: the mean Dice over its seeds, and the range if there are several."""
    names = list(dict.fromkeys(run.arm.name for run in results.runs))
    lines = [
        "| cohort | seeds | virtual | real | " + " | ".join(f"real {name}" for name in anatomy.NAMES) + " |",
        "|---" * (4 + len(anatomy.NAMES)) + "|",
    ]
    for name in names:
        runs = [run for run in results.runs if run.arm.name == name]
        real = [run.real for run in runs if run.real]
        cells = [_cell([scores.structures.get(part, float("nan")) for scores in real]) for part in anatomy.NAMES]
        lines.append(
            f"| {name} | {len(runs)} | {_cell([run.virtual.mean for run in runs], spread=True)} "
            f"| {_cell([scores.mean for scores in real], spread=True)} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(values: Sequence[float], spread: bool = False) -> str:
    if not values:
        return ""
    text = f"{np.mean(values):.2f}"
    return f"{text} ({min(values):.2f} to {max(values):.2f})" if spread and len(values) > 1 else text

"""Downstream utility: a small segmenter trained on generated pairs beside one trained on the training cases.

Both are the network of the ablation, trained for the same number of steps on the same number of cases on the same grid,
and tested on the held-out cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from CardiacLDMLib.files import temporary_folder
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ...errors import EvaluationError
from ..ablation import Budget, structure_means
from ..experiment.plan import Arm, Endpoint, Folders, Plan
from ..experiment.runner import run_experiment
from .cases import CaseSet
from .compare import Comparison, mean_and_sd

SEEDS = (0, 1)
_PROTOCOL, _GENERATED, _TRAIN, _HELD_OUT = "utility", "generated", "train", "tested"


class Utility(Record):
    """Dice on held-out cases: mean over structures and seeds, and by structure."""

    dice: Comparison
    steps: int
    seeds: int
    held_out: int
    structures: dict[str, tuple[float, float]]  # trained on generated pairs, on training cases


def compare_training(
    generated: CaseSet, train: CaseSet, held_out: CaseSet, budget: Budget, out: Path, say: Say
) -> Utility:
    """Train the network of ``budget`` on both sets with each of ``SEEDS``. Scratch files in ``out`` are removed."""
    count = min(len(generated), len(train))
    arms = {_GENERATED: generated, _TRAIN: train}
    with temporary_folder(out) as work:
        sources = {_HELD_OUT: _write_cases(held_out, len(held_out), work / _HELD_OUT)}
        sources |= {name: _write_cases(source, count, work / name) for name, source in arms.items()}
        plan = Plan(
            seeds=SEEDS, sets=sources, validation=_HELD_OUT, tests=(_HELD_OUT,), network=budget.network(),
            arms={name: Arm(train=(name,)) for name in arms}, protocols={_PROTOCOL: budget.protocol(list(arms))},
            primary=Endpoint(protocol=_PROTOCOL, test=_HELD_OUT),
        )  # fmt: skip
        outcome = run_experiment(plan, work / "experiment", say=lambda line: None)
    if outcome.failed:
        raise EvaluationError(next(iter(outcome.failed.values())))
    means = {name: [structure_means(row, _HELD_OUT) for row in outcome.rows if row.arm == name] for name in arms}
    dice = {name: [float(np.mean(list(scores.values()))) for scores in runs] for name, runs in means.items()}
    for name, source in arms.items():
        say(f"Trained on {plural(count, 'case')} of {source.name}: Dice {np.mean(dice[name]):.3f}.")
    return Utility(
        dice=Comparison(
            name="Dice on held-out cases of a small network trained on them", kind="mean", cases=count,
            generated=mean_and_sd(dice[_GENERATED]), reference=mean_and_sd(dice[_TRAIN]), reference_cases=count,
        ),
        steps=budget.steps, seeds=len(SEEDS), held_out=len(held_out),
        structures={part: (_mean(means[_GENERATED], part), _mean(means[_TRAIN], part))
                    for part in means[_GENERATED][0]},
    )  # fmt: skip


def _mean(runs: Sequence[Mapping[str, float]], structure: str) -> float:
    return float(np.mean([scores.get(structure, 0.0) for scores in runs]))


def _write_cases(source: CaseSet, count: int, work: Path) -> Folders:
    """Write ``count`` evenly chosen cases on the common grid; return them as a set of an experiment."""
    for n in np.linspace(0, len(source) - 1, count).astype(int):
        pair = source[int(n)]
        folder = work / f"case_{n:04d}"  # not its own name, which may include a folder
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(pair.image_volume, folder / "ct.nii.gz")
        write_volume(pair.labels_volume, folder / "labels.nii.gz")
    return Folders(folders=(work,))

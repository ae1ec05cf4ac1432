"""Downstream utility: a small segmenter trained on generated pairs beside one trained on the training cases.

Both are the network of the ablation, trained for the same number of steps on the same number of cases on the same grid,
and tested on the held-out cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from CardiacLDMLib.files import temporary_folder
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ...cases import store
from ...errors import EvaluationError
from .. import ablation
from .cases import CaseSet
from .compare import Comparison, mean_and_sd

SEEDS = (0, 1)


class Utility(Record):
    """Dice on held-out cases: mean over structures and seeds, and by structure."""

    dice: Comparison
    steps: int
    seeds: int
    held_out: int
    structures: dict[str, tuple[float, float]]  # trained on generated pairs, on training cases


def compare_training(
    generated: CaseSet, train: CaseSet, held_out: CaseSet, plan: ablation.Plan, out: Path, say: Say
) -> Utility:
    """Train the network of ``plan`` on both sets with each of ``SEEDS``. Scratch files in ``out`` are removed."""
    count = min(len(generated), len(train))
    with temporary_folder(out) as work:
        tested = _prepare_cases(held_out, len(held_out), plan, work / "tested")
        scores: list[list[ablation.Scores]] = []
        for name, source in (("generated", generated), ("train", train)):
            cases = _prepare_cases(source, count, plan, work / name)
            scores.append([_train(plan, cases, tested, seed, work / f"{name}-{seed}") for seed in SEEDS])
            dice = np.mean([s.mean for s in scores[-1]])
            say(f"Trained on {plural(count, 'case')} of {source.name}: Dice {dice:.3f}.")
    generated_scores, train_scores = scores
    return Utility(
        dice=Comparison(
            name="Dice on held-out cases of a small network trained on them", kind="mean", cases=count,
            generated=mean_and_sd([s.mean for s in generated_scores]),
            reference=mean_and_sd([s.mean for s in train_scores]), reference_cases=count,
        ),
        steps=plan.steps, seeds=len(SEEDS), held_out=len(tested),
        structures={name: (_mean(generated_scores, name), _mean(train_scores, name))
                    for name in generated_scores[0].structures},
    )  # fmt: skip


def _mean(scores: Sequence[ablation.Scores], name: str) -> float:
    return float(np.mean([score.structures.get(name, 0.0) for score in scores]))


def _prepare_cases(source: CaseSet, count: int, plan: ablation.Plan, work: Path) -> list[store.PreparedCase]:
    """Prepare ``count`` evenly chosen cases on the common grid at the plan's spacing."""
    for n in np.linspace(0, len(source) - 1, count).astype(int):
        pair = source[int(n)]
        folder = work / f"case_{n:04d}"  # not its own name, which may include a folder
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(pair.image_volume, folder / "ct.nii.gz")
        write_volume(pair.labels_volume, folder / "labels.nii.gz")
    prepared = store.prepare(store.gather([work], None), plan.spacing_mm)
    if not prepared.cases:
        raise EvaluationError(f"No case of {source.name} has labels at {plan.spacing_mm:g} mm.")
    return prepared.cases


def _train(
    plan: ablation.Plan, cases: list[store.PreparedCase], tested: list[store.PreparedCase], seed: int, folder: Path
) -> ablation.Scores:
    """Train a network on ``cases`` and return its Dice on ``tested``."""
    return ablation.train_and_score(plan, cases, [tested], seed, folder, title=folder.name)[0]

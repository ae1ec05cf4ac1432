"""Pairs drawn for the report, and how their quality and their time depend on solver and number of evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.generation.sampler import EVALUATIONS, RESTART_EVALUATIONS
from CardiacLDMLib.generation.settings import check_settings
from CardiacLDMLib.packages.generator_spec import SOLVERS, Restart, Solver

from ...results import pair_files
from ...results.pair_pictures import draw_cleaning, write_figure
from . import compare
from .cases import Pair, View
from .judge import Examiner, Findings, feature_distances
from .report import CurvePoint, Repair

#: Evaluations of the network a pair; both passes of a guidance count as one.
BUDGETS = (5, 10, 20, 30, 50)
Say = Callable[[str], None]


def view_of_generator(generator: Generator) -> View:
    return View(generator.shape, generator.spacing_mm)


def draw(generator: Generator, count: int, seed: int, out: Path, say: Say) -> None:
    """Pairs 0 to ``count`` of ``seed``, no condition asked for, as ``cardiacldm generate`` leaves them; those that are
    there are kept. Raises OutputError or GeneratorError."""
    record = pair_files.shared_settings(generator.package, seed, check_settings(generator.spec))
    with pair_files.hold_folder(out, record):
        for index in sorted(set(range(count)) - pair_files.pair_indices(out, count)):
            pair_files.write_pair(generator.generate(seed, index), out)
            say(f"Drew pair {index + 1} of {count}.")


def draw_repair(generator: Generator, count: int, seed: int, pairs: Path, picture: Path) -> Repair:
    """A picture of the pair among the first ``count`` whose labels the clean-up changed most, which is drawn again for
    it. Raises DatasetError, VolumeError or GeneratorError."""
    changed = [pair_files.read_pair(pairs, index).provenance.get("repaired_voxels", 0) for index in range(count)]
    most = int(np.argmax(changed))
    pair = generator.generate(seed, most)
    name = pair_files.pair_folder(pairs, most).name
    write_figure(draw_cleaning(pair, name), picture)
    assert pair.raw_labels is not None  # it was drawn
    labelled = int(np.count_nonzero(pair.raw_labels.array))
    return Repair(pair=name, voxels=changed[most], labelled=labelled, mean=float(np.mean(changed)))


def curve(
    generator: Generator, count: int, seed: int, examiner: Examiner, references: Sequence[Findings], say: Say
) -> list[CurvePoint]:
    """``count`` pairs with each solver that fits the package, for each number of evaluations; none without any."""
    points: list[CurvePoint] = []
    if not count:
        return points
    for solver in SOLVERS[generator.spec.sampling.schedule]:
        for budget in BUDGETS:
            steps, restarts = spent(budget, solver, generator.spec.sampling.restarts)
            within = generator.with_restarts(restarts)
            point = _point(within, solver, steps, count, seed, examiner, references)
            say(f"{solver}, {point.evaluations} evaluations: {point.seconds:.2f} s a pair.")
            points.append(point)
    return points


def spent(budget: int, solver: Solver, restarts: Sequence[Restart]) -> tuple[int, tuple[Restart, ...]]:
    """Steps and restarts that together ask the network at most ``budget`` times (but a step is taken at least).

    Restarts have up to half of it: where that is too little for all of them, some, evenly spread over the others.
    """
    kept = min(len(restarts), budget // 2 // RESTART_EVALUATIONS)
    chosen = tuple(restarts[n] for n in np.linspace(0, len(restarts) - 1, kept).round().astype(int))
    return max((budget - RESTART_EVALUATIONS * kept) // EVALUATIONS[solver], 1), chosen


def _point(
    generator: Generator, solver: Solver, steps: int, count: int, seed: int, examiner: Examiner,
    references: Sequence[Findings],
) -> CurvePoint:  # fmt: skip
    found, seconds, unusable = [], 0.0, 0
    for index in range(count):
        began = time.perf_counter()
        drawn = generator.generate(seed, index, steps=steps, solver=solver)
        seconds += time.perf_counter() - began
        pair = Pair(f"pair_{index:04d}", drawn.image.array, drawn.labels.array, view_of_generator(generator))
        try:
            found.append(examiner.examine(pair))
        except VolumeError:  # not a single label
            unusable += 1
    frechet, mmd = feature_distances(found, references) if len(found) >= compare.FEWEST else (None, None)
    restarts = len(generator.spec.sampling.restarts)
    evaluations = steps * EVALUATIONS[solver] + restarts * RESTART_EVALUATIONS
    return CurvePoint(
        solver=solver, steps=steps, restarts=restarts, evaluations=evaluations, pairs=count, unusable=unusable,
        frechet=frechet, mmd=mmd,
        dice=compare.spread([f.mean_dice for f in found]) if found else None,
        sound=sum(not f.labels.broken for f in found) / count, seconds=seconds / count,
    )  # fmt: skip

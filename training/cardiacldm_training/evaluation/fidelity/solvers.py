"""Generate the pairs of a report; measure quality and time against solver and number of network evaluations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.generation.sampler import EVALUATIONS, RESTART_EVALUATIONS
from CardiacLDMLib.generation.settings import check_settings
from CardiacLDMLib.packages.generator_spec import SOLVERS, Restart, Solver
from CardiacLDMLib.progress import Say

from ...results import pair_files
from ...results.pair_pictures import draw_cleaning, write_figure
from . import compare
from .cases import Pair, View
from .examiner import CaseMeasures, Examiner
from .features import SLICES
from .measures import feature_distances
from .record import CurvePoint, Repair

#: Network evaluations for each pair; both passes of guidance count as one.
BUDGETS = (5, 10, 20, 30, 50)


def generator_view(generator: Generator) -> View:
    """Return the grid of a generator's pairs."""
    return View(generator.shape, generator.spacing_mm)


def generate_pairs(generator: Generator, count: int, seed: int, out: Path, say: Say) -> None:
    """Write pairs 0 to ``count`` of ``seed`` without conditions, in the layout of ``cardiacldm generate``.

    Existing pairs are kept. Raises OutputError or GeneratorError.
    """
    record = pair_files.shared_settings(generator.package, seed, check_settings(generator.spec))
    with pair_files.hold_folder(out, record):
        for index in sorted(set(range(count)) - pair_files.finished_indices(out, count, say)):
            pair_files.write_pair(generator.generate(seed, index), out)
            say(f"Generated pair {index + 1} of {count}.")


def draw_largest_repair(generator: Generator, count: int, seed: int, pairs: Path, picture: Path) -> Repair:
    """Write a ``picture`` (PNG) of the pair whose labels the clean-up changed most, among the first ``count``.

    The pair is generated again, because its labels before the clean-up are not stored. Raises DatasetError, VolumeError
    or GeneratorError.
    """
    changed = [pair_files.read_pair(pairs, index).provenance.get("repaired_voxels", 0) for index in range(count)]
    most = int(np.argmax(changed))
    pair = generator.generate(seed, most)
    name = pair_files.pair_folder(pairs, most).name
    write_figure(draw_cleaning(pair, name), picture)
    assert pair.raw_labels is not None  # present in a newly generated pair
    labelled = int(np.count_nonzero(pair.raw_labels.array))
    return Repair(pair=name, voxels=changed[most], labelled=labelled, mean=float(np.mean(changed)))


def measure_curve(
    generator: Generator, count: int, seed: int, examiner: Examiner, references: Sequence[CaseMeasures], say: Say
) -> list[CurvePoint]:
    """Measure ``count`` pairs for each solver of the package's schedule and each number of evaluations."""
    points: list[CurvePoint] = []
    if not count:
        return points
    for solver in SOLVERS[generator.spec.sampling.schedule]:
        for budget in BUDGETS:
            steps, restarts = split_budget(budget, solver, generator.spec.sampling.restarts)
            limited = generator.with_restarts(restarts)
            point = _measure_point(limited, solver, steps, count, seed, examiner, references)
            say(f"{solver}, {point.evaluations} evaluations: {point.seconds:.2f} s a pair.")
            points.append(point)
    return points


def split_budget(budget: int, solver: Solver, restarts: Sequence[Restart]) -> tuple[int, tuple[Restart, ...]]:
    """Return steps (at least one) and restarts that need at most ``budget`` network evaluations together.

    Restarts get up to half of the budget; if that is too little for all of them, evenly chosen ones are kept.
    """
    count = min(len(restarts), budget // 2 // RESTART_EVALUATIONS)
    selection = tuple(restarts[n] for n in np.linspace(0, len(restarts) - 1, count).round().astype(int))
    return max((budget - RESTART_EVALUATIONS * count) // EVALUATIONS[solver], 1), selection


def _measure_point(
    generator: Generator, solver: Solver, steps: int, count: int, seed: int, examiner: Examiner,
    references: Sequence[CaseMeasures],
) -> CurvePoint:  # fmt: skip
    """Generate and measure ``count`` pairs with one solver and number of steps."""
    measures, seconds, unusable = [], 0.0, 0
    for index in range(count):
        began = time.perf_counter()
        generated = generator.generate(seed, index, steps=steps, solver=solver)
        seconds += time.perf_counter() - began
        pair = Pair(f"pair_{index:04d}", generated.image.array, generated.labels.array, generator_view(generator))
        try:
            measures.append(examiner.examine(pair))
        except VolumeError:  # empty labels
            unusable += 1
    found = feature_distances(measures, references) if len(measures) >= compare.FEWEST else []
    figures = {figure.name: figure for figure in found if figure is not None}
    restarts = len(generator.spec.sampling.restarts)
    evaluations = steps * EVALUATIONS[solver] + restarts * RESTART_EVALUATIONS
    return CurvePoint(
        solver=solver, steps=steps, restarts=restarts, evaluations=evaluations, pairs=count, unusable=unusable,
        frechet=figures.get(f"Frechet distance, {SLICES}"), mmd=figures.get(f"MMD^2, {SLICES}"),
        dice=compare.mean_and_sd([f.mean_dice for f in measures]) if measures else None,
        sound=sum(not f.labels.broken for f in measures) / count, seconds=seconds / count,
    )  # fmt: skip

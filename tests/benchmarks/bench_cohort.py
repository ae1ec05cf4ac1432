"""Making virtual cases: seconds per stage on one core, memory, and what a second worker brings.

The second worker's share is the ratio of two runs in turns on the same machine: machines vary, ratios less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CASES = 6
#: Voxels that the times are scaled to: 160 x 160 x 128 at 1.5 mm.
VOXELS = 160 * 160 * 128


def seconds_per_stage(cases: int, anatomies: Path | None) -> str:
    """A Markdown table: median CPU seconds of heart, body and scanner per case on one thread."""
    import torch

    from cardiacldm_training.virtual import CohortSettings, cohort, make_case

    torch.set_num_threads(1)
    spent: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            result = call(*args, **options)
            spent.setdefault(name, []).append(time.process_time() - began)
            return result

        return clocked

    stages = ("draw_heart", "paint_body", "scan")
    original = {name: getattr(cohort, name) for name in stages}
    voxels, whole = [], []
    try:
        for name in stages:
            setattr(cohort, name, timed(name, original[name]))
        for index in range(cases):
            began = time.process_time()
            case = make_case(CohortSettings(seed=77, anatomies=anatomies), index)
            whole.append(time.process_time() - began)
            voxels.append(case.image.array.size)
    finally:
        for name in stages:
            setattr(cohort, name, original[name])
    size = statistics.median(voxels) / 1e6
    rows = [f"Median of {cases} cases at 1.5 mm ({size:.1f} million voxels), one thread:", "",
            "| stage | CPU seconds | for 160x160x128 voxels |", "|---|--:|--:|"]  # fmt: skip
    for name, times in {**spent, "whole case": whole}.items():
        scaled = f"{statistics.median(t * VOXELS / v for t, v in zip(times, voxels, strict=True)):.2f}"
        if name in ("draw_heart", "whole case"):
            scaled = ""  # a heart is drawn on its own grid, whatever the scan's size
        rows.append(f"| {name} | {statistics.median(times):.2f} | {scaled} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return "\n".join([*rows, "", f"Peak memory {peak:.2f} GB."])


def two_workers(cases: int, anatomies: Path | None) -> str:
    """How much faster two workers write ``cases`` cases than one (2 is all there is to gain).

    Over all: the start of the processes and the last case, for which one of them waits, are in it. At work: cases per
    second from the second case to the one before last, when both are busy. Beside it stands what a second core of this
    machine gains a loop of plain arithmetic.
    """
    whole: dict[int, list[float]] = {1: [], 2: []}
    pace: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for workers in (1, 2):
            ends = _ends(cases, workers, anatomies)
            whole[workers].append(ends[-1])
            pace[workers].append((cases - 3) / (ends[-2] - ends[1]))
    one, two = (min(whole[workers]) for workers in (1, 2))
    gain = max(pace[2]) / max(pace[1])
    return (
        f"{cases} cases at 2 mm: one worker {one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast over all, "
        f"{gain:.2f} times at work; plain arithmetic {_second_core():.2f} times."
    )


def _second_core() -> float:
    """How much faster two processes count than one."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_count, [1, 1], 1)
        one = min(pool.apply(_count, (10_000_000,)) for _ in range(3))
        two = min(max(pool.map(_count, [10_000_000] * 2, 1)) for _ in range(3))
    return 2 * one / two


def _count(steps: int) -> float:
    began, total = time.perf_counter(), 0
    for step in range(steps):
        total += step * step % 7
    return time.perf_counter() - began


def _ends(cases: int, workers: int, anatomies: Path | None) -> list[float]:
    """Seconds from the start to the end of each case."""
    from cardiacldm_training.virtual import CohortSettings, write_cohort

    settings = CohortSettings(seed=78, spacing_mm=2.0, anatomies=anatomies)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_cohort(
            settings, cases, Path(folder) / "cohort", workers, lambda n: ends.append(time.perf_counter() - began)
        )
    return ends


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # one worker is one core, as two are two
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--anatomies", type=Path, default=None)
    options = parser.parse_args()
    print(seconds_per_stage(options.cases, options.anatomies))
    print()
    print(two_workers(4 * options.cases, options.anatomies))

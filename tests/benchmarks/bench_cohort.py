"""Benchmark of the virtual cohort: seconds of each stage on one core, memory, and the speed-up of a second worker.

The speed-up is the ratio of two runs in turn on the same machine, because ratios vary less than times.
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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

CASES = 6
#: Voxels to which times are scaled: 160 x 160 x 128 at 1.5 mm.
VOXELS = 160 * 160 * 128


def seconds_per_stage(cases: int, anatomies: Path | None) -> str:
    """Return a Markdown table of the median CPU seconds of heart, body and scanner for a case on one thread."""
    import torch

    from cardiacldm_training.virtual import cohort

    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}

    def with_clock(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            result = call(*args, **options)
            seconds.setdefault(name, []).append(time.process_time() - began)
            return result

        return clocked

    stages = ("draw_heart", "paint_body", "scan")
    original = {name: getattr(cohort, name) for name in stages}
    voxels, whole = [], []
    try:
        for name in stages:
            setattr(cohort, name, with_clock(name, original[name]))
        for index in range(cases):
            began = time.process_time()
            case = cohort.make_case(cohort.CohortSettings(seed=77, anatomies=anatomies), index)
            whole.append(time.process_time() - began)
            voxels.append(case.image.array.size)
    finally:
        for name in stages:
            setattr(cohort, name, original[name])
    size = statistics.median(voxels) / 1e6
    rows = [f"Median of {cases} cases at 1.5 mm ({size:.1f} million voxels), one thread:", "",
            "| stage | CPU seconds | for 160x160x128 voxels |", "|---|--:|--:|"]  # fmt: skip
    for name, times in {**seconds, "whole case": whole}.items():
        scaled = f"{statistics.median(t * VOXELS / v for t, v in zip(times, voxels, strict=True)):.2f}"
        if name in ("draw_heart", "whole case"):
            scaled = ""  # a heart has its own grid, independent of the scan's
        rows.append(f"| {name} | {statistics.median(times):.2f} | {scaled} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return "\n".join([*rows, "", f"Peak memory {peak:.2f} GB."])


def two_workers(cases: int, anatomies: Path | None) -> str:
    """Return a sentence on how much faster two workers write ``cases`` cases than one; 2 is the limit.

    The times include the start of the processes and the wait for the last case. Two independent runs of one worker each
    give the limit on this machine, whose cores share memory and caches.
    """
    one, two, independent = [], [], []
    for _ in range(2):
        one.append(_seconds(cases, 1, anatomies))
        two.append(_seconds(cases, 2, anatomies))
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            independent.append(max(pool.map(_seconds, [cases] * 2, [1] * 2, [anatomies] * 2)))
    return (
        f"{cases} cases at 2 mm: one worker {min(one):.1f} s, two {min(two):.1f} s, {min(one) / min(two):.2f} times as "
        f"fast; two separate runs of one worker each {2 * min(one) / min(independent):.2f} times."
    )


def _seconds(cases: int, workers: int, anatomies: Path | None) -> float:
    """Return the seconds of writing a cohort."""
    from cardiacldm_training.virtual.cohort import CohortSettings, write_cohort

    settings = CohortSettings(seed=78, spacing_mm=2.0, anatomies=anatomies)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_cohort(settings, cases, Path(folder) / "cohort", workers, lambda n: None)
        return time.perf_counter() - began


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # one core for each worker
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--anatomies", type=Path, default=None)
    options = parser.parse_args()
    print(seconds_per_stage(options.cases, options.anatomies))
    print()
    print(two_workers(4 * options.cases, options.anatomies))

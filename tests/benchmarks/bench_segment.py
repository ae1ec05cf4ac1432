"""Time and memory of ``cardiacldm segment`` on large scans, as the table kept in docs/results/performance.md.

``make bench`` runs it; ``--write`` writes the table into the document. Scans are a virtual case resampled to scanners'
grids, so that they contain a heart. This process imports little, because child processes inherit its peak memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench_resample import compare_resampling
from figures import processor, write_figures

BEGIN = "<!-- figures: make bench -->"

IN_PLANE_MM = 0.7
LENGTH_MM = 336.0
#: Slices over the same 336 mm; the second scan is the largest that must fit into the memory limit.
SLICES = (224, 560)
MEMORY_LIMIT_GB = 3.0
STAGES = ("read", "prepare", "locate", "segment", "resample", "clean")


def make_scan(path: Path, slices: int) -> None:
    """Write a virtual case as a chest CT of 512 x 512 x ``slices`` voxels, int16 HU, rows from front to back."""
    import numpy as np

    from cardiacldm_training.virtual.cohort import CohortSettings, make_case
    from CardiacLDMLib.image.files import write_volume
    from CardiacLDMLib.image.grid import Grid, Volume
    from CardiacLDMLib.image.resample import resample

    case = make_case(CohortSettings(seed=2024), 0)
    centre = case.image.grid.bounds_ras().mean(axis=0)
    affine = np.diag([-IN_PLANE_MM, -IN_PLANE_MM, LENGTH_MM / slices, 1.0])
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array([512, 512, slices]) - 1) / 2)
    scan = resample(case.image, Grid((512, 512, slices), affine))
    write_volume(Volume(np.rint(scan.array).astype(np.int16), affine), path)


def measure(scan: Path, out: Path, package: str | None) -> dict[str, float]:
    """Run the command in a process of its own; return seconds of each stage and in all, and peak memory in GB."""
    command = [sys.executable, "-m", "cardiacldm_training.cli", "segment", str(scan), "--out", str(out)]
    command += ["--device", "cpu", *(["--package", package] if package else [])]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}.")
    report = json.loads(next(out.glob("*.report.json")).read_text())
    if not report["heart_found"]:
        raise SystemExit("The package found no heart in the benchmark's scan.")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return {**{stage: report["seconds"][stage] for stage in STAGES}, "all": seconds, "peak_gb": peak}


def table(rows: dict[int, dict[str, float]]) -> str:
    """Return the Markdown table, one row a scan; "other" is the start of Python and torch, and writing results."""
    lines = [
        "| scan | read | prepare | locate | segment | resample | clean | other | **in all** | peak memory |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for slices, row in rows.items():
        other = row["all"] - sum(row[stage] for stage in STAGES)
        seconds = [f"{value:.1f} s" for value in (*(row[stage] for stage in STAGES), other)]
        lines.append(f"| 512x512x{slices} | {' | '.join(seconds)} | **{row['all']:.1f} s** | {row['peak_gb']:.2f} GB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", help="model package (name or folder); without it the one shipped")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/results/performance.md")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for slices in SLICES:
            scan = folder / f"scan{slices}.nii.gz"
            with ProcessPoolExecutor(1, get_context("spawn")) as helper:
                helper.submit(make_scan, scan, slices).result()
            rows[slices] = measure(scan, folder / f"out{slices}", options.package)
            scan.unlink()
            print(table({slices: rows[slices]}), flush=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as helper:
        ratio = helper.submit(compare_resampling).result()
    figures = f"Measured {datetime.date.today()} on {processor()}, without a GPU.\n\n{table(rows)}\n\n{ratio}"
    print(f"\n{figures}")
    if options.write:
        write_figures(BEGIN, figures)
    worst = max(row["peak_gb"] for row in rows.values())
    if worst > MEMORY_LIMIT_GB:
        raise SystemExit(f"Peak memory {worst:.2f} GB is above the limit of {MEMORY_LIMIT_GB:.0f} GB.")


if __name__ == "__main__":
    main()

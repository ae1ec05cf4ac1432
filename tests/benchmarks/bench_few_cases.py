"""What a few labelled cases of one's own bring over the shipped segmenter, on virtual scans of another hospital.

    python -m tests.benchmarks.bench_few_cases --anatomies ANATOMIES --work WORK

The hospital's scans are unlike those that the shipped segmenter was trained on: low dose, no contrast medium, a sharp
kernel, slices of 5 mm. Hearts and bodies are drawn as for the shipped cohort. The shipped package is trained further on
5, 10, 20 and 40 of them, each number with several draws of cases, by the commands that a user would type, and every
package segments the same test cases. The difference to the shipped package has an interval over draws and test cases.
Finished parts are kept in WORK, so that the command can be repeated after a stop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from cardiacldm_training.cases.workers import spread
from cardiacldm_training.evaluation.statistics import bootstrap
from cardiacldm_training.virtual import cohort
from cardiacldm_training.virtual.cohort import CohortSettings
from cardiacldm_training.virtual.protocol import NATIVE_BLOOD_HU, ScanProtocol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PACKAGE = "virtual-heart-v2"
#: The hospital's scanner: factor on the usual noise, edge enhancement and slices as few scans of the cohort have them.
NOISE, LEAST_NOISE_HU, EDGE, SLICE_MM = 2.5, 60.0, 1.3, 5.0
#: HU of muscle above blood, without contrast medium.
WALL_HU = 5.0
SEED, TEST_SEED = 5001, 5002
#: Cases of the hospital, of which each draw takes some.
HOSPITAL = 60


def other_scanner(usual: ScanProtocol, rng: np.random.Generator) -> ScanProtocol:
    """Return the protocol of a scan as this hospital takes it."""
    blood = float(rng.normal(NATIVE_BLOOD_HU, 5.0))
    return replace(
        usual, phase="none", left_hu=blood, right_hu=blood, superior_cava_hu=blood, myocardium_hu=blood + WALL_HU,
        mixing=0.0, layering=0.0, tip_filling=1.0, noise_hu=max(NOISE * usual.noise_hu, LEAST_NOISE_HU), edge=EDGE,
        slice_mm=SLICE_MM, iterative=0.0,
    )  # fmt: skip


def make_case(settings: CohortSettings, folder: Path, index: int) -> None:
    """Write case ``index`` of the hospital, if it is not there."""
    target = folder / f"case_{index:04d}"
    if (target / "case.json").exists():
        return
    usual = cohort.draw_protocol  # type: ignore[attr-defined]
    cohort.draw_protocol = lambda rng, appearance: other_scanner(usual(rng, appearance), rng)  # type: ignore[attr-defined]
    try:
        cohort.write_case(cohort.make_case(settings, index), target)
    finally:
        cohort.draw_protocol = usual  # type: ignore[attr-defined]


def cardiacldm(*arguments: str | Path) -> None:
    """Run a command of the training package; its failure ends the benchmark."""
    subprocess.run([sys.executable, "-m", "cardiacldm_training.cli", *map(str, arguments)], check=True)


def link(cases: list[Path], folder: Path) -> Path:
    """Return ``folder`` with links to ``cases``: one hospital's own scans."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        if not (folder / case.name).exists():
            os.symlink(case.resolve(), folder / case.name)
    return folder


def figures(package: str | Path, test: Path, out: Path) -> np.ndarray:
    """Return the mean Dice of each test case."""
    if not (out / "evaluation.json").is_file():
        cardiacldm("evaluate", "--package", package, "--data", test, "--out", out, "--device", "cpu")
    record: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    cases = sorted(record["cases"], key=lambda case: str(case["case"]))
    return np.array([np.mean([part["dice"] for part in case["structures"]]) for case in cases])


def train(own: Path, work: Path, name: str, steps: int, rate: float, seed: int) -> Path:
    """Return the package trained further on the cases of ``own``."""
    run, package = work / "runs" / name, work / "packages" / name
    if not (package / "manifest.json").is_file():
        resume = ["--resume"] if (run / "segmenter" / "last.ckpt").is_file() else []
        cardiacldm(
            "train", "segmenter", "--data", own, "--cache", work / "prepared", "--out", run, "--preset", "demo",
            "--from", PACKAGE, "--steps", str(steps), "--learning-rate", str(rate),
            "--seed", str(seed), "--workers", "0", "--device", "cpu", *resume,
        )  # fmt: skip
        cardiacldm("train", "export", run, "--out", package, "--name", name, "--overwrite")
    return package


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the gain over the shipped package against the number of cases."""
    figure, axis = plt.subplots(figsize=(5, 3.2), constrained_layout=True)
    numbers = [row["cases"] for row in rows]
    means = np.array([row["gain"]["mean"] for row in rows])
    errors = np.abs(np.array([[row["gain"]["low"], row["gain"]["high"]] for row in rows]).T - means)
    axis.errorbar(numbers, means, errors, marker="o", capsize=3)
    axis.axhline(0.0, color="grey", linewidth=0.8)
    axis.set(xscale="log", xlabel="own labelled cases", ylabel="change of the mean Dice")
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[5, 10, 20, 40])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--test", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--spacing", type=float, default=2.0)
    options = parser.parse_args()

    sets = {}
    for name, seed, count in (("hospital", SEED, HOSPITAL), ("test", TEST_SEED, options.test)):
        settings = CohortSettings(seed=seed, spacing_mm=options.spacing, anatomies=options.anatomies)
        sets[name] = options.work / name
        sets[name].mkdir(parents=True, exist_ok=True)
        list(spread(partial(make_case, settings, sets[name]), list(range(count)), 2))
    hospital = sorted(sets["hospital"].glob("case_*"))
    shipped = figures(PACKAGE, sets["test"], options.work / "figures" / "shipped")
    print(f"{PACKAGE}: mean Dice {shipped.mean():.3f} on {len(shipped)} test cases")
    rows = []
    for size in options.sizes:
        gains = []
        for number in range(options.draws):
            chosen = np.random.default_rng([SEED, size, number]).choice(len(hospital), size, replace=False)
            name = f"own-{size}-{number}-{options.steps}-{options.rate:g}"
            own = link([hospital[i] for i in sorted(chosen)], options.work / "own" / name)
            package = train(own, options.work, name, options.steps, options.rate, number)
            gains.append(figures(package, sets["test"], options.work / "figures" / name) - shipped)
        interval = bootstrap(np.stack(gains))
        rows.append({"cases": size, "steps": options.steps, "rate": options.rate, "gain": interval.model_dump()})
        print(f"{size:3d} cases: {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]", flush=True)
    if rows:
        (options.work / "few-cases.json").write_text(json.dumps(rows, indent=1))
        draw(rows, options.work / "few-cases.png")


if __name__ == "__main__":
    main()

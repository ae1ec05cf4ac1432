"""How well a package's own probabilities foretell the Dice of its labels, on virtual cases that are also made harder.

    cardiacldm cohort --out calibration --cases 40 --seed 1901 --anatomies ANATOMIES
    cardiacldm cohort --out unseen --cases 50 --seed 3902 --anatomies ANATOMIES
    python -m tests.benchmarks.bench_expected_dice measure calibration --work work
    python -m tests.benchmarks.bench_expected_dice measure unseen --work work
    python -m tests.benchmarks.bench_expected_dice rates calibration unseen --work work

``measure`` segments each case, two of three with a change whose kind and strength are drawn, and keeps for each
structure the Dice and what the probabilities promise. ``rates`` fits a line between the two on the first cohort, in
logits and with a constant for each structure, and tests it on the second one; it prints the line as it stands in the
entry ``expected_dice`` of a manifest. docs/research/review.md has the figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, stats

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.image.labels import agreement
from CardiacLDMLib.packages.store import find_package
from CardiacLDMLib.progress import QUALITIES
from CardiacLDMLib.segmentation.segmenter import Prediction, Segmentation, Segmenter

#: Changes that make a scan harder. HU of noise; mm of blur; share of contrast that stays; share of an axis cut off.
KINDS = ("noise", "blur", "contrast", "crop", "mix")
NOISE_HU, BLUR_MM, CONTRAST, CUT = (40.0, 150.0), (1.0, 3.4), (0.0, 0.5), (0.2, 0.45)
TISSUE_HU, BONE_HU, OUTSIDE_HU = 40.0, 700.0, -1010.0
FOLDS, CONFIDENCE = 5, 0.9


class PromisingSegmenter(Segmenter):
    """A segmenter that keeps what the probabilities of its last scan promise for each structure."""

    promise: dict[str, float]

    def finish(self, prediction: Prediction) -> Segmentation:
        result = super().finish(prediction)
        self.promise = prediction.run.promised
        return result


def harder(scan: Volume, labels: Volume, kind: str, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Return scan and labels with a change of ``kind``."""
    hu = scan.array.astype(np.float32)
    if kind == "crop":
        axis, share = int(rng.integers(3)), rng.uniform(*CUT)
        start, stop = np.zeros(3, dtype=int), np.array(hu.shape)
        if rng.random() < 0.5:
            start[axis] = int(share * stop[axis])
        else:
            stop[axis] -= int(share * stop[axis])
        box = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
        affine = scan.grid.crop(start, stop).affine
        return Volume(np.ascontiguousarray(scan.array[box]), affine), Volume(labels.array[box], affine)
    if kind in ("noise", "mix"):
        noise = ndimage.gaussian_filter(rng.normal(size=hu.shape).astype(np.float32), 0.6)
        hu += np.where(scan.array > OUTSIDE_HU, noise / noise.std() * rng.uniform(*NOISE_HU), 0.0)
    if kind in ("blur", "mix"):
        hu = ndimage.gaussian_filter(hu, rng.uniform(*BLUR_MM) / scan.spacing)
    if kind in ("contrast", "mix"):
        bright = (hu > TISSUE_HU) & (hu < BONE_HU)
        hu = np.where(bright, TISSUE_HU + (hu - TISSUE_HU) * rng.uniform(*CONTRAST), hu)
    return Volume(np.rint(hu).astype(np.int16), scan.affine), labels


def measure(options: argparse.Namespace) -> None:
    folder = options.folders[0]
    file = _file(options, folder)
    known = json.loads(file.read_text()) if file.exists() else {}
    segmenter = PromisingSegmenter(find_package(options.package), "cpu")
    for number, path in enumerate(sorted(folder.glob("case_*/ct.nii.gz"))[: options.cases]):
        kind = "plain" if number % 3 == 0 else KINDS[number * 2 // 3 % len(KINDS)]
        name = f"{path.parent.name} {kind}"
        if name in known:
            continue
        scan, labels = read_volume(path), read_volume(path.with_name("labels.nii.gz"))
        rng = np.random.default_rng([number, len(kind)])
        image, truth = (scan, labels) if kind == "plain" else harder(scan, labels, kind, rng)
        segmenter.promise = {}
        result = segmenter.segment(image, quality=options.quality)
        dice = agreement(truth.array, result.labels.array)
        found = [n for n in segmenter.promise if result.volumes_ml[n] > 0.0 and n in dice]
        known[name] = {n: (segmenter.promise[n], dice[n]) for n in found}
        file.write_text(json.dumps(known))
        print(name, flush=True)


def _file(options: argparse.Namespace, folder: Path) -> Path:
    return Path(options.work / f"{folder.name}-{options.quality}.json")


def logit(share: np.ndarray) -> np.ndarray:
    clipped = np.clip(share, 0.02, 0.995)
    return np.asarray(np.log(clipped / (1.0 - clipped)))


def table(file: Path) -> tuple[np.ndarray, ...]:
    """Return number of the case, terms of the line (promise, one column per structure) and Dice of each structure."""
    rows: list[tuple[int, str, Any]] = []
    for name, structures in json.loads(file.read_text()).items():
        rows += [(int(name.split()[0].removeprefix("case_")), s, pair) for s, pair in structures.items()]
    promise, dice = np.array([pair for _, _, pair in rows]).T
    names = np.array([name for _, name, _ in rows])[:, None] == np.array(NAMES)
    return np.array([case for case, _, _ in rows]), np.column_stack([logit(promise), names]), dice


def rates(options: argparse.Namespace) -> None:
    case, terms, dice = table(_file(options, options.folders[0]))

    def fit(chosen: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.lstsq(terms[chosen], logit(dice)[chosen], rcond=None)[0])

    rest = np.concatenate([
        (logit(dice) - terms @ fit(case % FOLDS != fold))[case % FOLDS == fold] for fold in range(FOLDS)
    ])  # fmt: skip
    low, high = np.quantile(rest, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    fitted = fit(np.ones(len(dice), dtype=bool))
    _, terms, dice = table(_file(options, options.folders[1]))
    foretold, true = terms @ fitted, logit(dice)
    held = (true >= foretold + low) & (true <= foretold + high)
    constants = {name: round(float(value), 3) for name, value in zip(NAMES, fitted[1:], strict=True)}
    line = {"slope": round(float(fitted[0]), 3), "constants": constants, "low": round(low, 3), "high": round(high, 3)}
    print(json.dumps({options.quality: line}))
    print(f"| all | {stats.spearmanr(foretold, dice)[0]:.2f} | {held.mean():.0%} | {len(dice)} |")
    for column, name in enumerate(NAMES, start=1):
        of = terms[:, column] > 0
        print(f"| {name} | {stats.spearmanr(foretold[of], dice[of])[0]:.2f} | {held[of].mean():.0%} | {of.sum()} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("measure", "rates"))
    parser.add_argument("folders", type=Path, nargs="+", help="a virtual cohort; rates: the fitted and the tested one")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--package", default="virtual-heart-v2")
    parser.add_argument("--quality", choices=QUALITIES, default="full")
    parser.add_argument("--cases", type=int)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    measure(options) if options.step == "measure" else rates(options)


if __name__ == "__main__":
    main()

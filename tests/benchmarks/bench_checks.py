"""What the checks of labels find: limits from good labels, false alarms, planted faults.

Three steps, of which each leaves its result in --work, so that a long run can be stopped and continued:

    cardiacldm cohort --out calibration --cases 110 --seed 1901 --anatomies ANATOMIES
    cardiacldm cohort --out unseen --cases 100 --seed 2902 --anatomies ANATOMIES
    python -m tests.benchmarks.bench_checks limits calibration --work work
    python -m tests.benchmarks.bench_checks rates unseen --work work --references scan.nii.gz:labels.nii.gz ...

``limits`` prints the table of CardiacLDMLib/review/limits.py. ``rates`` prints the tables of docs/research/review.md.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.packages.store import find_package
from CardiacLDMLib.review.checks import check, measured
from CardiacLDMLib.review.scene import cropped
from CardiacLDMLib.segmentation.findings import Finding
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.faults import KINDS, plant

#: A limit lies at least so far above the median of good labels.
LEAST = {
    "tissue": 1.2, "border": 0.08, "unlabelled": 0.6, "pools": 0.15, "blood": 15.0, "jump": 0.1, "shift": 1.0,
    "ragged": 0.03, "appendage": 9.0, "own labels": 0.1, "difference": 1.5, "moved": 1.0, "surface": 0.75,
    "mirrored": 0.1,
}  # fmt: skip
#: How far it lies above, in ranges from there to the worst good labels. Tenfold cross-validation chose these numbers:
#: a rule alarms at most one of 110 cases that are left out (two in the rule ``tissue``), and all rules five of them.
ROOM = {
    "border": 3.0, "own labels": 3.0, "mirrored": 3.0, "difference": 5.5, "moved": 2.5, "surface": 4.0,
    "surface MYO": 2.5, "tissue": 3.0, "unlabelled": 2.5,
}  # fmt: skip
USUAL_ROOM = 2.0
#: The worst good labels of these rules are this quantile: beyond it are cases in which the package itself is wrong.
WORST = {"difference": 0.95, "moved": 0.95, "surface": 0.95}
#: A limit above this finds no fault that matters, and would alarm by chance only: the measure is not judged.
MOST = {
    "border": 0.6, "difference": 4.5, "moved": 4.0, "surface": 2.5, "tissue": 6.0, "unlabelled": 4.0, "own labels": 0.8,
    "mirrored": 0.8,
}  # fmt: skip
FOLDS = 10
#: Fewest good labels that a limit is taken from.
FEWEST = 3
#: Rules that need the CT, and those that need a second label map; the others need the labels alone.
OF_CT = {"tissue", "border", "unlabelled", "pools", "blood"}
OF_SECOND = {"own labels", "difference", "moved", "surface", "mirrored"}


def own_labels(path: Path, package: str | None, work: Path) -> Volume | None:
    """Return the package's labels of a scan, from ``work`` if they are there."""
    if package is None:
        return None
    kept, scan = work / "own" / f"{path.parent.parent.name}_{path.parent.name}.npz", read_volume(path)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        labels = Segmenter(find_package(package), "cpu").segment(scan, quality="fast").labels.array
        np.savez_compressed(kept, labels=labels)
    return Volume(np.load(kept)["labels"], scan.affine)


def cases(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, Volume, Volume, Volume | None, Any]]:
    """Yield name, labels, CT, the package's labels and sex of each case of a virtual cohort."""
    for path in sorted(folder.glob("case_*/ct.nii.gz"))[: options.cases]:
        sex = json.loads(path.with_name("case.json").read_text())["conditions"]["sex"]
        labels, own = read_volume(path.with_name("labels.nii.gz")), own_labels(path, options.package, options.work)
        labels, (image, own) = cropped(labels, (read_volume(path), own))  # saves time, and changes nothing
        assert image is not None
        yield path.parent.name, labels, image, own, sex


# --- limits --------------------------------------------------------------------------------------------------------


def limits_of(good: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the limits (rule -> key -> value) from the measures of good labels."""
    table: dict[str, dict[str, float]] = {}
    for rule in sorted({rule for case in good for rule in case}):
        values = defaultdict(list)
        for case in good:
            for key, value in case.get(rule, {}).items():
                values[key].append(value)
        table[rule] = {}
        for key in sorted(key for key, list_ in values.items() if len(list_) >= FEWEST):
            middle, worst = np.quantile(values[key], [0.5, WORST.get(rule, 1.0)]).tolist()
            room = ROOM.get(f"{rule} {key.split()[0]}", ROOM.get(rule, USUAL_ROOM))
            limit = middle + max(room * (worst - middle), LEAST[rule])
            if limit <= MOST.get(rule, np.inf):
                table[rule][key] = limit
    return table


def cross_validated(good: list[dict[str, dict[str, float]]]) -> Counter[str]:
    """Return how many of the good labels each rule alarms by limits from the others."""
    counts: Counter[str] = Counter()
    for fold in range(FOLDS):
        table = limits_of([case for n, case in enumerate(good) if n % FOLDS != fold])
        for case in good[fold::FOLDS]:
            rules = {r for r in case for key, v in case[r].items() if v > table.get(r, {}).get(key, np.inf)}
            counts.update([*rules, *(["any"] if rules else [])])
    return counts


def measure_all(options: argparse.Namespace) -> None:
    file = options.work / "measures.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for case, labels, image, own, _ in cases(options.folder, options):
        name = f"{options.folder.name}/{case}"  # limits may come from several cohorts
        if name not in known:
            known[name] = defaultdict(dict)
            thick = Volume(labels.array[:, :, ::2], labels.affine @ np.diag([1.0, 1.0, 2.0, 1.0]))
            _, thick_shape = next(measured(thick, None, None, None))
            parts = [thick_shape, *(measures for _, measures in measured(labels, image, own, None))]
            for m in (m for measures in parts for m in measures):
                known[name][m.rule][m.key] = max(float(m.value), known[name][m.rule].get(m.key, -np.inf))
            file.write_text(json.dumps(known))
    print(f"# alarms in cross-validation: {dict(cross_validated(list(known.values())))}")
    for rule, row in limits_of(list(known.values())).items():
        print(f'    "{rule}": {{')
        for key, limit in row.items():
            print(f'        "{key}": {limit:.3g},')
        print("    },")


# --- rates ---------------------------------------------------------------------------------------------------------


def key_of(finding: Finding) -> tuple[str, str, str]:
    return finding.rule, ", ".join(finding.structures), finding.where


def alarms(findings: list[Finding]) -> list[Finding]:
    """Return the findings that put labels in doubt: all but that the scan cuts the heart off."""
    return [finding for finding in findings if finding.rule != "cut off"]


def rate_all(options: argparse.Namespace) -> None:
    file = options.work / "rates.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for name, labels, image, own, sex in cases(options.folder, options):
        if name not in known:
            known[name] = {"good": sorted({key_of(f) for f in alarms(check(labels, image, sex=sex, own=own))})}
            file.write_text(json.dumps(known))
    for number, (name, labels, image, own, sex) in enumerate(cases(options.folder, options)):
        if number < options.planted and len(known[name]) == 1:
            before = {tuple(key) for key in known[name]["good"]}
            for index, kind in enumerate(KINDS):
                bad = plant(kind, labels, image, np.random.default_rng([number, index, 1]))
                if bad is not None:
                    found = {key_of(finding) for finding in alarms(check(bad, image, sex=sex, own=own))}
                    known[name][kind] = sorted({key[0] for key in found - before})
            file.write_text(json.dumps(known))
            print(name, flush=True)
    print_rates(known)
    for pair in options.references:
        scan, labels_path = (Path(part) for part in pair.split(":"))
        image, labels = read_volume(scan), read_volume(labels_path)
        inside = tuple(slice(0, n) for n in image.array.shape)  # a reference may have a row too many
        found = alarms(check(Volume(labels.array[inside], image.affine), image))
        print(f"{labels_path.name}: {len(found)} findings", *(key_of(f) for f in found))


def print_rates(known: dict[str, dict[str, list[str]]]) -> None:
    good = [sorted({key[0] for key in case["good"]}) for case in known.values()]
    counts = Counter(rule for rules in good for rule in rules)
    print(f"\nFalse alarms in {len(good)} cases\n\n| check | cases |\n|---|--:|")
    for rule, count in counts.most_common():
        print(f"| {rule} | {count / len(good):.0%} |")
    means = {"labels alone": OF_CT | OF_SECOND, "with the CT": OF_SECOND, "with the package's labels too": set[str]()}
    for name, without in means.items():
        print(f"| any check, {name} | {np.mean([bool(set(rules) - without) for rules in good]):.0%} |")
    print(f"\n| fault | cases | {' | '.join(means)} | found most often by |\n|---|--:|--:|--:|--:|---|")
    for kind in KINDS:
        planted = [set(case[kind]) for case in known.values() if kind in case]
        shares = " | ".join(f"{np.mean([bool(p - without) for p in planted]):.0%}" for without in means.values())
        finders = ", ".join(rule for rule, _ in Counter(r for rules in planted for r in rules).most_common(3))
        print(f"| {kind} | {len(planted)} | {shares} | {finders} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("limits", "rates"))
    parser.add_argument("folder", type=Path, help="a virtual cohort")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--package", default="virtual-heart-v2", help="whose labels are compared")
    parser.add_argument("--cases", type=int)
    parser.add_argument("--planted", type=int, default=10_000, help="cases that get faults, 12 seconds each")
    parser.add_argument("--references", nargs="*", default=[], help="SCAN:LABELS of real scans")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    measure_all(options) if options.step == "limits" else rate_all(options)


if __name__ == "__main__":
    main()

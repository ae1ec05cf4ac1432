"""Do generated pairs follow their conditions? Each condition is judged by measurements that depend on it in true cases.

The share of a measurement's variance that a condition explains says how strongly the measurement follows it: in the
references, how good a judge the measurement is; in generated pairs, how well they follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from CardiacLDMLib.anatomy import HEART
from CardiacLDMLib.packages.fields import Record

from .case_record import CaseRecord
from .contrast import BLOOD

#: Fewest cases with a value of a condition, and least share of variance with which a measurement is a judge.
FEWEST, LEAST_EXPLAINED = 2, 0.05


class ValueRow(Record):
    """Mean of a measurement over the cases with one value of a condition: generated and reference, with their n."""

    value: str
    generated: float | None
    reference: float | None
    cases: tuple[int, int]


class ConditionRow(Record):
    """One measurement that judges one condition.

    ``explained``: share of the variance between cases that the condition explains, in generated pairs and references
    (epsilon squared: about 0 or below if it explains nothing); None for too few cases.
    """

    condition: str
    measure: str
    unit: str
    explained: tuple[float | None, float | None]
    values: list[ValueRow]


def _blood_of(name: str) -> Callable[[CaseRecord], float | None]:
    return lambda case: case.blood_hu.get(name)


def _heart_ml(case: CaseRecord) -> float | None:
    volumes = case.volumes_ml
    return sum(volumes[name] for name in HEART) if all(name in volumes for name in HEART) else None


#: The judges of each condition: name, unit, and the measurement of a case (None where it cannot be made).
JUDGES: Mapping[str, Sequence[tuple[str, str, Callable[[CaseRecord], float | None]]]] = {
    "contrast_phase": [(f"contrast, {name}", "HU", _blood_of(name)) for name in BLOOD],
    "sex": [
        ("heart and wall", "mL", _heart_ml),
        ("left ventricle", "mL", lambda case: case.volumes_ml.get("LV")),
        ("wall", "mL", lambda case: case.volumes_ml.get("MYO")),
    ],
    "implant": [("brightest voxel", "HU", lambda case: case.brightest_hu)],
    "scan_location": [("noise in blood", "HU", lambda case: case.sd_hu.get("blood"))],
}


def condition_rows(
    pairs: Sequence[CaseRecord], references: Sequence[CaseRecord], conditions: Sequence[Mapping[str, object]],
    reference_conditions: Sequence[Mapping[str, object]],
) -> list[ConditionRow]:  # fmt: skip
    """Return the rows of all conditions that both sides know; ``conditions`` are those of each case, in their order."""
    rows = []
    for condition, judges in JUDGES.items():
        for name, unit, measure in judges:
            sides = [
                _by_value(condition, measure, cases, known)
                for cases, known in ((pairs, conditions), (references, reference_conditions))
            ]
            if all(sides):
                rows.append(_row(condition, name, unit, sides[0], sides[1]))
    return rows


def _by_value(
    condition: str, measure: Callable[[CaseRecord], float | None], cases: Sequence[CaseRecord],
    conditions: Sequence[Mapping[str, object]],
) -> dict[str, list[float]]:  # fmt: skip
    """Return the measurements of the cases by their value of ``condition``, without cases that lack either."""
    found: dict[str, list[float]] = {}
    for case, known in zip(cases, conditions, strict=True):
        value = measure(case)
        if condition in known and value is not None and np.isfinite(value):
            found.setdefault(str(known[condition]), []).append(value)
    return found


def _row(
    condition: str, name: str, unit: str, generated: dict[str, list[float]], reference: dict[str, list[float]]
) -> ConditionRow:
    def mean(values: Sequence[float]) -> float | None:
        return round(float(np.mean(values)), 2) if values else None

    rows = []
    for value in dict.fromkeys([*reference, *generated]):
        ours, theirs = generated.get(value, []), reference.get(value, [])
        counts = len(ours), len(theirs)
        rows.append(ValueRow(value=value, generated=mean(ours), reference=mean(theirs), cases=counts))
    return ConditionRow(
        condition=condition,
        measure=name,
        unit=unit,
        values=rows,
        explained=(explained(generated), explained(reference)),
    )


def explained(groups: Mapping[str, Sequence[float]]) -> float | None:
    """Return epsilon squared: the share of the variance that the groups explain, corrected for their number.

    Groups of fewer than ``FEWEST`` values are left out. None if fewer than two groups remain, or nothing varies.
    """
    arrays = [np.asarray(values, dtype=float) for values in groups.values() if len(values) >= FEWEST]
    if len(arrays) < 2:
        return None
    everything = np.concatenate(arrays)
    total = float(((everything - everything.mean()) ** 2).sum())
    if total == 0.0:
        return None
    within = sum(float(((values - values.mean()) ** 2).sum()) for values in arrays)
    spread = within / max(len(everything) - len(arrays), 1)
    return round((total - within - (len(arrays) - 1) * spread) / total, 4)

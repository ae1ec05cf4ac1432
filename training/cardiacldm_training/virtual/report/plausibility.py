"""Report on a set of label maps: plausibility of each, volumes against published ones, diversity."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from CardiacLDMLib.anatomy import NAMES, PUBLISHED, Measure
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.findings import clause

from ...cases.readers.cases import read_whole_labels
from ...cases.readers.files import CaseFiles
from ...cases.workers import spread
from ...errors import AnatomyError
from ..body.frame import extend_aorta
from ..heart.anatomy import HeartSources, draw_heart
from . import diversity

#: Most cases that are compared with each other: 45,000 pairs.
MOST_COMPARED = 300
#: Two cases with a larger mean Dice count as alike.
ALIKE = 0.95
AORTA = "aorta width"
#: The aorta's volume depends on where the scan ends; its width does not.
MEASURED = (*(name for name in NAMES if name != "AO"), AORTA)

Sex = Literal["female", "male", "unknown"]
#: Healthy hearts by the phase of the heartbeat; hearts with a finding, at any phase; hearts without a record.
State = Literal["diastole", "between", "systole", "pathological", "unknown"]
SEXES: tuple[Sex, ...] = ("female", "male", "unknown")
STATES: tuple[State, ...] = ("diastole", "between", "systole", "pathological", "unknown")
#: Phase (0 to 1) up to which a heart counts as diastolic: the ventricle then holds 90 % of its largest volume.
DIASTOLE = 0.15


def published(structure: str, sex: Sex) -> Measure | None:
    """Return the published measure of a row of :data:`MEASURED`, or None.

    The left atrium's is its index times the mean body surface area of the sex, rounded to 0.1 mL.
    """
    if sex == "unknown":
        return None
    if structure != "LA":
        return PUBLISHED.get((structure, sex))
    index, surface = PUBLISHED["LA index", sex], PUBLISHED["body surface", sex]
    source = f"{index.source}, {index.mean} +- {index.sd} mL/m2 at {surface.mean:.2f} m2"
    return Measure(round(index.mean * surface.mean, 1), round(index.sd * surface.mean, 1), "mL", source, "systole")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Broken(_Record):
    """A rule that a label map breaks, and how."""

    rule: str
    what: str


class CaseReport(_Record):
    """One label map. ``cut`` structures reach the scan's edge; their volumes are not counted in the distributions."""

    case: str
    source: str
    sex: Sex
    state: State
    findings: list[str]
    volumes_ml: dict[str, float]
    aorta_width_mm: float | None
    cut: list[str]
    broken: list[Broken]
    flags: list[str]


class Distribution(_Record):
    """A volume in mL (``aorta width``: mm) over the whole structures of one sex and state, beside the published one."""

    structure: str
    sex: Sex
    state: State
    cases: int
    mean: float
    sd: float
    published_mean: float | None
    published_sd: float | None


class Spread(_Record):
    """Dice over all pairs of cases, aligned by the centroid of the heart: low for a diverse set."""

    structure: str
    mean: float
    sd: float
    p5: float
    p95: float
    largest: float


class Report(_Record):
    """The report as stored in ``report.json``; ``broken`` counts the label maps that break each rule."""

    data: str
    cases: list[CaseReport]
    unreadable: dict[str, str]
    sources: dict[str, int]
    broken: dict[str, int]
    distributions: list[Distribution]
    compared: int
    diversity: list[Spread]
    alike: int

    @property
    def plausible(self) -> bool:
        """Return whether every case could be read and breaks no rule."""
        return not self.unreadable and not any(self.broken.values())


Judgement = tuple[CaseReport, np.ndarray | None]


# --- one label map -------------------------------------------------------------------------------------------------


def judge(volume: Volume, name: str, record: dict[str, Any]) -> Judgement:
    """Judge one label map; ``record`` is its case.json, or empty. Raises :class:`VolumeError`."""
    labels = plausibility.as_labels(volume)
    sex = record.get("conditions", {}).get("sex") or record.get("sex")
    findings = record.get("findings")
    report = CaseReport(
        case=name,
        source=str(record.get("anatomy", "unknown")),
        sex=sex if sex in SEXES else "unknown",
        state=_state(findings, record.get("measures", {}).get("systole", 0.0)),
        findings=list(findings or ()),
        volumes_ml={structure: round(ml, 2) for structure, ml in labels.volumes_ml().items()},
        aorta_width_mm=diversity.aorta_width_mm(labels),
        cut=sorted(labels.cut),
        broken=[Broken(rule=finding.rule, what=clause(finding)) for finding in plausibility.check(labels)],
        flags=[clause(finding) for finding in diversity.unusual_volumes(labels)],
    )
    return report, diversity.shape_around_centre(labels)


def _state(findings: Sequence[str] | None, systole: float) -> State:
    if findings is None:
        return "unknown"
    if set(findings) - {"systole"}:
        return "pathological"
    if "systole" in findings:
        return "systole"
    return "diastole" if systole <= DIASTOLE else "between"


def judge_files(files: CaseFiles) -> Judgement | tuple[str, str]:
    """Judge a labelled case on disk. Return its name and the reason if it cannot be read."""
    try:
        path = files.labels.parent / "case.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return judge(read_whole_labels(files), files.name, record)
    except (VolumeError, OSError, json.JSONDecodeError) as error:
        return files.name, str(error)


def judge_drawn(index: int, *, anatomies: HeartSources, seed: int, spacing_mm: float) -> Judgement | tuple[str, str]:
    """Draw heart ``index`` without body and scan, and judge it: only the lower end of the aorta is cut."""
    rng = np.random.default_rng([seed, index])
    name = f"heart_{index:04d}"
    try:
        heart = draw_heart(rng, spacing_mm, anatomies, finish=lambda heart: extend_aorta(heart, rng))
        record = {"anatomy": heart.source, "sex": heart.sex, "findings": heart.findings, "measures": heart.measures}
        return judge(Volume(heart.labels, np.diag([spacing_mm] * 3 + [1.0])), name, record)
    except (AnatomyError, VolumeError) as error:
        return name, str(error)


# --- all of them ---------------------------------------------------------------------------------------------------


def report_on_files(
    cases: Sequence[CaseFiles], data: str, workers: int = 1, done: Callable[[int], None] = lambda n: None
) -> tuple[Report, np.ndarray]:
    """Judge labelled cases. Return the report and the Dice of all pairs (8, N, N)."""
    return _report(spread(judge_files, cases, workers), data, done)


def report_on_drawn(
    anatomies: HeartSources, count: int, *, seed: int = 0, spacing_mm: float = 2.0, workers: int = 1,
    done: Callable[[int], None] = lambda n: None,
) -> tuple[Report, np.ndarray]:  # fmt: skip
    """Draw ``count`` hearts and judge them. Return the report and the Dice of all pairs (8, N, N)."""
    job = partial(judge_drawn, anatomies=anatomies, seed=seed, spacing_mm=spacing_mm)
    return _report(spread(job, range(count), workers), f"{count} drawn hearts, seed {seed}", done)


def _report(
    judged: Iterator[Judgement | tuple[str, str]], data: str, done: Callable[[int], None]
) -> tuple[Report, np.ndarray]:
    cases: list[CaseReport] = []
    shapes: list[np.ndarray] = []
    whole: list[str] = []
    unreadable: dict[str, str] = {}
    for count, (first, second) in enumerate(judged, start=1):
        if isinstance(first, CaseReport):
            cases.append(first)
            if isinstance(second, np.ndarray) and len(shapes) < MOST_COMPARED:
                shapes.append(second)
                whole.append(first.source)
        else:
            unreadable[first] = str(second)
        done(count)
    dice = diversity.pairwise_dice(np.stack(shapes)) if len(shapes) > 1 else np.zeros((len(NAMES), 0, 0))
    report = Report(
        data=data, cases=cases, unreadable=unreadable,
        sources=dict(Counter(case.source for case in cases).most_common()),
        broken={rule: sum(any(b.rule == rule for b in case.broken) for case in cases) for rule in plausibility.RULES},
        distributions=_distributions(cases), compared=dice.shape[1], diversity=_spreads(dice),
        alike=int((each_pair(dice.mean(0)) > ALIKE).sum()),
    )  # fmt: skip
    return report, dice


def each_pair(table: np.ndarray) -> np.ndarray:
    """Return the values above the diagonal of a symmetric (N, N) table: each pair once."""
    return table[np.triu_indices(len(table), 1)]


def _spreads(dice: np.ndarray) -> list[Spread]:
    if not dice.shape[1]:
        return []
    rows = {name: each_pair(table) for name, table in zip(NAMES, dice, strict=True)} | {"mean": each_pair(dice.mean(0))}
    return [
        Spread(structure=name, mean=float(v.mean()), sd=float(v.std()), p5=float(np.percentile(v, 5)),
               p95=float(np.percentile(v, 95)), largest=float(v.max()))
        for name, v in rows.items()
    ]  # fmt: skip


def measurements(cases: Sequence[CaseReport], structure: str, sex: Sex, state: State) -> np.ndarray:
    """Return volumes (mL) or aortic widths (mm) of the cases of a sex and state whose structure is whole."""
    chosen = [case for case in cases if case.sex == sex and case.state == state]
    if structure == AORTA:
        return np.array([case.aorta_width_mm for case in chosen if case.aorta_width_mm is not None])
    return np.array([c.volumes_ml[structure] for c in chosen if structure in c.volumes_ml and structure not in c.cut])


def _distributions(cases: Sequence[CaseReport]) -> list[Distribution]:
    rows = []
    for structure in MEASURED:
        for sex in SEXES:
            for state in STATES:
                values = measurements(cases, structure, sex, state)
                if not len(values):
                    continue
                reference = published(structure, sex)
                reference = reference if reference and reference.when == state else None
                rows.append(Distribution(
                    structure=structure, sex=sex, state=state, cases=len(values), mean=float(values.mean()),
                    sd=float(values.std(ddof=min(len(values) - 1, 1))), published_mean=reference and reference.mean,
                    published_sd=reference and reference.sd,
                ))  # fmt: skip
    return rows

"""Report on a set of label maps: plausibility of each, volumes against published ones, diversity.

It writes ``report.json`` (everything), ``report.md`` (a summary), ``volumes.png`` and ``diversity.png``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from CardiacLDMLib.anatomy import NAMES, PUBLISHED, Measure
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.files import replace_file, write_text
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.findings import clause

from ...cases.readers.folders import CaseFiles
from ...cases.workers import spread
from ...errors import AnatomyError
from ..body.frame import extend_aorta
from ..heart.anatomy import HeartSources, draw_heart
from . import diversity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JSON_FILE, MARKDOWN_FILE, VOLUMES_FILE, DIVERSITY_FILE = "report.json", "report.md", "volumes.png", "diversity.png"
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
    def sound(self) -> bool:
        return not self.unreadable and not any(self.broken.values())


Judged = tuple[CaseReport, np.ndarray | None]


# --- one label map -------------------------------------------------------------------------------------------------


def judge(volume: Volume, name: str, record: dict[str, Any]) -> Judged:
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


def judge_files(files: CaseFiles) -> Judged | tuple[str, str]:
    """Judge a labelled case on disk. Return its name and the reason if it cannot be read."""
    try:
        path = files.labels.parent / "case.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return judge(read_volume(files.labels), files.name, record)
    except (VolumeError, OSError, json.JSONDecodeError) as error:
        return files.name, str(error)


def judge_drawn(index: int, *, anatomies: HeartSources, seed: int, spacing_mm: float) -> Judged | tuple[str, str]:
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
    judged: Iterator[Judged | tuple[str, str]], data: str, done: Callable[[int], None]
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
        alike=int((_pairs(dice.mean(0)) > ALIKE).sum()),
    )  # fmt: skip
    return report, dice


def _pairs(table: np.ndarray) -> np.ndarray:
    """Return the pairs of a symmetric (N, N) table, each once."""
    return table[np.triu_indices(len(table), 1)]


def _spreads(dice: np.ndarray) -> list[Spread]:
    if not dice.shape[1]:
        return []
    rows = {name: _pairs(table) for name, table in zip(NAMES, dice, strict=True)} | {"mean": _pairs(dice.mean(0))}
    return [
        Spread(structure=name, mean=float(v.mean()), sd=float(v.std()), p5=float(np.percentile(v, 5)),
               p95=float(np.percentile(v, 95)), largest=float(v.max()))
        for name, v in rows.items()
    ]  # fmt: skip


def measured(cases: Sequence[CaseReport], structure: str, sex: Sex, state: State) -> np.ndarray:
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
                values = measured(cases, structure, sex, state)
                if not len(values):
                    continue
                known = published(structure, sex)
                known = known if known and known.when == state else None
                rows.append(Distribution(
                    structure=structure, sex=sex, state=state, cases=len(values), mean=float(values.mean()),
                    sd=float(values.std(ddof=min(len(values) - 1, 1))), published_mean=known and known.mean,
                    published_sd=known and known.sd,
                ))  # fmt: skip
    return rows


# --- files ---------------------------------------------------------------------------------------------------------


def write_report(report: Report, dice: np.ndarray, out: Path) -> None:
    """Write the four files. Raises :class:`OutputError`."""
    texts = {JSON_FILE: report.model_dump_json(indent=1) + "\n", MARKDOWN_FILE: _markdown(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    figures = {VOLUMES_FILE: _volumes_figure(report.cases), DIVERSITY_FILE: _diversity_figure(report, dice)}
    for name, figure in figures.items():
        with replace_file(out / name) as part:
            figure.savefig(part, dpi=110)


def _markdown(report: Report) -> str:
    total = len(report.cases)
    implausible = [case for case in report.cases if case.broken]
    flagged = Counter(
        flag.split()[0] for case in report.cases for flag in case.flags
    )  # a flag begins with its structure
    cut = Counter(name for case in report.cases for name in case.cut)
    parts = [
        f"# Plausibility of {report.data}",
        f"{total} label maps, {len(implausible)} of them with a broken rule, {len(report.unreadable)} unreadable. "
        + "Sources: " + ", ".join(f"{name} {n}" for name, n in report.sources.items()) + ".",
        "## Rules",
        "| rule | label maps that break it |\n|---|---|\n"
        + "\n".join(f"| {rule} | {n} |" for rule, n in report.broken.items()),
        "A label map has one value per voxel, so structures cannot overlap. "
        + f"Cut off by the edge of the scan and excused: {_counts(cut)}. "
        + f"Volumes unusual for an adult (no rule, since disease causes them): {_counts(flagged)}.",
        *_list("Broken", {case.case: "; ".join(b.what for b in case.broken) for case in implausible}),
        *_list("Unreadable", report.unreadable),
        "## Volumes (mL; aorta width mm)",
        _distribution_table(report.distributions),
        "Whole structures only. Published: healthy adults, " + "; ".join(_sources()) + ".",
        f"![volumes]({VOLUMES_FILE})",
        "## Diversity",
        f"Dice between all pairs of {report.compared} whole hearts at 3 mm, aligned by the centroid of the heart; "
        f"{report.alike} pairs have a mean above {ALIKE:g}.",
        _diversity_table(report.diversity),
        f"![diversity]({DIVERSITY_FILE})",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counter.most_common()) or "none"


def _list(title: str, lines: dict[str, str]) -> list[str]:
    return [f"{title}:\n\n" + "\n".join(f"- {name}: {what}" for name, what in lines.items())] if lines else []


def _sources() -> list[str]:
    known = [(name, published(name, sex)) for name in MEASURED for sex in SEXES]
    return list(dict.fromkeys(f"{name} {measure.source}" for name, measure in known if measure))


def _distribution_table(rows: Sequence[Distribution]) -> str:
    lines = ["| structure | sex | state | n | mean +- SD | published | shift |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        published, shift = "", ""
        if row.published_mean is not None and row.published_sd:
            published = f"{row.published_mean:.0f} +- {row.published_sd:.0f}"
            shift = f"{(row.mean - row.published_mean) / row.published_sd:+.1f} SD"
        lines.append(
            f"| {row.structure} | {row.sex} | {row.state} | {row.cases} | {row.mean:.0f} +- {row.sd:.0f} | {published} "
            f"| {shift} |"
        )
    return "\n".join(lines)


def _diversity_table(rows: Sequence[Spread]) -> str:
    lines = ["| structure | mean +- SD | 5 % to 95 % | largest |", "|---|---|---|---|"]
    lines += [
        f"| {r.structure} | {r.mean:.2f} +- {r.sd:.2f} | {r.p5:.2f} to {r.p95:.2f} | {r.largest:.2f} |" for r in rows
    ]
    return "\n".join(lines)


# --- figures -------------------------------------------------------------------------------------------------------

_COLOURS: dict[State, str] = {
    "diastole": "#1b6ca8",
    "between": "#3aa6a0",
    "systole": "#7a4fa3",
    "pathological": "#d1495b",
    "unknown": "#555555",
}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _volumes_figure(cases: Sequence[CaseReport]) -> Figure:
    """Draw a panel per structure: every case a dot by sex, the published mean with one and two SD as bands."""
    figure = _figure(16, 7)
    sexes = [sex for sex in SEXES if any(case.sex == sex for case in cases)]
    states = [state for state in STATES if any(case.state == state for case in cases)]
    axes = figure.subplots(2, 4).ravel()
    for axis, structure in zip(axes, MEASURED, strict=True):
        for place, sex in enumerate(sexes):
            _band(axis, published(structure, sex), place)
            for index, state in enumerate(states):
                values = measured(cases, structure, sex, state)
                shift = 0.2 * (index - (len(states) - 1) / 2)
                jitter = np.random.default_rng(0).uniform(-0.05, 0.05, len(values))
                axis.plot(place + shift + jitter, values, ".", color=_COLOURS[state], markersize=4, alpha=0.7)
                if len(values) > 1:
                    axis.errorbar(place + shift, values.mean(), values.std(ddof=1), color="black", fmt="_", capsize=4)
        axis.set(title=f"{structure}, {'mm' if structure == AORTA else 'mL'}", xlim=(-0.5, max(len(sexes), 1) - 0.5))
        axis.set_xticks(range(len(sexes)), sexes)
        axis.set_ylim(bottom=0)
    handles = [
        axes[0].plot([], [], "o", color=colour, label=state)[0] for state, colour in _COLOURS.items() if state in states
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4,
                  title="bands: published mean, 1 and 2 SD (diastole, LA systole); bars: this set")  # fmt: skip
    return figure


def _band(axis: Axes, known: Measure | None, place: int) -> None:
    if known:
        for width, alpha in ((2, 0.15), (1, 0.25)):
            low = known.mean - width * known.sd
            axis.fill_between(
                [place - 0.4, place + 0.4], low, low + 2 * width * known.sd, color="green", alpha=alpha, lw=0
            )
        axis.plot([place - 0.4, place + 0.4], [known.mean] * 2, color="green", lw=1)


def _diversity_figure(report: Report, dice: np.ndarray) -> Figure:
    figure = _figure(12, 4.5)
    left, right = figure.subplots(1, 2)
    left.set(title="pairs of cases", xlabel="mean Dice over the structures", ylabel="pairs", xlim=(0, 1))
    right.set(title="per structure", ylabel="Dice between two cases", ylim=(0, 1))
    if dice.shape[1]:
        mean = dice.mean(0)
        nearest = np.where(np.eye(len(mean), dtype=bool), -1, mean).max(0)
        left.hist(_pairs(mean), bins=np.linspace(0, 1, 51), color="#1b6ca8", label="all pairs")
        left.hist(nearest, bins=np.linspace(0, 1, 51), color="#d1495b", alpha=0.7, label="each case and its nearest")
        left.legend()
        right.boxplot([_pairs(table) for table in dice], whis=(5, 95), showfliers=False)
        right.set_xticks(range(1, len(NAMES) + 1), NAMES)
    return figure

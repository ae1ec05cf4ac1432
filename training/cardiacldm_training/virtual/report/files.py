"""The files of a report on label maps.

``report.json`` (everything), ``report.md`` (a summary), ``volumes.png`` and ``diversity.png``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CardiacLDMLib.anatomy import NAMES, Measure
from CardiacLDMLib.files import write_text
from CardiacLDMLib.text import plural

from ...results.pictures import new_figure, write_figures
from .plausibility import (
    ALIKE,
    AORTA,
    MEASURED,
    SEXES,
    STATES,
    CaseReport,
    Distribution,
    Report,
    Spread,
    State,
    each_pair,
    measurements,
    published,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JSON_FILE, MARKDOWN_FILE, VOLUMES_FILE, DIVERSITY_FILE = "report.json", "report.md", "volumes.png", "diversity.png"


def write_report(report: Report, dice: np.ndarray, out: Path) -> None:
    """Write the four files. Raises :class:`OutputError`."""
    texts = {JSON_FILE: report.model_dump_json(indent=1) + "\n", MARKDOWN_FILE: _markdown(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    figures = {VOLUMES_FILE: _volumes_figure(report.cases), DIVERSITY_FILE: _diversity_figure(report, dice)}
    write_figures(figures, out)


def _markdown(report: Report) -> str:
    total = len(report.cases)
    implausible = [case for case in report.cases if case.broken]
    flagged = Counter(flag.split()[0] for case in report.cases for flag in case.flags)  # the structure comes first
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
        f"{plural(report.alike, 'pair')} had a mean above {ALIKE:g}.",
        _diversity_table(report.diversity),
        f"![diversity]({DIVERSITY_FILE})",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counter.most_common()) or "none"


def _list(title: str, lines: dict[str, str]) -> list[str]:
    return [f"{title}:\n\n" + "\n".join(f"- {name}: {what}" for name, what in lines.items())] if lines else []


def _sources() -> list[str]:
    measures = [(name, published(name, sex)) for name in MEASURED for sex in SEXES]
    return list(dict.fromkeys(f"{name} {measure.source}" for name, measure in measures if measure))


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


def _volumes_figure(cases: Sequence[CaseReport]) -> Figure:
    """Draw a panel per structure: every case a dot by sex, the published mean with one and two SD as bands."""
    figure = new_figure(16, 7)
    sexes = [sex for sex in SEXES if any(case.sex == sex for case in cases)]
    states = [state for state in STATES if any(case.state == state for case in cases)]
    axes = figure.subplots(2, 4).ravel()
    for axis, structure in zip(axes, MEASURED, strict=True):
        for place, sex in enumerate(sexes):
            _band(axis, published(structure, sex), place)
            for index, state in enumerate(states):
                values = measurements(cases, structure, sex, state)
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


def _band(axis: Axes, measure: Measure | None, place: int) -> None:
    if measure:
        for width, alpha in ((2, 0.15), (1, 0.25)):
            low = measure.mean - width * measure.sd
            axis.fill_between(
                [place - 0.4, place + 0.4], low, low + 2 * width * measure.sd, color="green", alpha=alpha, lw=0
            )
        axis.plot([place - 0.4, place + 0.4], [measure.mean] * 2, color="green", lw=1)


def _diversity_figure(report: Report, dice: np.ndarray) -> Figure:
    figure = new_figure(12, 4.5)
    left, right = figure.subplots(1, 2)
    left.set(title="pairs of cases", xlabel="mean Dice over the structures", ylabel="pairs", xlim=(0, 1))
    right.set(title="per structure", ylabel="Dice between two cases", ylim=(0, 1))
    if dice.shape[1]:
        mean = dice.mean(0)
        nearest = np.where(np.eye(len(mean), dtype=bool), -1, mean).max(0)
        left.hist(each_pair(mean), bins=np.linspace(0, 1, 51), color="#1b6ca8", label="all pairs")
        left.hist(nearest, bins=np.linspace(0, 1, 51), color="#d1495b", alpha=0.7, label="each case and its nearest")
        left.legend()
        right.boxplot([each_pair(table) for table in dice], whis=(5, 95), showfliers=False)
        right.set_xticks(range(1, len(NAMES) + 1), NAMES)
    return figure

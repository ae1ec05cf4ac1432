"""The report: ``report.json`` (everything), ``report.md`` (to read) and its pictures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.files import replace_file, write_text
from CardiacLDMLib.postprocess.texture import BINS

from .compare import SPLITS, Measured, Record, Spread
from .labels import VolumeRow
from .replicas import NEIGHBOURS, Replicas
from .utility import Utility

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"
VOLUMES_FILE, SPECTRA_FILE, QUALITY_FILE, REPAIR_FILE = "volumes.png", "spectra.png", "quality.png", "repair.png"
#: Generated, and reference.
COLOURS = ("#d1495b", "#1b6ca8")


class CaseRecord(Record):
    """One pair or reference case. ``dice``: between its labels and the segmenter's on its image."""

    case: str
    volumes_ml: dict[str, float]
    cut: list[str]
    broken: list[str]
    speckle: float
    sd_hu: dict[str, float]
    dice: dict[str, float] | None


class SpectrumRow(Record):
    """Mean noise power (HU^2 per mode) of one tissue, by ring, over the cases in which it could be measured."""

    tissue: str
    generated: tuple[float, ...]
    reference: tuple[float, ...]
    cases: int
    reference_cases: int


class CurvePoint(Record):
    """Pairs drawn with one solver and number of network evaluations. ``sound``: share that breaks no rule."""

    solver: str
    steps: int
    restarts: int
    evaluations: int
    pairs: int
    unusable: int
    frechet: Measured | None
    mmd: Measured | None
    dice: Spread | None
    sound: float
    seconds: float


class Repair(Record):
    """The pair that the clean-up changed most: its ``voxels`` of ``labelled`` ones; ``mean`` over all pairs."""

    pair: str
    voxels: int
    labelled: int
    mean: float


class Report(Record):
    """Everything that was measured. ``skipped``: cases of each set that could not be used, with the reason.

    ``textured``: tone or texture was put on the pairs when they were drawn, so that ``remedy`` (noise by tissue) and
    ``tone`` (a curve of HU around the heart) are what they lack beside it.
    """

    generated: str
    data: str
    train: str | None
    package: str | None
    segmenter: str
    textured: bool
    grid: tuple[int, int, int]
    spacing_mm: float
    date: datetime.date
    code_version: str
    sizes: dict[str, int]
    skipped: dict[str, dict[str, str]]
    measured: dict[str, list[Measured]]
    volumes: list[VolumeRow]
    rules: dict[str, tuple[int, int]]
    spectra: list[SpectrumRow]
    remedy: dict[str, tuple[float, ...]]
    tone: tuple[tuple[float, float], ...] = ()
    repair: Repair | None
    replicas: Replicas | None
    utility: Utility | None
    curve: list[CurvePoint]
    left_out: list[str]
    pairs: list[CaseRecord]
    references: list[CaseRecord]


def write_report(report: Report, out: Path) -> None:
    """Write all files, each whole or not at all. Raises VolumeError."""
    texts = {JSON_FILE: report.model_dump_json(indent=1) + "\n", MARKDOWN_FILE: markdown(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    pictures = {VOLUMES_FILE: _volumes_figure(report), SPECTRA_FILE: _spectra_figure(report)}
    if report.curve:
        pictures[QUALITY_FILE] = _quality_figure(report.curve)
    for name, figure in pictures.items():
        with replace_file(out / name) as part:
            figure.savefig(part, dpi=110)


# --- to read -------------------------------------------------------------------------------------------------------

_HEAD = "| figure | generated | reference | unit | n |\n|---|---|---|---|---|"


def markdown(report: Report) -> str:
    """The report in words and tables; every figure with its reference and its number of cases."""
    grid = " x ".join(map(str, report.grid))
    parts = [
        f"# Fidelity of {report.generated}",
        f"{report.sizes['generated']} generated pairs against {report.sizes['data']} held-out cases of {report.data}, "
        f"on {grid} voxels of {report.spacing_mm:g} mm; {report.date}, version {report.code_version}."
        + (f" Generator: {report.package}." if report.package else "")
        + f" Segmenter: {report.segmenter}.",
        f"A *distance* is the mean (and standard deviation) over {SPLITS} random splits: generated pairs against half "
        "of the references, and under *reference* the other half against it, n cases each: a perfect generator would "
        "reach the reference, not 0. Other figures are means (and standard deviations) over cases.",
        *(f"{title}\n\n{_table(report.measured[key])}" for key, title in _SECTIONS.items() if report.measured.get(key)),
        "## Volumes of the structures",
        _volumes_table(report.volumes),
        "Whole structures and those cut by the grid's edge are compared apart. Cases as generated / reference; "
        "Wasserstein distance in mL.",
        f"![volumes]({VOLUMES_FILE})",
        "## Noise",
        _NOISE[report.textured],
        f"![noise-power spectra]({SPECTRA_FILE})",
        *_repair_part(report.repair),
        *_replicas_part(report.replicas),
        *_utility_part(report.utility),
        *_curve_part(report.curve),
        *_listed("## Left out", report.left_out),
        *_listed("## Cases not used", [f"{s}/{c}: {why}" for s, cs in report.skipped.items() for c, why in cs.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def headline(report: Report) -> list[Measured]:
    """Every figure that has a reference, in the order of the report."""
    found = [measured for key in _SECTIONS for measured in report.measured.get(key, [])]
    found += [report.replicas.rate] if report.replicas else []
    return found + ([report.utility.dice] if report.utility else [])


def for_card(report: Report) -> str:
    """The report as a part of a model card: without its title, its pictures, and what tells a reader what to do.

    Nor are cases named in it: a package goes to others, and a name may be a patient's.
    """
    replicas = report.replicas and report.replicas.model_copy(update={"found": []})
    unnamed = report.model_copy(update={"replicas": replicas, "skipped": {}})
    texts = [part for part in markdown(unnamed).split("\n\n")[1:] if part != _NOISE[report.textured]]
    kept = [part for part in texts if not part.startswith("![") and part != "## Noise"]
    return "\n\n".join(part.replace("## ", "### ", 1) if part.startswith("## ") else part for part in kept).strip()


_SECTIONS = {
    "acceptance": "## Acceptance: the share that `generate` would draw again (replicas apart)",
    "agreement": "## Labels against a segmenter's on the image (Dice)",
    "features": "## Images as the segmenter sees them",
    "diversity": "## Diversity (MS-SSIM between images, low is varied)",
    "anatomy": "## Soundness of the labels",
    "surroundings": "## Around the heart, away from the labels: bone, lungs, soft tissue",
    "texture": "## Texture: noise inside tissues",
}


_NOISE = {
    False: "The entry `remedy` of report.json is the noise that the pairs lack, by tissue, and `tone` the curve that "
    "their HU around the heart should follow: `train export --texture` has a package do both.",
    True: "The package put tone or texture on these pairs when they were drawn: what it lacked itself, a report on "
    "pairs without says. The entries `remedy` and `tone` of report.json are what they lack beside it.",
}


def _table(rows: Sequence[Measured]) -> str:
    return "\n".join([_HEAD, *map(_line, rows)])


def _line(m: Measured) -> str:
    n = f"{m.cases}" if m.cases == m.reference_cases else f"{m.cases} / {m.reference_cases}"
    name = f"{m.name} (distance)" if m.kind == "distance" else m.name
    return f"| {name} | {_cell(m.generated)} | {_cell(m.reference)} | {m.unit} | {n} |"


def _cell(value: Spread) -> str:
    return f"{value.mean:.3g} ({value.sd:.2g})"


def _volumes_table(rows: Sequence[VolumeRow]) -> str:
    lines = [
        "| structure | whole | cut | missing | mean mL | distance, whole | reference | distance, cut | reference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        means = " / ".join("-" if m is None else f"{m:.0f}" for m in row.mean_ml)
        cells = [*_both(row.distance), *_both(row.distance_cut)]
        counts = [f"{ours} / {theirs}" for ours, theirs in (row.whole, row.cut, row.missing)]
        lines.append(f"| {row.structure} | {' | '.join(counts)} | {means} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _both(m: Measured | None) -> tuple[str, str]:
    return (_cell(m.generated), f"{_cell(m.reference)}, n {m.cases}") if m else ("-", "-")


def _repair_part(repair: Repair | None) -> list[str]:
    if repair is None:
        return []
    return [
        "## Clean-up of drawn labels",
        f"It changed {repair.mean:.1f} voxels of a pair on average, most in {repair.pair}: {repair.voxels} of "
        f"{repair.labelled} labelled ones.",
        f"![before and after]({REPAIR_FILE})",
    ]


def _replicas_part(replicas: Replicas | None) -> list[str]:
    if replicas is None:
        return []
    listed = [f"{r.pair}: {r.case}, {r.distance:g}" for r in replicas.found]
    return [
        f"## Replicas of training cases\n\n{_HEAD}\n{_line(replicas.rate)}",
        f"Distance to the nearest of {replicas.training_cases} training cases, over flips and shifts, relative to the "
        f"next {NEIGHBOURS}: median {replicas.median_generated:.3f}; of held-out cases {replicas.median_reference:.3f}."
        f" A replica is below {replicas.threshold:.3f}, as one training case in a hundred is beside the others. The "
        "reference rate is that of the held-out cases.",
        *_listed("Replicas (pair, training case, distance):", listed),
    ]


def _utility_part(utility: Utility | None) -> list[str]:
    if utility is None:
        return []
    lines = [f"| {name} | {ours:.3f} | {theirs:.3f} |" for name, (ours, theirs) in utility.structures.items()]
    return [
        f"## Trained on generated, tested on held-out\n\n{_HEAD}\n{_line(utility.dice)}",
        f"The same small network for {utility.steps} steps on as many generated pairs as training cases, "
        f"{utility.seeds} seeds each, tested on {utility.held_out} held-out cases.",
        "| structure | trained on generated | trained on training cases |\n|---|---|---|\n" + "\n".join(lines),
    ]


def _curve_part(curve: Sequence[CurvePoint]) -> list[str]:
    if not curve:
        return []
    lines = [
        "| solver | evaluations | steps | restarts | pairs | unusable | Frechet | reference | MMD | Dice | sound "
        "| s a pair |",
        "|---" * 12 + "|",
    ]
    for p in curve:
        distances = (_cell(p.frechet.generated), _cell(p.frechet.reference)) if p.frechet else ("-", "-")
        cells = (p.solver, p.evaluations, p.steps, p.restarts, p.pairs, p.unusable, *distances,
                 _cell(p.mmd.generated) if p.mmd else "-", _cell(p.dice) if p.dice else "-", f"{p.sound:.0%}",
                 f"{p.seconds:.2f}")  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return ["## Quality against evaluations of the network", "\n".join(lines), f"![quality]({QUALITY_FILE})"]


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


# --- pictures ------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _volumes_figure(report: Report) -> Figure:
    """A panel per structure: a dot a case, filled where it is whole, hollow where the grid cuts it."""
    figure = _figure(14, 6)
    for axis, name in zip(figure.subplots(2, 4).ravel(), NAMES, strict=True):
        for place, (cases, colour) in enumerate(zip((report.pairs, report.references), COLOURS, strict=True)):
            for cut in (False, True):
                values = [c.volumes_ml[name] for c in cases if name in c.volumes_ml and (name in c.cut) == cut]
                jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(values)) + (0.15 if cut else -0.15)
                axis.plot(place + jitter, values, "o", color=colour, mfc="none" if cut else colour, ms=4, alpha=0.7)
        axis.set(title=name, xlim=(-0.5, 1.5), ylabel="mL")
        axis.set_xticks([0, 1], ["generated", "reference"])
        axis.set_ylim(bottom=0)
    figure.suptitle("filled: whole, hollow: cut by the grid's edge")
    return figure


def _spectra_figure(report: Report) -> Figure:
    """A panel per tissue: mean noise power against spatial frequency."""
    figure = _figure(4 * max(len(report.spectra), 1), 3.6)
    corner = np.sqrt(3.0) / (2.0 * report.spacing_mm)
    frequencies = (np.arange(BINS) + 0.5) / BINS * corner
    for axis, row in zip(
        figure.subplots(1, max(len(report.spectra), 1), squeeze=False)[0], report.spectra, strict=False
    ):
        for values, colour, name, n in (
            (row.generated, COLOURS[0], "generated", row.cases),
            (row.reference, COLOURS[1], "reference", row.reference_cases),
        ):
            axis.semilogy(frequencies, np.maximum(values, 1e-3), color=colour, label=f"{name}, n {n}")
        axis.axvline(1 / (2 * report.spacing_mm), color="grey", lw=0.7, ls=":")
        axis.set(title=row.tissue, xlabel="1/mm (dotted: Nyquist)", ylabel="HU$^2$ per mode")
        axis.legend(fontsize=8)
    if not report.spectra:
        figure.axes[0].set(title="no tissue wide enough to measure", xticks=[], yticks=[])
    return figure


def _quality_figure(curve: Sequence[CurvePoint]) -> Figure:
    figure = _figure(12, 3.8)
    left, middle, right = figure.subplots(1, 3)
    for n, solver in enumerate(dict.fromkeys(point.solver for point in curve)):
        points, colour = [p for p in curve if p.solver == solver], f"C{n}"
        judged = [(p.evaluations, p.frechet) for p in points if p.frechet]
        if judged:
            places, values = [e for e, _ in judged], [f.generated for _, f in judged]
            left.errorbar(
                places, [v.mean for v in values], [v.sd for v in values], color=colour, label=solver, capsize=3
            )
            left.plot(places, [f.reference.mean for _, f in judged], color="grey", ls=":")
        dice = [(p.evaluations, p.dice.mean) for p in points if p.dice]
        middle.plot([e for e, _ in dice], [d for _, d in dice], "o-", color=colour, label=solver)
        right.plot([p.evaluations for p in points], [p.seconds for p in points], "o-", color=colour, label=solver)
    left.set(title="Frechet distance (dotted: reference)", xlabel="evaluations")
    middle.set(title="Dice with the segmenter", xlabel="evaluations", ylim=(0, 1))
    right.set(title="seconds a pair", xlabel="evaluations")
    right.set_ylim(bottom=0)
    for axis in (left, middle, right):
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure

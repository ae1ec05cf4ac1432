"""The fidelity report: ``report.json`` with all figures, ``report.md`` with tables, and pictures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.files import write_text
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.postprocess.texture import BINS

from ...results.pictures import new_figure, write_figures
from .compare import SPLITS, Comparison, Spread
from .labels import VolumeRow
from .memorisation import NEIGHBOURS, Memorisation
from .utility import Utility

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"
VOLUMES_FILE, SPECTRA_FILE, QUALITY_FILE, REPAIR_FILE = "volumes.png", "spectra.png", "quality.png", "repair.png"
#: Colours of generated pairs and references.
COLOURS = ("#d1495b", "#1b6ca8")


class CaseRecord(Record):
    """One pair or reference case. ``dice``: between its labels and the segmenter's labels of its image."""

    case: str
    volumes_ml: dict[str, float]
    cut: list[str]
    broken: list[str]
    speckle: float
    sd_hu: dict[str, float]
    dice: dict[str, float] | None


class SpectrumRow(Record):
    """Noise-power spectrum (HU^2 per mode, by ring) of one tissue: mean over the cases in which it was measured."""

    tissue: str
    generated: tuple[float, ...]
    reference: tuple[float, ...]
    cases: int
    reference_cases: int


class CurvePoint(Record):
    """Quality of pairs with one solver and number of network evaluations. ``sound``: share without a broken rule."""

    solver: str
    steps: int
    restarts: int
    evaluations: int
    pairs: int
    unusable: int
    frechet: Comparison | None
    mmd: Comparison | None
    dice: Spread | None
    sound: float
    seconds: float


class Repair(Record):
    """The pair whose labels the clean-up changed most: changed and ``labelled`` voxels, ``mean`` over all pairs."""

    pair: str
    voxels: int
    labelled: int
    mean: float


class Report(Record):
    """All figures. ``skipped``: reason by name of the cases of each set that could not be used.

    ``remedy`` is the noise that the pairs lack, by tissue; ``tone`` the curve that corrects their HU around the heart.
    ``textured``: the generator already corrected tone or texture, so that both are what remains.
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
    measured: dict[str, list[Comparison]]
    volumes: list[VolumeRow]
    rules: dict[str, tuple[int, int]]
    spectra: list[SpectrumRow]
    remedy: dict[str, tuple[float, ...]]
    tone: tuple[tuple[float, float], ...] = ()
    repair: Repair | None
    replicas: Memorisation | None
    utility: Utility | None
    curve: list[CurvePoint]
    left_out: list[str]
    pairs: list[CaseRecord]
    references: list[CaseRecord]


def write_report(report: Report, out: Path) -> None:
    """Write all files, each whole or not at all. Raises OutputError."""
    texts = {JSON_FILE: report.model_dump_json(indent=1) + "\n", MARKDOWN_FILE: markdown(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    pictures = {VOLUMES_FILE: _volumes_figure(report), SPECTRA_FILE: _spectra_figure(report)}
    if report.curve:
        pictures[QUALITY_FILE] = _quality_figure(report.curve)
    write_figures(pictures, out)


# --- Markdown -------------------------------------------------------------------------------------------------------

_HEAD = "| figure | generated | reference | unit | n |\n|---|---|---|---|---|"


def markdown(report: Report) -> str:
    """Return report.md: every figure with its reference and number of cases."""
    grid = " x ".join(map(str, report.grid))
    parts = [
        f"# Fidelity of {report.generated}",
        f"{report.sizes['generated']} generated pairs against {report.sizes['data']} held-out cases of {report.data}, "
        f"on {grid} voxels of {report.spacing_mm:g} mm; {report.date}, version {report.code_version}."
        + (f" Generator: {report.package}." if report.package else "")
        + f" Segmenter: {report.segmenter}.",
        f"A *distance* is the mean (and standard deviation) over {SPLITS} random splits: generated pairs against half "
        "of the references and, under *reference*, the other half against it, n cases each. A perfect generator "
        "reaches the reference, not 0. Other figures are means (and standard deviations) over cases.",
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
        *_memorisation_part(report.replicas),
        *_utility_part(report.utility),
        *_curve_part(report.curve),
        *_list_part("## Left out", report.left_out),
        *_list_part(
            "## Cases not used", [f"{s}/{c}: {why}" for s, cs in report.skipped.items() for c, why in cs.items()]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def comparisons(report: Report) -> list[Comparison]:
    """Return every figure that has a reference, in the order of the report."""
    figures = [measured for key in _SECTIONS for measured in report.measured.get(key, [])]
    figures += [report.replicas.rate] if report.replicas else []
    return figures + ([report.utility.dice] if report.utility else [])


def card_section(report: Report) -> str:
    """Return the report as a part of a model card: without title, pictures and instructions.

    It names no case, because a package is published and a name may identify a patient.
    """
    replicas = report.replicas and report.replicas.model_copy(update={"found": []})
    unnamed = report.model_copy(update={"replicas": replicas, "skipped": {}})
    texts = [part for part in markdown(unnamed).split("\n\n")[1:] if part != _NOISE[report.textured]]
    parts = [part for part in texts if not part.startswith("![") and part != "## Noise"]
    return "\n\n".join(part.replace("## ", "### ", 1) if part.startswith("## ") else part for part in parts).strip()


_SECTIONS = {
    "acceptance": "## Acceptance: the share that `generate` rejects (without the check of memorisation)",
    "agreement": "## Agreement of labels with a segmenter's labels of the image (Dice)",
    "features": "## Images, by features of the segmenter",
    "diversity": "## Diversity (MS-SSIM between images; low is diverse)",
    "anatomy": "## Plausibility of the labels",
    "surroundings": "## Around the heart, away from the labels: bone, lungs, soft tissue",
    "texture": "## Texture: noise inside tissues",
}


_NOISE = {
    False: "The entry `remedy` of report.json is the noise that the pairs lack, by tissue, and `tone` the curve that "
    "corrects their HU around the heart: `train export --texture` makes a package apply both.",
    True: "The package corrected tone or texture of these pairs. The entries `remedy` and `tone` of report.json are "
    "what remains to be corrected.",
}


def _table(rows: Sequence[Comparison]) -> str:
    return "\n".join([_HEAD, *map(_line, rows)])


def _line(m: Comparison) -> str:
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
        cells = [*_distance_cells(row.distance), *_distance_cells(row.distance_cut)]
        counts = [f"{ours} / {theirs}" for ours, theirs in (row.whole, row.cut, row.missing)]
        lines.append(f"| {row.structure} | {' | '.join(counts)} | {means} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _distance_cells(m: Comparison | None) -> tuple[str, str]:
    return (_cell(m.generated), f"{_cell(m.reference)}, n {m.cases}") if m else ("-", "-")


def _repair_part(repair: Repair | None) -> list[str]:
    if repair is None:
        return []
    return [
        "## Clean-up of generated labels",
        f"It changed {repair.mean:.1f} voxels of a pair on average, most in {repair.pair}: {repair.voxels} of "
        f"{repair.labelled} labelled ones.",
        f"![before and after]({REPAIR_FILE})",
    ]


def _memorisation_part(memorisation: Memorisation | None) -> list[str]:
    if memorisation is None:
        return []
    rows = [f"{r.pair}: {r.case}, {r.distance:g}" for r in memorisation.found]
    return [
        f"## Memorised training cases\n\n{_HEAD}\n{_line(memorisation.rate)}",
        f"Distance to the nearest of {memorisation.training_cases} training cases, over flips and shifts, relative to "
        f"the next {NEIGHBOURS}: median {memorisation.median_generated:.3f}; of held-out cases "
        f"{memorisation.median_reference:.3f}. A pair below {memorisation.threshold:.3f} counts as memorised: one "
        "training case in a hundred is that near to the others. The reference rate is that of the held-out cases.",
        *_list_part("Memorised pairs (pair, training case, distance):", rows),
    ]


def _utility_part(utility: Utility | None) -> list[str]:
    if utility is None:
        return []
    lines = [f"| {name} | {ours:.3f} | {theirs:.3f} |" for name, (ours, theirs) in utility.structures.items()]
    return [
        f"## Downstream utility: train on generated pairs, test on held-out cases\n\n{_HEAD}\n{_line(utility.dice)}",
        f"The same small network for {utility.steps} steps on as many generated pairs as training cases, "
        f"{utility.seeds} seeds each, tested on {utility.held_out} held-out cases.",
        "| structure | trained on generated | trained on training cases |\n|---|---|---|\n" + "\n".join(lines),
    ]


def _curve_part(curve: Sequence[CurvePoint]) -> list[str]:
    if not curve:
        return []
    lines = [
        "| solver | evaluations | steps | restarts | pairs | unusable | Frechet | reference | MMD | Dice | plausible "
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


def _list_part(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


# --- pictures ------------------------------------------------------------------------------------------------------


def _volumes_figure(report: Report) -> Figure:
    """Plot volumes, a panel for each structure: filled dots for whole structures, hollow ones for cut ones."""
    figure = new_figure(14, 6)
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
    """Plot noise power against spatial frequency, a panel for each tissue."""
    figure = new_figure(4 * max(len(report.spectra), 1), 3.6)
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
    figure = new_figure(12, 3.8)
    left, middle, right = figure.subplots(1, 3)
    for n, solver in enumerate(dict.fromkeys(point.solver for point in curve)):
        points, colour = [p for p in curve if p.solver == solver], f"C{n}"
        measured = [(p.evaluations, p.frechet) for p in points if p.frechet]
        if measured:
            places, values = [e for e, _ in measured], [f.generated for _, f in measured]
            left.errorbar(
                places, [v.mean for v in values], [v.sd for v in values], color=colour, label=solver, capsize=3
            )
            left.plot(places, [f.reference.mean for _, f in measured], color="grey", ls=":")
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

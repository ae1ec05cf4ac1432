"""The files of a fidelity report: ``report.json`` with all figures, ``report.md`` with tables, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.files import write_text
from CardiacLDMLib.postprocess.texture import BINS

from ...results.pictures import new_figure, write_figures
from .markdown import QUALITY_FILE, SPECTRA_FILE, VOLUMES_FILE, markdown
from .record import CurvePoint, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"
#: Colours of generated pairs and references.
COLOURS = ("#d1495b", "#1b6ca8")


def write_report(report: Report, out: Path) -> None:
    """Write all files, each whole or not at all. Raises OutputError."""
    texts = {JSON_FILE: report.model_dump_json(indent=1) + "\n", MARKDOWN_FILE: markdown(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    pictures = {VOLUMES_FILE: _volumes_figure(report), SPECTRA_FILE: _spectra_figure(report)}
    if report.curve:
        pictures[QUALITY_FILE] = _quality_figure(report.curve)
    write_figures(pictures, out)


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

"""The report of a pipeline: one HTML page with figures, curves, the worst cases, times, and what was left out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from CardiacLDMLib import __version__, anatomy
from CardiacLDMLib.errors import explain
from CardiacLDMLib.files import write_text
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.results import html
from CardiacLDMLib.results.html import Table
from CardiacLDMLib.results.pictures import PLANES, heart_field, labelled_plane
from CardiacLDMLib.segmentation.segmenter import Segmenter
from CardiacLDMLib.text import duration_text

from ..cases.readers.cases import read_case
from ..cases.readers.files import CaseFiles
from ..evaluation.segmenter import CaseScore, Evaluation, read_evaluation
from ..results.pictures import new_figure
from ..stages.run_folder import LAST, load_checkpoint
from .runner import Done
from .steps import Places, Settings, Step

REPORT_FILE = "report.html"
#: How many of the worst cases are drawn.
WORST = 3


@dataclass(frozen=True)
class Contents:
    """What a report is made of. ``cases``: those kept aside, which the segmenter was measured on."""

    settings: Settings
    places: Places
    steps: Sequence[Step]
    ended: Mapping[str, Done]
    training_cases: int
    cases: Sequence[CaseFiles]
    device: str


def write_report(contents: Contents) -> Path:
    """Write ``report.html``; return its path. Raises ``OutputError``."""
    settings, places = contents.settings, contents.places
    parts = [
        html.paragraph(
            f"CardiacLDM {__version__}, preset {settings.preset}, seed {settings.seed}, {contents.training_cases} "
            f"training cases, {len(contents.cases)} kept aside."
        ),
        *(html.paragraph(line) for line in _left_out(settings)),
    ]
    if "evaluate" not in settings.skip:
        parts += _figures(contents)
    parts += _curves(contents)
    if "generate" not in settings.skip:
        parts += _pairs(places)
    parts.append(html.table(_times(contents)))
    path = places.out / REPORT_FILE
    write_text(path, html.page(f"{settings.name}: report of the training", parts))
    return path


def _left_out(settings: Settings) -> Iterator[str]:
    if settings.effort != 1.0:
        yield f"Only {settings.effort:g} of the preset's steps were made: the packages are a trial."
    if "generate" in settings.skip:
        yield "No pairs were generated: the segmenter was trained on the scans alone."
    elif "pretrain" in settings.skip:
        yield "The segmenter was not pre-trained on the pairs' images."
    if settings.segmenter:
        yield f"The segmenter began with the weights of {settings.segmenter}."
    if settings.generator:
        yield f"The pairs were drawn with {settings.generator}; no generator was trained."
    if "evaluate" in settings.skip:
        yield "The segmenter was not measured."


# --- figures -------------------------------------------------------------------------------------------------------


def _figures(contents: Contents) -> Iterator[str]:
    evaluation = read_evaluation(contents.places.evaluation)
    rows = [
        (row.structure, str(row.cases), str(row.missed), str(row.extra),
         *(f"{i.mean:.{n}f} ({i.low:.{n}f} to {i.high:.{n}f})" for i, n in ((row.dice, 3), (row.hd95_mm, 1),
                                                                           (row.nsd, 3))))
        for row in evaluation.summary
    ]  # fmt: skip
    yield html.table(Table(
        "Cases kept aside", ("structure", "cases", "missed", "extra", "Dice", "HD95, mm", "NSD"), rows,
        f"Means with 95 % intervals over the cases. NSD at {evaluation.tolerance_mm:g} mm. A missed or an extra "
        "structure counts as Dice 0, NSD 0 and the scan's diagonal as HD95.",
    ))  # fmt: skip
    for name, why in evaluation.failed.items():
        yield html.paragraph(f"{name} was not measured: {why}")
    yield from _worst_cases(contents, evaluation)


def _worst_cases(contents: Contents, evaluation: Evaluation) -> Iterator[str]:
    """Draw the cases with the least mean Dice: labels of the data above, those of the new segmenter below."""
    worst = sorted((score for score in evaluation.cases if score.structures), key=_mean)[:WORST]
    if not worst:
        return
    yield html.heading("Worst cases")
    yield f'<p class="note">Above: the labels of the data. Below: those of the segmenter. {html.colours()}</p>'
    segmenter = Segmenter(open_package(contents.places.segmenter_package), contents.device)
    by_name = {files.name: files for files in contents.cases}
    for score in worst:
        yield html.heading(f"{score.case}: mean Dice {_mean(score):.3f}", 3)
        if score.case not in by_name:
            continue
        try:
            yield html.picture(html.jpeg(_draw(segmenter, by_name[score.case])), score.case)
        except Exception as error:  # one case must not hide the others
            yield html.paragraph(explain(error).message)


def _mean(score: CaseScore) -> float:
    return float(np.mean([structure.dice for structure in score.structures]))


def _draw(segmenter: Segmenter, files: CaseFiles) -> np.ndarray:
    case = read_case(files)
    image, reference, labels = case.image, _without_doubt(case.labels), segmenter.segment(case.image).labels
    field = heart_field(reference)
    rows = [
        np.concatenate([labelled_plane(image, shown, plane, field) for plane in PLANES], axis=1)
        for shown in (reference, labels)
    ]
    return np.concatenate(rows)


def _without_doubt(labels: Volume) -> Volume:
    """Return labels in which voxels that teach nothing are background."""
    return Volume(np.where(labels.array < anatomy.NUM_CLASSES, labels.array, anatomy.BACKGROUND), labels.affine)


# --- curves and pairs ----------------------------------------------------------------------------------------------


def _curves(contents: Contents) -> Iterator[str]:
    """Draw the validations of each network that was trained."""
    places, steps = contents.places, {step.name for step in contents.steps}
    networks = {
        "autoencoder: Dice": ("autoencoder", places.generator_run / "autoencoder"),
        "diffusion: error": ("diffusion", places.generator_run / "diffusion"),
        "pre-training: error": ("pretraining", places.pretraining / "pretrain"),
        "locator: Dice": ("segmenter", places.segmenter_run / "locator"),
        "segmenter: Dice": ("segmenter", places.segmenter_run / "segmenter"),
    }
    curves = {
        title: load_checkpoint(run / LAST)["state"]["curve"] for title, (step, run) in networks.items()
        if step in steps and (run / LAST).is_file()
    }  # fmt: skip
    drawn = {name: curve for name, curve in curves.items() if curve}
    if not drawn:
        return
    figure = new_figure(3.4 * len(drawn), 2.8)
    for axes, (name, curve) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        at, scores = zip(*curve, strict=True)
        axes.plot(at, [-score if "error" in name else score for score in scores], marker=".")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    yield html.heading("Validations during training")
    yield html.picture(data.getvalue(), "curves of the validations", "png")


def _pairs(places: Places) -> Iterator[str]:
    sheet = places.pairs / "contact_sheet.png"
    yield html.heading("Generated pairs")
    made = sum(1 for _ in places.pairs.glob("pair_*/ct.nii.gz"))
    yield html.paragraph(f"{made} pairs; they show no patient. Why others were rejected: pairs/acceptance.json.")
    if sheet.is_file():
        yield html.picture(sheet.read_bytes(), "some generated pairs", "png")


def _times(contents: Contents) -> Table:
    rows = [
        (step.title, duration_text(contents.ended[step.name].seconds)) for step in contents.steps
        if step.name in contents.ended
    ]  # fmt: skip
    return Table("Time of each step", ("step", "time"), rows, "Over all tries; steps done before are included.")

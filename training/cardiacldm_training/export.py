"""From a training run to a model package: averaged weights of the best validation, provenance, figures, model card.

Each stage returns the parts of its networks (``package_part``); this module assembles them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from CardiacLDMLib import __version__
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.packages.generator_spec import GeneratorSpec
from CardiacLDMLib.packages.manifest import Figure, Manifest, Provenance, this_anatomy
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.write import write_package
from CardiacLDMLib.postprocess.steps import Step
from CardiacLDMLib.postprocess.texture import Texture
from CardiacLDMLib.postprocess.tone import Tone
from CardiacLDMLib.text import first_problem

from . import cards
from .errors import ConfigError
from .evaluation.fidelity.markdown import comparisons
from .evaluation.fidelity.record import Report
from .evaluation.fidelity.report import JSON_FILE
from .evaluation.metrics import METRICS
from .evaluation.segmenter import Evaluation, read_evaluation
from .stages import autoencoder, decoder, diffusion, generator_start, segmenter
from .stages.config import SEGMENTER_NETWORKS, DecoderModel, PretrainingModel, RunConfig, SegmenterModel
from .stages.package_part import PackagePart
from .stages.run_folder import read_config

_METRIC_TITLES = {"dice": ("Dice", ""), "hd95_mm": ("HD95", "mm"), "nsd": ("NSD", "")}


# --- entries of a person -------------------------------------------------------------------------------------------


class About(Record):
    """The entries of a manifest that a person writes, with the defaults of a segmenter."""

    title: str = "Eight structures of the heart in CT"
    summary: str = (
        "Labels the heart chambers, myocardium, aorta, pulmonary artery and left atrial appendage in cardiac CT."
    )
    version: str = "1.0.0"
    data: str = "Labelled cardiac CT."
    licence: str = "Apache-2.0"
    intended_use: str = "Research. Not a medical device; not for diagnosis or treatment."
    attribution: tuple[str, ...] = ()


class GeneratorAbout(About):
    """The entries that a person writes, with the defaults of a generator.

    ``internal_conditions``: those that users are not offered, since a fidelity report says that pairs do not follow
    them.
    """

    title: str = "Synthetic cardiac CT with labels"
    summary: str = "Draws cardiac CT that shows no patient, together with the labels of eight structures."
    internal_conditions: tuple[str, ...] = ()


_ABOUT: dict[str, type[About]] = {"segmenter": About, "generator": GeneratorAbout}


def read_about(path: Path, defaults: About) -> About:
    """Read a JSON file with fields of :class:`About`; missing fields get their ``defaults``. Raises PackageError."""
    try:
        own = type(defaults).model_validate_json(path.read_text(encoding="utf-8"))
        return defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise PackageError(f"{path} does not describe a package: {first_problem(error)}.") from error


def _usual_texts(run: Path, config: RunConfig, kind: str) -> About:
    """Return the entries of a package of ``run`` by default: those of the generator package that it started from."""
    if isinstance(config.model, DecoderModel):
        return _texts_of(decoder.generator_of(run).manifest, "The decoder")
    start = generator_start.start_of(run)
    return _texts_of(start.manifest, "The denoiser, further") if start else _ABOUT[kind]()


def _texts_of(manifest: Manifest, part: str) -> GeneratorAbout:
    """Return the entries of a generator package of which a ``part`` is new: its other weights keep their origin."""
    assert manifest.generator is not None
    return GeneratorAbout(
        title=manifest.title, summary=manifest.summary, licence=manifest.licence,
        data=f"{manifest.training.data} {part}: labelled cardiac CT.", intended_use=manifest.intended_use,
        attribution=tuple(manifest.attribution), internal_conditions=manifest.generator.internal_conditions,
    )  # fmt: skip


# --- the export ----------------------------------------------------------------------------------------------------


class _Results(NamedTuple):
    """The results of evaluations: figures for the manifest, Markdown for the card."""

    figures: list[Figure]
    markdown: str


def export_run(
    run: Path, folder: Path, name: str, *, about: Path | None = None, card: str | None = None,
    evaluations: Sequence[Path] = (), texture: Path | None = None, replace: bool = False,
) -> ModelPackage:  # fmt: skip
    """Write the networks of ``run`` as the package ``name`` to ``folder`` and verify it.

    ``about``: a JSON file with fields of :class:`About`. ``card``: the model card in Markdown, whose
    ``cards.FIGURES_MARK`` is replaced by the figures; without it a card is written from the manifest. ``evaluations``:
    folders of evaluations of a segmenter, or of fidelity reports of a generator. ``texture``: the report.json of a
    fidelity report on pairs of this run; the package corrects tone and texture of its images by it.
    Raises ConfigError, EvaluationError, TrainingError or PackageError.
    """
    config = read_config(run)
    kind = _kind_of_package(config)
    usual = _usual_texts(run, config, kind)
    texts = read_about(about, usual) if about else usual
    if texture and kind != "generator":
        raise PackageError("Only generators add texture: leave --texture out for a segmenter.")
    try:
        parts = _parts(run, config)
        results = _results(config, parts, evaluations)
        manifest = Manifest(
            name=name, version=texts.version, kind=kind, title=texts.title, summary=texts.summary,
            structures=this_anatomy(), networks={role: part.spec for role, part in parts.items()},
            generator=_generator_spec(config, texts, parts, texture), training=_provenance(config, texts, parts),
            figures=results.figures, licence=texts.licence, intended_use=texts.intended_use,
            attribution=list(texts.attribution),
        )  # fmt: skip
    except ValidationError as error:
        raise PackageError(f"{name} was not written: {first_problem(error)}.") from error
    weights = {part.spec.weights: part.weights for part in parts.values()}
    text = (
        cards.from_manifest(manifest, results.markdown) if card is None else cards.with_figures(card, results.markdown)
    )
    return write_package(folder, manifest, weights, text, replace=replace)


def _kind_of_package(config: RunConfig) -> Literal["segmenter", "generator"]:
    if isinstance(config.model, PretrainingModel):
        raise ConfigError("A pre-training is no package: train a segmenter from its encoder, and export that.")
    return "generator" if isinstance(config.model, DecoderModel) else config.model.kind


def _parts(run: Path, config: RunConfig) -> dict[str, PackagePart]:
    if isinstance(config.model, SegmenterModel):
        return {name: segmenter.package_part(run, config, name) for name in SEGMENTER_NETWORKS}
    if isinstance(config.model, DecoderModel):
        generator = generator_start.package_parts(decoder.generator_of(run))
        return {**generator, decoder.NAME: decoder.package_part(run, config)}
    # The diffusion answers first: it is the part that is missing in an unfinished run.
    denoiser = diffusion.package_part(run, config)
    start = generator_start.start_of(run)
    rest = generator_start.package_parts(start) if start else {autoencoder.NAME: autoencoder.package_part(run, config)}
    return {**rest, diffusion.NAME: denoiser}


def _provenance(config: RunConfig, about: About, parts: Mapping[str, PackagePart]) -> Provenance:
    configuration: dict[str, Any] = json.loads(config.model_dump_json())
    return Provenance(
        data=about.data, cases=config.data.cases, seed=config.seed, code_version=__version__,
        steps={role: part.steps for role, part in parts.items()}, date=max(part.date for part in parts.values()),
        configuration=configuration,
    )  # fmt: skip


def _generator_spec(
    config: RunConfig, about: About, parts: Mapping[str, PackagePart], texture: Path | None
) -> GeneratorSpec | None:
    if isinstance(config.model, SegmenterModel):
        return None
    entries = {name: value for part in parts.values() for name, value in part.generator.items()}
    if isinstance(about, GeneratorAbout) and about.internal_conditions:
        entries["internal_conditions"] = about.internal_conditions
    if texture:
        entries["postprocess"] = (*entries["postprocess"], *_corrections(texture, parts))
    return GeneratorSpec.model_validate(entries)


def _pair_spacing(parts: Mapping[str, PackagePart]) -> float:
    """Return the spacing in mm of the pairs of a generator: those of its fine decoder if it has one."""
    return parts.get(decoder.NAME, parts[autoencoder.NAME]).spec.spacing_mm


def _corrections(path: Path, parts: Mapping[str, PackagePart]) -> list[Step]:
    """Return the steps that correct tone and texture of images as a fidelity report recommends.

    A fine decoder learnt from whole images, so its tone stays. Raises PackageError as :func:`read_report`, and for a
    report of pairs that had tone or texture already.
    """
    report = read_report(path, _pair_spacing(parts))
    if report.textured:
        raise PackageError(f"The pairs of {path} had tone or texture already: use a report on pairs without.")
    spectra = {n: tuple(round(value, 3) for value in values) for n, values in report.remedy.items() if any(values)}
    steps: list[Step] = [Tone(curve=report.tone)] if report.tone and decoder.NAME not in parts else []
    return [*steps, Texture(spectra=spectra, strengths=report.strengths, filled=True)] if spectra else steps


# --- figures -------------------------------------------------------------------------------------------------------


def _results(config: RunConfig, parts: Mapping[str, PackagePart], folders: Sequence[Path]) -> _Results:
    """Return the results of evaluations of a segmenter, or of fidelity reports of a generator."""
    if isinstance(config.model, SegmenterModel):
        evaluations = [read_evaluation(folder) for folder in folders]
        figures = [figure for evaluation in evaluations for figure in _figures_of_evaluation(evaluation)]
        return _Results(figures, cards.evaluation_tables(evaluations))
    reports = [read_report(folder / JSON_FILE, _pair_spacing(parts)) for folder in folders]
    return _Results([f for report in reports for f in _figures_of_report(report)], cards.report_tables(reports))


def read_report(path: Path, spacing_mm: float) -> Report:
    """Read the report.json of a fidelity report. Raises PackageError if it is unreadable or of another spacing."""
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise PackageError(f"{path} is not a fidelity report.") from error
    if report.spacing_mm != spacing_mm:
        raise PackageError(f"{path} is of voxels of {report.spacing_mm:g} mm, the run of {spacing_mm:g} mm.")
    return report


def _figures_of_evaluation(evaluation: Evaluation) -> list[Figure]:
    """Return every mean of an evaluation, and the bounds of the confidence interval of the means over structures."""
    figures = []
    on = evaluation.data + (", mirrored predictions averaged" if evaluation.mirrored else "")
    for row in evaluation.summary:
        for metric in METRICS:
            title, unit = _METRIC_TITLES[metric]
            interval = getattr(row, metric)
            values = {f"{title} {row.structure}": interval.mean}
            if row.structure == "mean":
                values |= {f"{title} mean, 95 % from": interval.low, f"{title} mean, 95 % to": interval.high}
            figures += [
                Figure(name=name, value=round(value, 4), unit=unit, on=on, cases=row.cases, date=evaluation.date)
                for name, value in values.items()
            ]
    return figures


def _figures_of_report(report: Report) -> list[Figure]:
    """Return the figures of generated pairs in a report, each followed by that of the held-out cases."""
    figures: list[Figure] = []
    kind = "pairs with tone and texture" if report.textured else "pairs"
    for measure in comparisons(report):
        for name, value, on, cases in (
            (measure.name, measure.generated, f"generated {kind}", measure.cases),
            (f"{measure.name}: reference", measure.reference, "held-out cases", measure.reference_cases),
        ):
            figures.append(Figure(name=name, value=value.mean, unit=measure.unit, on=on, cases=cases, date=report.date))
    return figures

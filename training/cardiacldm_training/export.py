"""From a training run to a model package: averaged weights of the best validation, provenance, figures, model card."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from CardiacLDMLib import __version__
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.manifest import Figure, Manifest, NetworkSpec, Provenance, this_anatomy
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.write import write_package
from CardiacLDMLib.text import first_problem

from .evaluation.metrics import METRICS
from .evaluation.segmenter import Evaluation, table
from .stages import loop
from .stages.config import NETWORKS, RunConfig, read_config
from .stages.generator_config import GeneratorRunConfig

#: Where a card given by the user is to hold the tables of figures.
FIGURES_MARK = "<!-- figures -->"
NO_FIGURES = "None measured yet."
_METRIC_TITLES = {"dice": ("Dice", ""), "hd95_mm": ("HD95", "mm"), "nsd": ("NSD", "")}


class About(BaseModel):
    """What only people know about a package; the rest comes from the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "Eight structures of the heart in CT"
    summary: str = (
        "Labels the heart chambers, myocardium, aorta, pulmonary artery and left atrial appendage in cardiac CT."
    )
    version: str = "1.0.0"
    data: str = "Labelled cardiac CT."
    licence: str = "Apache-2.0"
    intended_use: str = "Research. Not a medical device; not for diagnosis or treatment."
    attribution: tuple[str, ...] = ()


def read_about(path: Path, kind: type[About] = About) -> About:
    """A JSON file with fields of :class:`About`; what it leaves out is as in ``kind``. Raises :class:`PackageError`."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise PackageError(f"{path} does not describe a package: {first_problem(error)}.") from error


def export_run(
    run: Path, folder: Path, name: str, *, about: About | None = None, card: str | None = None,
    evaluations: Sequence[Evaluation] = (), replace: bool = False,
) -> ModelPackage:  # fmt: skip
    """Write the run's networks as the package ``name`` to ``folder`` and verify it.

    ``card`` is the model card in Markdown, its figures put where it says ``FIGURES_MARK`` (or at its end); without it
    one is written from the manifest. Raises ConfigError, TrainingError or PackageError.
    """
    about = about or About()
    config = read_config(run)
    specs, weights, steps = {}, {}, {}
    for role in NETWORKS:
        settings, path = config.network(role), run / role / loop.BEST
        specs[role] = NetworkSpec(
            architecture=settings.architecture, arguments=settings.arguments, weights=f"{role}.safetensors",
            spacing_mm=settings.spacing_mm, patch=settings.patch, window_hu=settings.window_hu,
        )  # fmt: skip
        weights[f"{role}.safetensors"] = loop.averaged_weights(path)
        steps[role] = int(loop.load_checkpoint(path)["state"]["step"])
    try:
        manifest = Manifest(
            name=name, version=about.version, kind="segmenter", title=about.title, summary=about.summary,
            structures=this_anatomy(), networks=specs, training=provenance(config, run, about, steps),
            figures=[figure for evaluation in evaluations for figure in _figures(evaluation)], licence=about.licence,
            intended_use=about.intended_use, attribution=list(about.attribution),
        )  # fmt: skip
    except ValidationError as error:
        raise PackageError(f"{name} was not written: {first_problem(error)}.") from error
    figures = _tables(evaluations)
    text = with_figures(card, figures) if card is not None else plain_card(manifest, figures)
    return write_package(folder, manifest, weights, text, replace=replace)


def provenance(
    config: RunConfig | GeneratorRunConfig, run: Path, about: About, steps: dict[str, int]
) -> Provenance:  # fmt: skip
    """Where the weights of a run come from; ``steps`` by network."""
    trained = max((run / role / loop.BEST).stat().st_mtime for role in steps)
    configuration: dict[str, Any] = json.loads(config.model_dump_json())
    return Provenance(
        data=about.data, cases=config.cases, seed=config.seed, steps=steps, code_version=__version__,
        date=datetime.datetime.fromtimestamp(trained, datetime.UTC).date(), configuration=configuration,
    )  # fmt: skip


def _figures(evaluation: Evaluation) -> list[Figure]:
    """Every mean of an evaluation, and the interval's ends of the means over structures."""
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


# --- the model card ------------------------------------------------------------------------------------------------


def with_figures(card: str, figures: str) -> str:
    """A card given by the user, with ``figures`` (Markdown) where it wants them, or at its end."""
    if FIGURES_MARK in card:
        return card.replace(FIGURES_MARK, figures)
    return f"{card.rstrip()}\n\n## Figures\n\n{figures}\n"


def _tables(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return NO_FIGURES
    parts = []
    for evaluation in evaluations:
        failed = f", {len(evaluation.failed)} not scored" if evaluation.failed else ""
        parts.append(
            f"On {evaluation.data} (cases: {len(evaluation.cases)}{failed}; {evaluation.date}; means, with 95 % "
            f"bootstrap intervals over cases; NSD at {evaluation.tolerance_mm:g} mm):\n\n{table(evaluation.summary)}"
        )
    return "\n\n".join(parts)


def plain_card(manifest: Manifest, figures: str, more: str = "") -> str:
    """A model card written from the manifest: ``figures`` in Markdown, and ``more`` on how the networks work."""
    training = manifest.training
    networks = "\n".join(
        f"- **{role}**: {spec.architecture} at {spec.spacing_mm:g} mm, on {' x '.join(map(str, spec.patch))} "
        f"voxels, {training.steps[role]} steps"
        for role, spec in manifest.networks.items()
    )
    attribution = "\n".join(f"- {line}" for line in manifest.attribution) or "None."
    return f"""# {manifest.title}

{manifest.summary}

## Intended use

{manifest.intended_use}

## Training

{training.data.rstrip(".")}.
{training.cases} cases, seed {training.seed}, {training.date}, code version {training.code_version}.

{networks}
{more}
## Figures

{figures}

## Licence and attribution

{manifest.licence}.

{attribution}
"""

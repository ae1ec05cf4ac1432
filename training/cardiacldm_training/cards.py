"""Model cards in Markdown: written from a manifest, or a card of the user with the figures in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from CardiacLDMLib.packages.generator_spec import GeneratorSpec
from CardiacLDMLib.packages.manifest import Manifest
from CardiacLDMLib.text import plural

from .evaluation.fidelity.markdown import card_section
from .evaluation.fidelity.record import Report
from .evaluation.segmenter import Evaluation, table

#: A card of the user has this where the tables of figures are to go.
FIGURES_MARK = "<!-- figures -->"
NO_FIGURES = "None measured yet."


def with_figures(card: str, figures: str) -> str:
    """Return a card of the user with ``figures`` (Markdown) in place of ``FIGURES_MARK``, or at its end."""
    if FIGURES_MARK in card:
        return card.replace(FIGURES_MARK, figures)
    return f"{card.rstrip()}\n\n## Figures\n\n{figures}\n"


def evaluation_tables(evaluations: Sequence[Evaluation]) -> str:
    """Return a table of the figures of each evaluation of a segmenter."""
    parts = []
    for evaluation in evaluations:
        failures = f", {len(evaluation.failed)} not scored" if evaluation.failed else ""
        parts.append(
            f"On {evaluation.data} (cases: {len(evaluation.cases)}{failures}; {evaluation.date}; means, with 95 % "
            f"bootstrap intervals over cases; NSD at {evaluation.tolerance_mm:g} mm):\n\n{table(evaluation.summary)}"
        )
    return "\n\n".join(parts) or NO_FIGURES


def report_tables(reports: Sequence[Report]) -> str:
    """Return the figures of each fidelity report of a generator."""
    return "\n\n".join(map(card_section, reports)) or NO_FIGURES


def from_manifest(manifest: Manifest, figures: str) -> str:
    """Return a model card written from the manifest, with ``figures`` in Markdown."""
    training = manifest.training
    networks = "\n".join(
        f"- **{role}**: {spec.architecture} at {spec.spacing_mm:g} mm, on {' x '.join(map(str, spec.patch))} "
        f"voxels, {plural(training.steps[role], 'step')}"
        for role, spec in manifest.networks.items()
    )
    attribution = "\n".join(f"- {line}" for line in manifest.attribution) or "None."
    return f"""# {manifest.title}

{manifest.summary}

## Intended use

{manifest.intended_use}

## Training

{training.data.rstrip(".")}.
{plural(training.cases, "case")}, seed {training.seed}, {training.date}, code version {training.code_version}.

{networks}
{_ingredients(training.configuration)}{_generation(manifest.generator) if manifest.generator else ""}
## Figures

{figures}

## Licence and attribution

{manifest.licence}.

{attribution}
"""


def _ingredients(configuration: Mapping[str, Any]) -> str:
    """Return what the card says about real cases, generated pairs and pre-training, with their hashes.

    ``configuration``: that of the run. Empty for runs with neither pairs nor pre-training.
    """
    data, lines = configuration.get("data") or {}, []
    mix, encoder = data.get("mix"), configuration.get("encoder")
    if encoder:
        mask, _, digest = encoder.partition(" ")
        lines.append(f"- **encoder**: from masked pre-training ({mask}), weights {digest[:16]}")
    if mix:
        pairs = f"{plural(mix['cases'], 'generated pair')} (SHA-256 {mix['digest'][:16]})"
        package = mix["package"] or "a package that they do not name"
        lines.append(f"- **generated pairs**: {mix['share']:g} for each real case, of {pairs} by {package}")
    if lines:
        lines.insert(0, f"- **real cases**: {data['cases']} (SHA-256 {data['digest'][:16]})")
    return "\n".join(lines) + "\n" if lines else ""


def _generation(spec: GeneratorSpec) -> str:
    """Return what the card says about conditions, sampling and post-processing."""
    conditions = "\n".join(f"- **{name}**: {values}" for name, values in spec.conditions().items()) or "None."
    unset = " An unset choice is sampled with its frequency in the training cases." if spec.chances else ""
    sampling = spec.sampling
    shift = f", times shifted towards noise by {sampling.time_shift:g}" if sampling.time_shift != 1 else ""
    times = ", ".join(f"{restart.time:g}" for restart in sampling.restarts)
    restarts = f"; then restarts at the times {times}" if times else ""
    if any(restart.gains for restart in sampling.restarts):
        restarts += ", with gains that restore the variance of each channel"
    sentences = " ".join(step.describe() for step in spec.postprocess)
    return f"""
## Conditions

Each may be left unset.{unset}

{conditions}

## Sampling

{sampling.schedule}{shift}; by default {sampling.solver} in {sampling.steps} steps with guidance {sampling.guidance:g}\
{restarts}.
{sentences}
"""

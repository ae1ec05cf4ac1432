"""From a generator's training run to a model package: both networks, its latents' scale, the conditions it learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.generation.sampler import SOLVERS
from CardiacLDMLib.packages.manifest import Figure, GeneratorSpec, Manifest, NetworkSpec, this_anatomy
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.write import write_package
from CardiacLDMLib.text import first_problem

from .errors import TrainingError
from .evaluation.fidelity.report import JSON_FILE, Report, for_card, headline
from .export import NO_FIGURES, About, plain_card, provenance, with_figures
from .stages import autoencoder, diffusion, loop
from .stages.config import CONFIG_FILE
from .stages.generator_config import NETWORKS, DiffusionConfig, GeneratorRunConfig, read_config

#: Of an autoencoder's arguments, what matters in training only.
_TRAINING_ONLY = {"checkpointed"}


class GeneratorAbout(About):
    """What only people know about a generator package."""

    title: str = "Synthetic cardiac CT with labels"
    summary: str = "Draws cardiac CT that shows no patient, together with the labels of eight structures."
    data: str = "Labelled cardiac CT."


def is_generator_run(run: Path) -> bool:
    """Whether a folder holds the run of a generator, as far as its configuration says."""
    try:
        return "autoencoder" in json.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def export_generator(
    run: Path, folder: Path, name: str, *, about: About | None = None, card: str | None = None,
    texture: Path | None = None, fidelity: Sequence[Path] = (), replace: bool = False,
) -> ModelPackage:  # fmt: skip
    """Write the run's networks as the package ``name`` to ``folder`` and verify it.

    ``card`` as in :func:`export.export_run`; ``texture``: the report.json of a fidelity report on pairs of this run,
    whose remedy, tone and texture, the package puts on its images; ``fidelity``: folders of reports whose figures go
    along. Raises ConfigError, TrainingError or PackageError.
    """
    about = about or GeneratorAbout()
    config = read_config(run)
    settings = _diffusion(run, config)
    remedy = read_remedy(texture, config.spacing_mm) if texture else Remedy((), {})
    reports = [read_report(each / JSON_FILE, config.spacing_mm) for each in fidelity]
    weights = {
        "autoencoder.safetensors": autoencoder.averaged_autoencoder(run),
        "diffusion.safetensors": loop.averaged_weights(run / diffusion.NAME / loop.BEST),
    }
    steps = {role: int(loop.load_checkpoint(run / role / loop.BEST)["state"]["step"]) for role in NETWORKS}
    try:
        manifest = Manifest(
            name=name, version=about.version, kind="generator", title=about.title, summary=about.summary,
            structures=this_anatomy(), networks=_networks(config, settings), generator=_spec(run, settings, remedy),
            training=provenance(config, run, about, steps), figures=_figures(reports), licence=about.licence,
            intended_use=about.intended_use, attribution=list(about.attribution),
        )  # fmt: skip
    except ValidationError as error:
        raise PackageError(f"{name} was not written: {first_problem(error)}.") from error
    shown = "\n\n".join(map(for_card, reports)) or NO_FIGURES
    text = plain_card(manifest, shown, _sampling(manifest)) if card is None else with_figures(card, shown)
    return write_package(folder, manifest, weights, text, replace=replace)


def _diffusion(run: Path, config: GeneratorRunConfig) -> DiffusionConfig:
    """The settings of the run's diffusion, if it was trained on the latents of the run's autoencoder."""
    if config.diffusion is None:
        raise TrainingError(f"{run} has no diffusion yet: train it first.")
    if autoencoder.weights_digest(autoencoder.averaged_autoencoder(run)) != config.diffusion.autoencoder:
        raise TrainingError(f"The autoencoder of {run} was trained on after its diffusion: train that anew.")
    return config.diffusion


def _networks(config: GeneratorRunConfig, settings: DiffusionConfig) -> dict[str, NetworkSpec]:
    kept = {name: value for name, value in config.autoencoder.arguments.items() if name not in _TRAINING_ONLY}
    parts = {
        "autoencoder": (autoencoder.ARCHITECTURE, kept),
        "diffusion": (diffusion.ARCHITECTURE, settings.network_arguments),
    }
    return {
        role: NetworkSpec(
            architecture=architecture, arguments=arguments, weights=f"{role}.safetensors", patch=config.grid,
            spacing_mm=config.spacing_mm, window_hu=config.window_hu,
        )
        for role, (architecture, arguments) in parts.items()
    }  # fmt: skip


class Remedy(NamedTuple):
    """What a package does to images after decoding: see :mod:`CardiacLDMLib.tone`, :mod:`CardiacLDMLib.texture`."""

    tone: tuple[tuple[float, float], ...]
    texture: dict[str, list[float]]  # HU^2 by ring


def read_remedy(path: Path, spacing_mm: float) -> Remedy:
    """What pairs lack, from a report.json of fidelity.

    Raises PackageError as :func:`read_report`, and for a report of pairs with tone or texture already.
    """
    report = read_report(path, spacing_mm)
    if report.textured:
        raise PackageError(f"The pairs of {path} had tone or texture already: take the report on pairs without.")
    spectra = {name: [round(value, 3) for value in values] for name, values in report.remedy.items() if any(values)}
    return Remedy(report.tone, spectra)


def read_report(path: Path, spacing_mm: float) -> Report:
    """A report.json of fidelity. Raises PackageError for one that cannot be read, or that is of other voxels."""
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise PackageError(f"{path} is no report of fidelity.") from error
    if report.spacing_mm != spacing_mm:
        raise PackageError(f"{path} is of voxels of {report.spacing_mm:g} mm, the run of {spacing_mm:g} mm.")
    return report


def _figures(reports: Sequence[Report]) -> list[Figure]:
    """What the reports measured on generated pairs, each followed by what held-out cases reach."""
    found: list[Figure] = []
    for report in reports:
        kind = "pairs with tone and texture" if report.textured else "pairs"
        for measured in headline(report):
            for name, value, on, cases in (
                (measured.name, measured.generated, f"generated {kind}", measured.cases),
                (f"{measured.name}: reference", measured.reference, "held-out cases", measured.reference_cases),
            ):
                found.append(
                    Figure(name=name, value=value.mean, unit=measured.unit, on=on, cases=cases, date=report.date)
                )
    return found


def _spec(run: Path, settings: DiffusionConfig, remedy: Remedy) -> GeneratorSpec:
    latents = autoencoder.read_latents(run)
    return GeneratorSpec(
        schedule=settings.schedule, latent_shift=latents.shift, latent_scale=latents.scale,
        choices={name: list(values) for name, values in settings.choices.items()}, numbers=settings.numbers,
        chances={name: list(shares) for name, shares in settings.chances.items()},
        solver=SOLVERS[settings.schedule][0], time_shift=settings.time_shift,
        restarts=settings.restarts, restart_gains=diffusion.read_gains(run, settings), smoothing=settings.smoothing,
        deblocking_hu=settings.deblocking_hu, guidance=settings.guidance, tone=remedy.tone, texture=remedy.texture,
    )  # fmt: skip


def _sampling(manifest: Manifest) -> str:
    """What the card says of conditions and sampling."""
    spec = manifest.generator
    assert spec is not None  # it is a generator's
    known = [f"- **{name}**: {', '.join(values)}" for name, values in spec.choices.items()]
    known += [f"- **{name}**: {low:g} to {high:g}" for name, (low, high) in spec.numbers.items()]
    conditions = "\n".join(known) or "None."
    left_out = " It is then drawn as often as the training cases had it, but for numbers." if spec.chances else ""
    shift = f", times moved towards noise by {spec.time_shift:g}" if spec.time_shift != 1 else ""
    restarts = ", ".join(f"{time:g}" for time in spec.restarts)
    guidance = f"with guidance {spec.guidance:g}"
    anew = f"; then noise is added and taken off again at the times {restarts}" if restarts else ""
    anew += ", each channel made to vary more again after each" if spec.restart_gains else ""
    afterwards = " ".join(_afterwards(spec))
    return f"""
## Conditions

Each may be left out.{left_out}

{conditions}

## Sampling

{spec.schedule}{shift}; unless asked otherwise, {spec.solver} in {spec.steps} steps {guidance}{anew}.
{afterwards}
"""


def _afterwards(spec: GeneratorSpec) -> Iterator[str]:
    """What happens to a drawn latent and its image, in sentences."""
    if spec.smoothing is not None:
        yield "Neighbouring latents that are alike are averaged."
    if spec.deblocking_hu is not None:
        yield f"The decoded image is averaged over a latent voxel, but not across edges of {spec.deblocking_hu:g} HU."
    if spec.tone:
        yield "Away from the labels HU follow a curve that gives them the distribution of held-out cases."
    if spec.texture:
        yield f"Noise that decoded images lack is added to {', '.join(spec.texture)}."

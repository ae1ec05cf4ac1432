"""From a generator's training run to a model package: both networks, its latents' scale, the conditions it learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.generator_spec import SOLVERS, GeneratorSpec, Restart, Sampling
from CardiacLDMLib.packages.manifest import Figure, Manifest, NetworkSpec, this_anatomy
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.write import write_package
from CardiacLDMLib.postprocess.deblock import Deblock
from CardiacLDMLib.postprocess.smooth_latents import SmoothLatents
from CardiacLDMLib.postprocess.steps import Step
from CardiacLDMLib.postprocess.texture import Texture
from CardiacLDMLib.postprocess.tone import Tone
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
    gains = diffusion.read_gains(run, settings) or [()] * len(settings.restarts)
    restarts = tuple(Restart(time=time, gains=tuple(own)) for time, own in zip(settings.restarts, gains, strict=True))
    return GeneratorSpec(
        latent_shift=latents.shift, latent_scale=latents.scale,
        choices={name: list(values) for name, values in settings.choices.items()}, numbers=settings.numbers,
        chances={name: list(shares) for name, shares in settings.chances.items()},
        sampling=Sampling(
            schedule=settings.schedule, solver=SOLVERS[settings.schedule][0], guidance=settings.guidance,
            time_shift=settings.time_shift, restarts=restarts,
        ),
        postprocess=tuple(_postprocess(settings, remedy)),
    )  # fmt: skip


def _postprocess(settings: DiffusionConfig, remedy: Remedy) -> Iterator[Step]:
    """The steps of post-processing, in their order."""
    if settings.smoothing is not None:
        yield SmoothLatents(widths=settings.smoothing)
    if settings.deblocking_hu is not None:
        yield Deblock(width_hu=settings.deblocking_hu)
    if remedy.tone:
        yield Tone(curve=remedy.tone)
    if remedy.texture:
        yield Texture(spectra={name: tuple(power) for name, power in remedy.texture.items()})


def _sampling(manifest: Manifest) -> str:
    """What the card says of conditions and sampling."""
    spec = manifest.generator
    assert spec is not None  # it is a generator's
    known = [f"- **{name}**: {', '.join(values)}" for name, values in spec.choices.items()]
    known += [f"- **{name}**: {low:g} to {high:g}" for name, (low, high) in spec.numbers.items()]
    conditions = "\n".join(known) or "None."
    left_out = " It is then drawn as often as the training cases had it, but for numbers." if spec.chances else ""
    sampling = spec.sampling
    shift = f", times moved towards noise by {sampling.time_shift:g}" if sampling.time_shift != 1 else ""
    restarts = ", ".join(f"{each.time:g}" for each in sampling.restarts)
    guidance = f"with guidance {sampling.guidance:g}"
    anew = f"; then noise is added and taken off again at the times {restarts}" if restarts else ""
    anew += ", each channel made to vary more again after each" if any(each.gains for each in sampling.restarts) else ""
    afterwards = " ".join(step.describe() for step in spec.postprocess)
    return f"""
## Conditions

Each may be left out.{left_out}

{conditions}

## Sampling

{sampling.schedule}{shift}; unless asked otherwise, {sampling.solver} in {sampling.steps} steps {guidance}{anew}.
{afterwards}
"""

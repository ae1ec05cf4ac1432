"""A generator's run that starts from a package: its autoencoder stays as it is, its denoiser is trained further.

So a hospital fits a shipped generator to its own cases, without training an autoencoder, in a part of the steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from CardiacLDMLib.packages.archive import import_package
from CardiacLDMLib.packages.generator_spec import GeneratorSpec
from CardiacLDMLib.packages.store import ModelPackage, open_package, require_kind
from CardiacLDMLib.packages.weights import load_networks

from ..cases.conditions import Conditions, Vocabulary
from ..cases.store import Prepared
from ..errors import ConfigError
from . import calibration, generator_presets, run_folder
from .config import DataFacts, DiffusionConfig, GeneratorModel, RunConfig, check_same
from .package_part import PackagePart

#: The run's copy of the package lies in this folder.
FOLDER = "generator"
#: Arguments of a denoiser that latents and conditions dictate.
_DICTATED = {"latent_channels", "latent_shape", "choices", "numbers"}


def copy_package(run: Path, package: ModelPackage) -> None:
    """Copy a generator package into the run that needs it, unless it is there already."""
    if not (run / FOLDER / package.manifest.name).exists():
        import_package(package.folder, run / FOLDER)


def package_of_run(run: Path, origin: str) -> ModelPackage:
    """Return the package of a run by its name and hash. Raises PackageError."""
    return open_package(run / FOLDER / origin.split(maxsplit=1)[0])


def start_of(run: Path) -> ModelPackage | None:
    """Return the package whose autoencoder a run keeps; None for other runs, and before there is a run.

    Raises ConfigError, PackageError.
    """
    if not (run / "autoencoder" / run_folder.START).exists() or not (run / run_folder.CONFIG_FILE).exists():
        return None
    return package_of_run(run, run_folder.read_config(run).start or "")


def begin_run(run: Path, package: ModelPackage, preset: str, prepared: Prepared) -> None:
    """Make the folder of a run that keeps the autoencoder of ``package``, unless it is there already.

    Raises TrainingError; ConfigError for an unknown preset, and for a run of another package or other cases.
    """
    run_config = _run_config(package, preset, DataFacts(cases=len(prepared.cases), digest=prepared.digest))
    if (run / run_folder.CONFIG_FILE).exists():
        stored = run_folder.read_config(run).with_diffusion(None, None)
        check_same(stored, _with_autoencoder_training(stored, run_config))
        return
    run_folder.check_run(run, run_config, [], resume=False)
    copy_package(run, package)
    weights = load_networks(package)["autoencoder"].state_dict()
    run_folder.keep_start(weights, run, "autoencoder")
    spec = spec_of(package)
    statistics = calibration.LatentStatistics(
        shift=spec.latent_shift, scale=spec.latent_scale, cases=0, autoencoder=run_folder.weights_digest(weights)
    )
    calibration.write(statistics, run / calibration.LATENTS_FILE)
    run_folder.write_config(run_config, run)  # last: from now on this is a run


def _run_config(package: ModelPackage, preset: str, data: DataFacts) -> RunConfig:
    """Return the configuration of a run whose autoencoder and grid are those of ``package``."""
    network = package.manifest.networks["autoencoder"]
    usual = generator_presets.generator_config(preset, data, start=f"{package.manifest.name} {package.sha256}")
    model = GeneratorModel(
        grid=network.patch, spacing_mm=network.spacing_mm, window_hu=network.window_hu,
        autoencoder=usual.generator.autoencoder.model_copy(update={"arguments": network.arguments}),
    )  # fmt: skip
    return usual.model_copy(update={"model": model})


def _with_autoencoder_training(stored: RunConfig, run_config: RunConfig) -> RunConfig:
    """Return ``run_config`` with the autoencoder's training of ``stored``.

    This run does not train it, so a preset that has changed since is no reason to refuse the run.
    """
    model = run_config.generator
    training = stored.generator.autoencoder.model_copy(update={"arguments": model.autoencoder.arguments})
    return run_config.model_copy(update={"model": model.model_copy(update={"autoencoder": training})})


def spec_of(package: ModelPackage) -> GeneratorSpec:
    """Return the record of a generator package. Raises PackageError for one of another kind."""
    require_kind(package, "generator")
    assert package.manifest.generator is not None  # the manifest of a generator has it
    return package.manifest.generator


def settings_like(settings: DiffusionConfig, package: ModelPackage) -> DiffusionConfig:
    """Return the settings with denoiser, sampling and post-processing of ``package``.

    Raises :class:`ConfigError` for another noise schedule.
    """
    spec = spec_of(package)
    if settings.sampling.schedule != spec.sampling.schedule:
        raise ConfigError(f"The denoiser of {package.manifest.name} needs the schedule {spec.sampling.schedule}.")
    known: dict[str, Any] = package.manifest.networks["diffusion"].arguments
    arguments = {name: value for name, value in known.items() if name not in _DICTATED}
    own = {"arguments": arguments, "sampling": spec.sampling, "postprocess": spec.postprocess}
    return settings.model_copy(update=own)


def package_parts(package: ModelPackage) -> dict[str, PackagePart]:
    """Return the parts of a generator package, as another package takes them over. Raises PackageError."""
    manifest, spec = package.manifest, spec_of(package)
    return {
        name: PackagePart(
            manifest.networks[name], network.state_dict(), manifest.training.steps.get(name, 0),
            manifest.training.date, spec.model_dump(),
        )
        for name, network in load_networks(package).items()
    }  # fmt: skip


def vocabulary_like(spec: GeneratorSpec, cases: Sequence[Conditions]) -> Vocabulary:
    """Return the conditions of a package, with the frequencies of their values among ``cases``.

    A condition that no case has keeps its frequencies. Values that the package does not know count as unknown.
    """
    chances = {}
    for name, values in spec.choices.items():
        counts = Counter(str(case[name]) for case in cases if case.get(name) in values)
        if counts:
            chances[name] = tuple(round(counts[value] / counts.total(), 3) for value in values)
        elif name in spec.chances:
            chances[name] = tuple(spec.chances[name])
    return Vocabulary(
        choices={k: tuple(v) for k, v in spec.choices.items()}, numbers=dict(spec.numbers), chances=chances
    )

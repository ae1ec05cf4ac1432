"""``cardiacldm train``: networks from cases, packages from runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import plural, size_text

from ..errors import ConfigError
from .common import DeviceOption, let_threads_sleep, report_errors, say
from .data_options import FoldOption, LayoutOption, MapOption, SplitOption, fold_of, reading_of

if TYPE_CHECKING:
    from CardiacLDMLib.packages.store import ModelPackage

    from ..cases.store import Prepared
    from ..stages.config import MixFacts

app = typer.Typer(no_args_is_help=True, help="Train networks, and turn a run into a model package.")


_Data = Annotated[list[Path], typer.Option(help="Folder of cases; may be given several times.")]
_Run = Annotated[Path, typer.Option(help="Folder of the run.")]
_Preset = Annotated[str, typer.Option(help="demo (2 CPU cores), gpu, or paper.")]
_Steps = Annotated[
    int | None, typer.Option(min=1, help="Steps; the preset's if not given, or those of the run to resume.")
]
_Network = Annotated[
    str | None, typer.Option(help="unet, dynunet, segresnet or swinunetr, in the preset's size; its own if not given.")
]
_Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1)]
_LearningRate = Annotated[
    float | None, typer.Option(min=1e-7, max=1.0, help="Highest learning rate; the preset's if not given.")
]
_Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.")]
_Devices = Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) per machine.")]
_Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
_Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that prepare cases and make examples, for each device; if not given, as cores allow."
    ),
]
_Cache = Annotated[Path | None, typer.Option(help="Where prepared cases go; DATA/.prepared if not given.")]
_Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue the run from its last checkpoint, also a finished one with more --steps."),
]


@app.command("segmenter")
@report_errors()
def segmenter(
    *,
    data: _Data,
    out: _Run,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: _Preset = "demo",
    network: _Network = None,
    only: Annotated[
        str | None, typer.Option(help="Train the locator or the segmenter alone: two machines may share a run.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Segmenter's steps; the locator's follow.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Patches per step and device.")] = None,
    seed: _Seed = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="Package (name or folder) whose weights to start from.")
    ] = None,
    learning_rate: _LearningRate = None,
    augmentation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Factor on the preset's chance of each augmentation.")
    ] = 1.0,
    encoder: Annotated[Path | None, typer.Option(help="Run of a pre-training whose encoder to keep.")] = None,
    encoder_rate: Annotated[
        float | None, typer.Option(min=1e-3, max=1.0, help="Factor on its learning rate; 1 if not given.")
    ] = None,
    frozen_steps: Annotated[int | None, typer.Option(min=0, help="First steps in which it stays as it is.")] = None,
    mix: Annotated[
        list[Path] | None, typer.Option(help="Folder of generated pairs to mix with the cases; may be repeated.")
    ] = None,
    mix_share: Annotated[
        float | None, typer.Option(min=0.01, max=100.0, help="Generated pairs for each case; 3 if not given.")
    ] = None,
    precision: _Precision = None,
    devices: _Devices = 1,
    nodes: _Nodes = 1,
    device: DeviceOption = "auto",
    workers: _Workers = None,
    cache: _Cache = None,
    resume: _Resume = False,
) -> None:
    """Train the two networks of a segmenter package on labelled cases."""
    workers = _prepare(device, devices, workers)
    from CardiacLDMLib.packages.store import find_package

    from ..cases.prepare import prepare_cases, prepare_for_networks
    from ..stages import presets, segmenter
    from ..stages.config import SEGMENTER_NETWORKS, DataFacts
    from ..stages.pretrain import read_encoder

    names = (only,) if only else SEGMENTER_NETWORKS
    if not set(names) <= set(SEGMENTER_NETWORKS):
        raise ConfigError(f"There is no part {only!r}: choose locator or segmenter.")
    _refuse_idle(encoder, {"--encoder-rate": encoder_rate, "--frozen-steps": frozen_steps}, "--encoder")
    _refuse_idle(mix, {"--mix-share": mix_share}, "--mix")
    package = find_package(start) if start else None
    trained = read_encoder(encoder) if encoder else None
    reading, chosen = reading_of(layout, labels_map), fold_of(split, fold)
    prepared = prepare_for_networks(
        data, cache, presets.spacings(preset), max(workers, 1), say, reading=reading, fold=chosen
    )
    pairs = prepare_cases(mix, cache, presets.spacings(preset)["segmenter"], max(workers, 1), say) if mix else None
    cases, skipped = prepared["segmenter"].cases, prepared["segmenter"].skipped
    facts = DataFacts(
        cases=len(cases), digest=prepared["segmenter"].digest,
        mix=_mix_facts(mix, pairs, mix_share or 3.0) if mix and pairs else None,
    )  # fmt: skip
    run_config = presets.segmenter_config(
        preset, facts, seed=seed, steps=steps or _steps_to_resume(out, "segmenter", resume), batch=batch,
        precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
        augmentation=augmentation, start=_origin(package), architecture=network,
        encoder=trained.record if trained else None, encoder_rate=encoder_rate or 1.0,
        frozen_steps=frozen_steps or 0,
    )  # fmt: skip
    ends = segmenter.train_segmenter(
        out, run_config, prepared, names, resume=resume, workers=workers, device=device, start=package,
        encoder=trained, pairs=pairs, say=say,
    )  # fmt: skip
    for name, end in ends.items():
        say(f"{name}: best Dice {end.best:.3f} at step {end.best_step} of {end.step}.")
    _report_skipped(skipped)


def _refuse_idle(given: object, options: Mapping[str, float | None], needed: str) -> None:
    """Raise :class:`ConfigError` for an option that says nothing without another one that was not ``given``."""
    idle = [name for name, value in options.items() if value is not None]
    if idle and not given:
        raise ConfigError(f"{idle[0]} needs {needed}.")


def _prepare(device: str, devices: int, workers: int | None) -> int:
    """Check the devices, before cases are prepared at length; return the number of worker processes."""
    let_threads_sleep()
    from ..cases.workers import usual_workers
    from ..stages.devices import select

    select(device, devices)
    return usual_workers(devices) if workers is None else workers


def _mix_facts(folders: Sequence[Path], pairs: Prepared, share: float) -> MixFacts:
    """Return what a run's configuration records of the generated pairs in ``folders``."""
    from ..results.pair_files import package_of
    from ..stages.config import MixFacts

    packages = sorted({package_of(folder) for folder in folders} - {""})
    return MixFacts(package=", ".join(packages), cases=len(pairs.cases), digest=pairs.digest, share=share)


@app.command("pretrain")
@report_errors()
def pretrain(
    *,
    data: Annotated[list[Path], typer.Option(help="Folder of images or cases; may be given several times.")],
    out: _Run,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: _Preset = "demo",
    mask: Annotated[str, typer.Option(help="paper (few boxes hidden) or mae (three quarters hidden).")] = "paper",
    columns: Annotated[bool, typer.Option("--columns", help="Let the paper's boxes run through all slices.")] = False,
    network: _Network = None,
    steps: _Steps = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Patches per step and device.")] = None,
    seed: _Seed = 0,
    learning_rate: _LearningRate = None,
    precision: _Precision = None,
    devices: _Devices = 1,
    nodes: _Nodes = 1,
    device: DeviceOption = "auto",
    workers: _Workers = None,
    cache: _Cache = None,
    resume: _Resume = False,
) -> None:
    """Pre-train a segmenter's network on images alone: it learns to fill in hidden parts. Labels are not needed."""
    workers = _prepare(device, devices, workers)
    from ..cases.prepare import prepare_cases
    from ..stages import presets
    from ..stages.config import DataFacts
    from ..stages.masking import parse_mask
    from ..stages.pretrain import train_pretraining

    spacing_mm = presets.spacings(preset)["segmenter"]
    chosen = parse_mask(mask, columns=columns)
    reading, part = reading_of(layout, labels_map), fold_of(split, fold)
    prepared = prepare_cases(
        data, cache, spacing_mm, max(workers, 1), say, images_alone=True, reading=reading, fold=part
    )
    run_config = presets.pretraining_config(
        preset, DataFacts(cases=len(prepared.cases), digest=prepared.digest), chosen, architecture=network, seed=seed,
        steps=steps or _steps_to_resume(out, "network", resume), batch=batch,
        precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
    )  # fmt: skip
    end = train_pretraining(out, run_config, prepared, resume=resume, workers=workers, device=device, say=say)
    say(f"pretrain: least error {-end.best:.5f} at step {end.best_step} of {end.step}.")
    _report_skipped(prepared.skipped)


@app.command("autoencoder")
@report_errors()
def autoencoder(
    *,
    data: _Data,
    out: _Run,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: _Preset = "demo",
    steps: _Steps = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Pairs per step and device.")] = None,
    seed: _Seed = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="Package (name or folder) whose autoencoder to start from.")
    ] = None,
    learning_rate: _LearningRate = None,
    precision: _Precision = None,
    devices: _Devices = 1,
    nodes: _Nodes = 1,
    device: DeviceOption = "auto",
    workers: _Workers = None,
    cache: _Cache = None,
    resume: _Resume = False,
) -> None:
    """Train the joint autoencoder of a generator package: the first of two stages."""
    workers = _prepare(device, devices, workers)
    from CardiacLDMLib.packages.store import find_package

    from ..cases.prepare import prepare_cases
    from ..stages import presets
    from ..stages.autoencoder import train_autoencoder
    from ..stages.config import DataFacts

    package = find_package(start) if start else None
    _, spacing_mm = presets.grid_of(preset)
    reading, chosen = reading_of(layout, labels_map), fold_of(split, fold)
    prepared = prepare_cases(data, cache, spacing_mm, max(workers, 1), say, whole=True, reading=reading, fold=chosen)
    run_config = presets.generator_config(
        preset, DataFacts(cases=len(prepared.cases), digest=prepared.digest), seed=seed,
        steps=steps or _steps_to_resume(out, "autoencoder", resume), batch=batch,
        precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
        start=_origin(package),
    )  # fmt: skip
    end = train_autoencoder(
        out, run_config, prepared, resume=resume, workers=workers, device=device, start=package, say=say
    )
    say(f"autoencoder: best Dice {end.best:.3f} at step {end.best_step} of {end.step}.")
    _report_skipped(prepared.skipped)


def _steps_to_resume(run: Path, network: str, resume: bool) -> int | None:
    """Return the steps that a run to resume keeps unless others are asked for; None for a new run."""
    from ..stages.run_folder import CONFIG_FILE, read_config

    if not resume or not (run / CONFIG_FILE).exists():
        return None
    training = getattr(read_config(run).model, network, None)
    return training.steps if training else None


def _report_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """Name the first cases that could not be used."""
    if skipped:
        say(f"Skipped {plural(len(skipped), 'case')}: {', '.join(name for name, _ in skipped[:5])}.")


def _origin(package: ModelPackage | None) -> str | None:
    """Return how a run's configuration records the package whose weights it starts from."""
    return f"{package.manifest.name} {package.sha256}" if package else None


@app.command("diffusion")
@report_errors()
def diffusion(
    *,
    data: Annotated[list[Path], typer.Option(help="Folder of the cases that the autoencoder was trained on.")],
    out: Annotated[Path, typer.Option(help="Folder of the run, which holds a trained autoencoder.")],
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: Annotated[str | None, typer.Option(help="Preset; the autoencoder's if not given.")] = None,
    schedule: Annotated[str | None, typer.Option(help="rectified_flow or ddpm; the preset's if not given.")] = None,
    steps: _Steps = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Latents per step and device.")] = None,
    devices: _Devices = 1,
    nodes: _Nodes = 1,
    device: DeviceOption = "auto",
    workers: _Workers = None,
    cache: Annotated[Path | None, typer.Option(help="Where prepared cases are; DATA/.prepared if not given.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the diffusion from its last checkpoint, also a finished one with more --steps."
        ),
    ] = False,
) -> None:
    """Train the diffusion of a generator package on the latents of its autoencoder: the second stage.

    Seed and precision are the autoencoder's. Conditions come from each case's case.json, or from DATA/conditions.csv.
    """
    workers = _prepare(device, devices, workers)
    from ..cases.conditions import read_conditions
    from ..cases.prepare import prepare_cases
    from ..stages import presets
    from ..stages.diffusion import train_diffusion
    from ..stages.run_folder import read_config

    stored = read_config(out)
    settings = presets.diffusion_config(
        preset or stored.preset, steps=steps or _steps_to_resume(out, "diffusion", resume), batch=batch,
        schedule=schedule, devices=devices, nodes=nodes,
    )  # fmt: skip
    reading, chosen = reading_of(layout, labels_map), fold_of(split, fold)
    conditions = read_conditions(data, reading)
    prepared = prepare_cases(
        data, cache, stored.generator.spacing_mm, max(workers, 1), say, whole=True, reading=reading, fold=chosen
    )
    end = train_diffusion(
        out, settings, prepared, conditions, resume=resume, workers=workers, device=device, preset=preset, say=say
    )
    say(f"diffusion: least error {-end.best:.4f} at step {end.best_step} of {end.step}.")


@app.command("export")
@report_errors()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the package.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the package.", show_default=False)],
    about: Annotated[Path | None, typer.Option(help="JSON with title, summary, data, licence, attribution ...")] = None,
    card: Annotated[Path | None, typer.Option(help="Model card in Markdown; one is written if not given.")] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of an evaluation (generator: of fidelity) for the package's figures; repeatable."),
    ] = None,
    texture: Annotated[
        Path | None, typer.Option(help="Report of fidelity whose tone and texture the generator adds to its images.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing package.")] = False,
) -> None:
    """Write the networks of a run, a segmenter's or a generator's, as a model package."""
    from ..export import export_run

    text = _read_text(card) if card else None
    package = export_run(
        run, out, name, about=about, card=text, evaluations=evaluation or (), texture=texture, replace=overwrite
    )
    version, size = package.manifest.version, size_text(package.size_bytes)
    typer.echo(f"{package.folder}: {package.manifest.name} {version}, {size}.")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path.name} cannot be read as text in UTF-8.") from error

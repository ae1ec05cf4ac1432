"""``cardiacldm train autoencoder``, ``diffusion`` and ``decoder``: the networks of a generator package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import DeviceOption, report_errors, say
from .data_options import FoldOption, LayoutOption, MapOption, SplitOption, fold_of, reading_of
from .train_options import (
    CacheOption,
    DataOption,
    DevicesOption,
    LearningRateOption,
    NodesOption,
    PrecisionOption,
    PresetOption,
    ResumeOption,
    RunOption,
    SeedOption,
    StepsOption,
    WorkersOption,
    origin,
    report_skipped,
    start_training,
    steps_to_resume,
)

if TYPE_CHECKING:
    from CardiacLDMLib.packages.store import ModelPackage


@report_errors()
def autoencoder(
    *,
    data: DataOption,
    out: RunOption,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: PresetOption = "demo",
    steps: StepsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Pairs per step and device.")] = None,
    seed: SeedOption = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="Package (name or folder) whose autoencoder to start from.")
    ] = None,
    learning_rate: LearningRateOption = None,
    precision: PrecisionOption = None,
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    cache: CacheOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train the joint autoencoder of a generator package: the first of two stages."""
    workers = start_training(device, devices, workers)
    from CardiacLDMLib.packages.store import find_package

    from ..cases.prepare import prepare_cases
    from ..stages import generator_presets, presets
    from ..stages.autoencoder import score_name, train_autoencoder
    from ..stages.config import DataFacts

    package = find_package(start) if start else None
    _, spacing_mm = generator_presets.grid_of(preset)
    reading, chosen = reading_of(layout, labels_map), fold_of(split, fold)
    prepared = prepare_cases(data, cache, spacing_mm, max(workers, 1), say, whole=True, reading=reading, fold=chosen)
    run_config = generator_presets.generator_config(
        preset, DataFacts(cases=len(prepared.cases), digest=prepared.digest), seed=seed,
        steps=steps or steps_to_resume(out, "autoencoder", resume), batch=batch,
        precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
        start=origin(package),
    )  # fmt: skip
    end = train_autoencoder(
        out, run_config, prepared, resume=resume, workers=workers, device=device, start=package, say=say
    )
    measure = score_name(run_config.generator.autoencoder)
    say(f"autoencoder: best {measure} {end.best:.3f} at step {end.best_step} of {end.step}.")
    report_skipped(prepared.skipped)


@report_errors()
def diffusion(
    *,
    data: Annotated[
        list[Path], typer.Option(help="Folder of the cases that the autoencoder was trained on; with --from, any.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the run, which holds a trained autoencoder; with --from, a new one.")
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Generator package (name or folder) whose autoencoder stays and whose denoiser learns on.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: Annotated[str | None, typer.Option(help="Preset; the autoencoder's if not given.")] = None,
    schedule: Annotated[str | None, typer.Option(help="rectified_flow or ddpm; the preset's if not given.")] = None,
    steps: StepsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Latents per step and device.")] = None,
    learning_rate: LearningRateOption = None,
    variants: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Latents of each case, all but one of them augmented; the preset's if not given."
        ),
    ] = None,
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
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
    With --from, a package's denoiser learns from other cases; it keeps the conditions that it knows.
    """
    workers = start_training(device, devices, workers)
    from ..cases.conditions import read_conditions
    from ..cases.prepare import prepare_cases
    from ..stages import generator_presets, generator_start
    from ..stages.diffusion import train_diffusion
    from ..stages.run_folder import read_config

    package = _find_generator(start) if start else generator_start.start_of(out)
    model = package.manifest.networks["autoencoder"] if package else read_config(out).generator
    reading, chosen = reading_of(layout, labels_map), fold_of(split, fold)
    conditions = read_conditions(data, reading)
    prepared = prepare_cases(
        data, cache, model.spacing_mm, max(workers, 1), say, whole=True, reading=reading, fold=chosen
    )
    if package:
        generator_start.begin_run(out, package, preset or "demo", prepared)
    settings = generator_presets.diffusion_config(
        preset or read_config(out).preset, steps=steps or steps_to_resume(out, "diffusion", resume), batch=batch,
        schedule=schedule, devices=devices, nodes=nodes, learning_rate=learning_rate, variants=variants,
    )  # fmt: skip
    if package:
        settings = generator_start.settings_like(settings, package)
    end = train_diffusion(
        out, settings, prepared, conditions, resume=resume, workers=workers, device=device, preset=preset,
        start=package, say=say,
    )  # fmt: skip
    say(f"diffusion: least error {-end.best:.4f} at step {end.best_step} of {end.step}.")


@report_errors()
def decoder(
    *,
    data: DataOption,
    generator: Annotated[str, typer.Option(help="Generator package (name or folder) that gets the decoder.")],
    out: RunOption,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: Annotated[str, typer.Option(help="demo (2 CPU cores) or gpu.")] = "demo",
    steps: StepsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Patches per step and device.")] = None,
    seed: SeedOption = 0,
    learning_rate: LearningRateOption = None,
    precision: PrecisionOption = None,
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    cache: CacheOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a fine decoder for a generator package: its pairs get voxels of half the size.

    The cases should be like those of the generator, with voxels as fine as the new pairs'. The exported package holds
    the generator's networks and the decoder.
    """
    workers = start_training(device, devices, workers)
    from ..cases.conditions import read_conditions
    from ..cases.prepare import prepare_cases
    from ..stages import generator_presets, presets
    from ..stages.config import DataFacts
    from ..stages.decoder import train_decoder

    generator_presets.check_decoder_preset(preset)
    bits, package = presets.parse_precision(precision), _find_generator(generator)
    spacing_mm = package.manifest.networks["autoencoder"].spacing_mm / 2
    reading, chosen = reading_of(layout, labels_map), fold_of(split, fold)
    known = read_conditions(data, reading)
    prepared = prepare_cases(data, cache, spacing_mm, max(workers, 1), say, whole=True, reading=reading, fold=chosen)
    facts = DataFacts(cases=len(prepared.cases), digest=prepared.digest)
    run_config = generator_presets.decoder_config(
        preset, facts, package, seed=seed, steps=steps or steps_to_resume(out, "decoder", resume), batch=batch,
        precision=bits, devices=devices, nodes=nodes, learning_rate=learning_rate,
    )  # fmt: skip
    end = train_decoder(
        out, run_config, prepared, known, package, resume=resume, workers=workers, device=device, say=say
    )
    say(f"decoder: best score {end.best:.3f} at step {end.best_step} of {end.step}.")
    report_skipped(prepared.skipped)


def _find_generator(name: str) -> ModelPackage:
    """Return a generator package by name or folder. Raises :class:`PackageError`."""
    from CardiacLDMLib.packages.store import find_package, require_kind

    package = find_package(name)
    require_kind(package, "generator")
    return package

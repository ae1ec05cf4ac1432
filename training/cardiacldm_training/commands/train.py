"""``cardiacldm train``: networks from cases, packages from runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(no_args_is_help=True, help="Train networks, and turn a run into a model package.")


@app.callback()
def _root() -> None:
    pass


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _fail(sentence: str) -> NoReturn:
    _say(f"Error: {sentence}")
    raise typer.Exit(1)


_LearningRate = Annotated[
    float | None, typer.Option(min=1e-7, max=1.0, help="Highest learning rate; the preset's if not given.")
]


@app.command("segmenter")
def segmenter(
    *,
    data: Annotated[list[Path], typer.Option(help="Folder of cases; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[str, typer.Option(help="demo (2 CPU cores), gpu, or paper.")] = "demo",
    network: Annotated[str, typer.Option(help="locator, segmenter or both: two machines may share a run.")] = "both",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the segmenter; the locator's go along.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Patches per step and device.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="Package (name or folder) whose weights to start from.")
    ] = None,
    learning_rate: _LearningRate = None,
    augmentation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Chance of each variation of a patch, times the preset's.")
    ] = 1.0,
    precision: Annotated[str | None, typer.Option(help="32-true or bf16-mixed.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) per machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make training patches.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Where prepared cases go; DATA/.prepared if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run from its last checkpoint.")] = False,
) -> None:
    """Train the two networks of a segmenter package on labelled cases."""
    # Threads that wait asleep, not spinning: with patches being made on the same cores a step takes a third of the CPU
    # time (read when torch is first imported).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from CardiacLDMLib.errors import UserError
    from CardiacLDMLib.packages.store import find_package

    from ..cases.prepare import prepare_for_networks
    from ..errors import ConfigError
    from ..stages import presets, segmenter
    from ..stages.config import SEGMENTER_NETWORKS, DataFacts

    names = SEGMENTER_NETWORKS if network == "both" else (network,)
    try:
        if not set(names) <= set(SEGMENTER_NETWORKS):
            raise ConfigError(f"There is no network {network!r}: choose locator, segmenter or both.")
        package = find_package(start) if start else None
        prepared = prepare_for_networks(data, cache, presets.spacings(preset), max(workers, 1), _say)
        cases, skipped = prepared["segmenter"].cases, prepared["segmenter"].skipped
        run_config = presets.segmenter_config(
            preset, DataFacts(cases=len(cases), digest=prepared["segmenter"].digest), seed=seed, steps=steps,
            batch=batch, precision=presets.parse_precision(precision), devices=devices, nodes=nodes,
            learning_rate=learning_rate, augmentation=augmentation,
            start=f"{package.manifest.name} {package.sha256}" if package else None,
        )  # fmt: skip
        ends = segmenter.train_segmenter(
            out, run_config, prepared, names, resume=resume, workers=workers, start=package, say=_say
        )
    except UserError as error:
        _fail(str(error))
    for name, end in ends.items():
        _say(f"{name}: best Dice {end.best:.3f} at step {end.best_step} of {end.step}.")
    if skipped:
        _say(f"{len(skipped)} cases were skipped: {', '.join(name for name, _ in skipped[:5])}.")


@app.command("autoencoder")
def autoencoder(
    *,
    data: Annotated[list[Path], typer.Option(help="Folder of cases; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[str, typer.Option(help="demo (2 CPU cores), gpu, or paper.")] = "demo",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the preset's if not given.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pairs per step and device.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="Package (name or folder) whose autoencoder to start from.")
    ] = None,
    learning_rate: _LearningRate = None,
    precision: Annotated[str | None, typer.Option(help="32-true or bf16-mixed.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) per machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make training pairs.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Where prepared cases go; DATA/.prepared if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run from its last checkpoint.")] = False,
) -> None:
    """Train the joint autoencoder of a generator package: the first of its two stages."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from CardiacLDMLib.errors import UserError
    from CardiacLDMLib.packages.store import find_package

    from ..cases.prepare import prepare_cases
    from ..stages import presets
    from ..stages.autoencoder import train_autoencoder
    from ..stages.config import DataFacts

    try:
        package = find_package(start) if start else None
        _, spacing_mm = presets.grid_of(preset)
        prepared = prepare_cases(data, cache, spacing_mm, max(workers, 1), _say)
        run_config = presets.generator_config(
            preset, DataFacts(cases=len(prepared.cases), digest=prepared.digest), seed=seed, steps=steps, batch=batch,
            precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
            start=f"{package.manifest.name} {package.sha256}" if package else None,
        )  # fmt: skip
        end = train_autoencoder(out, run_config, prepared, resume=resume, workers=workers, start=package, say=_say)
    except UserError as error:
        _fail(str(error))
    _say(f"autoencoder: best Dice {end.best:.3f} at step {end.best_step} of {end.step}.")
    if prepared.skipped:
        _say(f"{len(prepared.skipped)} cases were skipped: {', '.join(name for name, _ in prepared.skipped[:5])}.")


@app.command("diffusion")
def diffusion(
    *,
    data: Annotated[list[Path], typer.Option(help="Folder of the cases that the autoencoder was trained on.")],
    out: Annotated[Path, typer.Option(help="Folder of the run, which holds a trained autoencoder.")],
    preset: Annotated[str | None, typer.Option(help="The autoencoder's, which is taken if not given.")] = None,
    schedule: Annotated[str | None, typer.Option(help="rectified_flow or ddpm; the preset's if not given.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the preset's if not given.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Latents per step and device.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) per machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare cases, and read and noise latents.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Where prepared cases are; DATA/.prepared if not given.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the diffusion from its last checkpoint.")
    ] = False,
) -> None:
    """Train the diffusion of a generator package on the latents of its autoencoder: the second stage.

    Seed and precision are the autoencoder's. Conditions come from each case's case.json, or from DATA/conditions.csv.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from CardiacLDMLib.errors import UserError

    from ..cases.conditions import read_conditions
    from ..cases.prepare import prepare_cases
    from ..stages import presets
    from ..stages.diffusion import train_diffusion
    from ..stages.run_folder import read_config

    try:
        stored = read_config(out)
        settings = presets.diffusion_config(
            preset or stored.preset, steps=steps, batch=batch, schedule=schedule, devices=devices, nodes=nodes
        )
        known = read_conditions(data)
        prepared = prepare_cases(data, cache, stored.generator.spacing_mm, max(workers, 1), _say)
        end = train_diffusion(out, settings, prepared, known, resume=resume, workers=workers, preset=preset, say=_say)
    except UserError as error:
        _fail(str(error))
    _say(f"diffusion: least error {-end.best:.4f} at step {end.best_step} of {end.step}.")


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the package.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the package.", show_default=False)],
    about: Annotated[Path | None, typer.Option(help="JSON with title, summary, data, licence, attribution ...")] = None,
    card: Annotated[Path | None, typer.Option(help="Model card in Markdown; one is written if not given.")] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of an evaluation (a generator's: of fidelity) whose figures go along; repeatable."),
    ] = None,
    texture: Annotated[
        Path | None, typer.Option(help="Report of fidelity whose tone and texture a generator puts on its images.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a package that is there.")] = False,
) -> None:
    """Write the networks of a run, a segmenter's or a generator's, as a model package."""
    from CardiacLDMLib.errors import UserError

    from ..export import export_run

    try:
        text = card.read_text(encoding="utf-8") if card else None
        package = export_run(
            run, out, name, about=about, card=text, evaluations=evaluation or (), texture=texture, replace=overwrite
        )
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename} cannot be read: {error.strerror}.")
    typer.echo(
        f"{package.folder}: {package.manifest.name} {package.manifest.version}, {package.size_bytes / 1e6:.1f} MB."
    )

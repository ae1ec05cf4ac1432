"""``cardiacldm train``: networks from cases, packages from runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import size_text

from ..errors import ConfigError
from .common import DeviceOption, report_errors, say
from .data_options import FoldOption, LayoutOption, MapOption, SplitOption, fold_of, reading_of
from .train_generator import autoencoder, decoder, diffusion
from .train_options import (
    CacheOption,
    DataOption,
    DevicesOption,
    LearningRateOption,
    NetworkOption,
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
    from ..cases.store import Prepared
    from ..stages.config import MixFacts

app = typer.Typer(no_args_is_help=True, help="Train networks, and turn a run into a model package.")


@app.command("segmenter")
@report_errors()
def segmenter(
    *,
    data: DataOption,
    out: RunOption,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: PresetOption = "demo",
    network: NetworkOption = None,
    only: Annotated[
        str | None, typer.Option(help="Train the locator or the segmenter alone: two machines may share a run.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Segmenter's steps; the locator's follow.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Patches per step and device.")] = None,
    seed: SeedOption = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="Package (name or folder) whose weights to start from.")
    ] = None,
    learning_rate: LearningRateOption = None,
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
    precision: PrecisionOption = None,
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    cache: CacheOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train the two networks of a segmenter package on labelled cases."""
    workers = start_training(device, devices, workers)
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
        preset, facts, seed=seed, steps=steps or steps_to_resume(out, "segmenter", resume), batch=batch,
        precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
        augmentation=augmentation, start=origin(package), architecture=network,
        encoder=trained.record if trained else None, encoder_rate=encoder_rate or 1.0,
        frozen_steps=frozen_steps or 0,
    )  # fmt: skip
    ends = segmenter.train_segmenter(
        out, run_config, prepared, names, resume=resume, workers=workers, device=device, start=package,
        encoder=trained, pairs=pairs, say=say,
    )  # fmt: skip
    for name, end in ends.items():
        say(f"{name}: best Dice {end.best:.3f} at step {end.best_step} of {end.step}.")
    report_skipped(skipped)


def _refuse_idle(given: object, options: Mapping[str, float | None], needed: str) -> None:
    """Raise :class:`ConfigError` for an option that says nothing without another one that was not ``given``."""
    idle = [name for name, value in options.items() if value is not None]
    if idle and not given:
        raise ConfigError(f"{idle[0]} needs {needed}.")


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
    out: RunOption,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    preset: PresetOption = "demo",
    mask: Annotated[str, typer.Option(help="paper (few boxes hidden) or mae (three quarters hidden).")] = "paper",
    columns: Annotated[bool, typer.Option("--columns", help="Let the paper's boxes run through all slices.")] = False,
    network: NetworkOption = None,
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
    """Pre-train a segmenter's network on images alone: it learns to fill in hidden parts. Labels are not needed."""
    workers = start_training(device, devices, workers)
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
        steps=steps or steps_to_resume(out, "network", resume), batch=batch,
        precision=presets.parse_precision(precision), devices=devices, nodes=nodes, learning_rate=learning_rate,
    )  # fmt: skip
    end = train_pretraining(out, run_config, prepared, resume=resume, workers=workers, device=device, say=say)
    say(f"pretrain: least error {-end.best:.5f} at step {end.best_step} of {end.step}.")
    report_skipped(prepared.skipped)


app.command("autoencoder")(autoencoder)
app.command("diffusion")(diffusion)
app.command("decoder")(decoder)


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

"""``cardiacldm pipeline``: from labelled scans to model packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import duration_text, plural, size_text

from ..errors import ConfigError
from .common import STOPPED, DeviceOption, let_threads_sleep, report_errors, say
from .data_options import LayoutOption, MapOption, SplitOption

if TYPE_CHECKING:
    from ..pipeline.costs import Cost
    from ..pipeline.steps import Settings, Step


@report_errors()
def pipeline(
    *,
    data: Annotated[Path, typer.Option(help="Folder of labelled scans.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the pipeline.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the segmenter package; the generator's ends with -pairs.")] = "own",
    preset: Annotated[str, typer.Option(help="demo (2 CPU cores), gpu, or paper.")] = "demo",
    effort: Annotated[
        float, typer.Option(min=1e-4, max=10.0, help="Factor on the preset's steps; a small one makes a trial.")
    ] = 1.0,
    pairs: Annotated[int, typer.Option(min=1, max=20, help="Generated pairs for each training case.")] = 3,
    skip: Annotated[
        list[str] | None, typer.Option(help="generate, pretrain or evaluate; may be given several times.")
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Package to start from: a segmenter, whose weights are trained further, or a generator, which draws "
            "the pairs as it is.",
        ),
    ] = None,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes).")] = 1,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that prepare cases, for each device.")] = None,
    install: Annotated[bool, typer.Option("--install", help="Install the packages at the end.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the pipeline in OUT.")] = False,
) -> None:
    """Train both packages on your own labelled scans, step by step, as in the paper.

    Trains a generator, draws pairs, pre-trains on their images, trains the segmenter on scans and pairs, and measures
    it on scans kept aside. Says before what each step takes. Each step is a command that can be repeated alone; one
    that is done is not repeated unless its scans or settings change. Writes OUT/report.html and OUT/packages.
    """
    let_threads_sleep()
    from ..pipeline.runner import Stopped
    from ..pipeline.steps import Machine, Settings, parse_parts
    from ..pipeline.whole import Request, run_pipeline

    _check_names((name, f"{name}-pairs"))
    plain = Settings(
        name=name, preset=preset, seed=seed, effort=effort, pairs_per_case=pairs, skip=parse_parts(skip or ()),
        layout=layout,
    )  # fmt: skip
    settings = _with_packages(plain, start or ())
    request = Request(settings, data, out, Machine(device, devices, workers), split, labels_map)
    try:
        packages = run_pipeline(request, resume=resume, say=say, show=_show_costs)
    except Stopped:
        say("Stopped: repeat the command with --resume to go on.")
        raise typer.Exit(STOPPED) from None
    for folder in packages:
        typer.echo(f"Package: {folder}")
    typer.echo(f"Report: {out / 'report.html'}")
    if install:
        _install(packages)


def _check_names(names: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for names that packages cannot have: training would end in vain."""
    from pydantic import TypeAdapter, ValidationError

    from CardiacLDMLib.packages.manifest import PackageName
    from CardiacLDMLib.packages.store import shipped_packages_dir

    for name in names:
        try:
            TypeAdapter(PackageName).validate_python(name)
        except ValidationError as error:
            raise ConfigError(f"A package cannot be called {name!r}: choose another --name.") from error
        if (shipped_packages_dir() / name).exists():
            raise ConfigError(f"A package called {name} ships already: choose another --name.")


def _with_packages(settings: Settings, start: Sequence[str]) -> Settings:
    """Return the settings with the packages to start from, at most one of each kind.

    Raises ConfigError for packages that do not go together, PackageError for unknown ones.
    """
    from CardiacLDMLib.packages.store import find_package

    from ..pipeline.steps import parse_parts

    kinds: dict[str, str] = {}
    for package in start:
        kind = find_package(package).manifest.kind
        if kind in kinds:
            raise ConfigError(f"{kinds[kind]} and {package} are both of the kind {kind}: start from one.")
        kinds[kind] = package
    if "generator" in kinds and "generate" in settings.skip:
        raise ConfigError(f"With --skip generate there is nothing for {kinds['generator']} to do.")
    # The encoder of a package is trained already.
    skip = parse_parts((*settings.skip, "pretrain")) if "segmenter" in kinds else settings.skip
    return settings.model_copy(
        update={"skip": skip, "segmenter": kinds.get("segmenter"), "generator": kinds.get("generator")}
    )


def _show_costs(steps: Sequence[Step], costs: Mapping[str, Cost], total: Cost) -> None:
    """Say what the steps that are missing take."""
    say(f"{plural(len(steps), 'step')} to do; rough estimates by a trial on this machine:")
    for step in steps:
        cost = costs.get(step.name)
        if cost is not None and cost.seconds >= 1.0:
            sizes = f"{size_text(cost.disk_bytes)} on the disk, {size_text(cost.memory_bytes)} of memory"
            say(f"  {step.title}: {duration_text(cost.seconds)}, {sizes}")
    sizes = f"{size_text(total.disk_bytes)} on the disk, up to {size_text(total.memory_bytes)} of memory"
    say(f"In all: {duration_text(total.seconds)}, {sizes}.")


def _install(packages: Sequence[Path]) -> None:
    from CardiacLDMLib.packages.archive import import_package
    from CardiacLDMLib.packages.store import user_packages_dir

    for folder in packages:
        manifest = import_package(folder, user_packages_dir(), True).manifest
        typer.echo(f"Installed {manifest.name} {manifest.version}.")

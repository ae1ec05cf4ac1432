"""``cardiacldm cohort``: write virtual cases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def cohort(
    out: Annotated[Path, typer.Option(help="Folder for the cases; an unfinished cohort there is continued.")],
    cases: Annotated[int, typer.Option(min=1, help="How many cases.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    anatomies: Annotated[
        Path | None,
        typer.Option(
            help="Folder of whole-heart label maps (*.nii.gz, values 1 to 8) to bend, besides built-in shapes."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, help="Voxel size in mm.")] = 1.5,
) -> None:
    """Write a virtual cohort: CT (int16 HU), labels and case.json for each case. No patient is in it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from CardiacLDMLib.volume import VolumeError

    from ..virtual import AnatomyError, CohortSettings, write_cohort

    settings = CohortSettings(seed=seed, spacing_mm=spacing, anatomies=anatomies)
    columns = (TextColumn("Virtual cases"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task("", total=cases)
            failed = write_cohort(settings, cases, out, workers, lambda n: progress.update(task, completed=n))
    except (AnatomyError, VolumeError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{cases - len(failed)} of {cases} virtual cases are in {out}.")
    for line in failed:
        typer.echo(f"Failed: {line}", err=True)
    if failed:
        raise typer.Exit(1)

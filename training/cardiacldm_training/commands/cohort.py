"""``cardiacldm cohort``: write virtual cases."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .common import FAILED, counted_progress, report_errors, say


class Preset(StrEnum):
    """How far from a real patient and a real scanner the cases may go."""

    REALISTIC = "realistic"
    RANDOMISED = "randomised"


@report_errors()
def cohort(
    out: Annotated[Path, typer.Option(help="Folder for the cases; an unfinished cohort there is continued.")],
    cases: Annotated[int, typer.Option(min=1, help="How many cases.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    preset: Annotated[
        Preset,
        typer.Option(
            help="realistic: as hospitals scan, for showing, generating and experiments. "
            "randomised: anatomy and appearance far beyond the plausible, for training that must hold on real scans."
        ),
    ] = Preset.REALISTIC,
    anatomies: Annotated[
        Path | None,
        typer.Option(
            help="Folder of whole-heart label maps (*.nii.gz, values 1 to 8) to bend, besides built-in shapes."
        ),
    ] = None,
    template_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of hearts from --anatomies; the others are built-in shapes.")
    ] = 0.7,
    deformation: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=3.0, help="How strongly hearts are bent; the presets have 1.0 (adult range) and 1.4."
        ),
    ] = None,
    surroundings: Annotated[
        bool, typer.Option(help="Organs around the heart; without them a plain body, to show what they are good for.")
    ] = True,
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, help="Voxel size in mm.")] = 1.5,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes up to 2 GB of memory.")] = os.cpu_count()
    or 1,
) -> None:
    """Write a virtual cohort: CT (int16 HU), labels and case.json for each case. No patient is in it."""
    from ..virtual.cohort import PRESETS, CohortSettings, write_cohort

    chosen = PRESETS[preset] | ({} if deformation is None else {"deformation": deformation})
    settings = CohortSettings(
        seed=seed, spacing_mm=spacing, anatomies=anatomies, template_share=template_share, surroundings=surroundings,
        **chosen,
    )  # fmt: skip
    with counted_progress("Virtual cases", cases) as update:
        failed = write_cohort(settings, cases, out, workers, update)
    typer.echo(f"{cases - len(failed)} of {cases} virtual cases are in {out}.")
    for line in failed:
        say(f"Failed: {line}")
    if failed:
        raise typer.Exit(FAILED)

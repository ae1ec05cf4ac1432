"""``cardiacldm cohort``: write virtual cases."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .common import FAILED, counted_progress, report_errors, say


class Preset(StrEnum):
    """How far anatomy and appearance may be from real patients and scanners."""

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
            help="realistic: as hospitals scan, for demonstrations, generators and experiments. "
            "randomised: anatomy and appearance beyond the plausible, for segmenters that must work on real scans."
        ),
    ] = Preset.REALISTIC,
    anatomies: Annotated[
        Path | None,
        typer.Option(
            help="Folder of whole-heart label maps (*.nii.gz, values 1 to 8) to deform, besides built-in shapes."
        ),
    ] = None,
    template_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of hearts from --anatomies; the others are built-in shapes.")
    ] = 0.7,
    deformation: Annotated[
        float | None,
        typer.Option(min=0.0, max=3.0, help="Strength of deformation; the presets have 1.0 (adult range) and 1.4."),
    ] = None,
    surroundings: Annotated[
        bool, typer.Option(help="Organs around the heart; without them a plain body, for comparison.")
    ] = True,
    trunk: Annotated[
        Path | None,
        typer.Option(help="Label map of a real trunk (*.nii.gz), whose lungs and organs surround half of the hearts."),
    ] = None,
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, help="Voxel size in mm.")] = 1.5,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes up to 2 GB of memory.")] = os.cpu_count()
    or 1,
) -> None:
    """Write a virtual cohort: CT (int16 HU), labels and case.json for each case. It shows no patient."""
    from ..virtual.cohort import PRESETS, CohortSettings, write_cohort

    if trunk and not surroundings:
        raise ConfigError("--trunk gives organs around the heart, --no-surroundings leaves them out: give only one.")
    choices = PRESETS[preset] | ({} if deformation is None else {"deformation": deformation})
    settings = CohortSettings(
        seed=seed, spacing_mm=spacing, anatomies=anatomies, template_share=template_share, surroundings=surroundings,
        trunk=trunk, **choices,
    )  # fmt: skip
    with counted_progress("Virtual cases", cases) as update:
        failed = write_cohort(settings, cases, out, workers, update)
    typer.echo(f"{cases - len(failed)} of {cases} virtual cases are in {out}.")
    for line in failed:
        say(f"Failed: {line}")
    if failed:
        raise typer.Exit(FAILED)

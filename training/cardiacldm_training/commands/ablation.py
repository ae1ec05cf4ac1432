"""``cardiacldm ablation``: what matters in a virtual cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ablation(
    plan: Annotated[Path, typer.Argument(help="JSON with at least the folder of anatomies.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for cohorts, runs and results.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, help="Networks trained at once, a thread each.")] = 1,
) -> None:
    """Train the same small network on cohorts that differ in one thing each, and compare their Dice.

    PLAN names "anatomies" (label maps to bend) and, if there are any, "real" (labelled scans to test on); cases,
    steps, seeds and arms have defaults. A call that was stopped is continued by the same call.
    """
    from CardiacLDMLib.errors import UserError

    from ..evaluation.ablation import read_plan, run_ablation, table

    try:
        results = run_ablation(read_plan(plan), out, workers, lambda line: typer.echo(line, err=True))
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(table(results))

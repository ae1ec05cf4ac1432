"""``cardiacldm ablation``: what matters in a virtual cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import report_errors, report_failures, say


@report_errors()
def ablation(
    plan: Annotated[Path, typer.Argument(help="JSON with at least the folder of anatomies.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for cohorts, runs and results.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, help="Networks trained at once, a thread each.")] = 1,
) -> None:
    """Train the same small network on cohorts that differ in one property each, and compare their Dice.

    PLAN names "anatomies" (label maps to deform) and, if there are any, "real" (labelled scans to test on); cases,
    steps, seeds and arms have defaults. Repeat the call to continue a study that was stopped.
    """
    from ..evaluation.ablation import read_plan, run_ablation, table

    outcome = run_ablation(read_plan(plan), out, workers, say)
    typer.echo(table(outcome.rows))
    report_failures(outcome.failed)

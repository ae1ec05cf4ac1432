"""``cardiacldm experiment``: arms and seeds of one plan, trained, tested and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from CardiacLDMLib.text import plural

from .common import report_errors, report_failures, say


@report_errors()
def experiment(
    plan: Annotated[Path, typer.Argument(help="JSON with the sets, arms, protocols, seeds.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for runs, rows and the report.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, help="Networks trained at once, a core each.")] = 1,
    until: Annotated[
        str | None, typer.Option(help="Stop after this time, such as 2h45m; the next call goes on.", show_default=False)
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="Only this arm; may be given several times.", show_default=False)
    ] = None,
) -> None:
    """Train every arm of every protocol with every seed, and compare them with intervals.

    Finished runs are not repeated; a stopped or killed experiment goes on from its checkpoints. Writes OUT/report.md
    with tables, forest plot and learning curves, from all rows there are.
    """
    from ..evaluation.experiment.plan import read_plan
    from ..evaluation.experiment.runner import deadline, run_experiment

    end = deadline(until)
    outcome = run_experiment(read_plan(plan), out, workers, until=end, arms=arm, say=say)
    say(f"{plural(len(outcome.rows), 'row')}, {outcome.missing} missing.")
    report_failures(outcome.failed)

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
    from ..evaluation.experiment.report import MARKDOWN_FILE, describe_endpoint, describe_finding, write_report
    from ..evaluation.experiment.runner import deadline, run_experiment

    end, contents = deadline(until), read_plan(plan)
    outcome = run_experiment(contents, out, workers, until=end, arms=arm, say=say)
    report = write_report(contents, outcome.rows, out)
    say(f"{plural(len(outcome.rows), 'row')}, {outcome.missing} missing; {out / MARKDOWN_FILE}")
    typer.echo(f"{describe_endpoint(contents.primary)}:")
    for finding in report.primary:
        typer.echo(describe_finding(finding))
    report_failures(outcome.failed)

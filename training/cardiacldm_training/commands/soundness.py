"""``cardiacldm soundness`` and ``cardiacldm contact-sheet``: look hard at labelled cases, virtual or real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from CardiacLDMLib.image.grid import Volume

#: Exit codes: a rule is broken; nothing could be started.
UNSOUND, UNUSABLE = 1, 2


def soundness(
    *,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="Folder of labelled cases.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.", show_default=False)],
    draw: Annotated[
        int | None, typer.Option(min=2, help="Draw that many hearts, without scans, instead of reading DATA.")
    ] = None,
    anatomies: Annotated[
        Path | None, typer.Option(help="With --draw: folder of label maps to bend, as for the cohort.")
    ] = None,
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, help="With --draw: voxel size in mm.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="With --draw: another seed draws other hearts.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Check label maps: every structure there, in one piece, touching what it should; volumes; diversity.

    Writes report.json, report.md, volumes.png and diversity.png. What the scan's edge cuts off is excused. The exit
    code is 1 if a rule is broken or a case cannot be read. Sex and findings come from case.json where there is one.
    """
    from rich.progress import Progress

    from CardiacLDMLib.errors import UserError

    from ..cases.readers.folders import find_cases
    from ..virtual.heart.anatomy import HeartSources
    from ..virtual.heart.templates import template_files
    from ..virtual.report.plausibility import report_on_drawn, report_on_files, write_report

    if (data is None) == (draw is None):
        typer.echo("Error: Give either a folder of labelled cases or --draw with a number of hearts.", err=True)
        raise typer.Exit(UNUSABLE)
    try:
        with Progress(transient=True) as progress:
            if data is not None:
                cases = find_cases(data)
                task = progress.add_task("Label maps", total=len(cases))
                name = data.resolve().name
                report, dice = report_on_files(cases, name, workers, lambda n: progress.update(task, completed=n))
            else:
                source = HeartSources(template_files(anatomies) if anatomies else [])
                task = progress.add_task("Hearts", total=draw)
                report, dice = report_on_drawn(
                    source, draw or 0, seed=seed, spacing_mm=spacing, workers=workers,
                    done=lambda n: progress.update(task, completed=n),
                )  # fmt: skip
        write_report(report, dice, out)
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error
    unsound = sum(bool(case.broken) for case in report.cases)
    typer.echo(f"{len(report.cases)} label maps, {unsound} unsound, {len(report.unreadable)} unreadable: {out}.")
    if not report.sound:
        for rule, count in report.broken.items():
            if count:
                typer.echo(f"  {rule}: {count}", err=True)
        raise typer.Exit(UNSOUND)


def contact_sheet(
    data: Annotated[Path, typer.Argument(help="Folder of virtual cases.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The PNG to write; NAME_marked.png is written beside it.", show_default=False)
    ],
    real: Annotated[list[Path] | None, typer.Option(help="A real scan to lay among them; may be repeated.")] = None,
    cases: Annotated[int, typer.Option(min=1, help="How many virtual cases, the first ones.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another seed lays the scans in another order.")] = 0,
) -> None:
    """Draw virtual cases and real scans in one picture: three planes each, same window, same scale.

    One picture has numbers only, to guess which scans are real; the other says it. The hearts of real scans are found
    by the segmenter that ships.
    """
    from CardiacLDMLib.errors import UserError

    from ..cases.readers.folders import find_cases
    from ..virtual.report.contact_sheet import real_tile, virtual_tile, write_sheets

    try:
        tiles = [virtual_tile(files) for files in find_cases(data)[:cases]]
        finder = _heart_finder() if real else None
        tiles += [real_tile(path, n, finder) for n, path in enumerate(real or [], start=1) if finder]
        for path in write_sheets(tiles, out, seed):
            typer.echo(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB).")
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error


def _heart_finder() -> Callable[[Volume], Volume]:
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    segmenter = Segmenter(find_package(None), "auto")
    return lambda scan: segmenter.segment(scan).labels

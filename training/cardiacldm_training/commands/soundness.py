"""``cardiacldm soundness`` and ``cardiacldm contact-sheet``: check the anatomy of labelled cases, virtual or real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import folder_name, size_text

from ..errors import ConfigError
from .common import FAILED, counted_progress, report_errors, say

if TYPE_CHECKING:
    import numpy as np

    from CardiacLDMLib.image.grid import Volume

    from ..virtual.report.plausibility import Report


@report_errors()
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
        Path | None, typer.Option(help="With --draw: folder of label maps to deform, as for the cohort.")
    ] = None,
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, help="With --draw: voxel size in mm.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="With --draw: another seed draws other hearts.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Check label maps: structures present, in one piece, with the right neighbours; volumes; diversity.

    Writes report.json, report.md, volumes.png and diversity.png. Structures that the edge of the scan cuts are not
    judged. The exit code is 1 if a rule is broken or a case cannot be read. Sex and findings come from case.json.
    """
    from ..virtual.report.files import write_report

    if (data is None) == (draw is None):
        raise ConfigError("Give either a folder of labelled cases or --draw with a number of hearts.")
    if data is not None:
        report, dice = _report_on_folder(data, workers)
    else:
        report, dice = _report_on_drawn(anatomies, draw or 0, spacing, seed, workers)
    write_report(report, dice, out)
    implausible = sum(bool(case.broken) for case in report.cases)
    counts = f"{len(report.cases)} label maps, {implausible} implausible, {len(report.unreadable)} unreadable"
    typer.echo(f"{counts}: {out}.")
    if not report.plausible:
        for rule, count in report.broken.items():
            if count:
                say(f"  {rule}: {count}")
        raise typer.Exit(FAILED)


def _report_on_folder(data: Path, workers: int) -> tuple[Report, np.ndarray]:
    from ..cases.readers.layouts import find_cases
    from ..virtual.report.plausibility import report_on_files

    cases = find_cases(data)
    with counted_progress("Label maps", len(cases)) as update:
        return report_on_files(cases, folder_name(data), workers, update)


def _report_on_drawn(
    anatomies: Path | None, hearts: int, spacing: float, seed: int, workers: int
) -> tuple[Report, np.ndarray]:
    from ..virtual.heart.anatomy import HeartSources
    from ..virtual.heart.templates import template_files
    from ..virtual.report.plausibility import report_on_drawn

    source = HeartSources(template_files(anatomies) if anatomies else [])
    with counted_progress("Hearts", hearts) as update:
        return report_on_drawn(source, hearts, seed=seed, spacing_mm=spacing, workers=workers, done=update)


@report_errors()
def contact_sheet(
    data: Annotated[Path, typer.Argument(help="Folder of virtual cases.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The PNG to write; NAME_marked.png is written beside it.", show_default=False)
    ],
    real: Annotated[list[Path] | None, typer.Option(help="A real scan to show among them; may be repeated.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Folder of generated pairs to show among them, as many as virtual cases.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="How many virtual cases, the first ones.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shuffles the scans differently.")] = 0,
) -> None:
    """Draw virtual cases, generated pairs and real scans in one picture: three planes each, same window, same scale.

    One picture has numbers only, to guess which scans are real; the other names them. The shipped segmenter finds the
    hearts of real scans.
    """
    from ..cases.readers.layouts import find_cases
    from ..virtual.report.contact_sheet import pair_tile, real_tile, virtual_tile, write_sheets

    tiles = [virtual_tile(files) for files in find_cases(data)[:cases]]
    tiles += [pair_tile(files) for files in find_cases(pairs)[:cases]] if pairs else []
    finder = _heart_finder() if real else None
    tiles += [real_tile(path, n, finder) for n, path in enumerate(real or [], start=1) if finder]
    for path in write_sheets(tiles, out, seed):
        typer.echo(f"Wrote {path} ({size_text(path.stat().st_size)}).")


def _heart_finder() -> Callable[[Volume], Volume]:
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    segmenter = Segmenter(find_package(None), "auto")
    return lambda scan: segmenter.segment(scan).labels

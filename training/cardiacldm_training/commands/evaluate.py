"""``cardiacldm evaluate``: measure a segmenter package on labelled cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from CardiacLDMLib.text import folder_name, plural

from .common import FAILED, DeviceOption, SegmenterOption, report_errors, say


@report_errors()
def evaluate(
    *,
    data: Annotated[Path, typer.Option(help="Folder of labelled cases.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the figures.", show_default=False)],
    package: SegmenterOption = None,
    device: DeviceOption = "auto",
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored windows.")] = False,
) -> None:
    """Measure Dice, HD95 and NSD per structure, with intervals, as evaluation.json, .csv and .md.

    A case that fails does not stop the others; it is listed, and the exit code is 1.
    """
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import check_folder
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    from ..cases.readers.layouts import find_cases
    from ..evaluation.segmenter import evaluate_cases, table, write_evaluation

    check_folder(out)  # before hours of work
    segmenter = Segmenter(find_package(package), device)
    if segmenter.remark:
        say(segmenter.remark)
    evaluation = evaluate_cases(segmenter, find_cases(data), folder_name(data), flips=tta, say=say)
    write_evaluation(evaluation, out)
    if evaluation.summary:
        typer.echo(table(evaluation.summary))
    if evaluation.failed:
        say(f"{plural(len(evaluation.failed), 'case')} failed: {', '.join(evaluation.failed)}.")
        raise typer.Exit(FAILED)

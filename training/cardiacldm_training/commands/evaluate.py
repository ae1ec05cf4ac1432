"""``cardiacldm evaluate``: measure a segmenter package on labelled cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import folder_name, plural

from ..errors import ConfigError, DatasetError
from .common import FAILED, DeviceOption, SegmenterOption, report_errors, say
from .data_options import FoldOption, LayoutOption, MapOption, SplitOption, fold_of, reading_of

if TYPE_CHECKING:
    from ..cases.readers.files import CaseFiles
    from ..cases.splits import Fold


@report_errors()
def evaluate(
    *,
    data: Annotated[Path, typer.Option(help="Folder of labelled cases.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the figures.", show_default=False)],
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    split: SplitOption = None,
    fold: FoldOption = None,
    part: Annotated[
        str | None, typer.Option(help="Part of the split: test (if it has one, else validation), validation or train.")
    ] = None,
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

    chosen = fold_of(split, fold)
    if part is not None and chosen is None:
        raise ConfigError("--part needs the --split that it belongs to.")
    cases = choose(data, find_cases(data, reading_of(layout, labels_map)), chosen, part)
    check_folder(out)  # before hours of work
    segmenter = Segmenter(find_package(package), device)
    if segmenter.remark:
        say(segmenter.remark)
    evaluation = evaluate_cases(segmenter, cases, folder_name(data), flips=tta, say=say)
    write_evaluation(evaluation, out)
    if evaluation.summary:
        typer.echo(table(evaluation.summary))
    if evaluation.failed:
        say(f"{plural(len(evaluation.failed), 'case')} failed: {', '.join(evaluation.failed)}.")
        raise typer.Exit(FAILED)


def choose(folder: Path, cases: Sequence[CaseFiles], fold: Fold | None, part: str | None) -> list[CaseFiles]:
    """Return the cases of ``folder`` to evaluate: of a part of a split, otherwise the data set's own test cases or all.

    Says which. Raises :class:`ConfigError` for an unknown part, and :class:`DatasetError` for one without cases.
    """
    from ..cases.splits import PARTS
    from ..cases.store import full_name

    if fold is None:
        tests = [case for case in cases if case.part == "test"]
        if tests and len(tests) < len(cases):
            say(f"Evaluating the {plural(len(tests), 'test case')} of {folder_name(folder)}, not its training cases.")
        return tests or list(cases)
    if part is not None and part not in PARTS:
        raise ConfigError(f"There is no part {part!r}: choose {', '.join(PARTS)}.")
    parts = {case.name: fold.part(full_name(folder, case.name)) for case in cases}
    chosen = part or ("test" if "test" in parts.values() else "validation")
    new = [case.name for case in cases if parts[case.name] is None]
    if new:
        say(f"{plural(len(new), 'case')} not in {fold.title}, left out: {', '.join(new[:5])}.")
    kept = [case for case in cases if parts[case.name] == chosen]
    if not kept:
        raise DatasetError(f"{fold.title} has no {chosen} cases of {folder_name(folder)} in fold {fold.number}.")
    say(f"Evaluating the {plural(len(kept), f'{chosen} case')} of fold {fold.number} of {fold.title}.")
    return kept

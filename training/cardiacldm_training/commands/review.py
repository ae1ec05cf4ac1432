"""``cardiacldm review``: check the labels of a folder, report on its review, export reviewed cases for training."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.errors import MemoryShortage, explain
from CardiacLDMLib.review.verdicts import OPINIONS
from CardiacLDMLib.text import folder_name, plural

from ..errors import ConfigError
from .common import FAILED, DeviceOption, counted_progress, report_errors, say, tell

if TYPE_CHECKING:
    from CardiacLDMLib.review.report import Found
    from CardiacLDMLib.review.sources import ReviewCase
    from CardiacLDMLib.review.study import Study
    from CardiacLDMLib.review.verdicts import Opinion
    from CardiacLDMLib.segmentation.findings import Finding

app = typer.Typer(no_args_is_help=True, help="Check labels, report on their review, export what was accepted.")

FolderArgument = Annotated[
    str,  # not Path: an empty name would be the current folder
    typer.Argument(
        metavar="FOLDER",
        help="Results, pairs or training cases; or a CSV file with the columns case, image and labels.",
        show_default=False,
    ),
]
ScansOption = Annotated[
    Path | None,
    typer.Option("--scans", help="Folder of the scans that results were made from, if they lie elsewhere."),
]
ReviewOption = Annotated[
    Path | None, typer.Option("--review", help="Folder of the journals, if it is not the one in FOLDER.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes.")]


@app.command()
@report_errors()
def check(
    folder: FolderArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for findings.csv. Without it, FOLDER/review.")] = None,
    scans: ScansOption = None,
    review: ReviewOption = None,
    workers: WorkersOption = 1,
    with_package: Annotated[
        bool, typer.Option("--with-package", help="Segment the scans with the package, and flag where labels differ.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Check the labels of all cases, and list them with the worst first.

    Writes findings.csv, with the place of each finding. Findings flag labels for a reader; they do not reject them. A
    case that cannot be read does not stop the others; the last lines name it, and the exit code is 1.
    """
    from CardiacLDMLib.results.case_files import check_folder
    from CardiacLDMLib.review.publish import without_scan
    from CardiacLDMLib.review.report import findings_table, markdown_table, write_findings

    study = _open(folder, scans, review)
    check_folder(out or study.folder)  # before minutes of work
    unread = compare_all(study, device) if with_package else {}
    found = check_all(study, workers, unread)
    path = write_findings(found, out or study.folder)
    table = findings_table(found)
    if table.rows:
        for line in markdown_table(table).splitlines():
            tell(line)
    tell(f"{table.note} All findings: {path}.")
    for remark in without_scan(study):
        say(remark)
    _finish(found)


@app.command()
@report_errors()
def report(
    folder: FolderArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for the report. Without it, FOLDER/review/report.")] = None,
    scans: ScansOption = None,
    review: ReviewOption = None,
    pictures: Annotated[int, typer.Option(min=0, help="How many cases to show, the worst ones.")] = 20,
    unblind: Annotated[
        bool, typer.Option("--unblind", help="Show verdicts also where only one of several readers is done.")
    ] = False,
    workers: WorkersOption = 1,
) -> None:
    """Report on a review: outcomes, readers and their agreement, disagreements, findings, worst slices.

    Writes review.html (one page, with its pictures), review.md, verdicts.csv and findings.csv. It names cases and
    readers. A case that cannot be read does not stop the others; the last lines name it, and the exit code is 1.
    """
    from CardiacLDMLib.results.case_files import check_folder
    from CardiacLDMLib.review.publish import write_report
    from CardiacLDMLib.review.report import still_blinded

    from ..evaluation.agreement import agreement_table, agreements

    study = _open(folder, scans, review)
    target = out or study.folder / "report"
    check_folder(target)  # before minutes of work
    found = check_all(study, workers)
    agreement = agreement_table(agreements(study.verdicts))
    with counted_progress("Pictures", min(pictures, len(study.cases))) as update:
        page = write_report(
            study, found, f"Review of {folder_name(Path(folder))}", target,
            hidden=set() if unblind else still_blinded(study), more=[agreement], pictures=pictures,
            done=lambda number, total: update(number),
        )  # fmt: skip
    tell(f"Wrote {page}, and beside it review.md, verdicts.csv and findings.csv.")
    _finish(found)


@app.command()
@report_errors()
def export(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option(help="The new folder of training cases.", show_default=False)],
    verdict: Annotated[str, typer.Option(help="Which cases: accept, fix or reject.")] = "accept",
    scans: ScansOption = None,
    review: ReviewOption = None,
) -> None:
    """Write the cases with a verdict as a training folder, with their labels as corrected.

    Names and headers tell nothing about people. Cases on which readers disagree, and those whose files have changed
    since, are left out and named; the exit code is then 1.
    """
    from CardiacLDMLib.review.export import export as write_cases

    kind: Opinion | None = next((each for each in OPINIONS if each == verdict), None)
    if kind is None:
        raise ConfigError(f"--verdict is one of {', '.join(OPINIONS)}.")
    study = _open(folder, scans, review)
    with counted_progress("Cases", len(study.cases)) as update:
        exported = write_cases(study, kind, out, update)
    study.cache.save()
    for name, reason in exported.left_out.items():
        say(f"Left out: {name}: {reason}")
    tell(f"Exported {plural(len(exported.names), 'case')} to {out}.")
    if exported.left_out:
        raise typer.Exit(FAILED)


# --- looking at cases ----------------------------------------------------------------------------------------------


def _open(folder: str, scans: Path | None, review: Path | None) -> Study:
    from CardiacLDMLib.review.sources import open_source
    from CardiacLDMLib.review.study import Study

    if not folder:
        raise ConfigError("FOLDER is empty: name a folder or a table.")
    study = Study(open_source(Path(folder), scans, review))
    for note in study.notes:
        say(note)
    return study


def compare_all(study: Study, device: str) -> dict[str, str]:
    """Look at every case with a scan and compare its labels with the package's; return why some cannot be read.

    What was compared before, and labels that the package itself has made, are left out.
    """
    from CardiacLDMLib.packages.store import locate_package, open_package
    from CardiacLDMLib.review.checks import check as find
    from CardiacLDMLib.review.own import can_be_compared, name_of, own_labels
    from CardiacLDMLib.review.sources import read_both
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    package = open_package(locate_package())
    segmenter = functools.cache(lambda: Segmenter(package, device))
    waiting = [
        case for case in study.cases
        if can_be_compared(case, study.labels_of(case), name_of(package))
        and not study.is_compared(case, package.sha256)
    ]  # fmt: skip
    unreadable: dict[str, str] = {}
    with counted_progress("Cases with the package", len(waiting)) as update:
        for number, case in enumerate(waiting, start=1):
            try:
                labels, image = read_both(case, study.labels_of(case))
                own = own_labels(image, package, segmenter, study.folder) if image is not None else None
                study.keep_findings(case, find(labels, image, own=own), package.sha256)
            except Exception as error:
                unreadable[case.name] = explain(error).message
            study.cache.save()
            update(number)
    return unreadable


def check_all(study: Study, workers: int, unread: Mapping[str, str] | None = None) -> Found:
    """Look at every case that was not looked at before; the findings are kept with the review.

    ``unread``: cases that are known to be unreadable, with the reasons.
    """
    from CardiacLDMLib.review.report import collect

    from ..cases.workers import run_unordered

    unreadable = dict(unread or {})
    waiting = [case for case in study.cases if case.name not in unreadable and study.findings(case) is None]
    try:
        with counted_progress("Cases", len(waiting)) as update:
            jobs = run_unordered(
                look_at, [(case, study.labels_of(case)) for case in waiting], min(workers, max(len(waiting), 1))
            )
            for number, (index, result) in enumerate(jobs, start=1):
                case = waiting[index]
                if isinstance(result, str):
                    unreadable[case.name] = result
                else:
                    study.keep_findings(case, result)
                update(number)
                if number % 20 == 0:
                    study.cache.save()
    except BrokenProcessPool as error:
        raise MemoryShortage(
            "A process that looked at cases was killed, likely as memory ran out: use fewer --workers."
        ) from error
    finally:
        study.cache.save()
    return collect(study, dict(sorted(unreadable.items())))


def look_at(case: ReviewCase, labels: Path | None) -> list[Finding] | str:
    """Return the findings of a case with these labels, worst first; the reason if it cannot be read."""
    from CardiacLDMLib.review.checks import check as find
    from CardiacLDMLib.review.sources import read_both

    try:
        return find(*read_both(case, labels))
    except Exception as error:
        return explain(error).message


def _finish(found: Found) -> None:
    """Name the cases that cannot be read, and end with :data:`FAILED` if there are any."""
    if found.unreadable:
        total = len(found.unreadable) + len(found.findings)
        say(f"{len(found.unreadable)} of {plural(total, 'case')} cannot be checked:")
        for name, reason in found.unreadable.items():
            say(f"  {name}: {reason}")
        raise typer.Exit(FAILED)

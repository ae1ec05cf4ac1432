"""``cardiacldm segment``: label scans with a model package, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.errors import explain
from CardiacLDMLib.progress import Cancelled, Quality
from CardiacLDMLib.text import plural, rounded_volume

from .common import (
    FAILED,
    STOPPED,
    DeviceOption,
    SegmenterOption,
    job_progress,
    make_console,
    report_errors,
    say,
    stop_on_signal,
)

if TYPE_CHECKING:
    from rich.console import Console

    from CardiacLDMLib.image.cases import Case, Refused
    from CardiacLDMLib.image.dicom.stacks import Series
    from CardiacLDMLib.results.report import CaseReport
    from CardiacLDMLib.segmentation.segmenter import Segmenter


@report_errors()
def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="NIfTI, NRRD or MHA files, folders of DICOM slices, or folders of any of these.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; made if needed.", show_default=False)],
    package: SegmenterOption = None,
    device: DeviceOption = "auto",
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Average over mirrored windows: four times slower, no better with the shipped package."
        ),
    ] = False,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Coarser edges: a fifth less computation, slightly less accurate."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    series: Annotated[
        str | None, typer.Option("--series", help="DICOM series to segment, by its number or UID.", show_default=False)
    ] = None,
) -> None:
    """Label the heart's eight structures in CT scans. Research use, not a medical device.

    The files of a case are NAME.seg.nrrd (for 3D Slicer), NAME.labels.nii.gz (LA 1, LV 2, RA 3, RV 4, MYO 5, AO 6,
    PA 7, LAA 8), NAME.report.json (volumes, warnings, times) and NAME.png (three planes). A case that fails does not
    stop the others; the last lines name it, and the exit code is 1.
    """
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import check_folder
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    console = make_console()
    if fast and tta:
        raise typer.BadParameter("--fast and --tta exclude each other.")
    quality: Quality = "fast" if fast else "flips" if tta else "full"
    model = find_package(package)
    check_folder(out)  # before hours of work
    cases, failed = _sort_inputs(inputs, out, series=series, overwrite=overwrite, console=console)
    run = _Run(out, quality, console, len(cases), failed)
    if cases:
        segmenter = Segmenter(model, device)
        with stop_on_signal(console) as cancelled:
            run.segment_all(cases, segmenter, cancelled)
    run.finish()


# --- before the first case -----------------------------------------------------------------------------------------


def _sort_inputs(
    inputs: Sequence[Path], out: Path, *, series: str | None, overwrite: bool, console: Console
) -> tuple[list[Case], list[Refused]]:
    """Return the cases to segment, and those that cannot be, or have results already. Prints notes on DICOM series."""
    from CardiacLDMLib.image.cases import Refused, find_cases
    from CardiacLDMLib.results.case_files import existing_results

    ask = (lambda name, options: _ask(console, name, options)) if sys.stdin.isatty() and console.is_terminal else None
    cases: list[Case] = []
    refused: list[Refused] = []
    for case in find_cases(inputs, series, ask):
        existing = [] if overwrite else existing_results(out, case.name)
        if isinstance(case, Refused):
            refused.append(case)
        elif existing:
            verb = "exists" if len(existing) == 1 else "exist"
            reason = f"{', '.join(existing)} {verb} already: choose another folder or add --overwrite."
            refused.append(Refused(case.name, reason))
        else:
            for note in case.notes:
                console.print(f"{case.name}: {note}")
            cases.append(case)
    return cases, refused


def _ask(console: Console, name: str, options: Sequence[Series]) -> Series:
    """Let the user choose one of several DICOM series."""
    from rich.prompt import Prompt

    console.print(f"{name}: several series are likely:")
    for option in options:
        console.print(f"  {option.number}: {option.title}")
    numbers = [option.number for option in options]
    number = Prompt.ask("Which one shall be segmented?", choices=numbers, default=numbers[0], console=console)
    return options[numbers.index(number)]


# --- the cases, one after the other --------------------------------------------------------------------------------


@dataclass
class _Run:
    """One call: cases segmented one after the other. ``failed`` begins with the inputs that cannot be segmented."""

    out: Path
    quality: Quality
    console: Console
    total: int
    failed: list[Refused]
    done: int = 0
    stopped: bool = False

    def segment_all(self, cases: Sequence[Case], segmenter: Segmenter, cancelled: Callable[[], bool]) -> None:
        """Segment all cases; one that fails does not stop the others."""
        from CardiacLDMLib.image.cases import Refused

        for number, case in enumerate(cases, start=1):
            label = f"{case.name} ({number} of {self.total})" if self.total > 1 else case.name
            try:
                report = self._segment(case, segmenter, label, cancelled)
            except (Cancelled, KeyboardInterrupt):
                self.stopped = True
                return
            except Exception as error:  # one case must not stop the others
                self.failed.append(Refused(case.name, explain(error).message))
                self.console.print(f"{case.name}: failed: {self.failed[-1].reason}")
            else:
                self.done += 1
                _print_report(report)

    def _segment(self, case: Case, segmenter: Segmenter, label: str, cancelled: Callable[[], bool]) -> CaseReport:
        from CardiacLDMLib.segmentation.case import segment_case

        from ..results.case_picture import draw_case

        with job_progress(self.console, label) as progress:
            return segment_case(
                case, segmenter, self.out, quality=self.quality, progress=progress, cancelled=cancelled, draw=draw_case
            ).report

    def finish(self) -> None:
        """Print the last lines, and end with the exit code."""
        if self.failed:
            total = len(self.failed) + self.done
            say(f"{len(self.failed)} of {plural(total, 'case')} failed:" if self.done else "No case was segmented:")
            for case in self.failed:
                say(f"  {case.name}: {case.reason}")
        if self.stopped:
            say(f"Stopped. Cases done: {self.done}. No unfinished files are left.")
            raise typer.Exit(STOPPED)
        if self.failed:
            raise typer.Exit(FAILED)


def _print_report(report: CaseReport) -> None:
    """Print the result of a case in one line, and its warnings."""
    volumes = ", ".join(f"{name} {rounded_volume(volume):g}" for name, volume in report.volumes_ml.items())
    result = f"volumes in mL: {volumes}" if report.heart_found else "no heart found"
    typer.echo(f"{report.case}: done in {sum(report.seconds.values()):.0f} s on {report.device}, {result}")
    for warning in report.warnings:
        typer.echo(f"{report.case}: warning: {warning}")

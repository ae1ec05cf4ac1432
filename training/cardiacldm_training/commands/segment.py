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

from .common import FAILED, STOPPED, job_progress, make_console, report_errors, say, stop_when_asked

if TYPE_CHECKING:
    from rich.console import Console

    from CardiacLDMLib.image.cases import Case, Refused
    from CardiacLDMLib.image.dicom import Series
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
    package: Annotated[
        str | None, typer.Option("--package", help="Model package: a name or a folder. Without it, the one shipped.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Average over mirrored windows: some four times slower, no better with the shipped package."
        ),
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Coarser edges: a fifth less work with the shipped package, a little worse.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")] = False,
    series: Annotated[
        str | None, typer.Option("--series", help="DICOM series to take, by its number or UID.", show_default=False)
    ] = None,
) -> None:
    """Label the heart's eight structures in CT scans. Research use, not a medical device.

    Each case leaves NAME.seg.nrrd (for 3D Slicer), NAME.labels.nii.gz (LA 1, LV 2, RA 3, RV 4, MYO 5, AO 6, PA 7,
    LAA 8), NAME.report.json (volumes, warnings, times) and NAME.png (three planes). A case that fails does not stop
    the others; the last lines then name it, and the exit code is 1.
    """
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import check_folder
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    console = make_console()
    if fast and tta:
        raise typer.BadParameter("--fast and --tta exclude each other.")
    quality: Quality = "fast" if fast else "flips" if tta else "full"
    model = find_package(package)
    check_folder(out)  # before hours of work depend on it
    cases, refused = _cases(inputs, out, series=series, overwrite=overwrite, console=console)
    stopped = False
    done = 0
    if cases:
        segmenter = Segmenter(model, device)
        with stop_when_asked(console) as cancelled:
            run = _Run(segmenter, out, quality, console, cancelled, len(cases))
            done, failed, stopped = run.all(cases)
            refused += failed
    _finish(refused, done, stopped)


# --- before the first case -----------------------------------------------------------------------------------------


def _cases(
    inputs: Sequence[Path], out: Path, *, series: str | None, overwrite: bool, console: Console
) -> tuple[list[Case], list[Refused]]:
    """What there is to do, and what cannot be done, existing results included. Shows the choice of DICOM series."""
    from CardiacLDMLib.image.cases import Refused, find_cases
    from CardiacLDMLib.results.case_files import existing_results

    ask = (lambda name, options: _ask(console, name, options)) if sys.stdin.isatty() and console.is_terminal else None
    cases: list[Case] = []
    refused: list[Refused] = []
    for found in find_cases(inputs, series, ask):
        existing = [] if overwrite else existing_results(out, found.name)
        if isinstance(found, Refused):
            refused.append(found)
        elif existing:
            verb = "exists" if len(existing) == 1 else "exist"
            reason = f"{', '.join(existing)} {verb} already: choose another folder or add --overwrite."
            refused.append(Refused(found.name, reason))
        else:
            for note in found.notes:
                console.print(f"{found.name}: {note}")
            cases.append(found)
    return cases, refused


def _ask(console: Console, name: str, options: Sequence[Series]) -> Series:
    from rich.prompt import Prompt

    console.print(f"{name}: several series could be meant:")
    for option in options:
        console.print(f"  {option.number}: {option.title}")
    numbers = [option.number for option in options]
    chosen = Prompt.ask("Which one is to be segmented?", choices=numbers, default=numbers[0], console=console)
    return options[numbers.index(chosen)]


# --- the cases, one after the other --------------------------------------------------------------------------------


@dataclass
class _Run:
    segmenter: Segmenter
    out: Path
    quality: Quality
    console: Console
    cancelled: Callable[[], bool]
    total: int

    def all(self, cases: Sequence[Case]) -> tuple[int, list[Refused], bool]:
        """How many cases were done, those that failed, and whether the user stopped the run."""
        from CardiacLDMLib.image.cases import Refused
        from CardiacLDMLib.segmentation.case import segment_case

        from ..results.case_picture import draw_case

        done = 0
        failed: list[Refused] = []
        for number, case in enumerate(cases, start=1):
            label = f"{case.name} ({number} of {self.total})" if self.total > 1 else case.name
            try:
                with job_progress(self.console, label) as progress:
                    segmented = segment_case(
                        case,
                        self.segmenter,
                        self.out,
                        quality=self.quality,
                        progress=progress,
                        cancelled=self.cancelled,
                        draw=draw_case,
                    )
            except (Cancelled, KeyboardInterrupt):
                return done, failed, True
            except Exception as error:  # one case must not stop the others
                failed.append(Refused(case.name, explain(error).message))
                self.console.print(f"{case.name}: failed: {failed[-1].reason}")
            else:
                done += 1
                _tell(segmented.report)
        return done, failed, False


def _tell(report: CaseReport) -> None:
    """The result of a case in a line, and its warnings."""
    volumes = ", ".join(f"{name} {volume:.0f}" for name, volume in report.volumes_ml.items())
    what = f"volumes in mL: {volumes}" if report.heart_found else "no heart found"
    typer.echo(f"{report.case}: done in {sum(report.seconds.values()):.0f} s on {report.device}, {what}")
    for warning in report.warnings:
        typer.echo(f"{report.case}: warning: {warning}")


def _finish(refused: Sequence[Refused], done: int, stopped: bool) -> None:
    """The last lines, and the exit code."""
    if refused:
        say(f"{len(refused)} of {len(refused) + done} cases failed:" if done else "No case was segmented:")
        for case in refused:
            say(f"  {case.name}: {case.reason}")
    if stopped:
        say(f"Stopped. Cases done: {done}. No unfinished files are left.")
        raise typer.Exit(STOPPED)
    if refused:
        raise typer.Exit(FAILED)

"""``cardiacldm segment``: label scans with a model package, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from CardiacLDMLib.errors import explain
from CardiacLDMLib.progress import Cancelled, Quality
from CardiacLDMLib.text import plural, rounded_volume

from .common import (
    FAILED,
    STOPPED,
    DeviceOption,
    SegmenterOption,
    is_dialogue,
    job_progress,
    make_console,
    report_errors,
    say,
    stop_on_signal,
    tell,
)

if TYPE_CHECKING:
    from rich.console import Console

    from CardiacLDMLib.image.ahead import ReadAhead
    from CardiacLDMLib.image.cases import Case, Refused
    from CardiacLDMLib.image.dicom.stacks import Series
    from CardiacLDMLib.packages.store import ModelPackage
    from CardiacLDMLib.results.report import CaseReport
    from CardiacLDMLib.segmentation.segmenter import Segmenter


@report_errors()
def segment(
    inputs: Annotated[
        list[str],  # not Path: an empty name would be the current folder
        typer.Argument(
            metavar="INPUT...",
            help="NIfTI, NRRD or MHA files, folders of DICOM slices, or folders of any of these.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option("--out", help="Folder for the results; made if needed.", show_default=False)],
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
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out cases that have all their results, and do the others.")
    ] = False,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg", help="For DICOM scans also write NAME.seg.dcm, which names the patient as they do."
        ),
    ] = False,
    series: Annotated[
        str | None, typer.Option("--series", help="DICOM series to segment, by its number or UID.", show_default=False)
    ] = None,
) -> None:
    """Label the heart's eight structures in CT scans. Research use, not a medical device.

    The files of a case are NAME.seg.nrrd (for 3D Slicer), NAME.labels.nii.gz (LA 1, LV 2, RA 3, RV 4, MYO 5, AO 6,
    PA 7, LAA 8), NAME.report.json (volumes, warnings, times) and NAME.png (three planes); with --dicom-seg also
    NAME.seg.dcm, which an archive files with its scan. A case that fails does not stop the others; the last lines name
    it, and the exit code is 1.
    """
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import check_folder

    console = make_console()
    if fast and tta:
        raise typer.BadParameter("--fast and --tta exclude each other.")
    if overwrite and skip_existing:
        raise typer.BadParameter("--overwrite and --skip-existing exclude each other.")
    if not out:
        raise typer.BadParameter("--out is empty: name a folder.")
    quality: Quality = "fast" if fast else "flips" if tta else "full"
    model = find_package(package)
    folder = Path(out)
    check_folder(folder)  # before hours of work
    existing: Existing = "replace" if overwrite else "skip" if skip_existing else "refuse"
    sorted_inputs = _sort_inputs(inputs, folder, existing, series, dicom_seg, console)
    run = _Run(folder, quality, dicom_seg, console, sorted_inputs)
    if sorted_inputs.cases:
        _segment_all(run, model, device)
    run.finish()


def _segment_all(run: _Run, model: ModelPackage, device: str) -> None:
    """Load the networks and segment the cases. torch, which starts slowly, is imported beside reading the first one."""
    from CardiacLDMLib.image.ahead import ReadAhead

    with contextlib.closing(ReadAhead(run.inputs.cases)) as ahead:
        from CardiacLDMLib.segmentation.segmenter import Segmenter

        segmenter = Segmenter(model, device)
        with stop_on_signal(run.console) as cancelled:
            run.segment_all(segmenter, ahead, cancelled)


# --- before the first case -----------------------------------------------------------------------------------------


#: What happens to a case whose results are in the folder already.
Existing = Literal["refuse", "skip", "replace"]


@dataclass
class _Inputs:
    """The cases to segment, the inputs that cannot be segmented, and the number of cases that have results already."""

    cases: list[Case] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    skipped: int = 0


def _sort_inputs(
    inputs: Sequence[str], out: Path, existing: Existing, series: str | None, dicom_seg: bool, console: Console
) -> _Inputs:
    """Find the cases, and sort them by what will happen to them. Prints notes on DICOM series."""
    from CardiacLDMLib.image.cases import Refused, find_cases
    from CardiacLDMLib.results.case_files import is_complete

    ask = (lambda name, options: _ask(console, name, options)) if is_dialogue(console) else None
    found = _Inputs(refused=[Refused("(no name)", "An input has an empty name.") for name in inputs if not name])
    for case in find_cases([Path(name) for name in inputs if name], series, ask):
        if isinstance(case, Refused):
            found.refused.append(case)
            continue
        with_seg = dicom_seg and case.series is not None
        if existing == "skip" and is_complete(out, case.name, dicom_seg=with_seg):
            found.skipped += 1
        elif existing != "replace" and (names := _in_the_way(out, case.name, existing, with_seg)):
            found.refused.append(Refused(case.name, _already_there(names)))
        else:
            for note in case.notes:
                console.print(f"{case.name}: {note}")
            found.cases.append(case)
    return found


def _in_the_way(out: Path, name: str, existing: Existing, dicom_seg: bool) -> list[str]:
    """Return the files that keep a case from being segmented. When cases are skipped, unfinished results do not."""
    from CardiacLDMLib.results.case_files import existing_results, is_unfinished

    return [] if existing == "skip" and is_unfinished(out, name, dicom_seg=dicom_seg) else existing_results(out, name)


def _already_there(names: Sequence[str]) -> str:
    verb = "exists" if len(names) == 1 else "exist"
    return (
        f"{', '.join(names)} {verb} already: add --skip-existing to leave out such cases, --overwrite to replace them, "
        "or choose another folder."
    )


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
    """One call: cases segmented one after the other. ``inputs.refused`` grows by the cases that fail."""

    out: Path
    quality: Quality
    dicom_seg: bool
    console: Console
    inputs: _Inputs
    done: int = 0
    stopped: bool = False

    def segment_all(self, segmenter: Segmenter, ahead: ReadAhead, cancelled: Callable[[], bool]) -> None:
        """Segment all cases; one that fails does not stop the others."""
        from CardiacLDMLib.image.cases import Refused

        total = len(self.inputs.cases)
        for number, case in enumerate(self.inputs.cases, start=1):
            label = f"{case.name} ({number} of {total})" if total > 1 else case.name
            try:
                report = self._segment(case, segmenter, ahead, label, cancelled)
            except (Cancelled, KeyboardInterrupt):
                self.stopped = True
                return
            except Exception as error:  # one case must not stop the others
                refused = Refused(case.name, explain(error).message)
                self.inputs.refused.append(refused)
                self.console.print(f"{case.name}: failed: {refused.reason}")
            else:
                self.done += 1
                _print_report(report)

    def _segment(
        self, case: Case, segmenter: Segmenter, ahead: ReadAhead, label: str, cancelled: Callable[[], bool]
    ) -> CaseReport:
        from CardiacLDMLib.segmentation.case import segment_case

        from ..results.case_picture import draw_case
        from ..results.dicom_seg import write_dicom_seg

        write = partial(write_dicom_seg, case.series) if self.dicom_seg and case.series else None
        if self.dicom_seg and not case.series:
            self.console.print(f"{case.name}: the scan is not DICOM, so no DICOM SEG is written.")
        with job_progress(self.console, label) as progress:
            work = partial(
                segment_case, case, segmenter, self.out, quality=self.quality, progress=progress, cancelled=cancelled,
                draw=draw_case, write_dicom_seg=write, read=ahead.read,
            )  # fmt: skip
            try:
                return work().report
            except Exception as error:
                if explain(error).kind != "memory" or not ahead.stop():
                    raise
            return work().report  # without the next scan in memory

    def finish(self) -> None:
        """Print the last lines, and end with the exit code."""
        failed, skipped = self.inputs.refused, self.inputs.skipped
        if failed:
            total = len(failed) + self.done + skipped
            lead = f"{len(failed)} of {plural(total, 'case')} failed:"
            say(lead if self.done + skipped else "No case was segmented:")
            for case in failed:
                say(f"  {case.name}: {case.reason}")
        if skipped:
            say(f"Segmented {self.done}, skipped {skipped} whose results were there already.")
        if self.stopped:
            say(f"Stopped. Cases done: {self.done}. No unfinished files are left.")
            raise typer.Exit(STOPPED)
        if failed:
            raise typer.Exit(FAILED)


def _print_report(report: CaseReport) -> None:
    """Print the result of a case in one line, and its warnings."""
    volumes = ", ".join(f"{name} {rounded_volume(volume):g}" for name, volume in report.volumes_ml.items())
    result = f"volumes in mL: {volumes}" if report.heart_found else "no heart found"
    tell(f"{report.case}: done in {sum(report.seconds.values()):.0f} s on {report.device}, {result}")
    for warning in report.warnings:
        tell(f"{report.case}: warning: {warning}")

"""``cardiacldm segment``: label scans with a model package, one after the other."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from CardiacLDMLib.errors import explain
from CardiacLDMLib.progress import Cancelled, Progress, Quality
from CardiacLDMLib.text import plural, rounded_volume

from .common import (
    FAILED,
    STOPPED,
    DeviceOption,
    OnProgress,
    SegmenterOption,
    is_dialogue,
    job_progress,
    make_console,
    quick_imports,
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
    from CardiacLDMLib.segmentation.case import PredictedCase
    from CardiacLDMLib.segmentation.segmenter import Segmenter

_T = TypeVar("_T")


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
        with quick_imports():
            from CardiacLDMLib.segmentation.segmenter import Segmenter

        segmenter = Segmenter(model, device)
        with stop_on_signal(run.console) as cancelled:
            _Batch(run, segmenter, ahead, cancelled).segment_all()


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
    """One call. ``inputs.refused`` grows by the cases that fail."""

    out: Path
    quality: Quality
    dicom_seg: bool
    console: Console
    inputs: _Inputs
    done: int = 0
    stopped: bool = False

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


@dataclass
class _Job:
    """A case on its way. ``alone``: nothing is done beside it. ``show``: what shows its progress at this moment."""

    case: Case
    label: str
    alone: bool
    show: OnProgress = lambda step: None

    def report(self, step: Progress) -> None:
        self.show(step)


class _Batch:
    """Segments the cases of a run one after the other.

    While the networks work on a case, one thread finishes the case before (labels, picture, files) and another reads
    the next one, so that three scans are in memory. When that is too much, each case is done by itself.
    """

    def __init__(self, run: _Run, segmenter: Segmenter, ahead: ReadAhead, cancelled: Callable[[], bool]) -> None:
        self._run, self._segmenter, self._ahead, self._cancelled = run, segmenter, ahead, cancelled
        total = len(run.inputs.cases)
        self._waiting = deque(
            _Job(case, f"{case.name} ({number} of {total})" if total > 1 else case.name, alone=total == 1)
            for number, case in enumerate(run.inputs.cases, start=1)
        )
        self._finishing: tuple[_Job, Future[CaseReport]] | None = None

    def segment_all(self) -> None:
        """Segment all cases; one that fails does not stop the others."""
        from ..results.case_picture import load_matplotlib

        with ThreadPoolExecutor(1, thread_name_prefix="finish") as thread:
            thread.submit(load_matplotlib)
            try:
                while self._waiting:
                    self._segment_next(thread)
            except (Cancelled, KeyboardInterrupt):
                self._run.stopped = True
                with contextlib.suppress(Cancelled, KeyboardInterrupt):
                    self._conclude()  # its files are all there, or none

    def _segment_next(self, thread: ThreadPoolExecutor) -> None:
        """Predict the next case, wait for the end of the one before, and begin to finish this one."""
        job = self._waiting.popleft()
        predicted = self._attempt(job, partial(self._predict, job))
        self._conclude()
        if predicted is not None:
            self._finishing = job, thread.submit(self._finish, job, predicted)
            del predicted
            if not self._waiting or self._waiting[0].alone:
                self._conclude()

    def _attempt(self, job: _Job, work: Callable[[], _T]) -> _T | None:
        """Return what a part of a case gives. None if it fails, which is printed, or lacks memory and waits again."""
        from CardiacLDMLib.image.cases import Refused

        try:
            return work()
        except Cancelled:
            raise
        except Exception as error:  # one case must not stop the others
            explanation = explain(error)
        if explanation.kind == "memory" and not job.alone:
            self._ahead.stop()
            self._waiting.appendleft(job)
            for waiting in self._waiting:
                waiting.alone = True
            return None
        refused = Refused(job.case.name, explanation.message)
        self._run.inputs.refused.append(refused)
        self._run.console.print(f"{job.case.name}: failed: {refused.reason}")
        return None

    def _predict(self, job: _Job) -> PredictedCase:
        from CardiacLDMLib.segmentation.case import predict_case

        if self._run.dicom_seg and not job.case.series:
            self._run.console.print(f"{job.case.name}: the scan is not DICOM, so no DICOM SEG is written.")
        with job_progress(self._run.console, job.label) as job.show:
            return predict_case(
                job.case, self._segmenter, quality=self._run.quality, progress=job.report, cancelled=self._cancelled,
                read=self._ahead.read,
            )  # fmt: skip

    def _finish(self, job: _Job, predicted: PredictedCase) -> CaseReport:
        """Make the labels of a case and write its files, on a thread."""
        from CardiacLDMLib.segmentation.case import finish_case

        from ..results.case_picture import draw_case
        from ..results.dicom_seg import write_dicom_seg

        write = partial(write_dicom_seg, job.case.series) if self._run.dicom_seg and job.case.series else None
        return finish_case(predicted, self._segmenter, self._run.out, draw=draw_case, write_dicom_seg=write).report

    def _conclude(self) -> None:
        """Wait for the end of the case that is being finished, if there is one, and print its result."""
        if self._finishing is None:
            return
        (job, future), self._finishing = self._finishing, None
        console = self._run.console
        # On a terminal a bar shows the wait; elsewhere the lines of the stages go on.
        with job_progress(console, job.label) if console.is_terminal else contextlib.nullcontext(job.show) as job.show:
            report = self._attempt(job, future.result)
        if report is not None:
            self._run.done += 1
            _print_report(report)


def _print_report(report: CaseReport) -> None:
    """Print the result of a case in one line, and its warnings."""
    volumes = ", ".join(f"{name} {rounded_volume(volume):g}" for name, volume in report.volumes_ml.items())
    result = f"volumes in mL: {volumes}" if report.heart_found else "no heart found"
    tell(f"{report.case}: done in {sum(report.seconds.values()):.0f} s on {report.device}, {result}")
    for warning in report.warnings:
        tell(f"{report.case}: warning: {warning}")

"""Shared by the commands: exit codes, the one error handler, output, progress bars, and stopping on a signal."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from CardiacLDMLib.errors import explain
from CardiacLDMLib.progress import STAGES, Progress
from CardiacLDMLib.text import printable_line

if TYPE_CHECKING:
    from rich.console import Console

#: Exit codes: some of the work failed; the command could not start or go on, as for wrong options; the user stopped it.
FAILED, UNUSABLE, STOPPED = 1, 2, 130

#: Options that several commands have.
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SegmenterOption = Annotated[
    str | None, typer.Option("--package", help="Model package: a name or a folder. Without it, the one shipped.")
]

#: Called with each step of a job.
OnProgress = Callable[[Progress], None]


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """End the command with "Error: ..." on stderr and :data:`UNUSABLE` at an error that a user can act on.

    Decorates commands. Faults of the program keep their traceback.
    """
    try:
        yield
    except Exception as error:
        explanation = explain(error)
        if explanation.kind == "internal":
            raise
        fail(explanation.message, error)


def fail(sentence: str, cause: BaseException | None = None) -> NoReturn:
    """Write "Error: SENTENCE" to stderr and end with :data:`UNUSABLE`."""
    say(f"Error: {sentence}")
    raise typer.Exit(UNUSABLE) from cause


def report_failures(failed: Mapping[str, str]) -> None:
    """Name what failed and why, and end with :data:`FAILED` if anything did."""
    for name, reason in failed.items():
        say(f"Failed: {name}: {reason}")
    if failed:
        raise typer.Exit(FAILED)


def say(line: str) -> None:
    """Write a line to stderr, where results do not go."""
    _write(line, err=True)


def tell(line: str) -> None:
    """Write a line of results to stdout."""
    _write(line, err=False)


def _write(line: str, *, err: bool) -> None:
    """Write a line. If nobody reads it any more or the disk is full, go on without: the work goes into files."""
    try:
        typer.echo(printable_line(line), err=err)
    except OSError:
        _silence(2 if err else 1)


def _silence(file: int) -> None:
    """Let what is still written to the descriptor ``file`` vanish, also what Python flushes at the end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, file)
    os.close(nothing)


def prepare_streams() -> None:
    """Open the standard streams that a caller closed, and let none fail at a character that it cannot show.

    A file that is opened later would otherwise take the place of a closed stream, and receive what libraries print.
    """
    for name, file, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(file)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(file, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def make_console(*, stderr: bool = True) -> Console:
    """Return a console that prints text as it is: names from outside are never markup.

    It falls silent when its reader has ended, and does not end the command.
    """
    from rich.console import Console

    class QuietConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            _silence(2 if self.stderr else 1)

    return QuietConsole(stderr=stderr, markup=False, highlight=False, soft_wrap=stderr)


def is_dialogue(console: Console) -> bool:
    """Return whether somebody can answer a question: stdin and the console are a terminal."""
    return console.is_terminal and sys.stdin is not None and sys.stdin.isatty()


def let_threads_sleep() -> None:
    """Let idle threads of torch sleep instead of spinning. Call it before torch is first imported.

    With other processes on the same cores a training step then takes a third of the CPU time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Let large libraries be imported in the block without a search for garbage, of which they leave hardly any.

    Python would search all their objects several times; it never does so afterwards either. Saves an eighth of the time
    of torch.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


# --- progress ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def job_progress(console: Console, label: str) -> Iterator[OnProgress]:
    """Show the steps of one job as a bar, or on a console that is no terminal its stages as lines."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.is_terminal:
        yield stage_lines(label, console.print)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)

        def update(step: Any) -> None:
            total = None if step.stage == "read" else step.total  # how long reading takes is not known
            bar.update(task, description=f"{label}: {_stage(step)}", completed=step.step, total=total)

        yield update


def stage_lines(label: str, write: Callable[[str], None]) -> OnProgress:
    """Return a function that writes one line when a job enters a stage for the first time."""
    seen: set[str] = set()

    def update(step: Progress) -> None:
        if step.stage not in seen:
            seen.add(step.stage)
            write(f"{label}: {_stage(step)}")

    return update


def _stage(step: Progress) -> str:
    return STAGES.get(step.stage, step.stage)


@contextlib.contextmanager
def counted_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on stdout's terminal how many of ``total`` things are done; yield a function that takes the number."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:  # it would leave an empty line
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


# --- stopping ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stop_on_signal(console: Console) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM has arrived; the job calls it between steps.

    A second signal raises KeyboardInterrupt at once.
    """
    requested = False

    def stop(*_: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        console.print("Stopping after this step (press Ctrl-C again to stop at once) ...")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

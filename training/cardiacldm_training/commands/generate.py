"""``cardiacldm generate``: generate pairs of synthetic CT and labels with a generator package."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from CardiacLDMLib.progress import Cancelled
from CardiacLDMLib.text import duration_text, plural, size_text

from .common import (
    FAILED,
    STOPPED,
    DeviceOption,
    OnProgress,
    job_progress,
    let_threads_sleep,
    make_console,
    report_errors,
    say,
    stop_on_signal,
)
from .data_options import LayoutOption, MapOption, reading_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from rich.console import Console

    from CardiacLDMLib.generation.acceptance import Judge
    from CardiacLDMLib.generation.generator import Generator
    from CardiacLDMLib.generation.settings import Settings
    from CardiacLDMLib.packages.store import ModelPackage

    from ..cases.readers.layouts import Reading
    from ..evaluation.fidelity.cases import CaseSet
    from ..results.pair_files import Rates

#: Longer or larger runs need --yes.
LONG_SECONDS, LARGE_BYTES = 3600.0, 10e9

Result = TypeVar("Result")
#: Value of ``--segmenter`` with which no segmenter looks at the pairs.
NO_SEGMENTER = "none"


@report_errors()
def generate(
    *,
    package: Annotated[
        str | None, typer.Option(help="Generator package: a name or a folder. Without it, the one shipped.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=2**32, help="How many pairs, existing ones included.")],
    out: Annotated[Path, typer.Option(help="Folder for the pairs; an unfinished one is continued.")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same pairs.")] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="name=value, such as sex=female; may be repeated. The others are sampled."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the package's if not given.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance, 1: none; the package's if not given.")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="euler or heun, ddim or ddpm, as the package allows.")] = None,
    device: DeviceOption = "auto",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Check each pair and generate rejected ones again, or keep all.")
    ] = True,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="Segmenter package that checks the pairs, the one shipped if not given; none: no segmenter does."
        ),
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(help="The generator's training cases, to reject pairs that are copies of them; may be repeated."),
    ] = None,
    layout: LayoutOption = None,
    labels_map: MapOption = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where the prepared cases of --train go; TRAIN/.prepared if not given.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) per machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, which share the folder.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not stop if it takes over an hour or 10 GB.")] = False,
) -> None:
    """Generate synthetic pairs of cardiac CT (int16 HU) and labels. Research use, not a medical device.

    Each pair is a folder pair_NNNN with ct.nii.gz, labels.nii.gz (LA 1, LV 2, RA 3, RV 4, MYO 5, AO 6, PA 7, LAA 8),
    provenance.json and overview.png; contact_sheet.png shows them all. Repeat the command to continue a stopped run.
    Checks: plausible labels and image, agreement with a segmenter, no copy of --train cases. A rejected pair is
    generated again, up to ten times in all. acceptance.json counts the rejected pairs by reason.
    """
    let_threads_sleep()
    from CardiacLDMLib.errors import GeneratorError
    from CardiacLDMLib.generation.settings import check_settings
    from CardiacLDMLib.packages.store import DEFAULT_GENERATOR, find_package, require_kind

    console = make_console()
    model = find_package(package or DEFAULT_GENERATOR)
    require_kind(model, "generator")
    assert model.manifest.generator is not None  # the manifest of every generator has it
    settings = check_settings(model.manifest.generator, _parse_conditions(condition or ()), steps, guidance, solver)
    if not check and (segmenter or train):
        raise GeneratorError("With --no-check there is nothing for --segmenter or --train to do.")
    checker = find_package(segmenter) if check and segmenter != NO_SEGMENTER else None
    if checker:
        require_kind(checker, "segmenter")
    fabric = _launch(device, devices, nodes, console)
    with stop_on_signal(console) as cancelled:
        generator = _generator(model, fabric)
        known = _Known(train or [], reading_of(layout, labels_map), cache)
        judge = _make_judge(checker, generator, known, fabric, console) if check else None
        stop = _stop_with_parent(fabric, cancelled)
        code = _Run(generator, judge, seed, settings, count, out, fabric, console, stop).generate_all(yes)
    if code:
        raise typer.Exit(code)


def _parse_conditions(texts: Iterable[str]) -> dict[str, str | float]:
    """Parse name=value conditions. Raises :class:`GeneratorError` for other texts and repeated names."""
    from CardiacLDMLib.errors import GeneratorError

    conditions: dict[str, str | float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise GeneratorError(f"A condition is written as name=value, not {text!r}.")
        if name in conditions:
            raise GeneratorError(f"The condition {name} is given twice.")
        conditions[name] = value
    return conditions


def _launch(device: str, devices: int, nodes: int, console: Console) -> Fabric:
    """Start one process per device. Raises ``DeviceError`` for devices that cannot be used."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    from ..stages.devices import select

    chosen = select(device, devices)
    # The processes wait for each other only at the beginning and the end, which may be days apart.
    strategy = DDPStrategy(timeout=timedelta(days=365)) if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=chosen.accelerator, devices=chosen.devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    if chosen.remark and fabric.is_global_zero:
        console.print(chosen.remark)
    return fabric


def _generator(model: ModelPackage, fabric: Fabric) -> Generator:
    from CardiacLDMLib.generation.generator import Generator

    return Generator(model, str(fabric.device))


@dataclass(frozen=True)
class _Known:
    """The generator's training cases, whose copies are rejected; how to read them; where they are prepared."""

    folders: list[Path]
    reading: Reading
    cache: Path | None


def _make_judge(
    checker: ModelPackage | None, generator: Generator, known: _Known, fabric: Fabric, console: Console
) -> Judge:
    """Return the judge of pairs. Raises EvaluationError or DatasetError for unusable training cases."""
    from CardiacLDMLib.generation.acceptance import Judge
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    from ..evaluation.fidelity.cases import open_case_set
    from ..evaluation.fidelity.memorisation import MemorisationCheck, TrainingCases
    from ..evaluation.fidelity.solvers import generator_view

    segmenter = Segmenter(checker, str(fabric.device)) if checker else None
    if not known.folders:
        return Judge(segmenter)
    note: Callable[[str], None] = console.print if fabric.is_global_zero else lambda line: None
    view = generator_view(generator)

    def open_cases(say: Callable[[str], None]) -> CaseSet:
        return open_case_set(known.folders, view, known.cache, say, known.reading)

    _in_first(fabric, lambda: len(open_cases(note)))  # one process prepares the cases
    cases = open_cases(lambda line: None)
    note(f"Reading {len(cases)} training cases, to recognise copies of them.")
    return Judge(segmenter, further=[MemorisationCheck(TrainingCases(cases))])


def _stop_with_parent(fabric: Fabric, cancelled: Callable[[], bool]) -> Callable[[], bool]:
    """Return a function that returns whether to stop: on request, or because the parent process has ended."""
    if fabric.local_rank == 0:
        return cancelled
    parent = os.getppid()
    return lambda: cancelled() or os.getppid() != parent


def _in_first(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """Do ``work`` in the first process; return its result, or raise its error, in all processes."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if fabric.is_global_zero:
        try:
            outcome = (work(), None)
        except (ValueError, Cancelled) as error:
            outcome = (None, error)
    result, failure = fabric.broadcast(outcome)
    if failure is not None:
        raise failure
    return cast(Result, result)


# --- the pairs -----------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """The work of one process. The processes share the pairs; the first one manages the folder."""

    generator: Generator
    judge: Judge | None
    seed: int
    settings: Settings
    count: int
    out: Path
    fabric: Fabric
    console: Console
    cancelled: Callable[[], bool]

    def generate_all(self, yes: bool) -> int:
        """Generate the missing pairs; return the exit code."""
        from ..results.pair_files import acceptance_rates, finished_indices, hold_folder, shared_settings

        with contextlib.ExitStack() as stack:
            settings = shared_settings(self.generator.package, self.seed, self.settings, self.judge)
            self._first(lambda: stack.enter_context(hold_folder(self.out, settings)))
            done = self._first(lambda: finished_indices(self.out, self.count, self.console.print))
            try:
                done |= self._first(partial(self._try_one, done, yes))
                code = self._share(done)
            except Cancelled:
                code = STOPPED
            if code != STOPPED:  # if stopped, the other processes stop too: do not wait for them
                code = self._worst(code)
            if not code:
                code = self._first(self._summary)
            if self.fabric.is_global_zero:
                _print_summary(code, acceptance_rates(self.out, self.count), self.count, self.out)
        return code

    def _first(self, work: Callable[[], Result]) -> Result:
        return _in_first(self.fabric, work)

    def _worst(self, code: int) -> int:
        """Return the largest exit code of all processes."""
        import torch

        try:
            codes: Any = self.fabric.all_gather(torch.tensor(code))
        except RuntimeError:  # another process has ended
            return STOPPED
        return int(codes.max())

    def _try_one(self, done: set[int], yes: bool) -> set[int]:
        """Generate the first missing pair and estimate the effort of all. Raises as :func:`_check_effort` does."""
        missing = self.count - len(done)
        if not missing:
            return set()
        index = next(iter(self._missing(done)))
        seconds, size = self._draw(index, 1 + len(done))
        more = missing - 1
        seconds *= more / self.fabric.world_size
        _check_effort(self.out, more, seconds, size * more, yes)
        if more:
            self.console.print(f"{more} more: about {duration_text(seconds)} and {size_text(size * more)}.")
        return {index}

    def _missing(self, done: set[int]) -> Iterator[int]:
        return (index for index in range(self.count) if index not in done)

    def _share(self, done: set[int]) -> int:
        """Generate this process's share of the pairs; return its exit code."""
        from CardiacLDMLib.errors import UserError

        rank, world = self.fabric.global_rank, self.fabric.world_size
        try:
            for number, index in enumerate(islice(self._missing(done), rank, None, world)):
                self._draw(index, 1 + len(done) + rank + number * world)
        except UserError as error:
            say(f"Error: {error}")
            return FAILED
        except (Cancelled, KeyboardInterrupt):
            return STOPPED
        return 0

    def _draw(self, index: int, number: int) -> tuple[float, int]:
        """Generate and write one pair, or record that none was accepted; return seconds and bytes."""
        from CardiacLDMLib.errors import NoAcceptablePair
        from CardiacLDMLib.generation.acceptance import generate_accepted

        from ..results.pair_files import pair_folder, write_pair, write_rejection

        began = time.perf_counter()
        title, settings = f"{pair_folder(self.out, index).name} ({number} of {self.count})", self.settings
        with self._progress(title) as progress:
            try:
                pair = generate_accepted(
                    self.generator, self.judge, self.seed, index, settings.conditions, steps=settings.steps,
                    guidance=settings.guidance, solver=settings.solver, progress=progress, cancelled=self.cancelled,
                )  # fmt: skip
            except NoAcceptablePair as error:
                write_rejection(self.out, index, error.rejected)
                attempts = plural(len(error.rejected), "attempt")
                size, end = math.prod(self.generator.shape) * 3, f"not accepted in {attempts}"
            else:
                size = write_pair(pair, self.out)
                end = size_text(size)
        seconds = time.perf_counter() - began
        self.console.print(f"{title}: {seconds:.1f} s, {end}")
        return seconds, size

    def _progress(self, title: str) -> AbstractContextManager[OnProgress | None]:
        """Show a progress bar on a terminal, else nothing."""
        return job_progress(self.console, title) if self.console.is_terminal else contextlib.nullcontext()

    def _summary(self) -> int:
        """Write contact sheets and acceptance rates; return the exit code."""
        from ..results.pair_files import acceptance_rates, write_rates, write_sheets

        write_sheets(self.out, self.count)
        rates = acceptance_rates(self.out, self.count)
        if self.judge is not None:
            write_rates(self.out, rates)
        return FAILED if rates.never_accepted else 0


def _check_effort(out: Path, pairs: int, seconds: float, size: float, yes: bool) -> None:
    """Raise ``OutputError`` if the disk is too small, ``ConfigError`` if a long or large run lacks --yes."""
    from CardiacLDMLib.errors import OutputError

    from ..errors import ConfigError

    free = shutil.disk_usage(out).free
    takes = f"{pairs:,} more would take about {duration_text(seconds)} and {size_text(size)}"
    if size > free:
        raise OutputError(f"{takes}, but {out.name} has {size_text(free)} free: make room, or ask for fewer.")
    if not yes and (seconds > LONG_SECONDS or size > LARGE_BYTES):
        raise ConfigError(f"{takes}: repeat with --yes to continue, or ask for fewer.")


def _print_summary(code: int, rates: Rates, count: int, out: Path) -> None:
    if rates.rejected:
        rules = ", ".join(f"{rule} {number}" for rule, number in rates.rules.items())
        share = rates.rejected / rates.drawn
        typer.echo(f"Generated {rates.drawn}, rejected {rates.rejected} of them ({share:.0%}): {rules}.")
    if not code:
        typer.echo(f"{plural(count, 'pair')} in {out}. They are synthetic: they show no patient.")
        return
    stopped = "Stopped. " if code == STOPPED else ""
    more = "; repeat the command to continue" if rates.accepted + len(rates.never_accepted) < count else ""
    say(f"{stopped}{rates.accepted} of {plural(count, 'pair')} are complete{more}.")
    if rates.never_accepted:
        say(f"Never accepted: {', '.join(rates.never_accepted)}; another seed gives other pairs.")

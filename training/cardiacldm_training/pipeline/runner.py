"""Run the steps of a pipeline, each in a process of its own: what is done already is left out."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import output_errors, remove_folder
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import duration_text, plural

from ..errors import TrainingError
from .record import Hashes, PipelineRecord, StepRecord, inputs_digest, write_record
from .steps import Step

#: Exit code of a command of which a part failed: a pair that was never accepted, a case that cannot be measured.
_PARTLY_FAILED = 1


@dataclass(frozen=True)
class Done:
    """How a step ended: its seconds over all tries, and whether it had been done before."""

    seconds: float
    before: bool


class Stopped(Exception):  # noqa: N818 - no error: the user asked for it
    """The user stopped the pipeline."""


def run_steps(
    steps: Sequence[Step], record: PipelineRecord, out: Path, sources: Sequence[Path], *,
    expected: Mapping[str, float], say: Say, run: Callable[[Sequence[str]], int] | None = None,
) -> dict[str, Done]:  # fmt: skip
    """Do the steps that are missing, or whose command or files have changed; return how each ended, by name.

    ``sources``: scans, and files that say how to read them. ``expected``: seconds of each step. ``run``: runs a command
    and returns its exit code; the usual one starts a process. Raises :class:`TrainingError` for a step that fails,
    ``OutputError``, and :class:`Stopped`.
    """
    work = _Work(record, out, sources, expected, say, run or run_command)
    ended = dict[str, Done]()
    for number, step in enumerate(steps):
        work.title = f"[{number + 1}/{len(steps)}] {step.title}"
        ended[step.name] = work.do(step, steps[number:])
    return ended


class _Work:
    """The steps of one call."""

    def __init__(
        self, record: PipelineRecord, out: Path, sources: Sequence[Path], expected: Mapping[str, float], say: Say,
        run: Callable[[Sequence[str]], int],
    ) -> None:  # fmt: skip
        self._record, self._out, self._sources, self._expected = record, out, sources, expected
        self._say, self._run, self._hashes = say, run, Hashes(out)
        self._digest = self._hashes.of(sources) or ""
        self.title = ""

    def do(self, step: Step, left: Sequence[Step]) -> Done:
        """Do a step unless it is done; ``left``: this one and those that follow."""
        inputs = inputs_digest(step, self._record.steps, self._digest, self._out, self._sources)
        known = self._record.steps.get(step.name)
        if known and known.inputs == inputs and known.results == self._hashes.of(step.results) is not None:
            self._say(f"{self.title}: done before.")
            return Done(known.seconds, before=True)
        goes_on = known is not None and known.inputs == inputs and known.results is None
        if not goes_on:
            _remove(step.makes, self._say)
        spent = known.seconds if known and goes_on else 0.0
        self._note(step, StepRecord(inputs=inputs, seconds=spent))
        seconds = [self._expected.get(each.name, 0.0) for each in left]
        self._say(
            f"{self.title}: about {duration_text(seconds[0])}, with all that follows {duration_text(sum(seconds))}."
        )
        began = time.monotonic()
        try:
            self._start(step, goes_on)
        finally:
            spent = round(spent + time.monotonic() - began, 1)
            with contextlib.suppress(OutputError):  # the step's own error matters more
                self._note(step, StepRecord(inputs=inputs, seconds=spent))
        made = self._hashes.of(step.results)
        if made is None:
            raise TrainingError(f"The step '{step.title}' ended without its results: repeat the command with --resume.")
        self._note(step, StepRecord(inputs=inputs, results=made, seconds=spent))
        self._hashes.keep()
        return Done(spent, before=False)

    def _note(self, step: Step, entry: StepRecord) -> None:
        self._record = self._record.with_step(step.name, entry)
        write_record(self._record, self._out)

    def _start(self, step: Step, goes_on: bool) -> None:
        command = (*step.command, *step.pace, *(step.resume if goes_on else ()))
        code = self._run(command)
        if code == 0 or (code == _PARTLY_FAILED and step.end is not None and step.end.is_file()):
            if step.end is not None and not any(step.end.parent.glob(step.some)):
                raise TrainingError(f"The step '{step.title}' has made nothing that can be used. {step.advice}")
            return
        cause = "was killed, perhaps because memory ran out" if code == -signal.SIGKILL else "failed (see above)"
        raise TrainingError(
            f"The step '{step.title}' {cause}. Mend the cause and repeat the command with --resume; this step alone: "
            f"cardiacldm {subprocess.list2cmdline(command)}"
        )


def _remove(made: Sequence[Path], say: Say) -> None:
    """Remove what an earlier form of a step has made: it belongs to other scans or other settings."""
    for place in made:
        if place.is_dir():
            say(f"Scans or settings have changed: {place.name} is made anew.")
            with output_errors(place):
                remove_folder(place)


# --- the process ---------------------------------------------------------------------------------------------------


def run_command(command: Sequence[str]) -> int:
    """Run a command of ``cardiacldm`` in a process that ends with this one; return its exit code.

    On Ctrl-C and SIGTERM, which the process receives too, wait for its end and raise :class:`Stopped`.
    """
    process = subprocess.Popen([sys.executable, "-m", "cardiacldm_training.step", *command])
    stopped = False

    def pass_on(number: int, _frame: Any) -> None:
        nonlocal stopped
        stopped = True
        if number != signal.SIGINT:  # a terminal sends that to both
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stopped:
        raise Stopped
    return code


def describe_end(ended: Mapping[str, Done]) -> str:
    """Return a sentence on how many steps were done now, and how long they took."""
    now = [step.seconds for step in ended.values() if not step.before]
    return f"{plural(len(now), 'step')} done in {duration_text(sum(now))}, {len(ended) - len(now)} done before."

"""Run an experiment: the missing pre-trainings and runs, several at once, a process and a core each.

Runs start in the plan's order, one seed after the other, so that a first table is early. A run that fails does not stop
the others. A killed experiment goes on from the last checkpoints.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from CardiacLDMLib.errors import MemoryShortage, explain
from CardiacLDMLib.files import claim_folder
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ...cases.workers import executor
from ...errors import EvaluationError
from . import runs
from .plan import Plan
from .rows import Row, keep_plan, read_rows, row_path
from .runs import Experiment
from .sets import prepare_sets


@dataclass(frozen=True)
class Outcome:
    """What an experiment has so far: its rows, how many are missing, and ``failed``: the reason by run."""

    rows: list[Row]
    missing: int
    failed: dict[str, str]


@dataclass(frozen=True)
class _Job:
    """A pre-training or a run. It starts when the job named ``needs`` is done."""

    name: str
    work: Callable[..., str | Row | None]
    arguments: tuple[str | int, ...]
    needs: str | None = None


@dataclass
class _Progress:
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


def run_experiment(
    plan: Plan, out: Path, workers: int = 1, *, until: float = math.inf, arms: Collection[str] | None = None,
    say: Say = print,
) -> Outcome:  # fmt: skip
    """Make the missing rows of ``plan`` in ``out``, or of ``arms`` alone, until the time ``until`` (s since 1970).

    Raises :class:`EvaluationError` for an unknown arm or network and results of another plan; DatasetError,
    AnatomyError, and OutputError also when another experiment runs in ``out``.
    """
    chosen = _choose_arms(plan, arms)
    runs.check_network(plan)
    with claim_folder(out):
        return _run(plan, chosen, out, workers, until, say)


def _run(plan: Plan, chosen: Sequence[str], out: Path, workers: int, until: float, say: Say) -> Outcome:
    keep_plan(plan, out)
    jobs = _missing_jobs(plan, chosen, out)
    total = sum(len(protocol.arms) for protocol in plan.protocols.values()) * len(plan.seeds)
    failed: dict[str, str] = {}
    if jobs:
        say(f"{sum(job.work is runs.train_and_test for job in jobs)} of {plural(total, 'run')} to make.")
        names = set().union(*(plan.sets_of(plan.arms[arm]) for arm in chosen))
        experiment = Experiment(plan, prepare_sets(plan, names, out, workers, say), out, until)
        failed = _work(experiment, jobs, workers, say)
    rows = read_rows(plan, out)
    return Outcome(rows, total - len(rows), failed)


def _choose_arms(plan: Plan, arms: Collection[str] | None) -> list[str]:
    unknown = sorted(set(arms or ()) - set(plan.arms))
    if unknown:
        raise EvaluationError(f"The plan has no arm {unknown[0]!r}: choose {', '.join(plan.arms)}.")
    return [name for name in plan.arms if arms is None or name in arms]


def _missing_jobs(plan: Plan, arms: Sequence[str], out: Path) -> list[_Job]:
    """Return the jobs of rows that are not there, each after the pre-training that it needs."""
    jobs: dict[str, _Job] = {}
    for protocol_name, protocol in plan.protocols.items():
        for seed in plan.seeds:
            for arm in protocol.arms:
                if arm not in arms or row_path(out, protocol_name, arm, seed).is_file():
                    continue
                needs = None
                if (pretraining := plan.arms[arm].pretraining) is not None:
                    needs = f"{pretraining}, seed {seed}"
                    jobs.setdefault(needs, _Job(needs, runs.pretrain, (pretraining, seed)))
                name = f"{protocol_name}, {arm}, seed {seed}"
                jobs[name] = _Job(name, runs.train_and_test, (protocol_name, arm, seed), needs)
    return list(jobs.values())


def _work(experiment: Experiment, jobs: list[_Job], workers: int, say: Say) -> dict[str, str]:
    """Do the jobs in ``workers`` processes; return the reasons of those that failed, by name."""
    progress, waiting = _Progress(), list(jobs)
    with executor(workers) as processes:
        running: dict[Future[str | Row | None], _Job] = {}
        try:
            while waiting or running:
                while len(running) < workers and (job := _next_job(waiting, progress)):
                    if not experiment.is_over():
                        running[processes.submit(job.work, experiment, *job.arguments)] = job
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    _note(running.pop(future), future, progress, say)
        except BrokenProcessPool as error:
            raise MemoryShortage(
                "A worker was killed, perhaps because memory ran out: repeat the command with fewer workers."
            ) from error
        finally:
            processes.shutdown(wait=False, cancel_futures=True)
    return progress.failed


def _next_job(waiting: list[_Job], progress: _Progress) -> _Job | None:
    """Take the first job that can start from ``waiting``; those whose pre-training failed fail too."""
    for job in list(waiting):
        if job.needs in progress.failed:
            waiting.remove(job)
            progress.failed[job.name] = f"Its pre-training failed: {progress.failed[job.needs]}"
        elif job.needs is None or job.needs in progress.done:
            waiting.remove(job)
            return job
    return None


def _note(job: _Job, future: Future[str | Row | None], progress: _Progress, say: Say) -> None:
    """Report a job's end. A fault of the program is raised."""
    error = future.exception()
    if error is None:
        result = future.result()
        if result is None:
            say(f"{job.name}: stopped; the next call goes on from its checkpoint.")
            return
        progress.done.add(job.name)
        say(describe(result) if isinstance(result, Row) else f"{result}.")
        return
    explanation = explain(error)
    if explanation.kind == "internal":
        raise error
    progress.failed[job.name] = explanation.message
    say(f"{job.name} failed: {explanation.message}")


def describe(row: Row) -> str:
    """Return a line about a run: mean Dice on each test set, updates and CPU time."""
    dice = ", ".join(
        f"{name} {sum(case.mean('dice') for case in cases) / len(cases):.3f}" for name, cases in row.tests.items()
    )
    steps = plural(row.updates, "update")
    return f"{row.protocol}, {row.arm}, seed {row.seed}: Dice {dice} ({steps}, {row.core_seconds:.0f} core-seconds)."


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 2h45m, 90m or 30s. Raises :class:`EvaluationError`."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    if not match or not any(match.groups()):
        raise EvaluationError(f"{text!r} is no duration: write it like 2h45m, 90m or 30s.")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def deadline(duration: str | None) -> float:
    """Return the time (s since 1970) after a duration from now; without one, never. Raises EvaluationError."""
    return math.inf if duration is None else time.time() + parse_duration(duration)

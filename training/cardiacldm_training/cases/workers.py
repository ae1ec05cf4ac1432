"""Run jobs in several processes of one core each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
#: OpenBLAS threads wait for work in a busy loop, so that two workers of two threads each slow each other down.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


#: More processes than this hardly help one GPU, and each takes memory.
_MOST_WORKERS = 8


def usual_workers(devices: int = 1) -> int:
    """Return how many processes make examples for each of ``devices``: all cores of this process but one, shared."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        cores = os.cpu_count() or 1
    return min(max((cores - 1) // devices, 1), _MOST_WORKERS)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start ``workers`` processes of one thread each.

    They are spawned: a process forked while torch's threads run hangs at its first parallel loop.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # the libraries of a process read it when it starts
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker) as processes:
            yield processes
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _ThisProcess(Executor):
    """Does each job at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def executor(workers: int) -> Iterator[Executor]:
    """Yield an executor of ``workers`` processes of one thread each; for one worker, of this process."""
    if workers > 1:
        with pool(workers) as processes:
            yield processes
    else:
        with _one_thread():
            yield _ThisProcess()


def spread(job: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``job(item)`` of each item, in order, from ``workers`` processes; from this process for one worker.

    ``job`` must be picklable. Raises the exception of a job, or ``BrokenProcessPool`` if a process was killed.
    """
    if workers <= 1:
        with _one_thread():
            yield from map(job, items)
        return
    with pool(workers) as processes:
        yield from processes.map(job, items)


def run_unordered(
    job: Callable[..., Result], items: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, Result]]:
    """Yield ``(n, job(*items[n]))`` in the order in which jobs finish, from ``workers`` processes; one: from this one.

    ``job`` must be picklable. After an exception of a job no further job starts.
    """
    if workers <= 1:
        for n, item in enumerate(items):
            yield n, job(*item)
        return
    with pool(workers) as processes:
        futures = {processes.submit(job, *item): n for n, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            processes.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Prepare a new worker process."""
    _use_one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends. After a kill it would wait for jobs for ever, as it holds its pipe open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _use_one_thread() -> None:
    """Limit torch to one thread: threads of several workers compete for the cores."""
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread in this process, for the time of the context."""
    import torch

    before = torch.get_num_threads()
    _use_one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)

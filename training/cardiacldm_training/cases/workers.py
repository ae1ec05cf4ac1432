"""Work spread over processes, one core each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
#: OpenBLAS waits for work in a loop: with two threads each, two workers kept four busy, and each other waiting.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """``workers`` fresh processes of one thread each.

    Not forked: a process that is forked while torch's threads run hangs at its first parallel loop.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # read by the libraries of a process when it starts
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin) as processes:
            yield processes
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def spread(job: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """``job(item)`` of each item, in their order, by ``workers`` processes; by this one if there is but one worker.

    ``job`` must be picklable. Raises what a job raises, ``BrokenProcessPool`` when a process was killed.
    """
    if workers <= 1:
        with _one_thread():
            yield from map(job, items)
        return
    with pool(workers) as processes:
        yield from processes.map(job, items)


def _begin() -> None:
    _use_one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent leaves its workers waiting for ever: each holds an end of the pipe that its jobs come through."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _use_one_thread() -> None:
    """One core a worker: threads within workers only get in each other's way."""
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The same for a worker that is this process."""
    import torch

    before = torch.get_num_threads()
    _use_one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)

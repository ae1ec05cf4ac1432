"""One run of the segmenter: times, warnings, progress, cancellation, and the device in use."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ..progress import Cancelled, Progress, Quality

#: Windows that go through the network at once, by kind of device.
WINDOWS_PER_BATCH = {"cpu": 1, "cuda": 8}

#: Where each stage starts and ends on the progress bar, in percent: its usual share of the time.
_STAGES = {"prepare": (0, 2), "locate": (2, 12), "segment": (12, 80), "resample": (80, 94), "clean": (94, 100)}


@dataclass
class Run:
    """The state of one run. ``device`` and ``batch`` change when the GPU's memory is full."""

    device: str
    quality: Quality
    progress: Callable[[Progress], None] | None
    cancelled: Callable[[], bool] | None
    batch: int = field(init=False)
    warnings: list[str] = field(default_factory=list)
    promised: dict[str, float] = field(default_factory=dict)  # Dice by structure, of the last pass on the box
    seconds: dict[str, float] = field(default_factory=dict)
    network_seconds: float = 0.0
    _stage: str = "prepare"
    _percent: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.batch = WINDOWS_PER_BATCH[self.device.partition(":")[0]]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, or a further part of it, and report its start."""
        self._stage = name
        self.step(0.0)
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    @contextlib.contextmanager
    def in_network(self) -> Iterator[None]:
        """Add the time of the block to ``network_seconds``, on a GPU including the work that is still queued."""
        began = time.perf_counter()
        yield
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        self.network_seconds += time.perf_counter() - began

    def stop_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` if the caller wants to stop."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def step(self, share: float) -> None:
        """Report that ``share`` (0 to 1) of the stage is done. Raises :class:`Cancelled`."""
        self.stop_if_cancelled()
        start, end = _STAGES[self._stage]
        self._report(round(start + share * (end - start)))

    def finish(self) -> None:
        """Report the end, also of a run that stopped early without a heart."""
        self._report(100)

    def _report(self, percent: int) -> None:
        self._percent = max(self._percent, percent)  # a pass repeated on the CPU does not move the bar back
        if self.progress is not None:
            self.progress(Progress(self._percent, 100, self._stage, time.perf_counter() - self._began))

    @property
    def can_use_less_memory(self) -> bool:
        """Whether the run can go on with less GPU memory."""
        return self.batch > 1 or self.device != "cpu"

    def use_less_memory(self) -> None:
        """Halve the number of windows that go through the network at once; at one window, change to the CPU."""
        if self.batch == 1:
            self.use_cpu()
            return
        torch.cuda.empty_cache()
        self.batch //= 2
        self._warn_once("The GPU's memory was short: fewer windows at a time were used.")

    def use_cpu(self) -> None:
        """Continue on the CPU."""
        torch.cuda.empty_cache()
        self.device, self.batch = "cpu", WINDOWS_PER_BATCH["cpu"]
        self._warn_once("The GPU's memory was not enough: the CPU was used instead.")

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

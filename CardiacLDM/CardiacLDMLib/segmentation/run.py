"""One run of the segmenter: its clock, its warnings, its progress, and the device that it ends up on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..progress import Cancelled, Progress, Quality

if TYPE_CHECKING:
    pass


WINDOWS_PER_BATCH = {"cpu": 1, "cuda": 8}

#: From where to where each stage moves the progress bar, in percent: its usual share of the time.
_STAGES = {"prepare": (0, 2), "locate": (2, 12), "segment": (12, 80), "resample": (80, 94), "clean": (94, 100)}


@dataclass
class _Job:
    """One run: its clock, its warnings, and the device it ends up on."""

    device: str
    quality: Quality
    progress: Callable[[Progress], None] | None
    cancelled: Callable[[], bool] | None
    batch: int = field(init=False)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    network_seconds: float = 0.0
    _stage: str = "prepare"
    _percent: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.batch = WINDOWS_PER_BATCH[self.device.partition(":")[0]]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage = name
        self.step(0.0)
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    @contextlib.contextmanager
    def in_network(self) -> Iterator[None]:
        """Counts the time; on the GPU that is when its work is done, not when it is handed over."""
        began = time.perf_counter()
        yield
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        self.network_seconds += time.perf_counter() - began

    def stop_if_cancelled(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def step(self, share: float) -> None:
        """Report that this share (0..1) of the stage is done, unless the user wants to stop."""
        self.stop_if_cancelled()
        start, end = _STAGES[self._stage]
        self._report(round(start + share * (end - start)))

    def finish(self) -> None:
        """Report the end, also where there was no heart to segment."""
        self._report(100)

    def _report(self, percent: int) -> None:
        self._percent = max(self._percent, percent)  # a pass that is repeated on the CPU does not turn the bar back
        if self.progress is not None:
            self.progress(Progress(self._percent, 100, self._stage, time.perf_counter() - self._began))

    @property
    def can_give_way(self) -> bool:
        return self.batch > 1 or self.device != "cpu"

    def give_way(self) -> None:
        """Out of GPU memory: half as many windows at once, then the CPU."""
        if self.batch == 1:
            self.use_cpu()
            return
        torch.cuda.empty_cache()
        self.batch //= 2
        self._warn_once("The GPU's memory was short: fewer windows at a time were used.")

    def use_cpu(self) -> None:
        torch.cuda.empty_cache()
        self.device, self.batch = "cpu", WINDOWS_PER_BATCH["cpu"]
        self._warn_once("The GPU's memory was not enough: the CPU was used instead.")

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

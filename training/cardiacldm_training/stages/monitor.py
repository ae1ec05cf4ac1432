"""Show and record the progress of a training."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CardiacLDMLib.files import output_errors

from .config import TrainingConfig
from .state import Score, State

#: Folder of the TensorBoard events, within that of the network.
_EVENTS = "tensorboard"
#: Steps between two TensorBoard points; reading the loss more often would stall a GPU.
_SHOW_EVERY = 10
#: Seconds between two lines of progress without a terminal.
_LINE_EVERY_S = 30.0


def is_shown(step: int) -> bool:
    """Return whether the loss of this step becomes a TensorBoard point."""
    return step == 1 or step % _SHOW_EVERY == 0


class Monitor:
    """Show and record the progress of a training, on rank 0: a progress bar or lines, and TensorBoard."""

    def __init__(
        self, active: bool, folder: Path, config: TrainingConfig, state: State, *, title: str, measure: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.active = active
        self.config, self.title, self.measure, self.say, self.folder = config, title, measure, say, folder
        self.first_step = self.last_step = state.step
        self.loss = self.score = math.nan
        self.wait_s = 0.0
        self.bar: Any = None

    def __enter__(self) -> Monitor:
        self.started = self.mark = self.line_at = time.monotonic()
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self.thread_hook, threading.excepthook = threading.excepthook, self._note_error
            with output_errors(self.folder / _EVENTS):
                self.writer = SummaryWriter(str(self.folder / _EVENTS), purge_step=self.first_step + 1)
            if sys.stderr.isatty():
                self._show_bar()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.active:
            try:
                with contextlib.suppress(OSError) if kind else output_errors(self.folder / _EVENTS):
                    self.writer.close()
            finally:
                threading.excepthook = self.thread_hook

    def _note_error(self, args: threading.ExceptHookArgs) -> None:
        """Leave an error of the thread that writes events to its next call in this one, which raises it."""
        if not issubclass(args.exc_type, OSError):
            self.thread_hook(args)

    def _show_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn(f"loss {{task.fields[loss]:.3f}}  {self.measure} {{task.fields[score]:.3f}}"),
            console=Console(stderr=True),
        )  # fmt: skip
        self.task = self.bar.add_task(
            self.title, total=self.config.steps, completed=self.first_step, loss=math.nan, score=math.nan
        )
        self.bar.start()

    def count_wait(self) -> None:
        """Count the time since the last step as waiting for data."""
        self.wait_s += time.monotonic() - self.mark

    def record_step(self, loss: torch.Tensor, state: State, rate: float) -> None:
        """Record loss and learning rate of a step."""
        self.last_step = state.step
        if is_shown(state.step):
            self.loss = float(loss)
            if self.active:
                with output_errors(self.folder / _EVENTS):
                    self.writer.add_scalar("train/loss", self.loss, state.step)
                    self.writer.add_scalar("train/learning_rate", rate, state.step)
        if self.bar is not None:
            self.bar.update(self.task, completed=state.step, loss=self.loss, score=self.score)
        elif self.active and time.monotonic() - self.line_at > _LINE_EVERY_S:
            self.line_at = time.monotonic()
            self.say(self._progress_line())
        self.mark = time.monotonic()

    def _progress_line(self) -> str:
        steps, seconds = max(self.last_step - self.first_step, 1), time.monotonic() - self.started
        left = seconds / steps * (self.config.steps - self.last_step)
        score = "" if math.isnan(self.score) else f", {self.measure} {self.score:.3f}"
        return (
            f"{self.title}: step {self.last_step}/{self.config.steps}, loss {self.loss:.3f}{score}, "
            f"{seconds / steps:.2f} s/step ({self.wait_s / steps:.2f} s waiting for data), {left / 60:.0f} min left"
        )

    def record_validation(self, score: Score, panel: np.ndarray | None, state: State) -> None:
        """Record the result of a validation, with its picture."""
        seconds = time.monotonic() - self.mark
        self.score = score.value
        if self.active:
            with output_errors(self.folder / _EVENTS):
                self._write_validation(score, panel, state)
            parts = " ".join(f"{name} {value:.2f}" for name, value in score.parts.items())
            self.say(
                f"{self.title}: step {state.step}: validation {self.measure} {score.value:.3f} (best "
                f"{state.best:.3f} at step {state.best_step}); {parts}; {seconds:.0f} s"
            )
        self.mark = time.monotonic()

    def _write_validation(self, score: Score, panel: np.ndarray | None, state: State) -> None:
        self.writer.add_scalar(f"validation/{self.measure.lower()}", score.value, state.step)
        for name, value in score.parts.items():
            self.writer.add_scalar(f"validation/{name}", value, state.step)
        if panel is not None:
            self.writer.add_image("validation/panel", panel, state.step, dataformats="HWC")
        self.writer.flush()

"""The training loop of all stages: precision, devices, exact resume, early stopping, logging.

The stream of training examples has no state. Example ``n`` of a run depends on (seed, network, n) alone, and the
learning rate on the step alone. So a resumed run takes exactly the steps of an undisturbed one, whatever the number of
worker processes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from CardiacLDMLib.errors import MemoryShortage, explain, is_gpu_memory_error
from CardiacLDMLib.files import claim_folder, sweep
from CardiacLDMLib.text import plural

from ..errors import TrainingError
from .config import TrainingConfig
from .devices import is_finite_everywhere
from .monitor import Monitor, is_shown
from .run_folder import BEST, LAST, is_fixed, load_checkpoint, save_checkpoint, to_state
from .state import Score, State


class Stage(Protocol):
    """The interface of a stage: its stream of examples, its loss and its score. A stage has no state."""

    @property
    def measure(self) -> str:
        """The name of the score, such as "Dice"."""

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return training example ``n``, a function of ``n`` alone."""

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the scalar loss of a batch."""

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Score ``network`` (in evaluation mode) on the held-out cases; every rank returns the same."""

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 of what the network does."""


@dataclass(frozen=True)
class Slow:
    """Parameters, by name, that learn at ``rate`` times the learning rate, and not at all for ``frozen_steps``."""

    names: frozenset[str]
    rate: float = 1.0
    frozen_steps: int = 0

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate at a step."""
        return 0.0 if step < self.frozen_steps else self.rate


def _groups(network: torch.nn.Module, slow: Slow | None) -> list[dict[str, list[torch.nn.Parameter]]]:
    """Return the parameters in groups for the optimiser: usual ones, and slow ones if there are any."""
    parameters = dict(network.named_parameters())
    names = slow.names if slow else frozenset[str]()
    groups = [{"params": [p for name, p in parameters.items() if name not in names]}]
    return groups if slow is None else [*groups, {"params": [parameters[name] for name in sorted(names)]}]


class _Run:
    """A network in training: the content of its checkpoints, one step, one validation."""

    def __init__(
        self, fabric: Fabric, config: TrainingConfig, network: torch.nn.Module, stage: Stage, slow: Slow | None = None
    ) -> None:
        self.fabric, self.config, self.stage, self.state = fabric, config, stage, State()
        self.clock = time.process_time()
        self.network, self.slow = fabric.to_device(network), slow
        self.precision = fabric.strategy.precision
        self.scales_gradients = bool(self.precision.state_dict())  # in float16, whose range is small
        # One kernel for all parameters of a GPU. It would scale gradients itself, when it is too late to clip them.
        self.fused = True if fabric.device.type == "cuda" and not self.scales_gradients else None
        self.optimizer = torch.optim.AdamW(
            _groups(self.network, slow), lr=config.learning_rate, weight_decay=config.weight_decay, fused=self.fused
        )
        self.doubt = torch.zeros((), device=fabric.device)  # finite as long as all losses and gradients were
        self.average = AveragedModel(self.network)
        self.average.multi_avg_fn = lambda averages, values, _: torch._foreach_lerp_(
            averages, values, 1.0 - average_decay(self.state.step, config)
        )

    def wrap(self) -> None:
        """Let Fabric place network and optimiser. Call it after loading and before the first step."""
        self.module, self.wrapped = self.fabric.setup(self.network, self.optimizer)

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Take one optimiser step and return the loss."""
        self.network.train()
        rate = learning_rate(self.state.step, self.config)
        for number, group in enumerate(self.optimizer.param_groups):
            group["lr"] = rate if number == 0 or self.slow is None else rate * self.slow.factor(self.state.step)
        loss = self.stage.loss(self.module, batch)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.module, self.wrapped, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.doubt += loss.detach()
        if norm is not None and not self.scales_gradients:  # scaled gradients may overflow: that step is left out
            self.doubt += norm
        self.wrapped.step()
        self.wrapped.zero_grad()
        self.state.step += 1
        self.average.update_parameters(self.network)
        return loss.detach()

    def check_finite(self) -> None:
        """Raise :class:`TrainingError` on all ranks if one of them computed numbers that are not finite.

        Not after every step, because a GPU would stand still; but always before a checkpoint replaces a sound one.
        """
        if not is_finite_everywhere(self.fabric, self.doubt):
            raise TrainingError(f"The loss is not a number at step {self.state.step}: try a lower learning rate.")
        self.doubt.zero_()

    def validate(self, folder: Path) -> tuple[Score, np.ndarray | None]:
        """Score the averaged weights, save them if they are the best, and decide whether training is finished.

        Return the score, and on rank 0 a picture.
        """
        self.average.eval()
        with torch.inference_mode():
            score = self.stage.score(self.fabric, self.average)
            panel = self.stage.panel(self.fabric, self.average) if self.fabric.is_global_zero else None
        state = self.state
        state.curve.append((state.step, score.value))
        if score.value > state.best:
            state.best, state.best_step, state.bad_validations = score.value, state.step, 0
            self.save(folder / BEST)
        else:
            state.bad_validations += 1
        state.finished = self._is_finished()
        return score, panel

    def save(self, path: Path) -> None:
        now = time.process_time()
        self.state.core_seconds, self.clock = self.state.core_seconds + now - self.clock, now
        if self.fabric.is_global_zero:
            content = {
                "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "precision": self.precision.state_dict(),
                "state": asdict(self.state),
            }  # fmt: skip
            save_checkpoint(content, path)
        self.fabric.barrier()

    def load(self, path: Path) -> None:
        """Take up a training where the checkpoint ``path`` left it. Raises :class:`TrainingError`."""
        content = load_checkpoint(path)
        state = to_state(content, path)
        try:
            self._take_tensors(content)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if explain(error).kind == "memory":
                raise
            raise TrainingError(
                f"The checkpoint {path} is of another network or version: delete it to train this network again."
            ) from error
        self.state = state
        self.state.finished = self._is_finished()  # by today's number of steps, which may have grown

    def _take_tensors(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        for group in content["optimizer"]["param_groups"]:
            group["fused"] = self.fused  # it may have been another device's
        self.optimizer.load_state_dict(content["optimizer"])
        if self.scales_gradients and content.get("precision"):  # not if other devices computed in other 16 bits
            self.precision.load_state_dict(content["precision"])

    def _is_finished(self) -> bool:
        return self.state.step >= self.config.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether too many validations brought no better score."""
        return self.state.bad_validations >= self.config.patience


def describe(name: str, network: torch.nn.Module, config: TrainingConfig, train: int, held_out: int, items: str) -> str:
    """Return the line that announces a training: the network's size, numbers of cases and steps, content of a batch."""
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    return (
        f"{name}: {millions:.1f} M weights, {plural(train, 'training case')}, {held_out} to validate on, "
        f"{plural(config.steps, 'step')} of {config.batch} {items}."
    )


# --- functions of the step ------------------------------------------------------------------------------------


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 1 % at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    part = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(part, 1.0))))


def average_decay(step: int, config: TrainingConfig) -> float:
    """Return the decay of the averaged weights (EMA) at a step: lower at first, so that early validations count."""
    return min(config.ema_decay, (1 + step) / (10 + step))


def batch_indices(start: int, stop: int, batch: int, rank: int, world: int) -> Iterator[list[int]]:
    """Yield the numbers of the examples of each step from ``start`` to ``stop`` for one of ``world`` devices."""
    for step in range(start, stop):
        first = (step * world + rank) * batch
        yield list(range(first, first + batch))


# --- data ----------------------------------------------------------------------------------------------------------


class _Examples(Dataset):
    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __getitem__(self, n: int) -> dict[str, np.ndarray]:
        return self.stage.example(n)


def _loader(stage: Stage, indices: Iterable[list[int]], workers: int, pin: bool) -> DataLoader:
    return DataLoader(
        _Examples(stage), batch_sampler=indices, num_workers=workers, pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip


# --- the loop ------------------------------------------------------------------------------------------------------


def train_network(
    fabric: Fabric, config: TrainingConfig, network: torch.nn.Module, stage: Stage, folder: Path, *, title: str,
    resume: bool = False, workers: int = 0, slow: Slow | None = None, say: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
) -> State:  # fmt: skip
    """Train ``network`` for its steps, or until the score stops improving; return where training ended.

    Write ``best.ckpt``, ``last.ckpt`` and TensorBoard events to ``folder``. With ``resume`` continue from ``last.ckpt``
    if it exists; a finished run goes on if ``config`` has more steps, and its learning rate rises again. When ``stop``
    returns True after a step, training ends there with a checkpoint, to be resumed (on one device only: ranks would not
    agree). Raises :class:`TrainingError` when the loss is not a finite number, ``MemoryShortage``, and ``OutputError``
    also when another process trains into ``folder``.
    """
    with claim_folder(folder) if fabric.is_global_zero else contextlib.nullcontext():
        if fabric.is_global_zero:
            sweep(folder, older_than=0)
        fabric.barrier()
        run = _Run(fabric, config, network, stage, slow)
        return _train(run, folder, title=title, resume=resume, workers=workers, say=say, stop=stop)


def _train(
    run: _Run, folder: Path, *, title: str, resume: bool, workers: int, say: Callable[[str], None],
    stop: Callable[[], bool],
) -> State:  # fmt: skip
    fabric, config, stage = run.fabric, run.config, run.stage
    if resume and (folder / LAST).is_file():
        run.load(folder / LAST)
    if run.state.finished:
        why = f", then no better score in {plural(config.patience, 'validation')}" if run.stopped_early else ""
        steps = plural(run.state.step, "step")
        say(f"{title}: already trained ({steps}{why}; best {stage.measure} {run.state.best:.3f}).")
        return run.state
    run.wrap()
    indices = batch_indices(run.state.step, config.steps, config.batch, fabric.global_rank, fabric.world_size)
    loader = _loader(stage, indices, workers, pin=fabric.device.type == "cuda")
    monitor = Monitor(fabric.is_global_zero, folder, config, run.state, title=title, measure=stage.measure, say=say)
    with monitor, _explain_shortage(config.batch, folder):
        batches: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        for batch in batches:
            monitor.count_wait()
            loss = run.step(batch)
            validation, stopped = _due(run.state.step, config.validate_every, config.steps), stop()
            save = validation or stopped or _due(run.state.step, config.save_every, config.steps)
            if save or is_shown(run.state.step):
                run.check_finite()
            monitor.record_step(loss, run.state, learning_rate(run.state.step - 1, config))
            if validation:
                monitor.record_validation(*run.validate(folder), run.state)
            if save:
                run.save(folder / LAST)
            if run.state.finished or stopped:
                break
    return run.state


@contextlib.contextmanager
def _explain_shortage(batch: int, folder: Path) -> Iterator[None]:
    """Turn an error of full memory into a ``MemoryShortage`` that says what to try instead."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if str(error).startswith("DataLoader worker"):  # torch's words when one of them was killed
            raise TrainingError(
                "The system ended a process that makes examples, mostly for lack of memory: try fewer --workers."
            ) from error
        if explain(error).kind != "memory":
            raise
        on_gpu = is_gpu_memory_error(error)
        whose = "GPU's" if on_gpu else "computer's"
        if batch == 1:
            other = ", or --device cpu" if on_gpu else ""
            advice = f"even a batch of 1: try a smaller preset in another folder{other}"
        else:
            where = " and another folder" if is_fixed(folder.parent, folder.name) else ""
            advice = f"a batch of {batch}: try --batch {batch // 2}{where}"
        raise MemoryShortage(f"The {whose} memory is too small for {advice}.") from error


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last

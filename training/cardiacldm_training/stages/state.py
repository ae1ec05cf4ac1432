"""Where a training is, and the result of a validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """The result of a validation: early stopping uses ``value`` (larger is better), ``parts`` are logged."""

    value: float
    parts: dict[str, float]


@dataclass
class State:
    """The state of a training beside its tensors."""

    step: int = 0  # optimiser steps taken
    best: float = -math.inf
    best_step: int = 0
    bad_validations: int = 0
    finished: bool = False
    #: (step, score) of every validation.
    curve: list[tuple[int, float]] = field(default_factory=list)
    #: CPU time of this process up to the last checkpoint, without that of processes that load data.
    core_seconds: float = field(default=0.0, compare=False)

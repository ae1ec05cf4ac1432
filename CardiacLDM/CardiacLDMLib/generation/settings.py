"""A user's settings of generated pairs: conditions, steps, guidance and solver, checked against the package."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import GeneratorError
from ..packages.generator_spec import MAX_GUIDANCE, MAX_STEPS, SOLVERS, GeneratorSpec, Sampling, Solver
from ..text import printable

MAX_SEED = 2**32 - 1

Conditions = Mapping[str, str | float]


@dataclass(frozen=True)
class Settings:
    """The conditions of a pair, and the settings of its sampling."""

    conditions: dict[str, str | float]
    steps: int
    guidance: float
    solver: Solver

    def apply_to(self, sampling: Sampling) -> Sampling:
        """Return the package's ``sampling`` with these steps, guidance and solver."""
        return sampling.model_copy(update={"steps": self.steps, "guidance": self.guidance, "solver": self.solver})


def check_settings(
    spec: GeneratorSpec, conditions: Conditions | None = None, steps: int | None = None, guidance: float | None = None,
    solver: str | None = None,
) -> Settings:  # fmt: skip
    """Return the settings of one pair, with the package's own values for None and conditions in the package's order.

    A condition that is a number may come as text. Raises :class:`GeneratorError` for an unknown condition, value or
    solver, and for a number out of range.
    """
    own = spec.sampling
    steps = own.steps if steps is None else steps
    guidance = own.guidance if guidance is None else float(guidance)
    solver = solver or own.solver
    if not 1 <= steps <= MAX_STEPS:
        raise GeneratorError(f"The steps must be from 1 to {MAX_STEPS}, not {steps}.")
    if not 0 <= guidance <= MAX_GUIDANCE:
        raise GeneratorError(f"The guidance must be from 0 to {MAX_GUIDANCE:g}, not {guidance:g}.")
    if solver not in SOLVERS[own.schedule]:
        choice = " or ".join(SOLVERS[own.schedule])
        raise GeneratorError(f"The solver {printable(solver)!r} does not fit this package: choose {choice}.")
    checked = {name: _condition(spec, name, value) for name, value in (conditions or {}).items()}
    order = [*spec.choices, *spec.numbers]
    in_order = {name: checked[name] for name in order if name in checked}
    return Settings(in_order, steps, guidance, solver)


def _condition(spec: GeneratorSpec, name: str, value: str | float) -> str | float:
    choices, numbers = spec.user_choices, spec.user_numbers
    if name in spec.internal_conditions:
        raise GeneratorError(f"The pairs of this package do not follow the condition {name}: leave it out.")
    if name in choices:
        if value not in choices[name]:
            values = ", ".join(choices[name])
            raise GeneratorError(f"{name} cannot be {printable(str(value))!r}: this package knows {values}.")
        return value
    if name not in numbers:
        names = ", ".join([*choices, *numbers]) or "none"
        raise GeneratorError(f"There is no condition {printable(name)!r}: this package knows {names}.")
    low, high = numbers[name]
    number = math.nan
    with contextlib.suppress(ValueError):
        number = float(value)
    if not low <= number <= high:
        raise GeneratorError(f"{name} must be a number from {low:g} to {high:g}, not {printable(str(value))!r}.")
    return number


def scale_number(value: float, low: float, high: float) -> float:
    """Return a condition as the input of the network: -1 for ``low``, 1 for ``high``, the range of training."""
    return 2.0 * (value - low) / (high - low) - 1.0 if high > low else 0.0

"""How pairs are drawn: the conditions and the sampling that are asked for, checked against a package."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import GeneratorError
from ..packages.manifest import GeneratorSpec
from ..text import shown
from . import sampler

MAX_STEPS, MAX_GUIDANCE, MAX_SEED = 1000, 20.0, 2**32 - 1

Conditions = Mapping[str, str | float]


@dataclass(frozen=True)
class Settings:
    """How pairs are drawn, beside seed and number: the conditions asked for, and the sampling."""

    conditions: dict[str, str | float]
    steps: int
    guidance: float
    solver: str


def check_settings(
    spec: GeneratorSpec, conditions: Conditions | None = None, steps: int | None = None, guidance: float | None = None,
    solver: str | None = None,
) -> Settings:  # fmt: skip
    """What is asked for, as the package of ``spec`` knows it; what is None is the package's own.

    A number may come as text. Raises :class:`GeneratorError` for what the package does not know or cannot do.
    """
    steps = spec.steps if steps is None else steps
    guidance = spec.guidance if guidance is None else float(guidance)
    solver = solver or spec.solver
    if not 1 <= steps <= MAX_STEPS:
        raise GeneratorError(f"The steps must be from 1 to {MAX_STEPS}, not {steps}.")
    if not 0 <= guidance <= MAX_GUIDANCE:
        raise GeneratorError(f"The guidance must be from 0 to {MAX_GUIDANCE:g}, not {guidance:g}.")
    if solver not in sampler.SOLVERS[spec.schedule]:
        known = " or ".join(sampler.SOLVERS[spec.schedule])
        raise GeneratorError(f"The solver {shown(solver)!r} does not fit this package: choose {known}.")
    checked = {name: _condition(spec, name, value) for name, value in (conditions or {}).items()}
    order = [*spec.choices, *spec.numbers]
    return Settings({name: checked[name] for name in order if name in checked}, steps, guidance, solver)


def _condition(spec: GeneratorSpec, name: str, value: str | float) -> str | float:
    if name in spec.choices:
        if value not in spec.choices[name]:
            known = ", ".join(spec.choices[name])
            raise GeneratorError(f"{name} cannot be {shown(str(value))!r}: this package knows {known}.")
        return value
    if name not in spec.numbers:
        known = ", ".join([*spec.choices, *spec.numbers]) or "none"
        raise GeneratorError(f"There is no condition {shown(name)!r}: this package knows {known}.")
    low, high = spec.numbers[name]
    number = math.nan
    with contextlib.suppress(ValueError):
        number = float(value)
    if not low <= number <= high:
        raise GeneratorError(f"{name} must be a number from {low:g} to {high:g}, not {shown(str(value))!r}.")
    return number


def scaled(value: float, low: float, high: float) -> float:
    """A number condition as networks take it: -1 to 1 over the range trained on."""
    return 2.0 * (value - low) / (high - low) - 1.0 if high > low else 0.0

"""The record of a generator: its latents, its conditions, the sampling and the post-processing. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from ..postprocess.kinds import KINDS
from ..postprocess.steps import Step
from .fields import PLAIN, Record

Schedule = Literal["rectified_flow", "ddpm"]
Solver = Literal["euler", "heun", "ddim", "ddpm"]
#: The solvers of each schedule, the usual one first.
SOLVERS: dict[Schedule, tuple[Solver, ...]] = {"rectified_flow": ("euler", "heun"), "ddpm": ("ddim", "ddpm")}
MAX_STEPS, MAX_GUIDANCE = 1000, 20.0

Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[FiniteFloat, Field(ge=0, le=MAX_GUIDANCE)]
TimeShift = Annotated[FiniteFloat, Field(ge=1, le=100)]
RestartTime = Annotated[FiniteFloat, Field(gt=0, lt=1)]
Gain = Annotated[FiniteFloat, Field(gt=0, le=10)]
ConditionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
ConditionValue = Annotated[str, Field(min_length=1, max_length=60, pattern=PLAIN)]


class Restart(Record):
    """After the last step: add noise up to a time, and remove it in one step."""

    time: Annotated[RestartTime, Field(description="Time up to which noise is added, 1 being pure noise.")]
    gains: Annotated[
        tuple[Gain, ...],
        Field(max_length=64, description="Factor of each latent channel after the restart. Empty: none."),
    ] = ()


class Sampling(Record):
    """From noise to latents: the noise schedule, the solver and its usual settings."""

    schedule: Schedule
    solver: Solver
    steps: Steps = 20
    guidance: Annotated[Guidance, Field(description="1 uses the conditions as trained, without guidance.")] = 1.5
    time_shift: Annotated[
        TimeShift,
        Field(description="How far the times of rectified flow are moved towards noise; 1: evenly spaced."),
    ] = 1.0
    restarts: Annotated[tuple[Restart, ...], Field(max_length=16, description="In the order in which they run.")] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Sampling:
        if self.solver not in SOLVERS[self.schedule]:
            raise ValueError(f"the solver {self.solver} does not fit the schedule {self.schedule}")
        if self.schedule != "rectified_flow" and self.time_shift != 1:
            raise ValueError("a time_shift other than 1 needs the schedule rectified_flow")
        if self.schedule != "rectified_flow" and self.restarts:
            raise ValueError("restarts need the schedule rectified_flow")
        return self


class GeneratorSpec(Record):
    """The latents that a generator was trained on, its conditions, its sampling and its post-processing."""

    latent_shift: Annotated[
        tuple[FiniteFloat, ...],
        Field(min_length=1, max_length=64, description="Mean of each latent channel over the training set."),
    ]
    latent_scale: Annotated[
        tuple[Annotated[FiniteFloat, Field(gt=0)], ...],
        Field(min_length=1, max_length=64, description="Divisor of each latent channel in training."),
    ]
    choices: Annotated[
        dict[ConditionName, Annotated[list[ConditionValue], Field(min_length=1, max_length=64)]],
        Field(max_length=32, description="Conditions that are one of a list of values, in the network's order."),
    ]
    numbers: Annotated[
        dict[ConditionName, tuple[FiniteFloat, FiniteFloat]],
        Field(max_length=32, description="Conditions that are a number, with the range of training, in that order."),
    ]
    chances: Annotated[
        dict[ConditionName, list[Annotated[FiniteFloat, Field(ge=0)]]],
        Field(
            max_length=32,
            description="Frequency of each value of a choice in the training set. An unset condition is sampled from "
            "it; without an entry it stays unknown.",
        ),
    ] = Field(default_factory=dict)
    internal_conditions: Annotated[
        tuple[ConditionName, ...],
        Field(max_length=64, description="Conditions that users are not offered, since pairs do not follow them."),
    ] = ()
    sampling: Sampling
    postprocess: Annotated[
        tuple[Step, ...],
        Field(max_length=16, description="Steps after sampling: on latents, then on the image, then on HU and labels."),
    ] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> GeneratorSpec:
        self._check_channels()
        self._check_conditions()
        kinds = [next(n for n, kind in enumerate(KINDS) if isinstance(step, kind)) for step in self.postprocess]
        if kinds != sorted(kinds):
            raise ValueError("postprocess must list steps on latents first, then on the image, then on HU")
        return self

    def _check_channels(self) -> None:
        if len(self.latent_shift) != len(self.latent_scale):
            raise ValueError("latent_shift and latent_scale must be equally long")
        if any(restart.gains and len(restart.gains) != len(self.latent_scale) for restart in self.sampling.restarts):
            raise ValueError("the gains of a restart must have one number for each latent channel")

    def _check_conditions(self) -> None:
        if set(self.choices) & set(self.numbers):
            raise ValueError("a condition cannot be both a choice and a number")
        for name, values in self.choices.items():
            if len(set(values)) != len(values):
                raise ValueError(f"the condition {name} has a value twice")
        for name, chances in self.chances.items():
            if len(chances) != len(self.choices.get(name, ())) or sum(chances) <= 0:
                raise ValueError(f"the chances of {name} must be as many as its values, and not all 0")
        for name, (low, high) in self.numbers.items():
            if low > high:
                raise ValueError(f"the lower end of the condition {name} must not be above the upper end")
        for name in self.internal_conditions:
            if name not in self.choices and name not in self.numbers:
                raise ValueError(f"the condition {name} cannot be internal: there is none of this name")

    @property
    def user_choices(self) -> dict[str, list[str]]:
        """The choices that users may ask for."""
        return {name: values for name, values in self.choices.items() if name not in self.internal_conditions}

    @property
    def user_numbers(self) -> dict[str, tuple[float, float]]:
        """The numbers that users may ask for."""
        return {name: limits for name, limits in self.numbers.items() if name not in self.internal_conditions}

    def conditions(self) -> dict[str, str]:
        """Return each condition that users may ask for with its allowed values as text."""
        return {
            **{name: ", ".join(values) for name, values in self.user_choices.items()},
            **{name: f"{low:g} to {high:g}" for name, (low, high) in self.user_numbers.items()},
        }

"""The sampler against flows with known results: exactness, order, distribution, and independence of samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.schedulers import DDPMScheduler

from CardiacLDMLib.generation.sampler import (
    DDPM_STEPS,
    EVALUATIONS,
    guided,
    integrate,
    noise,
    signal_shares,
    step_generator,
    times,
)
from CardiacLDMLib.packages.generator_spec import SOLVERS, Restart, Sampling
from CardiacLDMLib.progress import Cancelled

PAIRS = [(schedule, solver) for schedule, solvers in SOLVERS.items() for solver in solvers]
#: The Gaussian that all solvers must reach.
MEAN, SD = 0.7, 0.4
numbers = st.integers(0, 2**32 - 1)


def start(samples: int = 2, shape: tuple[int, ...] = (4, 4, 4, 3), seed: int = 5) -> torch.Tensor:
    return torch.stack([noise(seed, index, 0, shape) for index in range(samples)]).double()


def generators(samples: int = 2) -> list[np.random.Generator]:
    return [step_generator(5, index, 0) for index in range(samples)]


def solve(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], z: torch.Tensor, *, solver: str, schedule: str,
    steps: int, shift: float = 1.0, restarts: Sequence[float] = (), gains: Sequence[Sequence[float]] = (),
    **others: Any,
) -> torch.Tensor:  # fmt: skip
    """:func:`integrate` with the fields of a Sampling as arguments."""
    records = [Restart(time=t, gains=own) for t, own in zip(restarts, gains or [()] * len(restarts), strict=True)]
    sampling = Sampling.model_validate(
        {"solver": solver, "schedule": schedule, "steps": steps, "time_shift": shift, "restarts": records}
    )
    return integrate(predict, z, sampling, **others)


def column(t: torch.Tensor) -> torch.Tensor:
    return t.double()[:, None, None, None, None]


def to_gaussian(schedule: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the exact prediction for independent voxels that are normal with MEAN and SD."""
    shares = torch.from_numpy(signal_shares())

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = column(t)
        rest = (z - (1 - t) * MEAN) / ((1 - t) ** 2 * SD**2 + t**2)
        return t * rest - (MEAN + (1 - t) * SD**2 * rest)

    def error(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = column(shares[(t * DDPM_STEPS).round().long()])
        return (1 - a).sqrt() * (z - a.sqrt() * MEAN) / (a * SD**2 + 1 - a)

    return velocity if schedule == "rectified_flow" else error


# --- noise ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(numbers, numbers, numbers)
def test_noise_is_a_function_of_its_numbers(seed: int, index: int, attempt: int) -> None:
    one = noise(seed, index, attempt, (2, 3))
    assert one.dtype == torch.float32
    assert torch.equal(one, noise(seed, index, attempt, (2, 3)))
    others = [(seed ^ 1, index, attempt), (seed, index ^ 1, attempt), (seed, index, attempt ^ 1)]
    assert not any(torch.equal(one, noise(*other, (2, 3))) for other in others)
    on_the_way = step_generator(seed, index, attempt).standard_normal((2, 3), np.float32)
    assert not np.array_equal(one.numpy(), on_the_way)


def test_noise_is_standard_normal() -> None:
    sample = noise(1, 2, 3, (100_000,))
    assert float(sample.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(sample.std()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("bad", [(-1, 0, 0), (0, 2**32, 0), (0, 0, -1)])
def test_numbers_beyond_the_seeding_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="4294967295"):
        noise(*bad, (2,))


# --- schedules -----------------------------------------------------------------------------------------------------


@given(st.integers(1, DDPM_STEPS), st.sampled_from(list(SOLVERS)))
def test_times_fall_evenly_from_noise_to_data(steps: int, schedule: str) -> None:
    grid = times(steps, schedule)  # type: ignore[arg-type]
    gaps = [before - after for before, after in itertools.pairwise(grid)]
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (1.0, 0.0)
    assert min(gaps) > 0
    assert max(gaps) - min(gaps) <= 0.0011


@given(st.integers(1, 200), st.floats(1.0, 100.0))
def test_shifted_times_still_fall_from_noise_to_data_in_longer_and_longer_steps(steps: int, shift: float) -> None:
    grid = times(steps, shift=shift)
    gaps = [before - after for before, after in itertools.pairwise(grid)]
    assert (grid[0], grid[-1]) == (1.0, 0.0)
    assert all(short <= long + 1e-12 for short, long in itertools.pairwise(gaps))
    # As if the noise were ``shift`` times as strong: the ratio of noise to data is.
    assert all(
        after / (1 - after) == pytest.approx(shift * t / (1 - t))
        for t, after in zip(times(steps)[1:], grid[1:], strict=True)
    )


@pytest.mark.parametrize(("steps", "schedule"), [(0, "rectified_flow"), (0, "ddpm"), (1001, "ddpm")])
def test_impossible_numbers_of_steps_are_refused(steps: int, schedule: str) -> None:
    with pytest.raises(ValueError, match="step"):
        times(steps, schedule)  # type: ignore[arg-type]


def test_the_ddpm_schedule_is_monais_scaled_linear_one() -> None:
    theirs = DDPMScheduler(DDPM_STEPS, schedule="scaled_linear_beta", beta_start=0.0015, beta_end=0.0195)
    assert np.abs(signal_shares()[1:] - theirs.alphas_cumprod.numpy()).max() < 1e-6
    assert signal_shares()[0] == 1.0


# --- solvers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize(("schedule", "solver"), PAIRS)
def test_a_single_data_point_is_reached_in_any_number_of_steps(schedule: str, solver: str, steps: int) -> None:
    """If all data are one point, the flow is straight and one step is exact."""
    point = start(1, seed=9)
    shares = torch.from_numpy(signal_shares())

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (z - point) / column(t).clamp_min(1e-12)

    def error(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = column(shares[(t * DDPM_STEPS).round().long()])
        return (z - a.sqrt() * point) / (1 - a).sqrt()

    def straight(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """At t = 0 the formula divides by zero; a straight flow keeps its velocity."""
        return velocity(z, t) if float(t[0]) > 0 else start() - point

    predict = error if schedule == "ddpm" else straight
    end = solve(
        predict, start(), solver=solver, schedule=schedule, steps=steps, generators=generators()  # type: ignore[arg-type]
    )  # fmt: skip
    assert float((end - point).abs().max()) < 1e-6


def test_heun_is_exact_where_the_velocity_is_linear_in_time_and_euler_is_not() -> None:
    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (2.0 + 6.0 * column(t)).expand_as(z)

    begin = start()
    ends = {s: solve(predict, begin, solver=s, schedule="rectified_flow", steps=4) for s in ("euler", "heun")}  # type: ignore[arg-type]
    assert torch.allclose(ends["heun"], begin - 5.0, rtol=0, atol=1e-12)
    assert float((ends["euler"] - begin + 5.0).abs().max()) == pytest.approx(6 / 8)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver: str, order: int) -> None:
    """dz/dt = 2z from 1 to 0 ends in z exp(-2); halving the step divides the error by 2 to the order."""
    begin = start()
    errors = [
        float((solve(lambda z, t: 2 * z, begin, solver=solver, schedule="rectified_flow", steps=steps)  # type: ignore[arg-type]
               - begin * np.exp(-2.0)).abs().max())
        for steps in (40, 80, 160)
    ]  # fmt: skip
    for coarse, fine in itertools.pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("schedule", "solver", "steps"),
    [("rectified_flow", "euler", 100), ("rectified_flow", "heun", 20), ("ddpm", "ddim", 400), ("ddpm", "ddpm", 1000)],
)
def test_every_solver_reaches_a_known_gaussian(schedule: str, solver: str, steps: int) -> None:
    begin = start(2, (4, 10, 10, 10))
    end = solve(
        to_gaussian(schedule), begin, solver=solver, schedule=schedule, steps=steps, generators=generators()  # type: ignore[arg-type]
    )  # fmt: skip
    assert float(end.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(end.std()) == pytest.approx(SD, rel=0.04)
    if solver != "ddpm":  # the others move every sample along a line of its own
        assert float((end - (MEAN + SD * begin)).abs().max()) < 0.12


@pytest.mark.parametrize(("schedule", "solver", "few"), [
    ("rectified_flow", "euler", 10), ("rectified_flow", "heun", 10), ("ddpm", "ddim", 100),
])  # fmt: skip
def test_more_steps_come_nearer_to_the_gaussian(schedule: str, solver: str, few: int) -> None:
    begin = start(1)
    errors = [
        float((solve(to_gaussian(schedule), begin, solver=solver, schedule=schedule, steps=steps)  # type: ignore[arg-type]
               - (MEAN + SD * begin)).abs().max())
        for steps in (few, 2 * few, 4 * few)
    ]  # fmt: skip
    assert errors[0] > 1.6 * errors[1] > 2.5 * errors[2]


@pytest.mark.parametrize(("schedule", "solver"), PAIRS)
def test_a_sample_does_not_depend_on_its_batch(schedule: str, solver: str) -> None:
    def run(z: torch.Tensor, own: list[np.random.Generator]) -> torch.Tensor:
        return solve(
            to_gaussian(schedule), z, solver=solver, schedule=schedule, steps=7, generators=own  # type: ignore[arg-type]
        )  # fmt: skip

    together = run(start(3), generators(3))
    for index in range(3):
        assert torch.equal(together[index], run(start(3)[index][None], [step_generator(5, index, 0)])[0])
    assert torch.equal(together, run(start(3), generators(3)))


@pytest.mark.parametrize(("schedule", "solver"), PAIRS)
def test_every_step_is_reported_with_the_estimated_data(schedule: str, solver: str) -> None:
    calls, reports = [], []

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(t.tolist())
        return to_gaussian(schedule)(z, t)

    end = solve(
        predict, start(), solver=solver, schedule=schedule, steps=5, generators=generators(),  # type: ignore[arg-type]
        on_step=lambda *step: reports.append(step),
    )  # fmt: skip
    assert len(calls) == 5 * EVALUATIONS[solver]  # type: ignore[index]
    assert calls[0] == [1.0, 1.0]
    assert [step[:2] for step in reports] == [(n, 5) for n in range(1, 6)]
    assert torch.equal(reports[-1][2], end)
    assert float((reports[0][2] - MEAN).abs().max()) < 0.1  # from pure noise the best guess is the mean


def restarted(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], z: torch.Tensor, restarts: tuple[float, ...],
    own: list[np.random.Generator], **others: object,
) -> torch.Tensor:  # fmt: skip
    return solve(
        predict, z, solver="euler", schedule="rectified_flow", steps=4, restarts=restarts, generators=own, **others  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_restart_gives_the_posterior_mean() -> None:
    """For a Gaussian, data move towards the mean by a known factor, and the noise cancels."""
    predict, t = to_gaussian("rectified_flow"), 0.6
    before, after = (restarted(predict, start(), times, generators()) for times in ((), (t,)))
    kept = (1 - t) ** 2 * SD**2 / ((1 - t) ** 2 * SD**2 + t**2)
    assert torch.allclose(after - MEAN, kept * (before - MEAN), atol=1e-6)


def test_gains_multiply_each_channel_after_its_restart() -> None:
    predict, times = to_gaussian("rectified_flow"), (0.7, 0.6)
    channels = start().shape[1]
    gains = [[1.0 + n + 0.1 * channel for channel in range(channels)] for n in range(2)]
    first = restarted(predict, start(), times[:1], generators(), gains=gains[:1])
    plain = restarted(predict, start(), times[:1], generators())
    assert torch.allclose(first, plain * torch.tensor(gains[0]).view(-1, 1, 1, 1))
    ones = restarted(predict, start(), times, generators(), gains=[[1.0] * channels] * 2)
    assert torch.equal(ones, restarted(predict, start(), times, generators()))
    both = restarted(predict, start(), times, generators(), gains=gains)
    assert not torch.allclose(both, ones)


def test_errors_that_depend_on_the_noise_are_averaged_out() -> None:
    """The network leaves a tenth of the noise in its estimate of the data."""
    data = start(seed=7)

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen = (z - (1 - column(t)) * data) / column(t)
        return (z - (data + 0.1 * seen)) / column(t)

    errors = [float((restarted(predict, start(), times, generators()) - data).std()) for times in ((), (0.5, 0.5))]
    assert errors[0] > 0.05
    assert errors[1] < 1e-2


def test_restarts_use_the_samples_own_noise_and_are_reported_as_steps() -> None:
    reports: list[tuple[int, int, torch.Tensor]] = []
    predict, times = to_gaussian("rectified_flow"), (0.7, 0.5)
    together = restarted(predict, start(3), times, generators(3), on_step=lambda *step: reports.append(step))
    for index in range(3):
        alone = restarted(predict, start(3)[index][None], times, [step_generator(5, index, 0)])
        assert torch.equal(together[index], alone[0])
    assert [step[:2] for step in reports] == [(n, 6) for n in range(1, 7)]
    assert torch.equal(reports[-1][2], together)


def test_an_exception_of_on_step_ends_the_sampling() -> None:
    def stop(step: int, total: int, data: torch.Tensor) -> None:
        if step == 2:
            raise Cancelled

    calls = []
    with pytest.raises(Cancelled):
        solve(
            lambda z, t: calls.append(1) or z, start(), solver="euler", schedule="rectified_flow", steps=9, on_step=stop  # type: ignore[func-returns-value]
        )  # fmt: skip
    assert len(calls) == 2


def test_shifted_steps_reach_the_gaussian_too() -> None:
    begin = start(1)
    end = solve(to_gaussian("rectified_flow"), begin, solver="heun", schedule="rectified_flow", steps=40, shift=3.0)
    assert float((end - (MEAN + SD * begin)).abs().max()) < 0.03


def test_the_initial_noise_is_not_changed() -> None:
    begin = start()
    kept = begin.clone()
    for schedule, solver in PAIRS:
        solve(to_gaussian(schedule), begin, solver=solver, schedule=schedule, steps=2, generators=generators())
        assert torch.equal(begin, kept)


def test_a_wrong_number_of_generators_is_refused() -> None:
    """Of the solver ddpm, and of restarts."""
    for own in ([], generators(1)):
        with pytest.raises(ValueError, match=f"{len(own)} generators for 2 samples"):
            solve(lambda z, t: z, start(), solver="ddpm", schedule="ddpm", steps=2, generators=own)
        with pytest.raises(ValueError, match=f"{len(own)} generators for 2 samples"):
            restarted(lambda z, t: z, start(), (0.5,), own)


# --- guidance ------------------------------------------------------------------------------------------------------


class Conditioned(torch.nn.Module):
    """Predict the sum of the conditions, with -10 for an unset one, and record the size of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, z: torch.Tensor, t: torch.Tensor, choices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(z))
        total = torch.where(choices < 0, -10, choices).sum(1) + values.nan_to_num(-10.0).sum(1)
        return torch.zeros_like(z) + column(total)


CHOICES, VALUES = torch.tensor([[3, -1], [1, 2]]), torch.tensor([[0.5], [float("nan")]])


@pytest.mark.parametrize(
    ("guidance", "batch", "expected"),
    [(1.0, 2, (-6.5, -7.0)), (0.0, 2, (-30.0, -30.0)), (2.0, 4, (17.0, 16.0)), (1.5, 4, (5.25, 4.5))],
)
def test_guidance_extrapolates_from_the_unconditional_prediction(
    guidance: float, batch: int, expected: tuple[float, float]
) -> None:
    network = Conditioned()
    out = guided(network, CHOICES, VALUES, guidance)(start(), torch.ones(2))
    assert network.batches == [batch]
    assert out[:, 0, 0, 0, 0].tolist() == pytest.approx(expected)


def test_guidance_without_conditions_needs_one_evaluation() -> None:
    network = Conditioned()
    out = guided(network, torch.full((2, 2), -1), torch.full((2, 1), torch.nan), 3.0)(start(), torch.ones(2))
    assert network.batches == [2]
    assert out[:, 0, 0, 0, 0].tolist() == [-30.0, -30.0]

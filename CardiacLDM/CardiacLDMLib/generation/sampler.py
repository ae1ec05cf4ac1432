"""Sample latents from noise: random streams, noise schedules, solvers, restarts and guidance as pure functions.

Time ``t`` runs from 1 (noise) to 0 (data). There are two schedules. In ``rectified_flow``, ``z_t = (1-t) z + t xi`` and
the network predicts the velocity ``xi - z`` (Liu et al. 2023). In ``ddpm``, ``z_t = sqrt(a_t) z + sqrt(1-a_t) xi`` and
the network predicts ``xi`` (Ho et al. 2020). No function has a state or a seed of its own, and the samples of a batch
do not influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..packages.generator_spec import Sampling, Schedule, Solver

if TYPE_CHECKING:
    import torch

    #: Network output (N, C, I, J, K) for noisy latents of that shape and their times (N,) in 0..1.
    Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    #: Standard normal noise of the shape of a batch of latents.
    Noise = Callable[[torch.Tensor], torch.Tensor]
    #: One step of a solver: (predict, z_t, t, t_next, noise) -> (z at t_next, the data as estimated at t).
    Step = Callable[[Predict, torch.Tensor, float, float, Noise], tuple[torch.Tensor, torch.Tensor]]
    #: Called after each step with its number from 1, the number of steps, and the data as estimated by then, a tensor
    #: like the latents (after the last step: the result). An exception ends the sampling.
    OnStep = Callable[[int, int, torch.Tensor], None]

#: Evaluations of the network in one step of each solver, and in one restart.
EVALUATIONS: dict[Solver, int] = {"euler": 1, "heun": 2, "ddim": 1, "ddpm": 1}
RESTART_EVALUATIONS = 2

#: Time steps of the ddpm schedule, and its first and last beta (latent diffusion's; scaled linear between them).
DDPM_STEPS = 1000
_BETAS = (0.0015, 0.0195)
#: Seeds take words of 32 bits.
_SEED_LIMIT = 2**32


# --- random streams ------------------------------------------------------------------------------------------------


def noise(seed: int, index: int, attempt: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the standard normal noise, float32 on the CPU, that a sample starts from.

    It depends on the arguments alone, not on batch, process or device. Raises ValueError for numbers outside
    0 to 2**32 - 1.
    """
    import torch

    return torch.from_numpy(_generator(seed, index, attempt, purpose=0).standard_normal(tuple(shape), np.float32))


def step_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """Return the random stream of the noise that the solver ``ddpm`` and restarts add."""
    return _generator(seed, index, attempt, purpose=1)


def postprocess_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """Return the random stream of post-processing steps."""
    return _generator(seed, index, attempt, purpose=2)


def condition_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """Return the random stream from which unset conditions are sampled."""
    return _generator(seed, index, attempt, purpose=3)


def decoder_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """Return the random stream of the noise that a fine decoder makes detail from."""
    return _generator(seed, index, attempt, purpose=4)


def _generator(seed: int, index: int, attempt: int, purpose: int) -> np.random.Generator:
    numbers = [seed, index, attempt]
    if not all(0 <= number < _SEED_LIMIT for number in numbers):
        raise ValueError(f"The seed and the number of a pair must be from 0 to {_SEED_LIMIT - 1}.")
    return np.random.default_rng(np.random.SeedSequence(numbers, spawn_key=(purpose,)))


def noise_source(generators: Sequence[np.random.Generator]) -> Noise:
    """Return a function that samples noise for a batch, one generator for each sample.

    The function raises ValueError for a batch with another number of samples.
    """

    def draw(like: torch.Tensor) -> torch.Tensor:
        if len(generators) != len(like):
            raise ValueError(f"There are {len(generators)} generators for {len(like)} samples.")
        return like.new_tensor(np.stack([own.standard_normal(like.shape[1:], np.float32) for own in generators]))

    return draw


# --- schedules -----------------------------------------------------------------------------------------------------


def times(steps: int, schedule: Schedule = "rectified_flow", shift: float = 1.0) -> list[float]:
    """Return the ``steps + 1`` times of a sampling, from 1 down to 0.

    Raises ValueError for fewer than one step, or more than the schedule has.
    """
    if steps < 1:
        raise ValueError("Sampling needs at least one step.")
    return SCHEDULE_TIMES[schedule](steps, shift)


def rectified_flow_times(steps: int, shift: float) -> list[float]:
    """Return evenly spaced times, moved towards noise by ``shift`` (see :func:`shift_time`)."""
    return [shift_time(1.0 - step / steps, shift) for step in range(steps + 1)]


def ddpm_times(steps: int, shift: float) -> list[float]:
    """Return evenly spaced times rounded to whole thousandths; ``shift`` has no effect."""
    if steps > DDPM_STEPS:
        raise ValueError(f"The schedule ddpm has no more than {DDPM_STEPS} steps.")
    return [round(DDPM_STEPS * (1.0 - step / steps)) / DDPM_STEPS for step in range(steps + 1)]


#: The times of each schedule: (steps, shift) -> times.
SCHEDULE_TIMES: dict[Schedule, Callable[[int, float], list[float]]] = {
    "rectified_flow": rectified_flow_times,
    "ddpm": ddpm_times,
}


def shift_time(t: float, shift: float) -> float:
    """Return a time in 0..1 moved towards noise, as if noise were ``shift`` times as strong.

    Neighbouring latents are correlated, so that large shapes are decided under strong noise already (Esser et al. 2024,
    equation 23).
    """
    return shift * t / (1.0 + (shift - 1.0) * t)


def signal_shares() -> np.ndarray:
    """Return ``a_t`` of the ddpm schedule, the data's share of the variance of ``z_t``, at t = n / 1000, (1001,)."""
    betas = np.linspace(_BETAS[0] ** 0.5, _BETAS[1] ** 0.5, DDPM_STEPS) ** 2
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)])


# --- solvers -------------------------------------------------------------------------------------------------------


def integrate(
    predict: Predict, z: torch.Tensor, sampling: Sampling, *, generators: Sequence[np.random.Generator] = (),
    on_step: OnStep | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return data (N, C, I, J, K) sampled from the noise ``z`` of that shape: the solver's steps, then the restarts.

    ``generators``: one for each sample, from :func:`step_generator`. Only the solver ``ddpm`` and restarts use them.
    Raises ValueError if there are fewer generators than samples, and for an impossible number of steps.
    """
    step, draw = SOLVER_STEPS[sampling.solver], noise_source(generators)
    total = sampling.steps + len(sampling.restarts)
    grid = times(sampling.steps, sampling.schedule, sampling.time_shift)
    for number, (t, t_next) in enumerate(pairwise(grid), start=1):
        z, data = step(predict, z, t, t_next, draw)
        if on_step is not None:
            on_step(number, total, z if number == sampling.steps else data)
    for number, again in enumerate(sampling.restarts, start=sampling.steps + 1):
        z = restart(predict, z, again.time, draw(z), again.gains)
        if on_step is not None:
            on_step(number, total, z)
    return z


def euler(
    predict: Predict, z: torch.Tensor, t: float, t_next: float, noise: Noise
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a step of first order along the velocity of rectified flow."""
    velocity = _at(predict, z, t)
    return z + (t_next - t) * velocity, z - t * velocity


def heun(predict: Predict, z: torch.Tensor, t: float, t_next: float, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a step of second order, along the mean of the velocities at both ends of Euler's step."""
    first = _at(predict, z, t)
    second = _at(predict, z + (t_next - t) * first, t_next)
    return z + (t_next - t) * 0.5 * (first + second), z - t * first


def ddim(predict: Predict, z: torch.Tensor, t: float, t_next: float, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a deterministic step of the ddpm schedule, of any length (Song et al. 2021, equation 12)."""
    b = _signal_share(t_next)
    data, error = _data_and_error(predict, z, t)
    return b**0.5 * data + (1 - b) ** 0.5 * error, data


def ddpm(predict: Predict, z: torch.Tensor, t: float, t_next: float, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a random step of the ddpm schedule, of any length (Song et al. 2021, equation 12)."""
    a, b = _signal_share(t), _signal_share(t_next)
    data, error = _data_and_error(predict, z, t)
    variance = (1 - b) / (1 - a) * (1 - a / b)
    return b**0.5 * data + max(1 - b - variance, 0.0) ** 0.5 * error + variance**0.5 * noise(z), data


SOLVER_STEPS: dict[Solver, Step] = {"euler": euler, "heun": heun, "ddim": ddim, "ddpm": ddpm}


def restart(
    predict: Predict, data: torch.Tensor, t: float, noise: torch.Tensor, gains: Sequence[float] = ()
) -> torch.Tensor:  # fmt: skip
    """Return ``data`` (N, C, I, J, K) after adding ``noise`` of that shape up to ``t`` and removing it in one step.

    This is done with the noise and with its negative; the mean of both averages out errors of the network. A posterior
    mean has less variance than data, above all in channels of fine detail: ``gains`` (C,) restore it, none if empty.
    (Xu et al. 2023, "Restart Sampling", go back in many steps.)
    """
    estimates = []
    for sign in (1.0, -1.0):
        z = (1 - t) * data + t * sign * noise
        estimates.append(z - t * _at(predict, z, t))
    mean = (estimates[0] + estimates[1]) / 2
    return mean * mean.new_tensor(gains).view(-1, 1, 1, 1) if len(gains) else mean


def _data_and_error(predict: Predict, z: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the data and the noise in ``z`` as the network of the ddpm schedule estimates them."""
    a = _signal_share(t)
    error = _at(predict, z, t)
    return (z - (1 - a) ** 0.5 * error) / a**0.5, error


def _signal_share(t: float) -> float:
    return _cached_shares()[round(DDPM_STEPS * t)]


@cache
def _cached_shares() -> tuple[float, ...]:
    return tuple(signal_shares().tolist())


def _at(predict: Predict, z: torch.Tensor, t: float) -> torch.Tensor:
    return predict(z, z.new_full((len(z),), t))


# --- guidance ------------------------------------------------------------------------------------------------------


def guided(network: torch.nn.Module, choices: torch.Tensor, numbers: torch.Tensor, guidance: float) -> Predict:
    """Return the prediction of a denoiser with classifier-free guidance (Ho and Salimans 2022).

    ``choices`` (N, A) int64, -1 for unset; ``numbers`` (N, B) float, NaN for unset. A ``guidance`` of 1 uses the
    conditions as trained, a larger one exaggerates them at twice the cost, 0 ignores them. It has no effect when no
    condition is set.
    """
    import torch

    unset = torch.full_like(choices, -1), torch.full_like(numbers, torch.nan)
    if guidance == 0:
        choices, numbers = unset
    if guidance in (0, 1) or bool((choices < 0).all() and numbers.isnan().all()):
        return lambda z, t: network(z, t, choices, numbers)
    both = torch.cat([choices, unset[0]]), torch.cat([numbers, unset[1]])

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        conditional, unconditional = network(torch.cat([z, z]), torch.cat([t, t]), *both).chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return predict

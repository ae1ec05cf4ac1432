"""From noise to latents: noise by seed, time grids, solvers and guidance as pure functions.

Time ``t`` runs from 1 (noise) to 0 (data). Two schedules are known: ``rectified_flow``, where ``z_t = (1-t) z + t xi``
and the network predicts the velocity ``xi - z`` (Liu et al. 2023), and ``ddpm``, where
``z_t = sqrt(a_t) z + sqrt(1-a_t) xi`` and the network predicts ``xi`` (Ho et al. 2020). Nothing here has a state or a
seed of its own, and no sample ever sees another one of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..postprocess.bilateral import bilateral

if TYPE_CHECKING:
    import torch

    #: Network output (N, C, I, J, K) for noisy latents of that shape and their times (N,) in 0..1.
    Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    #: Told after each step: its number from 1, how many there are, and what the data look like from there, a tensor
    #: like the latents (after the last step: the result). Whatever it raises ends the sampling.
    OnStep = Callable[[int, int, torch.Tensor], None]
    _Step = Callable[[Predict, torch.Tensor, float, float], tuple[torch.Tensor, torch.Tensor]]

Schedule = Literal["rectified_flow", "ddpm"]
Solver = Literal["euler", "heun", "ddim", "ddpm"]
#: The solvers of each schedule, the usual one first.
SOLVERS: dict[Schedule, tuple[Solver, ...]] = {"rectified_flow": ("euler", "heun"), "ddpm": ("ddim", "ddpm")}
#: How often a step of each solver asks the network; Heun's last one asks it a second time too.
EVALUATIONS: dict[Solver, int] = {"euler": 1, "heun": 2, "ddim": 1, "ddpm": 1}
#: And how often each restart does.
RESTART_EVALUATIONS = 2

#: Neighbours that :func:`smoothed` averages, two to each side.
_BOX = (1.0,) * 5

#: Time steps that the ddpm schedule knows, and its betas at both ends (latent diffusion's; scaled linear between).
DDPM_STEPS = 1000
_BETAS = (0.0015, 0.0195)
#: More would not be told apart by the seeding, which takes words of 32 bits.
_MOST = 2**32


# --- noise ---------------------------------------------------------------------------------------------------------


def noise(seed: int, index: int, attempt: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 of ``shape`` on the CPU, for try ``attempt`` at sample ``index`` of ``seed``.

    A function of its arguments alone, whatever batch, process or device it goes to. Raises ValueError for numbers
    below 0 or from 2**32 on.
    """
    import torch

    return torch.from_numpy(_generator(seed, index, attempt, purpose=0).standard_normal(tuple(shape), np.float32))


def step_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """The generator of the noise that ``ddpm`` and restarts add on their way; independent of :func:`noise`."""
    return _generator(seed, index, attempt, purpose=1)


def texture_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """The generator of the noise that is added to the decoded image; independent of the other two."""
    return _generator(seed, index, attempt, purpose=2)


def condition_generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """The generator that draws conditions which were not asked for; independent of the others."""
    return _generator(seed, index, attempt, purpose=3)


def _generator(seed: int, index: int, attempt: int, purpose: int) -> np.random.Generator:
    numbers = [seed, index, attempt]
    if not all(0 <= number < _MOST for number in numbers):
        raise ValueError(f"The seed and the number of a pair must be from 0 to {_MOST - 1}.")
    return np.random.default_rng(np.random.SeedSequence(numbers, spawn_key=(purpose,)))


# --- schedules -----------------------------------------------------------------------------------------------------


def times(steps: int, schedule: Schedule = "rectified_flow", shift: float = 1.0) -> list[float]:
    """The ``steps + 1`` times of a sampling from 1 down to 0, even before they are :func:`shifted`; those of ``ddpm``
    are whole thousandths, and never shifted.

    Raises ValueError for fewer than one step, or more than a schedule has.
    """
    if steps < 1:
        raise ValueError("Sampling needs at least one step.")
    if schedule == "rectified_flow":
        return [shifted(1.0 - step / steps, shift) for step in range(steps + 1)]
    if steps > DDPM_STEPS:
        raise ValueError(f"The schedule ddpm has no more than {DDPM_STEPS} steps.")
    return [round(DDPM_STEPS * (1.0 - step / steps)) / DDPM_STEPS for step in range(steps + 1)]


def shifted(t: float, shift: float) -> float:
    """A time in 0..1 moved towards noise: as if the noise were ``shift`` times as strong (Esser et al. 2024, eq. 23).

    Neighbouring latents say much the same, so that the large shapes are decided under strong noise already.
    """
    return shift * t / (1.0 + (shift - 1.0) * t)


def signal_shares() -> np.ndarray:
    """(1001,) float64: the share ``a`` of the data's variance in ``z_t`` of the ddpm schedule at ``t = n / 1000``."""
    betas = np.linspace(_BETAS[0] ** 0.5, _BETAS[1] ** 0.5, DDPM_STEPS) ** 2
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)])


# --- solvers -------------------------------------------------------------------------------------------------------


def integrate(
    predict: Predict, z: torch.Tensor, *, solver: Solver, schedule: Schedule, steps: int, shift: float = 1.0,
    restarts: Sequence[float] = (), gains: Sequence[Sequence[float]] = (),
    generators: Sequence[np.random.Generator] | None = None, on_step: OnStep | None = None,
) -> torch.Tensor:  # fmt: skip
    """Data (N, C, I, J, K) from the noise ``z`` of that shape, in ``steps`` steps (see :func:`times`).

    At each of the times ``restarts``, for rectified flow alone, the data are then seen anew (see :func:`restart`), with
    the ``gains`` of that restart if there are any.
    ``generators``: one for each sample, from :func:`step_generator`; the solver ``ddpm`` and restarts alone need them,
    and move them on. Raises ValueError for a solver that is not one of the schedule's, or a number of steps it has not.
    """
    step = _step(solver, schedule, generators)
    if restarts and (generators is None or schedule != "rectified_flow"):
        raise ValueError("Restarts are for rectified flow, and need one generator for each sample.")
    grid, total = times(steps, schedule, shift), steps + len(restarts)
    for number, (t, after) in enumerate(pairwise(grid), start=1):
        z, data = step(predict, z, t, after)
        if on_step is not None:
            on_step(number, total, z if number == steps else data)
    for number, t in enumerate(restarts, start=steps + 1):
        z = restart(predict, z, t, _drawn(generators or (), z), gains[number - steps - 1] if gains else None)
        if on_step is not None:
            on_step(number, total, z)
    return z


def restart(
    predict: Predict, data: torch.Tensor, t: float, noise: torch.Tensor, gains: Sequence[float] | None = None
) -> torch.Tensor:  # fmt: skip
    """What ``data`` (N, C, I, J, K) look like when ``noise`` of their shape is added up to the time ``t`` and all of it
    is taken off in one step: the mean for a noise and for its opposite, each channel times its gain.

    What a network that is not perfect adds differs between noises, and is averaged away; what it knows stays. But a
    mean of all that may have been varies less than data do, and least where they are fine or bright: gains (C,) make
    up for it. (Xu et al. 2023, "Restart Sampling", go back to noise and forth again by many steps.)
    """
    estimates = []
    for sign in (1.0, -1.0):
        z = (1 - t) * data + t * sign * noise
        estimates.append(z - t * _at(predict, z, t))
    mean = (estimates[0] + estimates[1]) / 2
    return mean if gains is None else mean * mean.new_tensor(gains).view(-1, 1, 1, 1)


def _step(solver: Solver, schedule: Schedule, generators: Sequence[np.random.Generator] | None) -> _Step:
    """One step of a solver: (predict, z_t, t, t after it) -> (z after it, the data as seen from t)."""
    if schedule not in SOLVERS or solver not in SOLVERS[schedule]:
        known = ", ".join(f"{name} ({' or '.join(solvers)})" for name, solvers in SOLVERS.items())
        raise ValueError(f"There is no solver {solver!r} for the schedule {schedule!r}; there are {known}.")
    if solver == "euler":
        return _euler
    if solver == "heun":
        return _heun
    if solver == "ddim":
        return partial(_ancestral, shares=signal_shares(), generators=None)
    if generators is None:
        raise ValueError("The solver ddpm needs one generator for each sample.")
    return partial(_ancestral, shares=signal_shares(), generators=generators)


def _euler(predict: Predict, z: torch.Tensor, t: float, after: float) -> tuple[torch.Tensor, torch.Tensor]:
    velocity = _at(predict, z, t)
    return z + (after - t) * velocity, z - t * velocity


def _heun(predict: Predict, z: torch.Tensor, t: float, after: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Euler's step, then again with the mean of the velocities at both of its ends."""
    first = _at(predict, z, t)
    second = _at(predict, z + (after - t) * first, after)
    return z + (after - t) * 0.5 * (first + second), z - t * first


def _ancestral(
    predict: Predict, z: torch.Tensor, t: float, after: float, *, shares: np.ndarray,
    generators: Sequence[np.random.Generator] | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """A step of any length (Song et al. 2021, equation 12): DDIM without generators, DDPM's posterior with them."""
    a, b = (float(shares[round(DDPM_STEPS * time)]) for time in (t, after))
    error = _at(predict, z, t)
    data = (z - (1 - a) ** 0.5 * error) / a**0.5
    if generators is None:
        return b**0.5 * data + (1 - b) ** 0.5 * error, data
    variance = (1 - b) / (1 - a) * (1 - a / b)
    return b**0.5 * data + max(1 - b - variance, 0.0) ** 0.5 * error + variance**0.5 * _drawn(generators, z), data


def _at(predict: Predict, z: torch.Tensor, t: float) -> torch.Tensor:
    return predict(z, z.new_full((len(z),), t))


def _drawn(generators: Sequence[np.random.Generator], like: torch.Tensor) -> torch.Tensor:
    """Standard normal noise of the latents' shape, each sample's from its own generator."""
    if len(generators) != len(like):
        raise ValueError(f"There are {len(generators)} generators for {len(like)} samples.")
    return like.new_tensor(np.stack([own.standard_normal(like.shape[1:], np.float32) for own in generators]))


# --- smoothing -----------------------------------------------------------------------------------------------------


def smoothed(z: torch.Tensor, widths: tuple[float, float] | None) -> torch.Tensor:
    """Normalised latents (N, C, I, J, K) with less grain from voxel to voxel, and edges where they were.

    Voxels that are alike in all channels are averaged: first with ``widths[0]`` the first channel alone, which of an
    autoencoder begun as principal components is the mean of a block of the image (unless colours weigh much among
    them); then with ``widths[1]`` all. None leaves them as they are.
    """
    import torch

    if widths is None:
        return z
    z = torch.cat([bilateral(z[:, :1], z, widths[0], _BOX), z[:, 1:]], dim=1)
    return bilateral(z, z, widths[1], _BOX)


# --- guidance ------------------------------------------------------------------------------------------------------


def guided(network: torch.nn.Module, choices: torch.Tensor, numbers: torch.Tensor, guidance: float) -> Predict:
    """What a :class:`~CardiacLDMLib.networks.Denoiser` predicts, led towards its conditions (Ho and Salimans 2022).

    ``choices`` (N, A) int64, -1 for none; ``numbers`` (N, B) float, NaN for none. ``guidance`` 1 takes the conditions
    as trained, more exaggerates them at twice the work, 0 leaves them out; without any condition it has no effect.
    """
    import torch

    without = torch.full_like(choices, -1), torch.full_like(numbers, torch.nan)
    if guidance == 0:
        choices, numbers = without
    if guidance in (0, 1) or bool((choices < 0).all() and numbers.isnan().all()):
        return lambda z, t: network(z, t, choices, numbers)
    both = torch.cat([choices, without[0]]), torch.cat([numbers, without[1]])

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        given, free = network(torch.cat([z, z]), torch.cat([t, t]), *both).chunk(2)
        return free + guidance * (given - free)

    return predict

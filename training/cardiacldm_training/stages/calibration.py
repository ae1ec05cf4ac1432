"""Measurements on trained networks: the statistics of latents, and the gains of restarts.

Each record names the weights it was measured with, so that a record of other weights is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from lightning.fabric import Fabric
from pydantic import ValidationError

from CardiacLDMLib.files import write_text
from CardiacLDMLib.generation import sampler
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder
from CardiacLDMLib.packages.fields import Record

from ..cases import pairs, store
from ..errors import TrainingError
from . import run_folder
from .config import GeneratorModel

LATENTS_FILE = "autoencoder/latents.json"
GAINS_FILE = "diffusion/gains.json"
#: A latent channel that hardly varies is divided by no less than this.
LEAST_SCALE = 1e-3
#: An error of the denoiser harms a pair more in one channel than in another; so many cases show how much. The diffusion
#: sees channels enlarged by a power of that, within bounds: otherwise channels of fine detail would drown in the noise.
_SENSITIVITY_CASES, _SENSITIVITY_POWER, _SPREAD_BOUNDS = 6, 0.5, (0.3, 3.0)
#: Gains make up for half of the standard deviation that a channel loses in a restart, because errors grow with it, and
#: for a loss of this factor at most.
_GAIN_SHARE, _LARGEST_LOSS = 0.5, 3.0

_Calibration = TypeVar("_Calibration", bound=Record)


def _read(kind: type[_Calibration], path: Path, network: str) -> _Calibration:
    try:
        return kind.model_validate_json(path.read_text())
    except ValidationError as error:
        raise TrainingError(f"{path} is damaged: delete it, and resume training the {network}.") from error


def write(record: Record, path: Path) -> None:
    """Write a calibration record; a process killed meanwhile leaves the old one."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


# --- statistics of latents -----------------------------------------------------------------------------------------


class LatentStatistics(Record):
    """How latents are normalised for the diffusion: ``(latent - shift) / scale``, by channel.

    After that a channel varies as much as it matters to the decoded pair (see :func:`spreads`).
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    cases: int
    autoencoder: str  # SHA-256 of its weights


def read_latent_statistics(run: Path) -> LatentStatistics:
    """Return the latent statistics of a run. Raises :class:`TrainingError`."""
    try:
        return _read(LatentStatistics, run / LATENTS_FILE, "autoencoder")
    except OSError as error:
        raise TrainingError(f"{run} has no finished autoencoder: train it first.") from error


def latent_statistics(
    fabric: Fabric, network: JointAutoencoder, model: GeneratorModel, cases: Sequence[store.PreparedCase], digest: str
) -> LatentStatistics:
    """Measure the statistics over ``cases`` with the weights of this ``digest``. ``network`` is on the device."""
    mean, deviation = latent_moments(fabric, network, model, cases)
    spread = spreads(sensitivities(fabric, network, model, cases, deviation))
    scale = deviation.clip(min=LEAST_SCALE) / spread
    return LatentStatistics(
        shift=tuple(mean.tolist()), scale=tuple(scale.tolist()), cases=len(cases), autoencoder=digest
    )


def latent_moments(
    fabric: Fabric, network: JointAutoencoder, model: GeneratorModel, cases: Sequence[store.PreparedCase]
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (C,) of the posterior means over all voxels (double precision)."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for case in cases:
        with torch.inference_mode(), fabric.autocast():
            mu = _encode(fabric, network, model, case)
        values = mu[0].flatten(1).double().cpu()
        count += values.shape[1]
        total, squares = total + values.sum(1), squares + values.square().sum(1)
    mean = total / count
    return mean.numpy(), (squares / count - mean.square()).clamp(min=0).sqrt().numpy()


def sensitivities(
    fabric: Fabric, network: JointAutoencoder, model: GeneratorModel, cases: Sequence[store.PreparedCase],
    deviation: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return (C,) how much noise in one channel, as strong as its ``deviation``, changes the decoded pair.

    Root mean square over the image (0..1) and the nine label probabilities, extrapolated from a quarter of that noise.
    """
    part = 0.25
    squares = np.zeros(len(deviation))
    for case in cases[:: max(len(cases) // _SENSITIVITY_CASES, 1)]:
        with torch.inference_mode(), fabric.autocast():
            mu = _encode(fabric, network, model, case)
            noise = mu.new_tensor(np.random.default_rng(0).standard_normal(mu.shape[2:], np.float32))
            before = _decode(network, mu)
            for channel, sd in enumerate(deviation):
                changed = mu.clone()
                changed[:, channel] += part * float(sd) * noise
                squares[channel] += float((_decode(network, changed) - before).square().mean()) / part**2
    return np.sqrt(squares)


def _encode(fabric: Fabric, network: JointAutoencoder, model: GeneratorModel, case: store.PreparedCase) -> torch.Tensor:
    """Return the posterior mean (1, C, I/4, J/4, K/4) of an unchanged pair."""
    arrays = pairs.pair(case, model.grid, model.window_hu)
    mu, _ = network.encode(*(fabric.to_device(torch.from_numpy(array)[None]) for array in arrays))
    return mu


def _decode(network: JointAutoencoder, z: torch.Tensor) -> torch.Tensor:
    """Return image and label probabilities as (N, 1 + 9, I, J, K)."""
    image, scores = network.decode(z)
    return torch.cat([image, scores.softmax(dim=1)], dim=1).float()


def spreads(sensitivity: np.ndarray) -> np.ndarray:
    """Return (C,) the standard deviation of each channel for the diffusion; their mean square is about 1."""
    spread = np.maximum(sensitivity, 1e-12) ** _SENSITIVITY_POWER
    return np.clip(spread / np.sqrt(np.mean(spread**2)), *_SPREAD_BOUNDS)


# --- gains of restarts ---------------------------------------------------------------------------------------------


class RestartGains(Record):
    """The factors of latent channels after each restart, which leaves them with less variance than the data's."""

    restarts: tuple[float, ...]  # times
    gains: tuple[tuple[float, ...], ...]  # of each restart, by channel
    diffusion: str  # SHA-256 of its weights


def read_gains(run: Path, restarts: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Return the gains of a run's ``restarts``; empty if they are not measured yet.

    Raises :class:`TrainingError` for gains of other weights or restarts.
    """
    path = run / GAINS_FILE
    if not path.is_file():
        return ()
    record = _read(RestartGains, path, "diffusion")
    digest = run_folder.weights_digest(run_folder.averaged_weights(run / "diffusion" / run_folder.BEST))
    if (record.diffusion, record.restarts) != (digest, restarts):
        raise TrainingError(f"{path} is of other weights or restarts: resume training the diffusion to its end.")
    return record.gains


def restart_gains(
    predict: sampler.Predict, latents: Sequence[torch.Tensor], rngs: Sequence[np.random.Generator],
    restarts: Sequence[float],
) -> tuple[tuple[float, ...], ...]:  # fmt: skip
    """Measure the gains (C,) of each restart: half of the standard deviation that channels lose in it.

    ``latents``: normalised latents of training cases, each (1, C, I/4, J/4, K/4), which pass one restart after the
    other; each takes its noise from its own generator of ``rngs``.
    """
    latents = list(latents)
    before, gains = _deviations(latents), []
    for t in restarts:
        for n, (z, rng) in enumerate(zip(latents, rngs, strict=True)):
            noise = z.new_tensor(rng.standard_normal(z.shape, np.float32))
            latents[n] = sampler.restart(predict, z, t, noise)
        loss = (before / _deviations(latents).clamp(min=1e-6)).clamp(max=_LARGEST_LOSS)
        gains.append(tuple(round(gain, 3) for gain in (1.0 + _GAIN_SHARE * (loss - 1.0)).tolist()))
        latents = [z * z.new_tensor(gains[-1]).view(-1, 1, 1, 1) for z in latents]
    return tuple(gains)


def _deviations(latents: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the standard deviation (C,) over all latents and their voxels."""
    return torch.cat(list(latents)).movedim(1, 0).flatten(1).std(1)

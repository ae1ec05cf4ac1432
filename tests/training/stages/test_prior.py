"""The prior of the denoiser: the normal distribution of the training latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cardiacldm_training.stages.prior import fit_prior
from CardiacLDMLib.generation.sampler import integrate
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.denoiser import GaussianPrior
from CardiacLDMLib.packages.generator_spec import Sampling
from tests.support.denoiser import ARGUMENTS, LATENT, PRIOR, SIZES, inputs


def correlated_latents(count: int = 400) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Latents, their mean and the direction (of length 1) in which they vary by 6; all else varies by 0.5."""
    rng = np.random.default_rng(1)
    mean, mode = rng.standard_normal((2, *LATENT), dtype=np.float32)
    mode /= np.linalg.norm(mode)
    along = 6.0 * rng.standard_normal((count, 1, 1, 1, 1))
    beside = 0.5 * rng.standard_normal((count, *LATENT))
    return list((mean + along * mode + beside).astype(np.float32)), mean, mode


def test_the_prior_is_the_distribution_of_the_latents() -> None:
    latents, _, mode = correlated_latents()
    prior = GaussianPrior(LATENT[0], LATENT[1:], 2)
    fit_prior(prior, iter(latents), modes=2)
    assert prior.mean.numpy() == pytest.approx(np.mean(latents, axis=0), abs=1e-5)
    assert abs(float((prior.modes[0].numpy() * mode).sum())) == pytest.approx(1.0, abs=0.01)
    assert (prior.modes.flatten(1) @ prior.modes.flatten(1).T).numpy() == pytest.approx(np.eye(2), abs=1e-5)
    assert float(prior.variances[0]) == pytest.approx(36, rel=0.2)
    assert prior.rest.numpy() == pytest.approx(np.full(LATENT, 0.5), abs=0.1)
    again = GaussianPrior(LATENT[0], LATENT[1:], 2)
    fit_prior(again, iter(latents), modes=2)
    assert all(torch.equal(one, other) for one, other in zip(prior.buffers(), again.buffers(), strict=True))


def test_a_prior_of_few_cases_and_of_numbers_that_never_vary() -> None:
    prior = GaussianPrior(LATENT[0], LATENT[1:], 5)
    fit_prior(prior, iter([np.zeros(LATENT, np.float32), np.ones(LATENT, np.float32)]), modes=1)
    assert all(buffer.isfinite().all() for buffer in prior.buffers())
    assert float(prior.rest.min()) == pytest.approx(0.05)
    assert prior.modes[0].any()
    assert not prior.modes[1:].any()
    z, t, _, _ = inputs()
    assert all(out.isfinite().all() for time in (0.0, 0.5, 1.0) for out in prior(z, torch.full_like(t, time)))


def test_before_training_samples_come_from_the_prior() -> None:
    """MONAI's last layer starts at zero, so the output is the exact velocity of the normal distribution."""
    latents, mean, mode = correlated_latents()
    torch.manual_seed(0)
    network: Any = build_network("diffusion_unet", {**ARGUMENTS, **SIZES, "latent_channels": LATENT[0], **PRIOR})
    fit_prior(network.prior, iter(latents), modes=2)
    begin, _, choices, numbers = inputs()
    with torch.no_grad():
        sampling = Sampling(schedule="rectified_flow", solver="heun", steps=100)
        end = integrate(lambda z, t: network(z, t, choices, numbers), begin, sampling).numpy()
    direction = network.prior.modes[0].numpy()
    along, sample = (((v * direction).sum((1, 2, 3, 4))) for v in (begin.numpy(), end - network.prior.mean.numpy()))
    assert sample == pytest.approx(along * float(network.prior.variances[0]) ** 0.5, rel=0.03)
    other = network.prior.modes.flatten(1).numpy()
    beside, left = ((v - (v @ other.T) @ other) for v in (
        begin.flatten(1).numpy(), (end - network.prior.mean.numpy()).reshape(len(end), -1)
    ))  # fmt: skip
    assert left == pytest.approx(beside * network.prior.rest.flatten().numpy(), abs=0.03)
    assert abs(float((direction * mode).sum())) > 0.99
    assert np.abs(network.prior.mean.numpy() - mean).max() < 1.5


def test_the_estimate_gets_worse_with_noise() -> None:
    latents, _, _ = correlated_latents()
    prior = GaussianPrior(LATENT[0], LATENT[1:], 2)
    fit_prior(prior, iter(latents), modes=2)
    rng = np.random.default_rng(2)
    data = torch.from_numpy(np.stack(latents[:8]))
    error = torch.from_numpy(rng.standard_normal(data.shape, np.float32))
    errors = []
    for time in (0.1, 0.5, 0.9):
        t = torch.full((8,), time)
        velocity, seen, scale = prior((1 - time) * data + time * error, t)
        guess = (1 - time) * data + time * error - time * velocity
        errors.append(float((guess - data).square().mean()))
        assert seen.shape == (8, 2 * LATENT[0], *LATENT[1:])
        assert seen[:, LATENT[0] :].std() == pytest.approx(1.0, abs=0.15)
        assert (scale > 0).all()
    assert errors == sorted(errors)
    assert errors[0] < 0.05 < errors[-1] < 0.6  # of 0.25 by themselves, and the mode's 36 in 128 numbers

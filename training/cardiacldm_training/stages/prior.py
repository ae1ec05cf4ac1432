"""The denoiser's prior: the normal distribution of the training latents, computed before training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from CardiacLDMLib.networks.denoiser import GaussianPrior

#: The prior uses about this many latents; the standard deviation beside its modes is at least this.
MOST_LATENTS, _LEAST_REST = 4096, 0.05
#: One mode for so many cases at most: modes of few cases would show those very cases, in every package.
CASES_PER_MODE = 4


@torch.no_grad()
def fit_prior(prior: GaussianPrior, latents: Iterable[np.ndarray], modes: int) -> None:
    """Set the ``prior`` to the normal distribution of normalised ``latents``, each (C, I/4, J/4, K/4).

    At most ``modes`` of its modes are used; the others stay zero.
    """
    values = torch.from_numpy(np.stack(list(latents))).flatten(1)
    mean = values.mean(0)
    values -= mean
    count = min(len(prior.modes), modes)
    directions = values.new_zeros(count, values.shape[1])
    if count > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            directions = torch.pca_lowrank(values, q=count, center=False, niter=8)[2].T
    along = values @ directions.T
    prior.mean.copy_(mean.view_as(prior.mean))
    prior.modes[:count].copy_(directions.view_as(prior.modes[:count]))
    prior.variances[:count].copy_(along.square().mean(0))
    rest = (values - along @ directions).square().mean(0).sqrt().clamp(min=_LEAST_REST)
    prior.rest.copy_(rest.view_as(prior.rest))

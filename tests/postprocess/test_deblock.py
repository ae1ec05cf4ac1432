"""Deblocking removes a pattern of the period of a latent voxel, and keeps edges."""

from __future__ import annotations

import torch

from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.postprocess.deblock import Deblock

WINDOW_HU = (-1000.0, 1000.0)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_pattern_that_repeats_with_each_latent_voxel_is_removed() -> None:
    tile = 0.01 * noise(4, 1, 1, LATENT_STRIDE, LATENT_STRIDE, LATENT_STRIDE)
    image = tile.repeat(1, 1, 5, 5, 5)
    out = Deblock(width_hu=600.0).apply(image, WINDOW_HU)
    inner = (..., *(slice(2, -2),) * 3)  # at the border the filter does not span a whole latent voxel
    assert float(out[inner].std()) < 0.02 * float(image[inner].std())


def test_edges_are_kept() -> None:
    image = 0.02 * torch.rand(1, 1, 16, 12, 8, generator=torch.Generator().manual_seed(1))
    image[:, :, 8:] += 0.5  # 1000 HU
    out = Deblock(width_hu=60.0).apply(image, WINDOW_HU)
    for half in (slice(0, 8), slice(8, None)):
        assert float(out[:, 0, half].std()) < 0.4 * float(image[:, 0, half].std())
        assert abs(float((out - image)[:, 0, half].mean())) < 0.01

"""Smoothing latents removes grain, keeps edges, and starts with the first channel."""

from __future__ import annotations

import torch

from CardiacLDMLib.postprocess.smooth_latents import SmoothLatents, smooth_latents


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_smoothing_removes_grain_and_keeps_edges() -> None:
    """Two tissues that the second channel tells apart; the grain is in the first."""
    clean = torch.zeros(1, 2, 12, 10, 8)
    clean[:, :, 6:] = torch.tensor([3.0, 5.0])[:, None, None, None]
    grain = 0.3 * noise(1, 1, 1, 12, 10, 8)
    noisy = clean + torch.cat([grain, torch.zeros_like(grain)], dim=1)
    out = SmoothLatents(widths=(1.2, 0.7)).apply(noisy)
    assert float((out - clean)[:, 0].std()) < 0.25 * float(grain.std())
    for half in (slice(0, 6), slice(6, None)):
        assert float((out - clean)[:, 0, half].mean().abs()) < 0.05
    assert torch.allclose(out[:, 1], clean[:, 1], atol=1e-4)


def test_the_first_channel_is_filtered_alone() -> None:
    z = noise(2, 3, 4, 4, 4, 3)
    out = smooth_latents(z, (100.0, 0.01))  # so strict for all channels that no voxels are similar
    assert float(out[:, 0].std()) < 0.3
    assert torch.allclose(out[:, 1:], z[:, 1:])

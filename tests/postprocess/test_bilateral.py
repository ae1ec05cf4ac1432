"""The bilateral filter: means where all is alike, edges left alone, patterns that repeat with the taps gone."""

from __future__ import annotations

import pytest
import torch

from CardiacLDMLib.postprocess.bilateral import bilateral

BOX, PERIOD_TAPS = (1.0,) * 5, (0.5, 1.0, 1.0, 1.0, 0.5)


def noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weighted_mean(z: torch.Tensor, taps: tuple[float, ...]) -> torch.Tensor:
    """What the filter is where everything is alike: an ordinary one, of what lies inside."""
    line = torch.tensor(taps)
    kernel = line[:, None, None] * line[:, None] * line
    pages = torch.stack([z, torch.ones_like(z)]).reshape(-1, 1, *z.shape[2:])
    sums = torch.nn.functional.conv3d(pages, kernel[None, None], padding=len(taps) // 2).reshape(2, *z.shape)
    return sums[0] / sums[1]


@pytest.mark.parametrize("taps", [BOX, PERIOD_TAPS, (1.0, 2.0, 1.0)])
@pytest.mark.parametrize("shape", [(1, 3, 6, 5, 7), (2, 1, 1, 2, 9)])
def test_where_all_is_alike_it_is_an_ordinary_mean(shape: tuple[int, ...], taps: tuple[float, ...]) -> None:
    z = noise(2, shape)
    assert torch.allclose(bilateral(z, z, 1e4, taps), weighted_mean(z, taps), atol=1e-6)


def test_what_the_guide_tells_apart_is_not_mixed() -> None:
    z = noise(3, (1, 2, 8, 8, 8))
    guide = torch.zeros(1, 1, 8, 8, 8)
    guide[:, :, 3:] = 9.0
    out = bilateral(z, guide, 1.0, BOX)
    assert torch.allclose(out[:, :, :3], weighted_mean(z[:, :, :3], BOX), atol=1e-6)
    assert torch.allclose(out[:, :, 3:], weighted_mean(z[:, :, 3:], BOX), atol=1e-6)


def test_no_sample_sees_another() -> None:
    z = noise(5, (3, 2, 4, 5, 6))
    assert torch.equal(bilateral(z, z, 1.0, BOX)[1:2], bilateral(z[1:2], z[1:2], 1.0, BOX))

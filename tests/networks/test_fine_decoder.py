"""The fine decoder: sizes, its start from the linear map, and patches that equal the same part of the whole."""

from __future__ import annotations

import pytest
import torch

from CardiacLDMLib.networks.build import build_network, fits
from CardiacLDMLib.networks.fine_decoder import NOISE_CHANNELS, FineDecoder

ARGUMENTS = {"latent_channels": 3, "channels": [8, 8, 8, 8], "blocks": 1}


@pytest.fixture
def decoder() -> FineDecoder:
    torch.manual_seed(0)
    network = build_network("fine_decoder", ARGUMENTS)  # type: ignore[arg-type]
    assert isinstance(network, FineDecoder)
    return network.eval().requires_grad_(False)


def noise(*sides: int) -> torch.Tensor:
    return torch.randn(1, NOISE_CHANNELS, *sides)


def learn(decoder: FineDecoder) -> None:
    """Give the last layer, which is 0 at first, some weights."""
    torch.nn.init.normal_(list(decoder.fine.parameters())[-2], std=0.1)


def test_a_new_decoder_returns_the_interpolated_linear_map(decoder: FineDecoder) -> None:
    z = torch.randn(1, 3, 2, 3, 2)
    image, logits = decoder(z, noise(2, 3, 2))
    assert image.shape == (1, 1, 16, 24, 16)
    assert logits.shape == (1, 9, 16, 24, 16)
    first = torch.nn.functional.interpolate(decoder.linear(z), scale_factor=2, mode="trilinear")
    torch.testing.assert_close(torch.cat([image, logits], dim=1), first)


def test_noise_becomes_detail(decoder: FineDecoder) -> None:
    learn(decoder)
    z, own, other = torch.randn(1, 3, 2, 2, 2), noise(2, 2, 2), noise(2, 2, 2)
    assert not torch.equal(decoder(z, own)[0], decoder(z, other)[0])
    fine_only = torch.cat([own[:, :64], other[:, 64:]], dim=1)
    assert not torch.equal(decoder(z, own)[0], decoder(z, fine_only)[0])


def test_a_patch_is_decoded_as_within_the_whole(decoder: FineDecoder) -> None:
    learn(decoder)
    z, whole_noise = torch.randn(2, 3, 8, 8, 8), torch.randn(2, NOISE_CHANNELS, 8, 8, 8)
    low, side = torch.tensor([[2, 3, 3], [3, 2, 2]]), 3
    whole = decoder(z, whole_noise)
    boxes = [tuple(slice(int(c), int(c) + side) for c in corner) for corner in low]
    own = torch.stack([n[(slice(None), *box)] for n, box in zip(whole_noise, boxes, strict=True)])
    for full, patch in zip(whole, decoder.patch(z, low, own), strict=True):
        for n, corner in enumerate(low.tolist()):
            inner = tuple(slice(8 * c + 10, 8 * (c + side) - 10) for c in corner)  # beyond the reach of cut sides
            torch.testing.assert_close(patch[n][:, 10:-10, 10:-10, 10:-10], full[n][(slice(None), *inner)])


@pytest.mark.parametrize(("patch", "does"), [((16, 16, 24), True), ((16, 16, 20), False)])
def test_sides_must_be_multiples_of_eight(patch: tuple[int, int, int], does: bool) -> None:
    with torch.device("meta"):
        network = build_network("fine_decoder", ARGUMENTS)  # type: ignore[arg-type]
        assert fits("fine_decoder", network, patch) is does

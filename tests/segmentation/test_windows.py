"""Sliding windows: their places and mean beside MONAI's, and mirrored predictions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from CardiacLDMLib.segmentation import segmenter
from CardiacLDMLib.segmentation.windows import predict_in_windows, predict_with_flips, window_places


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(3, 40)] * 3),
    st.tuples(*[st.integers(4, 17)] * 3),
    st.integers(1, 5),
    st.sampled_from(list(segmenter.OVERLAP.values())),
)
def test_windows_are_those_of_monai_to_the_bit(
    shape: tuple[int, ...], patch: tuple[int, ...], batch: int, overlap: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, source = (torch.randn(size, generator=generator) for size in ((3, 1, 3, 3, 3), (1, 1, *shape)))
    seen: list[torch.Tensor] = []

    def predict(windows: torch.Tensor) -> torch.Tensor:
        seen.append(windows.clone())
        return torch.nn.functional.conv3d(windows, weights, padding=1)

    expected = sliding_window_inference(source, patch, batch, predict, overlap=overlap, mode="gaussian")
    of_monai, seen[:] = torch.cat(seen), []
    mean = predict_in_windows(source, patch, batch, predict, overlap)
    assert torch.equal(torch.cat(seen), of_monai)
    assert torch.equal(mean, expected[0])
    assert len(of_monai) == len(window_places(shape, patch, overlap))


def test_flips_give_the_plain_prediction_three_quarters_of_the_weight() -> None:
    class ByPlace(torch.nn.Module):
        """Adds a ramp along every axis: differs when mirrored."""

        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            i, j, k = (torch.arange(float(n)) for n in windows.shape[2:])
            return windows + i[:, None, None] + 10 * j[:, None] + 100 * k

    network, windows = ByPlace(), torch.rand(2, 1, 3, 4, 5)
    plain = network(windows)
    mirrored = [network(windows.flip(axis)).flip(axis) for axis in (2, 3, 4)]
    out = predict_with_flips(network, windows, lambda: None)
    torch.testing.assert_close(out, plain * 0.75 + sum(mirrored) / 12)

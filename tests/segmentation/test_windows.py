"""Sliding windows: their number, and mirrored predictions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from CardiacLDMLib.segmentation import segmenter
from CardiacLDMLib.segmentation.windows import predict_with_flips, window_count


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(3, 40)] * 3),
    st.tuples(*[st.integers(4, 17)] * 3),
    st.integers(1, 5),
    st.sampled_from(list(segmenter.OVERLAP.values())),
)
def test_window_count_is_that_of_monai(
    shape: tuple[int, ...], patch: tuple[int, ...], batch: int, overlap: float
) -> None:
    windows = 0

    def predict(part: torch.Tensor) -> torch.Tensor:
        nonlocal windows
        windows += len(part)
        return part

    sliding_window_inference(torch.zeros(1, 1, *shape), patch, batch, predict, overlap=overlap)
    assert windows == window_count(shape, patch, overlap)


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

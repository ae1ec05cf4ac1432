"""Our U-Net beside MONAI's: the same tensors, first weights and results, without importing MONAI."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.blocks import Convolution
from monai.networks.nets import UNet

from CardiacLDMLib.networks.build import build_network, fits


def of_monai(channels: list[int], strides: list[int], num_res_units: int, light_top: bool, norm: str) -> Any:
    network = UNet(
        spatial_dims=3, in_channels=1, out_channels=9, channels=channels, strides=strides, num_res_units=num_res_units,
        norm=(norm, {"affine": True}),
    )  # fmt: skip
    if light_top:
        joined = channels[0] + (channels[0] if len(channels) > 2 else channels[1])
        network.model[-1] = Convolution(3, joined, 9, strides=strides[0], is_transposed=True, conv_only=True)
    return network


@pytest.mark.parametrize(
    ("channels", "strides", "units", "light", "norm"),
    [
        ([4, 8], [2], 0, False, "batch"),
        ([4, 8], [1], 0, True, "instance"),
        ([4, 8, 8], [2, 1], 2, False, "instance"),
        ([4, 6, 8, 8], [1, 2, 2], 1, False, "batch"),
        ([4, 8, 16], [2, 2], 1, True, "instance"),
    ],
)
def test_it_is_monais_to_the_bit(channels: list[int], strides: list[int], units: int, light: bool, norm: str) -> None:
    torch.manual_seed(3)
    theirs = of_monai(channels, strides, units, light, norm)
    torch.manual_seed(3)
    arguments = {"channels": channels, "strides": strides, "num_res_units": units, "light_top": light, "norm": norm}
    ours = build_network("unet", arguments)
    expected, state = theirs.state_dict(), ours.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)
    windows = torch.randn(2, 1, 16, 8, 24)
    for training in (True, False):
        assert torch.equal(ours.train(training)(windows), theirs.train(training)(windows))


@settings(deadline=None, max_examples=30)
@given(
    strides=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    norm=st.sampled_from(["instance", "batch"]),
    units=st.integers(0, 1),
    patch=st.tuples(*[st.integers(1, 18)] * 3),
)
def test_it_knows_the_patches_that_it_can_work_on(
    strides: list[int], norm: str, units: int, patch: tuple[int, int, int]
) -> None:
    arguments = {"channels": [2] * (len(strides) + 1), "strides": strides, "num_res_units": units, "norm": norm}
    network, works = build_network("unet", arguments).eval(), False
    with torch.inference_mode(), contextlib.suppress(RuntimeError, ValueError):
        works = network(torch.zeros(1, 1, *patch)).shape == (1, 9, *patch)
    assert fits("unet", network, patch) == works


def test_labelling_with_the_shipped_package_loads_neither_monai_nor_torchs_compiler() -> None:
    """Each takes longer to import than a small scan takes to label."""
    code = (
        "import sys, numpy as np;"
        "from CardiacLDMLib.image.grid import Volume; from CardiacLDMLib.packages.store import find_package;"
        "from CardiacLDMLib.segmentation.segmenter import Segmenter;"
        "scan = np.random.default_rng(0).integers(-1000, 300, (24, 24, 24), dtype=np.int16);"
        "Segmenter(find_package(None), 'cpu').segment(Volume(scan, np.diag([4.0, 4.0, 4.0, 1.0])));"
        "print(*{'monai', 'torch._dynamo', 'sympy', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

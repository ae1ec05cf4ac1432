"""The denoiser network: conditions and times, bounds of its arguments, its prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.networks.architectures import check_arguments
from CardiacLDMLib.packages.manifest import NetworkSpec
from CardiacLDMLib.packages.weights import pack_weights
from tests.support.denoiser import ARGUMENTS, LATENT, PRIOR, SIZES, denoiser, inputs


def test_time_and_every_condition_change_the_prediction() -> None:
    network, (z, t, choices, numbers) = denoiser(), inputs()
    with torch.no_grad():
        out = network(z, t, choices, numbers)
        others = [
            network(z, t + 0.25, choices, numbers), network(z, t, torch.tensor([[0, 2]] * 2), numbers),
            network(z, t, torch.tensor([[1, -1]] * 2), numbers), network(z, t, choices, numbers + 0.5),
            network(z, t, choices, torch.full_like(numbers, torch.nan)),
        ]  # fmt: skip
        alone = network(z[1:], t[1:], choices[1:], numbers[1:])
    assert out.shape == z.shape
    assert out.isfinite().all()
    assert all(other.isfinite().all() and not torch.equal(out, other) for other in others)
    assert torch.allclose(out[1:], alone, atol=1e-5)


def test_a_network_without_conditions_works_too() -> None:
    network, (z, t, _, _) = denoiser(choices=[], numbers=0), inputs()
    with torch.no_grad():
        assert network(z, t, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0)).isfinite().all()


def test_no_parameter_is_left_without_a_gradient() -> None:
    """Unused ones would end training on several devices."""
    network, batch = denoiser().train(), inputs()
    network(*batch).square().mean().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_levels": [True]}, "attention_levels"),
        ({"attention_levels": [True, True, True]}, "attention_levels must be as many as channels"),
        ({"norm_num_groups": 3}, "multiple of norm_num_groups"),
        ({"num_head_channels": 6}, "multiple of num_head_channels"),
        ({"choices": [0]}, r"choices\.0"),
        ({"numbers": -1}, "numbers"),
        ({"context_dim": 5000}, "context_dim"),
        ({"prior_modes": 2}, "prior_modes and latent_shape belong together"),
        ({"latent_shape": [4, 4, 4]}, "prior_modes and latent_shape belong together"),
        ({"prior_modes": 5000, "latent_shape": [4, 4, 4]}, "prior_modes"),
    ],
)
def test_unsound_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        check_arguments("diffusion_unet", {**ARGUMENTS, **SIZES, **changes})


def test_weights_are_packed_for_grids_that_the_network_can_work_on() -> None:
    values = {
        "architecture": "diffusion_unet", "arguments": {**ARGUMENTS, **SIZES, "latent_channels": LATENT[0]},
        "weights": "diffusion.safetensors", "spacing_mm": 8.0, "window_hu": (-1000.0, 1000.0),
    }  # fmt: skip
    state = denoiser().state_dict()
    packed = pack_weights(NetworkSpec(**values, patch=(16, 24, 32)), state)  # type: ignore[arg-type]
    assert set(packed) == set(state)
    for patch in ((16, 16, 18), (16, 16, 20)):
        with pytest.raises(PackageError, match="cannot work on a patch of 16 x 16 x"):
            pack_weights(NetworkSpec(**values, patch=patch), state)  # type: ignore[arg-type]


def test_a_prior_fits_one_grid() -> None:
    arguments = {**ARGUMENTS, **SIZES, "latent_channels": LATENT[0], **PRIOR}
    values = {
        "architecture": "diffusion_unet", "arguments": arguments, "weights": "diffusion.safetensors",
        "spacing_mm": 8.0, "window_hu": (-1000.0, 1000.0),
    }  # fmt: skip
    state = denoiser(**PRIOR).state_dict()
    assert "prior.modes" in pack_weights(NetworkSpec(**values, patch=(16, 16, 16)), state)  # type: ignore[arg-type]
    with pytest.raises(PackageError, match="cannot work on a patch of 16 x 24 x 32"):
        pack_weights(NetworkSpec(**values, patch=(16, 24, 32)), state)  # type: ignore[arg-type]

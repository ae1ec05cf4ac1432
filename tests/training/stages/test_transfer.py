"""The encoder of each architecture: what the deepest features depend on, kept as it is, the rest left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cardiacldm_training.errors import ConfigError
from cardiacldm_training.stages.transfer import deepest, encoder_names, take_encoder
from CardiacLDMLib.networks.build import build_network, build_reconstructor

ARGUMENTS: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 1, "light_top": True},
    "dynunet": {"filters": (4, 8, 16), "strides": (1, 2, 2)},
    "segresnet": {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)},
    "swinunetr": {"feature_size": 12, "depths": (1, 1, 1, 1), "window": 4},
}
SIDE = {"swinunetr": 64}


@pytest.mark.parametrize("architecture", ARGUMENTS)
def test_the_encoder_is_what_the_deepest_features_depend_on(architecture: str) -> None:
    """A hook takes the deepest features; exactly the encoder's parameters get a gradient from them."""
    network = build_network(architecture, ARGUMENTS[architecture])
    taken: list[torch.Tensor] = []
    deepest(architecture, network).register_forward_hook(lambda module, inputs, output: taken.append(output))
    side = SIDE.get(architecture, 16)
    torch.manual_seed(0)
    network(torch.rand(2, 1, side, side, side))
    (taken[0] * torch.rand_like(taken[0])).sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    parameters = {name for name, _ in network.named_parameters()}
    assert reached == set(encoder_names(architecture, network)) & parameters
    assert reached < parameters


@pytest.mark.parametrize("architecture", ARGUMENTS)
def test_the_encoder_is_kept_and_the_decoder_is_new(architecture: str) -> None:
    trained = build_reconstructor(architecture, ARGUMENTS[architecture])
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    network = build_network(architecture, ARGUMENTS[architecture])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    names = take_encoder(architecture, network, trained.state_dict())
    after = network.state_dict()
    assert all(torch.equal(after[name], trained.state_dict()[name]) for name in names)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in names)


def test_another_network_is_refused_and_nothing_is_changed() -> None:
    wider = build_network("unet", {**ARGUMENTS["unet"], "channels": (4, 8, 32)})
    network = build_network("unet", ARGUMENTS["unet"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for weights in (wider.state_dict(), build_network("dynunet", ARGUMENTS["dynunet"]).state_dict()):
        with pytest.raises(ConfigError, match="unet"):
            take_encoder("unet", network, weights)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ConfigError, match="joint_autoencoder"):
        encoder_names("joint_autoencoder", network)

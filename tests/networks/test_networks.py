"""The closed list of architectures: bounds, strict exchange of weights, and what is stored once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.networks.architectures import ARCHITECTURES, check_arguments
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.manifest import NetworkSpec
from CardiacLDMLib.packages.store import ModelPackage, open_package
from CardiacLDMLib.packages.weights import load_networks, pack_weights
from tests.support.package import tiny_manifest, write_tiny_package

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 1, "norm": "batch"},
    "dynunet": {"filters": [4, 8, 8], "strides": [1, 2, 2], "res_block": True},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "swinunetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "window": 4},
}
#: Sides of patches where they must be multiples of 32, and at least twice that for the norm of the deepest features.
SIDES = {"swinunetr": (64, 64, 64)}


def spec_of(architecture: str) -> NetworkSpec:
    return NetworkSpec(
        architecture=architecture, arguments=SMALL[architecture], weights="segmenter.safetensors", spacing_mm=2.0,
        patch=SIDES.get(architecture, (16, 24, 32)), window_hu=(-300.0, 700.0),
    )  # fmt: skip


def package_of(folder: Path, spec: NetworkSpec) -> ModelPackage:
    """A package of one network, as :func:`load_networks` sees it."""
    manifest = tiny_manifest().model_copy(update={"networks": {"segmenter": spec}})
    return ModelPackage(folder, manifest, "")


def trained(architecture: str) -> torch.nn.Module:
    """A network whose running statistics and weights are not those it starts with."""
    torch.manual_seed(1)
    module = build_network(architecture, SMALL[architecture])
    module(torch.randn(1, 1, *SIDES.get(architecture, (16, 16, 16))))
    return module.eval()


def test_every_architecture_is_tested() -> None:
    """Those for segmentation here; test_autoencoder.py and test_diffusion.py have the others."""
    assert set(SMALL) == {name for name, known in ARCHITECTURES.items() if known.task == "segmentation"}


def test_tuples_become_lists() -> None:
    listed = spec_of("unet")
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in listed.arguments.items()}
    assert NetworkSpec(**{**dict(listed), "arguments": tuples}) == listed


@pytest.mark.parametrize("architecture", SMALL)
def test_weights_come_back(architecture: str, tmp_path: Path) -> None:
    """Packed and loaded, a network gives the logits of its half-precision weights, exactly."""
    module, spec = trained(architecture), spec_of(architecture)
    save_file(pack_weights(spec, module.state_dict()), tmp_path / spec.weights)
    loaded = load_networks(package_of(tmp_path, spec))["segmenter"]

    half = {name: t.half() if t.is_floating_point() else t for name, t in module.state_dict().items()}
    module.load_state_dict(half)
    patch = torch.randn(1, 1, *spec.patch)
    with torch.no_grad():
        logits = loaded(patch)
        assert torch.equal(logits, module(patch))
    assert logits.shape == (1, 9, *spec.patch)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert {p.device.type for p in (*loaded.parameters(), *loaded.buffers())} == {"cpu"}
    assert not any(p.requires_grad for p in loaded.parameters())


def test_blocks_registered_twice_are_stored_once() -> None:
    module = trained("dynunet")
    packed = pack_weights(spec_of("dynunet"), module.state_dict())
    assert len(packed) < len(module.state_dict())
    assert sum(t.numel() for t in packed.values()) == sum(p.numel() for p in module.parameters())


def test_loaded_weights_outlive_their_file(tmp_path: Path) -> None:
    package = open_package(write_tiny_package(tmp_path / "tiny"))
    network = load_networks(package)["segmenter"]
    before = {name: t.clone() for name, t in network.state_dict().items()}
    path = package.folder / "segmenter.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_single_precision_is_taken_too(tmp_path: Path) -> None:
    module, spec = trained("unet"), spec_of("unet")
    save_file(module.state_dict(), tmp_path / spec.weights)
    loaded = load_networks(package_of(tmp_path, spec))["segmenter"]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))


def test_message_names_package_network_and_tensor(tmp_path: Path) -> None:
    package = open_package(write_tiny_package(tmp_path / "tiny"))
    path = package.folder / "segmenter.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(PackageError, match=f"tiny.*segmenter.*{re.escape(name)}"):
        load_networks(package)


STEMS = {"norm_num_groups": 4, "stem_channels": 4}


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("torch.hub.load", {}, r"torch.hub.load.*unet, dynunet"),
        ("unet", {"channels": [4, 8], "strides": [2, 2]}, "strides"),
        ("unet", {"channels": [4, 8], "strides": [3]}, r"strides\.0"),
        ("unet", {"channels": [4, True], "strides": [2]}, r"channels\.1"),
        ("unet", {"channels": [4, 8], "strides": [2], "norm": "layer"}, "norm"),
        ("dynunet", {"filters": [4, 8, 8], "strides": [2, 2, 2]}, "stride"),
        ("dynunet", {"filters": [4, 8, 8], "strides": [1, 2, 2, 2]}, "filters"),
        ("joint_autoencoder", {"channels": [8], **STEMS}, "channels"),
        ("joint_autoencoder", {"channels": [8, 8, 8, 8], **STEMS}, "channels"),
        (
            "joint_autoencoder",
            {"channels": [8, 8, 10], "norm_num_groups": 4, "stem_channels": 4},
            "norm_num_groups",
        ),
        (
            "joint_autoencoder",
            {"channels": [8, 8, 8], **STEMS, "fusion": "max"},
            "fusion",
        ),
        ("unet", {"channels": [10**9, 8], "strides": [2]}, r"channels\.0"),
    ],
)
def test_invalid_arguments_are_refused(architecture: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        build_network(architecture, arguments)


@pytest.mark.parametrize("channels", [[4, 8], [4, 8, 16]])
def test_light_top_has_one_convolution_less(channels: list[int]) -> None:
    arguments = {"channels": channels, "strides": [2] * (len(channels) - 1), "num_res_units": 1}
    full, light = (build_network("unet", {**arguments, "light_top": light}) for light in (False, True))
    assert light(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 9, 16, 16, 16)
    missing = set(full.state_dict()) - set(light.state_dict())
    assert any(name.endswith("conv.weight") for name in missing)


@st.composite
def valid_arguments(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Any arguments within the bounds of any architecture for segmentation."""
    architecture = draw(st.sampled_from(sorted(SMALL)))
    if architecture == "segresnet":
        blocks = draw(st.lists(st.integers(1, 2), min_size=2, max_size=6))
        filters = 8 * draw(st.integers(1, 32))
        return architecture, {"init_filters": filters, "blocks_down": blocks, "blocks_up": blocks[1:]}
    if architecture == "swinunetr":
        depths, heads = draw(st.lists(st.integers(1, 2), min_size=4, max_size=4)), draw(st.sampled_from([1, 3, 6]))
        swin = {"window": draw(st.integers(2, 16)), "checkpointed": draw(st.booleans())}
        return architecture, {
            "feature_size": 12 * draw(st.integers(1, 4)), "depths": depths,
            "num_heads": [heads * 2**level for level in range(4)], **swin,
        }  # fmt: skip
    levels = draw(st.integers(2 if architecture == "unet" else 3, 6))
    strides = draw(st.lists(st.integers(1, 2), min_size=levels - 1, max_size=levels - 1))
    widths = draw(st.lists(st.integers(1, 1024), min_size=levels, max_size=levels))
    norm = draw(st.sampled_from(["instance", "batch"]))
    if architecture == "unet":
        unet = {"num_res_units": draw(st.integers(0, 4)), "light_top": draw(st.booleans()), "norm": norm}
        return architecture, {"channels": widths, "strides": strides, **unet}
    residual = draw(st.booleans())
    return architecture, {"filters": widths, "strides": [1, *strides], "res_block": residual, "norm": norm}


@settings(deadline=None, max_examples=8)
@given(valid=valid_arguments())
def test_all_valid_arguments_build_and_keep_the_size(valid: tuple[str, dict[str, Any]]) -> None:
    """Bounds are tight enough: nothing within them fails, in full size, on the meta device."""
    check_arguments(*valid)
    with torch.device("meta"):
        module = build_network(*valid).eval()
        assert module(torch.empty(1, 1, 64, 64, 64)).shape == (1, 9, 64, 64, 64)

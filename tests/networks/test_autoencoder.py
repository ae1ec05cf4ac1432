"""The joint autoencoder network: outputs, places, colours, exchange of weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder, palette_coded
from CardiacLDMLib.packages.manifest import NetworkSpec
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.weights import load_networks, pack_weights
from tests.support.package import tiny_manifest

GRID = (16, 16, 16)

SPACING_MM = 8.0

WINDOW = (-1000.0, 1000.0)

ARGUMENTS = {"channels": [8, 8, 16], "norm_num_groups": 4, "stem_channels": 4}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(**changes: object) -> JointAutoencoder:
    torch.manual_seed(0)
    built = build_network("joint_autoencoder", {**ARGUMENTS, **changes})  # type: ignore[dict-item]
    assert isinstance(built, JointAutoencoder)
    return built.eval()


@pytest.mark.parametrize("channels", [[8, 16], [8, 8, 16]])
@pytest.mark.parametrize("fusion", ["sum", "concatenation"])
@pytest.mark.parametrize("labels_out", ["logits", "palette"])
def test_image_and_labels_both_reach_the_latent_and_come_back(
    channels: list[int], fusion: str, labels_out: str
) -> None:
    net = network(channels=channels, fusion=fusion, labels_out=labels_out)
    image, labels = torch.rand(2, 1, *GRID), torch.randint(0, 9, (2, 1, *GRID), dtype=torch.uint8)
    with torch.no_grad():
        mu, sigma = net.encode(image, labels)
        out, scores = net.decode(mu)
        again, raw, _, _ = net(image, labels)
        assert mu.shape == sigma.shape == (2, 4, 4, 4, 4)
        assert (sigma > 0).all()
        assert out.shape == (2, 1, *GRID)
        assert scores.shape == (2, 9, *GRID)
        assert raw.shape[1] == (9 if labels_out == "logits" else 3)
        assert torch.equal(again, out)
        assert torch.equal(net.scores(raw), scores)
        assert torch.equal(net.encode(image, labels[:, 0])[0], mu)
        assert not torch.equal(net.encode(image, torch.zeros_like(labels))[0], mu)
        assert not torch.equal(net.encode(torch.zeros_like(image), labels)[0], mu)
        noisy = net(image, labels, torch.randn_like(mu))
    assert not torch.equal(noisy[0], out)


@pytest.mark.parametrize("labels_out", ["logits", "palette"])
def test_weights_come_back_from_a_package(labels_out: str, tmp_path: Path) -> None:
    """Packed and loaded, it encodes and decodes as its half-precision weights do; the palette is no weight."""
    net = network(labels_out=labels_out)
    spec = NetworkSpec(
        architecture="joint_autoencoder", arguments={**ARGUMENTS, "labels_out": labels_out}, spacing_mm=SPACING_MM,
        weights="autoencoder.safetensors", patch=GRID, window_hu=WINDOW,
    )  # fmt: skip
    save_file(pack_weights(spec, net.state_dict()), tmp_path / spec.weights)
    manifest = tiny_manifest().model_copy(update={"networks": {"autoencoder": spec}})
    loaded = load_networks(ModelPackage(tmp_path, manifest, ""))["autoencoder"]
    net.load_state_dict({name: tensor.half() for name, tensor in net.state_dict().items()})
    image, labels = torch.rand(1, 1, *GRID), torch.randint(0, 9, (1, *GRID), dtype=torch.uint8)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(image, labels), net(image, labels), strict=True))


def test_a_voxel_of_the_latent_is_decoded_to_its_own_place() -> None:
    """Two levels give eight voxels at once: they must not land elsewhere."""
    for channels in ([8, 16], [8, 8, 16]):
        net, z = network(channels=channels), torch.zeros(1, 4, 16, 8, 8)
        for norm in (module for module in net.modules() if isinstance(module, torch.nn.GroupNorm)):
            norm.forward = lambda x: x  # type: ignore[method-assign]  # it looks at the whole grid
        z[..., 2, 4, 6] = 1.0
        with torch.no_grad():
            reached = (net.decode(z)[1] - net.decode(torch.zeros_like(z))[1])[0].abs().amax(0) > 1e-6
        assert reached[2:14, 10:22, 18:30].all()  # the latent's voxel and half of its neighbours
        assert not reached[56:].any()  # further than the layers see


def test_the_stems_are_more_than_one_convolution_over_both() -> None:
    """Two linear stems summed would be additive: f(x, m) + f(0, 0) = f(x, 0) + f(0, m) at the encoder's door."""
    net = network()
    image, labels = torch.rand(1, 1, *GRID), torch.full((1, *GRID), anatomy.VALUE["LV"], dtype=torch.uint8)
    with torch.no_grad():
        one, two = net.image_stem(image), net.image_stem(2 * image)
        assert not torch.allclose(two - one, one - net.image_stem(0 * image), atol=1e-4)
        assert not net.label_stem(palette_coded(labels) * 0).isnan().any()


def test_colours_are_decoded_by_nearness_and_background_is_grey() -> None:
    net = network(labels_out="palette")
    labels = torch.arange(9, dtype=torch.uint8).reshape(1, 9, 1, 1)
    colours = palette_coded(labels)
    blurred = 0.7 * colours + 0.3 * 0.5  # each on its way to the background's grey
    assert net.scores(blurred).argmax(1).flatten().tolist() == list(range(9))
    assert colours[0, :, 0].flatten().tolist() == [0.5, 0.5, 0.5]


def test_palette_has_a_colour_of_its_own_for_every_class() -> None:
    assert sorted(anatomy.PALETTE) == list(range(anatomy.NUM_CLASSES))
    colours = np.array(list(anatomy.PALETTE.values()))
    distances = np.linalg.norm(colours[:, None] - colours, axis=2) + 9 * np.eye(len(colours))
    assert distances.min() >= np.sqrt(3) / 2


@pytest.mark.parametrize(("one", "other"), [("LV", "MYO"), ("LA", "LV"), ("LV", "AO"), ("RA", "RV"), ("LA", "LAA"),
                                            ("RV", "PA"), ("RV", "MYO"), ("RA", "LA")])  # fmt: skip
def test_neighbours_mix_into_no_third_class(one: str, other: str) -> None:
    """Halfway and everywhere between two structures that touch, the nearest colour is one of theirs or background."""
    net = network(labels_out="palette")
    ends = [torch.tensor(anatomy.PALETTE[anatomy.VALUE[name]]) for name in (one, other)]
    for part in np.linspace(0, 1, 21):
        colour = (1 - part) * ends[0] + part * ends[1]
        label = int(net.scores(colour.reshape(1, 3, 1, 1, 1)).argmax())
        assert label in {anatomy.BACKGROUND, anatomy.VALUE[one], anatomy.VALUE[other]}

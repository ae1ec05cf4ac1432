"""The joint autoencoder: pairs around the heart, its loss and figures, exact resume, the statistics of its latents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import save_file
from typer.testing import CliRunner

from cardiacldm_training.cases import pairs, store
from cardiacldm_training.cases.settings import PAPER_AUGMENT, PairAugmentConfig
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.stages import autoencoder, config, generator_config, loop
from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder, palette_coded
from CardiacLDMLib.packages.manifest import NetworkSpec
from CardiacLDMLib.packages.store import ModelPackage, open_package
from CardiacLDMLib.packages.weights import load_networks, pack_weights
from tests.support.generator_package import write_tiny_generator
from tests.support.package import tiny_manifest, write_tiny_package
from tests.support.training import equal, write_cases

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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("data") / "cohort", 3)


@pytest.fixture(scope="module")
def prepared(data: Path) -> store.Prepared:
    return pairs.prepare_pairs([data], None, SPACING_MM, 1, lambda line: None)


def tiny_run(prepared: store.Prepared, steps: int = 6, **changes: object) -> generator_config.GeneratorRunConfig:
    values = {
        "arguments": ARGUMENTS, "batch": 1, "steps": steps, "validate_every": 3, "patience": 10, "save_every": 3,
        "warmup_steps": 2, "learning_rate": 3e-3, "validation_cases": 1,
    }  # fmt: skip
    return generator_config.GeneratorRunConfig.model_validate({
        "preset": "test", "seed": 3, "cases": len(prepared.cases), "cases_digest": prepared.digest, "grid": GRID,
        "spacing_mm": SPACING_MM, "autoencoder": {**values, **changes},
    })  # fmt: skip


def train(run: Path, prepared: store.Prepared, *, resume: bool = False, steps: int = 6, **changes: object) -> list[str]:
    lines: list[str] = []
    settings = tiny_run(prepared, steps, **changes)
    autoencoder.train_autoencoder(run, settings, prepared, resume=resume, workers=0, say=lines.append)
    return lines


@pytest.fixture(scope="module")
def undisturbed(prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(run, prepared, adversarial_weight=0.1)
    torch.set_num_threads(threads)
    return run


# --- the network ---------------------------------------------------------------------------------------------------


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
        found = int(net.scores(colour.reshape(1, 3, 1, 1, 1)).argmax())
        assert found in {anatomy.BACKGROUND, anatomy.VALUE[one], anatomy.VALUE[other]}


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_a_pair_is_the_box_around_the_heart(prepared: store.Prepared) -> None:
    case = prepared.cases[0]
    image, labels = pairs.pair(case, (12, 16, 8), WINDOW)
    assert image.shape == labels.shape == (1, 12, 16, 8)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    heart = np.argwhere(np.isin(case.labels, [anatomy.VALUE[name] for name in anatomy.HEART]))
    assert np.abs(pairs.heart_centre(case) - (heart.min(0) + heart.max(0)) / 2).max() <= 0.5
    inside = np.argwhere(np.isin(labels[0], [anatomy.VALUE[name] for name in anatomy.HEART]))
    offset = (inside.min(0) + inside.max(0)) / 2 - (np.array(labels.shape[1:]) - 1) / 2
    assert np.abs(offset[:2]).max() <= 1


def test_a_grid_larger_than_the_scan_is_filled_with_air(prepared: store.Prepared) -> None:
    case = prepared.cases[0]
    image, labels = pairs.pair(case, (48, 48, 48), WINDOW)
    assert (image[0, 0], labels[0, 0]) == (pytest.approx(0), pytest.approx(0))
    assert np.bincount(labels.ravel(), minlength=9)[1:].tolist() == np.bincount(
        case.labels.ravel(), minlength=9)[1:].tolist()  # fmt: skip


def test_variations_come_from_the_generator_alone(prepared: store.Prepared) -> None:
    case, settings = prepared.cases[0], PAPER_AUGMENT

    def varied(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return pairs.pair(case, GRID, WINDOW, rng=np.random.default_rng(seed), settings=settings)

    assert all(np.array_equal(a, b) for a, b in zip(varied(1), varied(1), strict=True))
    assert not np.array_equal(varied(1)[0], varied(2)[0])


def test_each_variation_does_what_its_name_says(prepared: store.Prepared) -> None:
    case, still = prepared.cases[0], PairAugmentConfig(jitter=0, crop=0, boost=0)

    def varied(**changes: float) -> tuple[np.ndarray, np.ndarray]:
        settings = still.model_copy(update=changes)
        return pairs.pair(case, GRID, WINDOW, rng=np.random.default_rng(0), settings=settings)

    image, labels = pairs.pair(case, GRID, WINDOW)
    assert np.array_equal(varied()[0], image)
    for name, axis in (("horizontal_flip", 1), ("vertical_flip", 2)):
        flipped = varied(**{name: 1.0})
        assert np.array_equal(flipped[0], np.flip(image, axis))
        assert np.array_equal(flipped[1], np.flip(labels, axis))
    brighter = varied(boost=1.0)[0]
    inside = (image > 0.1) & (image < 0.9)
    assert np.allclose((brighter - image)[inside], 50 / 2000, atol=1e-5)
    larger = varied(crop=1.0, crop_smallest=0.7)[1]
    assert np.count_nonzero(larger) > 1.1 * np.count_nonzero(labels)
    assert set(np.unique(larger)) <= set(np.unique(labels))
    assert not np.array_equal(varied(jitter=0.2)[1], labels)


def test_the_paper_preset_has_the_paper_numbers() -> None:
    settings = generator_config.preset_config("paper", cases=200, cases_digest="x")
    augment = settings.autoencoder.augment
    assert (settings.grid, settings.autoencoder.arguments["stem_channels"]) == ((256, 256, 160), 3)
    assert (augment.horizontal_flip, augment.vertical_flip, augment.boost, augment.boost_hu) == (0.2, 0.2, 0.05, 50)
    for preset in ("demo", "gpu"):  # no hearts on the wrong side
        augment = generator_config.preset_config(preset, cases=9, cases_digest="x").autoencoder.augment
        assert augment.horizontal_flip == augment.vertical_flip == 0


@pytest.mark.parametrize("preset", generator_config.PRESETS)
def test_presets_build_networks_that_fit_their_grids(preset: str, tmp_path: Path) -> None:
    settings = generator_config.preset_config(preset, cases=200, cases_digest="x")
    config.write_config(settings, tmp_path)
    config.check_same(generator_config.read_config(tmp_path), settings)
    with torch.device("meta"):
        net = build_network("joint_autoencoder", settings.autoencoder.arguments)
        image, _, mu, _ = net(torch.empty(1, 1, *settings.grid), torch.empty(1, *settings.grid, dtype=torch.uint8))
    assert image.shape[2:] == settings.grid
    assert mu.shape[2:] == tuple(n // 4 for n in settings.grid)


# --- figures -------------------------------------------------------------------------------------------------------


def test_third_class_voxels_against_hand_counts() -> None:
    labels = np.zeros((6, 1, 1), dtype=np.uint8)
    labels[3:] = 2
    decoded = labels.copy()
    assert autoencoder.third_class_share(labels, decoded) == 0
    decoded[:, 0, 0] = [5, 0, 7, 0, 2, 2]  # voxels 2 and 3 are the boundary; 7 is a third class there, 0 is not
    assert autoencoder.third_class_share(labels, decoded) == 0.5
    assert autoencoder.third_class_share(np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)) == 0


def test_figures_of_a_perfect_and_of_a_bad_reconstruction() -> None:
    image, labels = torch.rand(1, 1, *GRID), torch.randint(0, 9, (1, 1, *GRID), dtype=torch.uint8)
    perfect = autoencoder.figures(image, labels, image, labels)
    assert perfect.tolist() == pytest.approx([1.0] * 8 + [100.0, 1.0, 0.0])
    worse = autoencoder.figures(image, labels, image + 0.1, (labels + 1) % 9)
    assert worse[:8].tolist() == [0.0] * 8
    assert worse[8] == pytest.approx(20.0)
    assert 0 < worse[9] < 1


def test_divergence_against_torch() -> None:
    mu, sigma = torch.randn(2, 4, 3, 3, 3), torch.rand(2, 4, 3, 3, 3) + 0.1
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0)).mean()
    assert autoencoder.divergence(mu, sigma) == pytest.approx(float(wanted), rel=1e-5)


# --- training ------------------------------------------------------------------------------------------------------


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(
    prepared: store.Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    """Stopped in step 6, gone on with from the checkpoint of step 3, adversaries included."""
    run = tmp_path / "run"

    def stop(line: str) -> None:
        if "step 6:" in line:
            raise InterruptedError

    settings = tiny_run(prepared, adversarial_weight=0.1)
    with pytest.raises(InterruptedError):
        autoencoder.train_autoencoder(run, settings, prepared, resume=False, workers=0, say=stop)
    assert loop.load_checkpoint(run / "autoencoder" / loop.LAST)["state"]["step"] == 3
    torch.manual_seed(99)
    train(run, prepared, resume=True, adversarial_weight=0.1)
    for name in (loop.LAST, loop.BEST):
        one, other = (loop.load_checkpoint(r / "autoencoder" / name) for r in (undisturbed, run))
        assert equal(one, other), name
    assert autoencoder.read_latents(run) == autoencoder.read_latents(undisturbed)


def test_the_generators_gradient_leaves_the_critic_alone() -> None:
    pair = autoencoder.Adversaries(network())
    image, labels = torch.rand(1, 1, *GRID), torch.zeros(1, 1, *GRID, dtype=torch.uint8)
    *_, judged, real, fake = pair(image, labels, torch.zeros(1, 4, 4, 4, 4))
    judged.mean().backward(retain_graph=True)
    assert all(p.grad is None for p in pair.critic.parameters())
    assert any(p.grad is not None for p in pair.autoencoder.parameters())
    pair.zero_grad()
    (real.mean() + fake.mean()).backward()
    assert all(p.grad is None for p in pair.autoencoder.parameters())
    assert all(p.grad is not None for p in pair.critic.parameters())


def test_training_lowers_the_loss(prepared: store.Prepared) -> None:
    settings = tiny_run(prepared, 20, batch=2)
    train_cases, held_out = autoencoder.split.split(prepared.cases, 0.1)
    stage = autoencoder.AutoencoderStage(settings, train=train_cases, held_out=held_out)
    run = loop._Run(Fabric(accelerator="cpu"), settings.autoencoder, network(), stage)
    run.wrap()
    losses = [float(run.step(batch(stage, 2 * n))) for n in range(20)]
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def batch(stage: autoencoder.AutoencoderStage, first: int) -> dict[str, torch.Tensor]:
    examples = [stage.example(first + i) for i in range(2)]
    return {name: torch.stack([torch.from_numpy(e[name]) for e in examples]) for name in examples[0]}


def test_a_run_leaves_weights_and_latent_statistics_without_the_critic(
    prepared: store.Prepared, undisturbed: Path
) -> None:
    settings = generator_config.read_config(undisturbed)
    net = autoencoder.load_autoencoder(undisturbed, settings.autoencoder)
    assert set(net.state_dict()) == set(autoencoder.averaged_autoencoder(undisturbed))
    latents = autoencoder.read_latents(undisturbed)
    assert latents.cases == 2
    assert latents.autoencoder == autoencoder.weights_digest(net.state_dict())
    train_cases, _ = autoencoder.split.split(prepared.cases, 0.1)
    with torch.no_grad():
        mus = torch.cat([net.encode(*(torch.from_numpy(a)[None] for a in pairs.pair(c, GRID, WINDOW)))[0]
                         for c in train_cases])  # fmt: skip
    assert latents.shift == pytest.approx(mus.mean((0, 2, 3, 4)).tolist(), abs=1e-5)
    deviation = mus.std((0, 2, 3, 4), unbiased=False).clamp(min=1e-3).numpy()
    spread = deviation / latents.scale  # what a channel matters, around 1
    assert np.mean(spread**2) == pytest.approx(1.0, abs=0.1)
    assert ((spread >= 0.3 - 1e-3) & (spread <= 3.0 + 1e-2)).all()


def test_a_channel_that_matters_more_is_larger_for_the_diffusion(prepared: store.Prepared) -> None:
    net, settings = network(), tiny_run(prepared)
    with torch.no_grad():
        net.block_decoder.conv_block.weight[:, 2] *= 40.0
    gains = autoencoder.channel_gains(
        Fabric(accelerator="cpu", devices=1), net, settings, prepared.cases, np.array([1.0, 1.0, 1.0, 1e-3])
    )
    assert gains.argmax() == 2
    assert gains.argmin() == 3  # it hardly varies
    spread = autoencoder.spreads(gains)
    assert (np.diff(spread[gains.argsort()]) >= 0).all()
    assert spread[2] > 2 * spread[3]
    assert autoencoder.spreads(np.ones(5)) == pytest.approx(np.ones(5))
    assert autoencoder.spreads(np.zeros(5)) == pytest.approx(np.ones(5))
    assert np.mean(autoencoder.spreads(np.array([1.0, 2.0, 4.0])) ** 2) == pytest.approx(1.0)


@pytest.mark.parametrize("labels_out", ["logits", "palette"])
def test_it_begins_as_the_principal_components_of_blocks(prepared: store.Prepared, labels_out: str) -> None:
    """What no trained step has touched: independent latents of unit variance, and the best linear image."""
    errors = []
    for channels in (1, 4, 16):
        net = network(latent_channels=channels, labels_out=labels_out)
        autoencoder.begin_linear(net, tiny_run(prepared), prepared.cases)
        given = [pairs.pair(case, GRID, WINDOW) for case in prepared.cases]
        image, labels = (torch.stack([torch.from_numpy(each[part]) for each in given]) for part in (0, 1))
        with torch.no_grad():
            mu, _ = net.encode(image, labels)
            decoded, raw = net.decode_raw(mu)
        latents = mu.transpose(0, 1).flatten(1)
        assert latents.mean(1).abs().max() < 1e-3
        assert torch.allclose(torch.cov(latents, correction=0), torch.eye(channels), atol=0.02)
        errors.append(float((decoded - image).square().mean()))
        assert {name for name, p in net.named_parameters() if not p.requires_grad} == {
            f"block_{kind}.{part}" for kind in ("encoder", "decoder.conv_block") for part in ("weight", "bias")
        }
    assert errors[0] > 1.5 * errors[1] > 2.0 * errors[2]
    if labels_out == "palette":
        assert float((raw - palette_coded(labels)).abs().mean()) < 0.1


def test_logits_begin_as_the_nearness_of_colours(prepared: store.Prepared) -> None:
    """A palette's network and a logits' network decode the same labels before a step is trained."""
    image, labels = (torch.from_numpy(each)[None] for each in pairs.pair(prepared.cases[0], GRID, WINDOW))
    scores = {}
    for labels_out in ("logits", "palette"):
        net = network(latent_channels=16, labels_out=labels_out)
        autoencoder.begin_linear(net, tiny_run(prepared), prepared.cases)
        with torch.no_grad():
            scores[labels_out] = net.decode(net.encode(image, labels)[0])[1]
    nearness = scores["palette"] - scores["palette"][:, :1]
    logits = scores["logits"] - scores["logits"][:, :1]
    assert torch.allclose(logits, 8.0 * nearness, atol=1e-3)
    assert len(scores["logits"].argmax(1).unique()) > 2


def test_training_starts_from_a_package_that_fits(prepared: store.Prepared, tmp_path: Path) -> None:
    package = open_package(write_tiny_generator(tmp_path / "hearts"))
    there = load_networks(package)["autoencoder"].state_dict()
    settings = tiny_run(prepared, steps=1, validate_every=1, learning_rate=1e-7)
    quiet = {"resume": False, "workers": 0, "say": lambda line: None}
    autoencoder.train_autoencoder(tmp_path / "run", settings, prepared, start=package, **quiet)  # type: ignore[arg-type]
    trained = autoencoder.load_autoencoder(tmp_path / "run", settings.autoencoder).state_dict()
    assert all(torch.allclose(trained[name], there[name], atol=1e-5) for name in there)
    assert all(torch.equal(trained[name], there[name]) for name in there if name.startswith("block_"))
    other = tiny_run(prepared, arguments={**ARGUMENTS, "stem_channels": 8})
    with pytest.raises(ConfigError, match="The autoencoder of hearts is another network"):
        autoencoder.train_autoencoder(tmp_path / "other", other, prepared, start=package, **quiet)  # type: ignore[arg-type]
    segmenter = open_package(write_tiny_package(tmp_path / "segmenter"))
    with pytest.raises(ConfigError, match="segmenter has no autoencoder to start from"):
        autoencoder.train_autoencoder(tmp_path / "other", settings, prepared, start=segmenter, **quiet)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_palette_out_trains_too(prepared: store.Prepared, tmp_path: Path) -> None:
    lines = train(tmp_path / "run", prepared, steps=1, arguments={**ARGUMENTS, "labels_out": "palette"})
    assert any("validation Dice" in line and "third_percent" in line for line in lines)


def test_a_class_that_no_case_has_is_named(prepared: store.Prepared, tmp_path: Path) -> None:
    assert pairs.missing_structures(prepared.cases) == []
    points = prepared.cases[0].points.copy()
    points[anatomy.VALUE["LAA"] - 1] = -1
    np.save(tmp_path / "points.npy", points)
    assert pairs.missing_structures([store.PreparedCase("without", tmp_path, "", SPACING_MM)]) == ["LAA"]


def test_an_existing_run_is_not_overwritten_nor_mixed_with_another(
    prepared: store.Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="--resume"):
        train(undisturbed, prepared, adversarial_weight=0.1)
    with pytest.raises(ConfigError, match=r"autoencoder\.kl_weight is 0\.0001, not 0\.5"):
        train(undisturbed, prepared, resume=True, adversarial_weight=0.1, kl_weight=0.5)
    with pytest.raises(TrainingError, match="train it first"):
        autoencoder.read_latents(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "huge"], "no preset 'huge'"),
        (["--data", "nowhere"], "no folder nowhere"),
        (["--from", "nothing"], "nothing"),
    ],
)
def test_wrong_options_are_one_sentence(data: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    base = [] if "--data" in arguments else ["--data", str(data)]
    result = CliRunner().invoke(app, ["train", "autoencoder", "--out", str(tmp_path / "run"), *base, *arguments])
    assert result.exit_code == 1
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_says_what_it_does(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo preset on a tiny grid, with one broken case beside the sound ones."""
    monkeypatch.setitem(generator_config._GRIDS, "demo", (GRID, SPACING_MM))
    monkeypatch.setitem(
        generator_config._AUTOENCODERS, "demo",
        lambda batch: generator_config.AutoencoderConfig(
            arguments=ARGUMENTS, batch=batch or 1, steps=2, validate_every=2, patience=1, validation_cases=1
        ),
    )  # fmt: skip
    cohort = Path(shutil.copytree(data, tmp_path / "cohort"))
    (cohort / "case_0001" / "ct.nii.gz").write_bytes(b"broken")
    (cohort / "case_0003").mkdir()
    for name in ("ct.nii.gz", "labels.nii.gz"):
        shutil.copy(cohort / "case_0002" / name, cohort / "case_0003" / name)
    run = tmp_path / "run"
    result = CliRunner().invoke(
        app, ["train", "autoencoder", "--data", str(cohort), "--out", str(run), "--workers", "0"]
    )
    assert result.exit_code == 0, result.output
    assert "Skipped cohort/case_0001" in result.output
    assert "best Dice" in result.output
    assert json.loads((run / "config.json").read_text())["diffusion"] is None
    assert len(autoencoder.read_latents(run).shift) == 4

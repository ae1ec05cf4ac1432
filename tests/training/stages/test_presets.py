"""Presets: networks that fit their patches and grids, the paper's numbers, what options change."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from cardiacldm_training.cases.conditions import Vocabulary
from cardiacldm_training.errors import ConfigError
from cardiacldm_training.stages import autoencoder, diffusion, generator_presets, presets
from cardiacldm_training.stages.config import (
    SEGMENTER_NETWORKS,
    DataFacts,
    DiffusionConfig,
    DiffusionData,
    check_resumable,
    check_same,
)
from cardiacldm_training.stages.run_folder import read_config, write_config
from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder

FACTS = DataFacts(cases=200, digest="x")


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets_build_networks_that_fit_their_patches(preset: str, tmp_path: Path) -> None:
    settings = presets.segmenter_config(preset, FACTS)
    write_config(settings, tmp_path)
    check_same(read_config(tmp_path), settings)
    for name in SEGMENTER_NETWORKS:
        network = settings.segmenter.network(name)
        with torch.device("meta"):
            module = build_network(network.architecture, network.arguments)
            out = module(torch.empty(1, 1, *network.patch))
        assert out.shape == (1, anatomy.NUM_CLASSES, *network.patch)


def test_the_paper_preset_has_the_paper_numbers() -> None:
    network = presets.segmenter_config("paper", DataFacts(cases=211, digest="x")).segmenter.segmenter
    epoch = 95  # 190 training cases, two a step
    assert (network.learning_rate, network.steps, network.validate_every, network.patience) == (
        1e-3, 300 * epoch, epoch, 10,
    )  # fmt: skip


def test_steps_scale_both_networks() -> None:
    whole, part = (presets.segmenter_config("demo", FACTS, steps=n) for n in (None, 60))
    assert part.segmenter.segmenter.steps == 60
    assert part.segmenter.locator.steps == round(whole.segmenter.locator.steps * 60 / whole.segmenter.segmenter.steps)


def test_less_augmentation_lowers_every_probability_and_nothing_else() -> None:
    whole, half = (presets.segmenter_config("demo", FACTS, augmentation=a) for a in (1.0, 0.5))
    for name in SEGMENTER_NETWORKS:
        before, after = (
            whole.segmenter.network(name).augment.model_dump(),
            half.segmenter.network(name).augment.model_dump(),
        )
        changed = {field for field in before if before[field] != after[field]}
        assert changed == {"flip", "contrast", "mixing", "bias", "blur", "thick_slices", "noise", "gamma", "view"}
        assert all(after[field] == before[field] / 2 for field in changed)


def test_the_paper_generator_has_the_paper_numbers() -> None:
    settings = generator_presets.generator_config("paper", FACTS).generator
    augment = settings.autoencoder.augment
    assert (settings.grid, settings.autoencoder.arguments["stem_channels"]) == ((256, 256, 160), 3)
    assert (augment.horizontal_flip, augment.vertical_flip, augment.boost, augment.boost_hu) == (0.2, 0.2, 0.05, 50)
    assert augment.jitter == 0
    assert settings.autoencoder.arguments["linear_maps"] is False
    for preset in ("demo", "gpu"):  # no hearts on the wrong side
        augment = generator_presets.generator_config(preset, FACTS).generator.autoencoder.augment
        assert augment.horizontal_flip == augment.vertical_flip == 0


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_autoencoders_learn_from_patches_and_an_adversary(preset: str) -> None:
    model = generator_presets.generator_config(preset, FACTS).generator
    settings = model.autoencoder
    sides = {"demo": (32, 32, 32), "gpu": (64, 64, 64), "paper": (128, 128, 128)}
    assert model.training_box == sides[preset]
    assert 0 < settings.warmup_steps <= settings.adversary_from < settings.steps / 2
    assert settings.adversary_weight > 0
    assert settings.feature_weight > 0
    assert settings.kl_weight == 1e-6
    assert settings.train_linear == (preset != "paper")
    with torch.device("meta"):
        net = autoencoder.in_training(
            cast("JointAutoencoder", build_network("joint_autoencoder", settings.arguments)), settings
        )
        image, labels = torch.empty(1, 1, *model.training_box), torch.empty(1, *model.training_box, dtype=torch.uint8)
        outputs = net(
            (image, labels), torch.empty(1, 5, *model.training_box), torch.zeros(3, dtype=torch.int64, device="cpu")
        )
    assert outputs[0].shape == image.shape


def test_the_adversary_of_a_short_training_begins_in_time() -> None:
    whole, short = (generator_presets.generator_config("demo", FACTS, steps=steps) for steps in (None, 300))
    assert short.generator.autoencoder.adversary_from == 100
    check_resumable(short, whole)  # more steps may begin later


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets_build_autoencoders_that_fit_their_grids(preset: str, tmp_path: Path) -> None:
    run_config = generator_presets.generator_config(preset, FACTS)
    write_config(run_config, tmp_path)
    check_same(read_config(tmp_path), run_config)
    settings = run_config.generator
    with torch.device("meta"):
        net = build_network("joint_autoencoder", settings.autoencoder.arguments)
        image, _, mu, _ = net(torch.empty(1, 1, *settings.grid), torch.empty(1, *settings.grid, dtype=torch.uint8))
    assert image.shape[2:] == settings.grid
    assert mu.shape[2:] == tuple(n // 4 for n in settings.grid)


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets_build_denoisers_that_fit_their_grids(preset: str) -> None:
    settings = generator_presets.diffusion_config(preset, steps=1000, schedule="ddpm", devices=2)
    assert (settings.steps, settings.sampling.schedule, settings.devices) == (1000, "ddpm", 2)
    assert settings.warmup_steps <= 100
    words = Vocabulary(choices={"sex": ("female", "male")}, numbers={"spacing_mm": (0.5, 3.0)}, chances={})
    data = DiffusionData(conditions=words, conditions_digest="", autoencoder="")
    run_config = generator_presets.generator_config(preset, FACTS).with_diffusion(settings, data)
    with torch.device("meta"):
        network = build_network("diffusion_unet", diffusion.network_arguments(run_config))
        latent = torch.empty(1, *run_config.generator.latent_shape)
        conditions = torch.zeros(1, 2, dtype=torch.int64)[:, :1], torch.zeros(1, 1)
        assert network(latent, torch.zeros(1), *conditions).shape == latent.shape
    check_same(DiffusionConfig.model_validate_json(settings.model_dump_json()), settings)
    assert settings.sampling.time_shift == settings.training_shift == 1
    assert settings.sampling.restarts == settings.postprocess == ()
    assert settings.arguments.get("prior_modes") is None  # all of these are for rectified flow


def test_unknown_presets_and_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match="'huge'"):
        generator_presets.diffusion_config("huge")
    with pytest.raises(ConfigError, match=r"'cosine'.*rectified_flow.*ddpm"):
        generator_presets.diffusion_config("demo", schedule="cosine")

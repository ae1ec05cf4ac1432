"""The decoder stage: its latents and patches, exact resume, and the package with the finer pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from typer.testing import CliRunner

from cardiacldm_training.cases import pairs, prepare, store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError
from cardiacldm_training.export import export_run
from cardiacldm_training.stages import decoder, generator_presets, run_folder
from cardiacldm_training.stages.config import RunConfig
from cardiacldm_training.stages.decoder_latents import DecoderLatents, _time_of, coarse_pair
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.generation.sampler import signal_shares
from CardiacLDMLib.packages.store import ModelPackage, open_package
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.postprocess.deblock import Deblock
from tests.support.generator_package import GRID, SPACING_MM, write_tiny_generator
from tests.support.training import equal, facts

CONDITIONS: Mapping[str, Mapping[str, str | float]] = {}


@pytest.fixture(scope="module")
def fine(data: Path) -> store.Prepared:
    """Return the cases at half the spacing of the tiny generator."""
    return prepare.prepare_cases([data], None, SPACING_MM / 2, 1, lambda line: None)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("packages") / "tiny-generator"
    return open_package(write_tiny_generator(folder, postprocess=[Deblock(width_hu=60.0)]))


def tiny_run(fine: store.Prepared, package: ModelPackage, steps: int = 4, **changes: object) -> RunConfig:
    run = generator_presets.decoder_config("demo", facts(fine), package, seed=3)
    small = {
        "arguments": {"latent_channels": 4, "channels": (8, 8, 8, 8), "blocks": 1}, "patch": 3, "variants": 2,
        "adversary_channels": 4, "adversary_from": 0, "steps": steps, "validate_every": 2, "save_every": 2,
        "validation_cases": 1, "warmup_steps": 1, **changes,
    }  # fmt: skip
    model = run.fine_decoder
    settings = model.decoder.model_validate({**model.decoder.model_dump(), **small})
    return run.model_copy(update={"model": model.model_copy(update={"decoder": settings})})


def train(run: Path, fine: store.Prepared, package: ModelPackage, **changes: object) -> list[str]:
    lines: list[str] = []
    resume = bool(changes.pop("resume", False))
    settings = tiny_run(fine, package, **changes)  # type: ignore[arg-type]
    decoder.train_decoder(run, settings, fine, CONDITIONS, package, resume=resume, workers=0, say=lines.append)
    return lines


@pytest.fixture(scope="module")
def undisturbed(fine: store.Prepared, package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    torch.set_num_threads(1)
    train(run, fine, package)
    return run


def stage_of(run: Path, fine: store.Prepared, package: ModelPackage) -> decoder.DecoderStage:
    settings = run_folder.read_config(run)
    return decoder.DecoderStage(
        settings, DecoderLatents(run, settings, package, CONDITIONS), train=fine.cases, held_out=fine.cases[:1]
    )


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(
    fine: store.Prepared, package: ModelPackage, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(run, fine, package, steps=4, batch=1)
    for name in (run_folder.LAST, run_folder.BEST):
        (run / "decoder" / name).unlink()
    settings = tiny_run(fine, package)

    def stop(line: str) -> None:
        if "step 4:" in line:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        decoder.train_decoder(run, settings, fine, CONDITIONS, package, resume=True, workers=0, say=stop)
    assert run_folder.load_checkpoint(run / "decoder" / run_folder.LAST)["state"]["step"] == 2
    torch.manual_seed(99)
    train(run, fine, package, resume=True)
    one, other = (run_folder.load_checkpoint(r / "decoder" / run_folder.LAST) for r in (undisturbed, run))
    assert equal(one, other)


def test_both_sides_of_the_contest_learn(undisturbed: Path) -> None:
    states = run_folder.load_checkpoint(undisturbed / "decoder" / run_folder.LAST)["optimizer"]["state"]
    names = list(run_folder.load_checkpoint(undisturbed / "decoder" / run_folder.LAST)["network"])
    assert any(name.startswith("maker.") for name in names)
    assert any(name.startswith("adversary.") for name in names)
    assert all(float(state["exp_avg"].abs().max()) > 0 for state in states.values())


def test_patches_lie_on_their_latents(undisturbed: Path, fine: store.Prepared, package: ModelPackage) -> None:
    stage = stage_of(undisturbed, fine, package)
    whole = [pairs.pair(case, stage.model.fine_grid, stage.model.window_hu) for case in fine.cases]
    corners = set()
    for n in range(12):
        example = stage.example(n)
        assert example["image"].shape == example["labels"].shape == example["mask"].shape == (1, 24, 24, 24)
        assert example["z"].shape == (4, 4, 4, 4)  # the tiny generator has no more latents than these
        low = 8 * example["corner"]
        box = (slice(None), *(slice(c, c + 24) for c in low))
        assert any(np.array_equal(example["labels"], labels[box]) for _, labels in whole)
        cut = np.array([example["mask"][0].any(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)])
        np.testing.assert_array_equal(cut[:, 0], low == 0)  # the grid's own border counts, cut sides do not
        np.testing.assert_array_equal(cut[:, -1], low + 24 == 32)
        corners.add(tuple(low))
        assert 0 < example["certainty"] <= 1
    assert len(corners) > 1


def test_the_adversary_joins_by_degrees(undisturbed: Path, fine: store.Prepared, package: ModelPackage) -> None:
    stage = stage_of(undisturbed, fine, package)
    stage.config = stage.config.model_copy(update={"adversary_from": 2})
    grown = [float(stage.example(n)["adversary_share"]) for n in (0, 2, 152, 302, 9000)]
    assert grown == pytest.approx([0, 0, 0.5, 1, 1])


def test_latents_are_encoded_and_what_the_denoiser_returns(
    undisturbed: Path, fine: store.Prepared, package: ModelPackage
) -> None:
    stage, case = stage_of(undisturbed, fine, package), fine.cases[0]
    image, labels = (torch.from_numpy(a)[None] for a in pairs.pair(case, stage.model.fine_grid, stage.model.window_hu))
    autoencoder = load_networks(package)["autoencoder"]
    mu, _ = autoencoder.encode(*coarse_pair(image, labels))  # type: ignore[operator]
    np.testing.assert_allclose(stage.latents.read(case, 0), mu[0], atol=2e-2)
    assert not np.allclose(stage.latents.read(case, 1), stage.latents.read(case, 0), atol=0.1)
    settings = run_folder.read_config(undisturbed)
    again = DecoderLatents(undisturbed, settings, package, CONDITIONS)
    lines: list[str] = []
    again.make_all(Fabric(accelerator="cpu", devices=1), fine.cases[:2], lines.append)
    assert lines == []  # they are there already
    again.path_of(case).write_bytes(b"cut short")
    again.make_all(Fabric(accelerator="cpu", devices=1), fine.cases[:2], lines.append)
    np.testing.assert_allclose(stage.latents.read(case, 0), mu[0], atol=2e-2)


def test_latents_of_other_conditions_are_others(undisturbed: Path, fine: store.Prepared, package: ModelPackage) -> None:
    settings, case = run_folder.read_config(undisturbed), fine.cases[0]
    known = DecoderLatents(undisturbed, settings, package, {case.name: {"sex": "male"}})
    assert known.path_of(case) != DecoderLatents(undisturbed, settings, package, CONDITIONS).path_of(case)


def test_ddpm_has_the_noise_of_rectified_flow() -> None:
    for t in (0.15, 0.5, 0.8):
        share = signal_shares()[round(1000 * _time_of("ddpm", t))]
        assert np.sqrt(share / (1 - share)) == pytest.approx((1 - t) / t, rel=0.02)
        assert _time_of("rectified_flow", t) == t


def test_cut_borders_teach_nothing(undisturbed: Path, fine: store.Prepared, package: ModelPackage) -> None:
    stage = stage_of(undisturbed, fine, package)
    example = next(e for n in range(20) if not (e := stage.example(n))["mask"].all())
    batch = {name: torch.as_tensor(value)[None] for name, value in example.items()}
    sides = batch["image"].shape[2:]
    outputs = [torch.rand(1, channels, *sides, requires_grad=True) for channels in (1, 9)]
    losses = (torch.zeros(1), torch.zeros(1), torch.zeros(()))
    stage.loss(lambda *inputs: (*outputs, *losses), batch).backward()  # type: ignore[arg-type]
    for output in outputs:
        assert output.grad is not None
        cut = ~batch["mask"].expand_as(output)
        assert not output.grad[cut].any()
        assert output.grad[~cut].any()


def test_a_coarse_pair_has_means_and_the_most_frequent_label() -> None:
    image = torch.arange(8.0).view(1, 1, 2, 2, 2)
    labels = torch.tensor([3, 3, 3, 5, 5, 0, 0, 8], dtype=torch.uint8).view(1, 1, 2, 2, 2)
    coarse, names = coarse_pair(image, labels)
    assert (float(coarse), int(names)) == (3.5, 3)


def test_a_package_with_the_decoder_draws_finer_pairs(undisturbed: Path, package: ModelPackage, tmp_path: Path) -> None:
    made = export_run(undisturbed, tmp_path / "fine", "fine")
    manifest, before = made.manifest, package.manifest
    assert set(manifest.networks) == {"autoencoder", "diffusion", "decoder"}
    assert (manifest.pair_network.spacing_mm, manifest.pair_network.patch) == (SPACING_MM / 2, (32, 32, 32))
    assert manifest.generator is not None
    assert before.generator is not None
    assert manifest.generator.choices == before.generator.choices
    assert (manifest.title, manifest.licence) == (before.title, before.licence)  # its weights keep their origin
    assert manifest.training.data.startswith(before.training.data)
    assert manifest.generator.postprocess == ()  # deblocking belongs to the coarse image
    assert manifest.training.steps["decoder"] == 4
    for name in ("autoencoder", "diffusion"):
        assert equal(load_networks(made)[name].state_dict(), load_networks(package)[name].state_dict())
    pair = Generator(made, "cpu").generate(0, 0, steps=2)
    assert pair.image.array.shape == tuple(2 * side for side in GRID)


def test_the_command_trains_a_decoder_and_refuses_what_has_none(
    data: Path, package: ModelPackage, tmp_path: Path
) -> None:
    def command(*arguments: object) -> int:
        return CliRunner().invoke(app, ["train", "decoder", "--data", str(data), *map(str, arguments)]).exit_code

    fixed = ("--generator", package.folder, "--workers", 0, "--device", "cpu", "--steps", 1)
    assert command(*fixed, "--out", tmp_path / "run") == 0
    assert (tmp_path / "run" / "decoder" / run_folder.BEST).is_file()
    assert command(*fixed, "--out", tmp_path / "run") == 2  # it is trained already
    assert command(*fixed, "--out", tmp_path / "other", "--preset", "paper") == 2
    assert command("--generator", "virtual-heart-v2", "--out", tmp_path / "segmenter") == 2


def test_another_package_and_too_few_latents_are_refused(
    undisturbed: Path, fine: store.Prepared, package: ModelPackage, tmp_path: Path
) -> None:
    other = open_package(write_tiny_generator(tmp_path / "other-generator"))
    with pytest.raises(ConfigError, match="another package"):
        train(undisturbed, fine, other, resume=True)
    settings = tiny_run(fine, package)
    small = settings.model_copy(update={"model": settings.fine_decoder.model_copy(update={"grid": (8, 16, 16)})})
    with pytest.raises(ConfigError, match="8 x 16 x 16"):
        decoder.train_decoder(tmp_path / "run", small, fine, CONDITIONS, package, resume=False, workers=0)


def test_the_run_of_another_stage_is_no_decoders(undisturbed: Path) -> None:
    with pytest.raises(ConfigError, match="decoder"):
        _ = run_folder.read_config(undisturbed).generator

"""The last stage: gains of restarts, a decoder trained on latents as the diffusion draws them, and its export."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from typer.testing import CliRunner

from cardiacldm_training import autoencoder, config, decoder, generator_config, loop, pairs, store
from cardiacldm_training.cli import app
from cardiacldm_training.export_generator import export_generator
from cardiacldm_training.generator_config import DecoderConfig
from CardiacLDMLib.generator import Generator
from CardiacLDMLib.networks import build_network, load_networks
from helpers_generator_package import GRID, SPACING_MM
from helpers_training import write_cases
from test_export_generator import write_run
from test_training import equal

LATENT = (4, 4, 4, 4)
KNOWN: dict[str, dict[str, str | float]] = {f"cohort/case_{n:04d}": {"sex": "male"} for n in range(3)}


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


@pytest.fixture
def run(prepared: store.Prepared, tmp_path: Path) -> Path:
    """A run with an autoencoder and a diffusion, its restarts at 0.5 and 0.25."""
    folder = write_run(tmp_path / "run")
    stored = generator_config.read_config(folder)
    of_data = {"cases": len(prepared.cases), "cases_digest": prepared.digest}
    config.write_config(stored.model_copy(update=of_data), folder)
    return folder


def tiny(**changes: object) -> DecoderConfig:
    values = {
        "batch": 1, "steps": 6, "validate_every": 3, "patience": 10, "save_every": 3, "warmup_steps": 2,
        "learning_rate": 3e-3, "validation_cases": 1,
    }  # fmt: skip
    return DecoderConfig.model_validate({**values, **changes})


def train(run: Path, prepared: store.Prepared, *, resume: bool = False, **changes: object) -> list[str]:
    lines: list[str] = []
    decoder.train_decoder(run, tiny(**changes), prepared, KNOWN, resume=resume, workers=0, say=lines.append)
    return lines


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = decoder.exported(run)
    assert found is not None
    return found[1]


# --- worn latents and gains ----------------------------------------------------------------------------------------


class Pale(torch.nn.Module):
    """A denoiser that sees the data at a share of what they are, another one for each channel."""

    def __init__(self, data: torch.Tensor, shares: tuple[float, ...]) -> None:
        super().__init__()
        self.data, self.shares = data, torch.tensor(shares).view(-1, 1, 1, 1)

    def forward(self, z: torch.Tensor, t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return (z - self.shares * self.data) / t[:, None, None, None, None]


def worn_of(run: Path, shares: tuple[float, ...], cases: list[store.PreparedCase]) -> decoder.Worn:
    """What the run's autoencoder knows, with a :class:`Pale` denoiser of the cases."""
    stored = generator_config.read_config(run)
    assert stored.diffusion is not None
    network = autoencoder.load_autoencoder(run, stored.autoencoder)
    worn = decoder.Worn(torch.nn.Identity(), network, stored.diffusion, autoencoder.read_latents(run))
    latents = [decoder._latent(Fabric(accelerator="cpu"), worn, stored, case) for case in cases]
    worn.denoiser = Pale(torch.cat(latents), shares)
    return worn


@pytest.mark.parametrize(("power", "expected"), [(1.0, (1.0, 2.0, 1.25, 3.0)), (0.5, (1.0, 1.5, 1.125, 2.0))])
def test_gains_undo_how_much_paler_latents_are_after_a_restart(
    run: Path, prepared: store.Prepared, power: float, expected: tuple[float, ...]
) -> None:
    worn = worn_of(run, (1.0, 0.5, 0.8, 0.01), prepared.cases)  # the last one is more than is made up for
    gains = decoder.measure_gains(
        Fabric(accelerator="cpu"), worn, generator_config.read_config(run), tiny(gain_power=power), prepared.cases
    )
    assert len(gains) == 2
    assert np.allclose(gains, [expected] * 2, atol=2e-3)


def test_latents_go_through_the_last_restarts_alone(run: Path, prepared: store.Prepared) -> None:
    stored = generator_config.read_config(run)
    worn = worn_of(run, (0.5,) * 4, prepared.cases[:1])
    for from_time, times in ((0.6, [0.5, 0.25]), (0.3, [0.25])):
        settings = tiny(from_time=from_time, gains=((2.0,) * 4, (3.0,) * 4))
        known = {case.name: (np.array([0, -1]), np.zeros(2, np.float32)) for case in prepared.cases}
        stage = decoder.DecoderStage(
            stored, settings, worn, train=prepared.cases[:1], held_out=prepared.cases, known=known
        )
        assert [t for t, _ in stage.restarts] == times
        example = stage.example(4)
        assert all(np.array_equal(value, stage.example(4)[name]) for name, value in example.items())
        assert not np.array_equal(example["noise"], stage.example(5)["noise"])
        assert example["noise"].shape == (len(times), *LATENT)
    image, labels = (torch.from_numpy(a)[None] for a in pairs.pair(prepared.cases[0], GRID, stored.window_hu))
    z = worn.latents(image, labels)
    choices, numbers, drawn = torch.zeros(1, 2).long(), torch.zeros(1, 2), torch.randn(1, 1, *LATENT)
    out = worn.restarted(z, (choices, numbers), drawn, [(0.25, (3.0,) * 4)])
    assert torch.allclose(out, 1.5 * z, atol=1e-4)  # seen at a half, enlarged by three
    decodable = worn.decodable(torch.ones(1, *LATENT))
    assert torch.allclose(decodable[0, :, 0, 0, 0], torch.tensor([1.1, 2.2, 3.3, 4.4]))  # scale and shift of the run


# --- the whole stage -----------------------------------------------------------------------------------------------


def test_the_decoder_learns_and_the_encoder_stays(run: Path, prepared: store.Prepared) -> None:
    lines = train(run, prepared, steps=40, validate_every=20)
    assert any("after restarts at 0.5, 0.25." in line for line in lines)
    assert any("validation Dice" in line for line in lines)
    before, after = autoencoder.averaged_autoencoder(run), weights(run)
    assert before.keys() == after.keys()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "post_quant_conv", "block_decoder"}
    stored = generator_config.read_config(run)
    assert stored.decoder is not None
    assert len(stored.decoder.gains) == 2
    losses = [loss_of(run, prepared, state) for state in (before, after)]
    assert losses[1] < 0.8 * losses[0]


def loss_of(run: Path, prepared: store.Prepared, state: dict[str, torch.Tensor]) -> float:
    """Of the first examples, for an autoencoder of the given weights."""
    stored = generator_config.read_config(run)
    assert stored.decoder is not None
    assert stored.diffusion is not None
    known = {case.name: (np.array([0, -1]), np.zeros(2, np.float32)) for case in prepared.cases}
    worn = decoder._worn(Fabric(accelerator="cpu"), run, stored, stored.diffusion)
    stage = decoder.DecoderStage(
        stored, stored.decoder, worn, train=prepared.cases, held_out=prepared.cases, known=known
    )
    network: Any = build_network(autoencoder.ARCHITECTURE, stored.autoencoder.arguments)
    network.load_state_dict(state)
    examples = [stage.example(n) for n in range(4)]
    batch = {name: torch.from_numpy(np.stack([e[name] for e in examples])) for name in examples[0]}
    with torch.no_grad():
        return float(stage.loss(decoder.Decoder(network).eval(), batch))


class KilledError(Exception):
    pass


def test_a_run_cut_off_and_resumed_ends_with_the_same_bits(
    run: Path, prepared: store.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(run, run.parent / "other"))
    train(other, prepared)
    step = loop._Run.step

    def cut_off(self: Any, batch: Any) -> Any:
        if self.state.step == 4:
            raise KilledError
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "step", cut_off)
        with pytest.raises(KilledError):
            train(run, prepared)
    train(run, prepared, resume=True)
    for name in (loop.BEST, loop.LAST):
        assert equal(*(loop.load_checkpoint(folder / "decoder" / name) for folder in (other, run))), name


def test_what_does_not_belong_to_the_run_is_refused(run: Path, prepared: store.Prepared) -> None:
    train(run, prepared, steps=1)
    with pytest.raises(loop.TrainingError, match="already holds a decoder: go on with --resume"):
        train(run, prepared, steps=1)
    with pytest.raises(config.ConfigError, match=r"decoder\.steps is 1, not 2"):
        train(run, prepared, steps=2, resume=True)
    stored = generator_config.read_config(run)
    assert stored.diffusion is not None
    without = stored.model_copy(update={"diffusion": stored.diffusion.model_copy(update={"restarts": ()})})
    config.write_config(without, run)
    with pytest.raises(loop.TrainingError, match="draws without restarts"):
        train(run, prepared)
    config.write_config(stored.model_copy(update={"diffusion": None}), run)
    with pytest.raises(loop.TrainingError, match="has no diffusion yet"):
        train(run, prepared)


def test_a_package_has_the_decoder_and_the_gains(run: Path, prepared: store.Prepared, tmp_path: Path) -> None:
    assert decoder.exported(run) is None
    plain = export_generator(run, tmp_path / "plain", "plain")
    train(run, prepared, steps=1)
    package = export_generator(run, tmp_path / "hearts", "hearts")
    stored = generator_config.read_config(run)
    assert stored.decoder is not None
    spec = package.manifest.generator
    assert spec is not None
    assert spec.restart_gains == stored.decoder.gains
    assert package.manifest.training.steps == {"autoencoder": 11, "diffusion": 9, "decoder": 1}
    assert "each channel made to vary more again" in (package.folder / "README.md").read_text()
    for name, value in load_networks(package)["autoencoder"].state_dict().items():
        assert torch.allclose(value, weights(run)[name], atol=1e-3), name
    some = Generator(package, "cpu").with_restarts([0.25]).spec
    assert (some.restarts, some.restart_gains) == ((0.25,), (stored.decoder.gains[1],))
    drawn = [Generator(each, "cpu").generate(0, 0, steps=1).image.array for each in (plain, package)]
    assert not np.array_equal(*drawn)


def test_a_decoder_of_another_diffusion_is_not_exported(run: Path, prepared: store.Prepared, tmp_path: Path) -> None:
    train(run, prepared, steps=1)
    best = run / "diffusion" / loop.BEST
    content = torch.load(best, weights_only=True)
    name = next(name for name in content["average"] if name.endswith("weight"))
    content["average"][name] += 1.0
    torch.save(content, best)
    with pytest.raises(loop.TrainingError, match="was trained on after its decoder: train that anew"):
        export_generator(run, tmp_path / "hearts", "hearts")


@pytest.mark.parametrize("preset", generator_config.PRESETS)
def test_presets_say_how_long(preset: str) -> None:
    settings = generator_config.decoder_config(preset, steps=500, batch=3, devices=2)
    assert (settings.steps, settings.batch, settings.devices) == (500, 3, 2)
    assert settings.validate_every <= 100
    with pytest.raises(config.ConfigError, match="There is no preset 'huge'"):
        generator_config.decoder_config("huge")


def test_command(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    shared = ["train", "decoder", "--data", str(data), "--workers", "0"]
    nothing = CliRunner().invoke(app, [*shared, "--out", str(tmp_path / "nothing")])
    assert nothing.exit_code == 1
    assert "nothing is not a training run" in nothing.stderr
    monkeypatch.setattr(generator_config, "decoder_config", lambda preset, **options: tiny(steps=1))
    done = CliRunner().invoke(app, [*shared, "--out", str(run)])
    assert done.exit_code == 0, done.stderr
    assert "decoder: best Dice " in done.stderr

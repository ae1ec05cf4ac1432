"""A run that starts from a generator package: what it keeps, what it trains, and the package that it makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cardiacldm_training.cases import store
from cardiacldm_training.cases.conditions import Conditions
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError
from cardiacldm_training.export import export_run
from cardiacldm_training.stages import autoencoder, generator_presets, generator_start, run_folder
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.packages.store import ModelPackage, open_package
from CardiacLDMLib.packages.weights import load_networks
from tests.support.generator_package import CHOICES, GRID, tiny_generator_spec, write_tiny_generator
from tests.support.training import equal


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return open_package(write_tiny_generator(tmp_path_factory.mktemp("packages") / "tiny-generator"))


def command(data: Path, *arguments: object) -> int:
    fixed = ("train", "diffusion", "--data", data, "--workers", 0, "--device", "cpu", "--variants", 1)
    return CliRunner().invoke(app, [str(argument) for argument in (*fixed, *arguments)]).exit_code


def test_a_packages_denoiser_learns_on_and_all_else_stays(data: Path, package: ModelPackage, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(data, "--from", package.folder, "--out", run, "--steps", 2) == 0
    assert command(data, "--out", run, "--steps", 4, "--resume") == 0  # the run knows its package
    made = export_run(run, tmp_path / "own", "own")
    new, old = (load_networks(each) for each in (made, package))
    assert equal(new["autoencoder"].state_dict(), old["autoencoder"].state_dict())
    assert not equal(new["diffusion"].state_dict(), old["diffusion"].state_dict())
    spec, before = made.manifest.generator, package.manifest.generator
    assert spec is not None
    assert before is not None
    assert (spec.choices, spec.numbers) == (before.choices, before.numbers)
    assert (spec.latent_shift, spec.latent_scale) == (before.latent_shift, before.latent_scale)
    assert made.manifest.training.steps == {"autoencoder": 0, "diffusion": 4}
    assert (spec.sampling, spec.postprocess) == (before.sampling, before.postprocess)
    assert made.manifest.licence == package.manifest.licence  # its weights keep their origin
    assert Generator(made, "cpu").generate(0, 0, steps=2).image.array.shape == GRID


def test_a_fine_decoder_and_the_sampling_stay(data: Path, tmp_path: Path) -> None:
    sampling = {"time_shift": 10.0, "restarts": [{"time": 0.5}]}
    fine = open_package(write_tiny_generator(tmp_path / "fine-generator", fine=True, sampling=sampling))
    run = tmp_path / "run"
    assert command(data, "--from", fine.folder, "--out", run, "--steps", 1) == 0
    made = export_run(run, tmp_path / "own", "own")
    assert made.manifest.pair_network == fine.manifest.pair_network
    assert equal(*(load_networks(each)["decoder"].state_dict() for each in (made, fine)))
    assert made.manifest.generator is not None
    assert fine.manifest.generator is not None
    assert made.manifest.generator.sampling == fine.manifest.generator.sampling  # without gains, as before
    assert Generator(made, "cpu").generate(0, 0, steps=2).image.array.shape == tuple(2 * side for side in GRID)


def test_training_starts_from_the_packages_weights(data: Path, package: ModelPackage, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(data, "--from", package.folder, "--out", run, "--steps", 1, "--learning-rate", 1e-7) == 0
    weights = run_folder.averaged_weights(run / "diffusion" / run_folder.BEST)
    start = load_networks(package)["diffusion"].state_dict()
    assert all((weights[name] - start[name]).abs().max() < 1e-5 for name in start)
    assert equal(autoencoder.best_weights(run), load_networks(package)["autoencoder"].state_dict())


def test_the_run_of_another_package_is_refused(data: Path, package: ModelPackage, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(data, "--from", package.folder, "--out", run, "--steps", 1) == 0
    assert generator_start.start_of(run) == open_package(run / generator_start.FOLDER / "tiny-generator")
    other = write_tiny_generator(tmp_path / "other-generator")
    assert command(data, "--from", other, "--out", run, "--steps", 1, "--resume") == 2
    assert command(data, "--from", package.folder, "--out", run, "--steps", 1) == 2  # it is trained already
    assert command(data, "--from", "virtual-heart-v2", "--out", tmp_path / "segmenter") == 2
    assert not (tmp_path / "segmenter").exists()


def test_a_killed_start_begins_again(package: ModelPackage, prepared: store.Prepared, tmp_path: Path) -> None:
    """The configuration is written last: a folder without it is no run yet."""
    run = tmp_path / "run"
    generator_start.begin_run(run, package, "demo", prepared)
    before = json.loads((run / run_folder.CONFIG_FILE).read_text())
    (run / run_folder.CONFIG_FILE).unlink()
    assert generator_start.start_of(run) is None
    generator_start.begin_run(run, package, "demo", prepared)
    assert json.loads((run / run_folder.CONFIG_FILE).read_text()) == before


def test_a_run_goes_on_after_the_preset_of_its_untrained_autoencoder_changed(
    package: ModelPackage, prepared: store.Prepared, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    generator_start.begin_run(run, package, "demo", prepared)
    path = run / run_folder.CONFIG_FILE
    content = json.loads(path.read_text())
    content["model"]["autoencoder"] |= {"kl_weight": 0.3, "patch": None}
    path.write_text(json.dumps(content))
    generator_start.begin_run(run, package, "demo", prepared)
    content["model"]["autoencoder"]["arguments"]["stem_channels"] = 8
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="stem_channels"):
        generator_start.begin_run(run, package, "demo", prepared)


def test_frequencies_are_those_of_the_new_cases_where_they_are_known() -> None:
    spec = tiny_generator_spec(chances={"implant": [0.9, 0.1]})
    cases: list[Conditions] = [{"sex": "male"}, {"sex": "male", "weight_kg": 80.0}, {"sex": "female"}, {"sex": "other"}]
    vocabulary = generator_start.vocabulary_like(spec, cases)
    assert vocabulary.choices == {name: tuple(values) for name, values in CHOICES.items()}
    assert vocabulary.chances == {"sex": (0.333, 0.667), "implant": (0.9, 0.1)}
    assert vocabulary.numbers == spec.numbers


def test_another_noise_schedule_is_refused(package: ModelPackage) -> None:
    settings = generator_presets.diffusion_config("demo", schedule="ddpm")
    with pytest.raises(ConfigError, match="rectified_flow"):
        generator_start.settings_like(settings, package)

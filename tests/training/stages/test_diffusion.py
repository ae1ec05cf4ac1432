"""The diffusion stage: latent files, stateless examples, exact resume, gains of restarts; conditions are learned."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from typer.testing import CliRunner

from cardiacldm_training.cases import conditions, pairs, store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.stages import (
    autoencoder,
    calibration,
    diffusion,
    generator_presets,
    latent_files,
    loop,
    run_folder,
)
from cardiacldm_training.stages.calibration import LatentStatistics
from cardiacldm_training.stages.config import DiffusionConfig, DiffusionData, RunConfig
from CardiacLDMLib.generation.sampler import guided, integrate, noise, signal_shares, step_generator
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.generator_spec import SOLVERS, Sampling
from tests.support.denoiser import ARGUMENTS, LATENT, denoiser
from tests.support.training import equal, facts

GRID = (16, 16, 16)
SPACING_MM = 8.0
AUTOENCODER = {"channels": [4, 4, 8], "norm_num_groups": 4, "stem_channels": 2, "latent_channels": 2}
NAMES = [f"cohort/case_{n:04d}" for n in range(3)]
CONDITIONS: dict[str, dict[str, str | float]] = {
    name: {"sex": sex, "spacing_mm": spacing}
    for name, sex, spacing in zip(NAMES, ("female", "male", "female"), (0.5, 1.0, 2.0), strict=True)
}


@pytest.fixture(scope="module")
def encoded(prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose autoencoder has taken a step."""
    run = tmp_path_factory.mktemp("runs") / "run"
    settings = RunConfig.model_validate({
        "preset": "test", "seed": 3, "data": facts(prepared), "model": {
            "kind": "generator", "grid": GRID, "spacing_mm": SPACING_MM, "autoencoder": {
                "arguments": AUTOENCODER, "batch": 1, "steps": 1, "validate_every": 1, "patience": 1,
                "validation_cases": 1,
            },
        },
    })  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    autoencoder.train_autoencoder(run, settings, prepared, resume=False, workers=0, say=lambda line: None)
    torch.set_num_threads(threads)
    return run


@pytest.fixture
def run(encoded: Path, tmp_path: Path) -> Path:
    """A run without a diffusion."""
    return Path(shutil.copytree(encoded, tmp_path / "run"))


@pytest.fixture(scope="module")
def undisturbed(encoded: Path, prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose diffusion was trained from start to end; ``lines.txt`` in it holds the lines it wrote."""
    run = Path(shutil.copytree(encoded, tmp_path_factory.mktemp("runs") / "undisturbed"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (run / "lines.txt").write_text("\n".join(train(run, prepared)))
    torch.set_num_threads(threads)
    return run


@pytest.fixture
def trained(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(undisturbed, tmp_path / "trained", copy_function=shutil.copy2))


def sampling_of(schedule: str, **changes: object) -> dict[str, object]:
    """The fields of the usual sampling of a schedule."""
    return {"schedule": schedule, "solver": SOLVERS[schedule][0], **changes}  # type: ignore[index]


#: Two restarts.
RESTARTS = sampling_of("rectified_flow", restarts=[{"time": 0.6}, {"time": 0.4}])


def tiny(**changes: object) -> DiffusionConfig:
    values = {
        "arguments": {**ARGUMENTS, "prior_modes": 2}, "variants": 2, "batch": 2, "steps": 6, "validate_every": 3,
        "patience": 10, "save_every": 3, "warmup_steps": 2, "learning_rate": 3e-3, "validation_cases": 1,
    }  # fmt: skip
    return DiffusionConfig.model_validate({**values, **changes})


def train(
    run: Path, prepared: store.Prepared, *, resume: bool = False, workers: int = 0,
    case_conditions: dict[str, dict[str, str | float]] = CONDITIONS, **changes: object,
) -> list[str]:  # fmt: skip
    lines: list[str] = []
    diffusion.train_diffusion(
        run, tiny(**changes), prepared, case_conditions, resume=resume, workers=workers, say=lines.append
    )  # fmt: skip
    return lines


# --- examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SOLVERS)
def test_a_perfect_network_gives_the_data_back(schedule: str) -> None:
    """Training and sampling agree on schedule, time and target."""
    data, error = (noise(2, n, 0, LATENT).double().numpy() for n in range(2))

    def perfect(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        noisy, target = diffusion.add_noise(schedule, data, error, float(t[0]))
        assert np.abs(z[0].numpy() - noisy).max() < 1e-9
        return torch.from_numpy(target)[None]

    begin, _ = diffusion.add_noise(schedule, data, error, 1.0)
    sampling = Sampling.model_validate(sampling_of(schedule, steps=8))
    end = integrate(perfect, torch.from_numpy(begin)[None], sampling)
    assert np.abs(end[0].numpy() - data).max() < 1e-9


def test_conditions_are_dropped_each_alone_and_all_at_once() -> None:
    rng = np.random.default_rng(0)
    choices, numbers = np.array([1, 0, 2]), np.array([0.5], dtype=np.float32)
    unset = []
    for _ in range(4000):
        some, values = diffusion.drop_conditions(choices, numbers, rng, 0.1)
        assert some.dtype == np.int64
        assert values.dtype == np.float32
        assert set(some[some != choices]) <= {-1}
        unset.append([*(some < 0), np.isnan(values[0])])
    share = np.array(unset)
    assert share.mean(0) == pytest.approx(0.19, abs=0.025)  # 1 - 0.9 * 0.9
    assert share.all(1).mean() == pytest.approx(0.1, abs=0.02)
    kept = diffusion.drop_conditions(choices, numbers, rng, 0.0)
    assert np.array_equal(kept[0], choices)
    assert np.array_equal(kept[1], numbers)


def config_of_two(schedule: str) -> RunConfig:
    """The run of :func:`stage_of_two`."""
    words = conditions.Vocabulary(choices={"sex": ("female", "male")}, numbers={}, chances={})
    data = DiffusionData(conditions=words, conditions_digest="", autoencoder="")
    return RunConfig.model_validate({
        "preset": "test", "seed": 3, "data": {"cases": 2, "digest": "x", "diffusion": data}, "model": {
            "kind": "generator", "grid": GRID, "spacing_mm": SPACING_MM,
            "diffusion": tiny(sampling=sampling_of(schedule)),
            "autoencoder": {"arguments": AUTOENCODER, "steps": 1, "validate_every": 1, "patience": 1},
        },
    })  # fmt: skip


def stage_of_two(folder: Path, schedule: str = "rectified_flow") -> diffusion.DiffusionStage:
    """Two training cases: women's latents are 3 everywhere, men's -1; normalised: 1 and -1."""
    cases = []
    for place, value in enumerate((3.0, -1.0)):
        path = folder / f"{place}.npy"
        np.save(path, np.full(LATENT, value, dtype=np.float32))
        cases.append(latent_files.Latents([path], np.array([place]), np.zeros(0, dtype=np.float32)))
    statistics = LatentStatistics(shift=(1.0,) * LATENT[0], scale=(2.0,) * LATENT[0], cases=2, autoencoder="")
    run_config = config_of_two(schedule)
    return diffusion.DiffusionStage(run_config, statistics, None, train=cases, held_out=cases[:1])  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SOLVERS)
def test_an_example_is_a_function_of_its_number(schedule: str, tmp_path: Path) -> None:
    one, other = stage_of_two(tmp_path, schedule), stage_of_two(tmp_path, schedule)
    other.example(8)
    first, again = one.example(7), other.example(7)
    assert first.keys() == {"z", "t", "target", "choices", "numbers"}
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["z"], one.example(9)["z"])
    assert first["z"].shape == first["target"].shape == LATENT
    assert {first[key].dtype for key in ("z", "t", "target", "numbers")} == {np.dtype(np.float32)}
    times = [float(one.example(n)["t"]) for n in range(200)]
    assert 0 < min(times) < 0.05
    assert 0.95 < max(times) <= 1
    assert np.diff(sorted([0.0, *times[93:109], 1.0])).max() < 0.13  # even over any few steps, not by chance
    if schedule == "ddpm":
        assert np.allclose(np.array(times) * 1000, np.round(np.array(times) * 1000), atol=1e-3)


def test_times_of_training_are_shifted_towards_noise(tmp_path: Path) -> None:
    even, moved = stage_of_two(tmp_path), stage_of_two(tmp_path)
    moved.config = moved.config.model_copy(update={"training_shift": 2.0})
    for n in range(20):
        t = float(even.example(n)["t"])
        assert float(moved.example(n)["t"]) == pytest.approx(2 * t / (1 + t))


class Perfect(torch.nn.Module):
    """A perfect denoiser of data that are 1 everywhere."""

    def forward(self, z: torch.Tensor, t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return (z - 1) / t[:, None, None, None, None]


def test_score_is_the_error_on_the_same_examples_every_time(tmp_path: Path) -> None:
    fabric, stage = Fabric(accelerator="cpu"), stage_of_two(tmp_path)
    assert stage.score(fabric, Perfect()).value == pytest.approx(0.0, abs=1e-9)
    network = denoiser(choices=[2], numbers=0)
    with torch.inference_mode():
        one, other = (stage.score(fabric, network) for _ in range(2))
    assert one == other
    assert one.value < -0.1
    assert one.value == pytest.approx(-np.mean(list(one.parts.values())))
    assert next(iter(one.parts)) == "error_at_0.06"


class Guess(torch.nn.Module):
    """A denoiser that learns one value for all data of a condition."""

    def __init__(self, schedule: str) -> None:
        super().__init__()
        self.schedule = schedule
        self.value = torch.nn.Embedding.from_pretrained(torch.zeros(3, 1), freeze=False)

    def forward(self, z: torch.Tensor, t: torch.Tensor, choices: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        value, t = self.value(choices[:, 0] + 1)[..., None, None, None], t[:, None, None, None, None]
        if self.schedule == "rectified_flow":
            return (z - value) / t.clamp_min(0.05)
        share = torch.from_numpy(signal_shares()).float()[(t * 1000).round().long()]
        return (z - share.sqrt() * value) / (1 - share).sqrt()


@pytest.mark.parametrize("schedule", SOLVERS)
def test_samples_have_the_conditions_they_were_asked_for(schedule: str, tmp_path: Path) -> None:
    stage, network = stage_of_two(tmp_path, schedule), Guess(schedule)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for step in range(200):
        examples = [stage.example(8 * step + n) for n in range(8)]
        batch = {key: torch.from_numpy(np.stack([e[key] for e in examples])) for key in examples[0]}
        optimizer.zero_grad()
        stage.loss(network, batch).backward()
        optimizer.step()
    assert network.value.weight.flatten().tolist() == pytest.approx([0.0, 1.0, -1.0], abs=0.35)
    begin = torch.stack([noise(0, n, 0, LATENT) for n in range(3)])
    predict = guided(network, torch.tensor([[-1], [0], [1]]), torch.zeros(3, 0), 1.0)
    for solver in SOLVERS[schedule]:  # type: ignore[index]
        with torch.no_grad():
            samples = integrate(
                predict, begin, Sampling.model_validate(sampling_of(schedule, solver=solver, steps=10)),
                generators=[step_generator(0, n, 0) for n in range(3)],
            )  # fmt: skip
        assert samples.flatten(1).mean(1).tolist() == pytest.approx([0.0, 1.0, -1.0], abs=0.4), solver


# --- the whole stage ---------------------------------------------------------------------------------------------


def encodings(lines: list[str]) -> list[tuple[int, int]]:
    """The numbers of pairs and cases in the lines about encoding."""
    numbers = [re.findall(r"\d+", line) for line in lines if "encoding" in line]
    return [(int(pairs), int(cases)) for pairs, cases in numbers]


def test_latents_are_kept_and_made_again_when_damaged(trained: Path, prepared: store.Prepared) -> None:
    files = sorted((trained / latent_files.FOLDER).iterdir())
    assert len(files) == 2 * 2 + 1  # two training cases in two variants, one held-out case
    assert encodings((trained / "lines.txt").read_text().splitlines()) == [(len(files), 3)]
    assert {np.load(path).shape for path in files} == {LATENT}
    assert len({path.read_bytes() for path in files}) == len(files)
    before = {path: path.stat().st_mtime_ns for path in files}
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-40])
    shutil.rmtree(trained / "diffusion")
    lines = train(trained, prepared, steps=1)
    assert encodings(lines) == [(1, 3)]
    assert files[0].read_bytes() == content
    assert all(path.stat().st_mtime_ns == before[path] for path in files[1:])


class _OnGPU(Fabric):
    """Fabric on the CPU that takes the batches of a GPU."""

    device = property(lambda self: torch.device("cuda"))  # type: ignore[assignment]

    def to_device(self, tensor: Any) -> Any:
        return tensor


@pytest.mark.parametrize("workers", [0, 1])
def test_latents_are_the_same_in_batches(
    trained: Path, prepared: store.Prepared, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Six pairs in batches of four; a batch of more than three does not fit, so it is halved."""
    run_config = run_folder.read_config(trained)
    network = autoencoder.load_autoencoder(trained, run_config.generator.autoencoder)
    cases = [(case, 2) for case in prepared.cases]
    one_by_one = latent_files.encode_all(Fabric(accelerator="cpu"), trained, run_config, network, cases, print)
    before = {path: np.load(path) for paths in one_by_one for path in paths}
    for path in before:
        path.unlink()
    sizes, encode = [], type(network).encode

    def encode_if_it_fits(self: Any, image: torch.Tensor, labels: torch.Tensor) -> Any:
        sizes.append(len(image))
        if len(image) > 3:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return encode(self, image, labels)

    monkeypatch.setattr(type(network), "encode", encode_if_it_fits)
    latent_files.encode_all(_OnGPU(accelerator="cpu"), trained, run_config, network, cases, print, workers)
    assert sizes == [4, 2, 2, 2]
    assert len(before) == 6
    for path, latent in before.items():
        np.testing.assert_allclose(np.load(path), latent, atol=1e-4)


def test_the_first_latent_of_a_case_is_without_augmentation(undisturbed: Path, prepared: store.Prepared) -> None:
    stored = run_folder.read_config(undisturbed).generator
    network = autoencoder.load_autoencoder(undisturbed, stored.autoencoder)
    kept = [np.load(path) for path in (undisturbed / latent_files.FOLDER).iterdir()]
    for case in prepared.cases:
        image, labels = (torch.from_numpy(array)[None] for array in pairs.pair(case, GRID, stored.window_hu))
        with torch.inference_mode():
            mu, _ = network.encode(image, labels)
        assert any(np.array_equal(mu[0].numpy(), array) for array in kept)


class KilledError(Exception):
    pass


def test_a_run_cut_off_and_resumed_ends_with_the_same_bits(
    run: Path, undisturbed: Path, prepared: store.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop._Run.step

    def cut_off(self: Any, batch: Any) -> Any:
        if self.state.step == 4:
            raise KilledError
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "step", cut_off)
        with pytest.raises(KilledError):
            train(run, prepared)
    assert run_folder.load_checkpoint(run / "diffusion" / run_folder.LAST)["state"]["step"] == 3
    train(run, prepared, resume=True, workers=1)
    for name in (run_folder.BEST, run_folder.LAST):
        one, other = (run_folder.load_checkpoint(folder / "diffusion" / name) for folder in (undisturbed, run))
        assert equal(one, other), name
    assert one["state"]["finished"]


def test_a_run_holds_all_that_a_package_needs(undisturbed: Path) -> None:
    stored = run_folder.read_config(undisturbed)
    assert stored.data.diffusion is not None
    assert stored.data.diffusion.conditions.choices["sex"]
    assert stored.data.diffusion.autoencoder == calibration.read_latent_statistics(undisturbed).autoencoder
    network = build_network("diffusion_unet", diffusion.network_arguments(stored))
    network.load_state_dict(run_folder.averaged_weights(undisturbed / "diffusion" / run_folder.BEST))
    lines = (undisturbed / "lines.txt").read_text().splitlines()
    assert any("conditions: sex (" in line and "spacing_mm (" in line for line in lines)
    assert any("validation score -" in line for line in lines)


def test_another_configuration_is_refused(trained: Path, prepared: store.Prepared) -> None:
    with pytest.raises(TrainingError, match="--resume"):
        train(trained, prepared)
    with pytest.raises(ConfigError, match=r"sampling\.schedule .*'rectified_flow'.*'ddpm'"):
        train(trained, prepared, resume=True, sampling=sampling_of("ddpm"))
    with pytest.raises(ConfigError, match=r"data\.diffusion\.conditions"):
        train(trained, prepared, resume=True, case_conditions={**CONDITIONS, prepared.cases[0].name: {}})
    with pytest.raises(ConfigError, match=r"data\.cases .*3.* 2"):
        train(trained, store.Prepared(prepared.cases[:2], []), resume=True)
    with pytest.raises(ConfigError, match=r"preset .*'test'.*'demo'"):
        diffusion.train_diffusion(trained, tiny(), prepared, CONDITIONS, resume=True, workers=0, preset="demo")


def test_the_autoencoder_of_a_diffusion_is_not_trained_longer(trained: Path, prepared: store.Prepared) -> None:
    stored = run_folder.read_config(trained)
    old = stored.generator.autoencoder
    longer = stored.generator.model_copy(update={"autoencoder": old.model_copy(update={"steps": old.steps + 1})})
    with pytest.raises(TrainingError, match="diffusion"):
        autoencoder.train_autoencoder(
            trained, stored.model_copy(update={"model": longer}), prepared, resume=True, workers=0, say=print
        )
    assert run_folder.read_config(trained) == stored


def test_an_unfinished_autoencoder_is_refused(run: Path, prepared: store.Prepared) -> None:
    best = run / "autoencoder" / run_folder.BEST
    content = torch.load(best, weights_only=True)
    content["average"]["module.image_stem.0.weight"] += 1.0
    torch.save(content, best)
    with pytest.raises(TrainingError, match="autoencoder"):
        train(run, prepared)
    (run / calibration.LATENTS_FILE).unlink()
    with pytest.raises(TrainingError, match="autoencoder"):
        train(run, prepared)


def test_training_without_any_condition(run: Path, prepared: store.Prepared) -> None:
    lines = train(run, prepared, case_conditions={}, sampling=sampling_of("ddpm"), steps=1, arguments=ARGUMENTS)
    assert any("conditions: none" in line for line in lines)


# --- gains of restarts -------------------------------------------------------------------------------------------


class Pale(torch.nn.Module):
    """A denoiser that estimates the data as a share of ``value``, another share for each channel."""

    def __init__(self, value: torch.Tensor, shares: tuple[float, ...]) -> None:
        super().__init__()
        self.estimate = value * torch.tensor(shares).view(-1, 1, 1, 1)

    def forward(self, z: torch.Tensor, t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return (z - self.estimate) / t[:, None, None, None, None]


def test_gains_make_up_for_half_of_the_loss_of_contrast(tmp_path: Path) -> None:
    stage = stage_of_two(tmp_path)
    stage.config = tiny(sampling=sampling_of("rectified_flow", restarts=[{"time": 0.5}, {"time": 0.25}]))
    value = noise(1, 0, 0, LATENT)
    for case in stage.train:
        np.save(case.files[0], 2.0 * value.numpy() + 1.0)  # shift and scale of the stage
    gains = diffusion.measure_gains(Fabric(accelerator="cpu"), Pale(value[None], (0.5, 0.01)), stage)
    assert np.allclose(gains, [(1.5, 2.0)] * 2)  # half of the loss, at most of a threefold one
    assert np.allclose(diffusion.measure_gains(Fabric(accelerator="cpu"), Pale(value[None], (1.0, 1.0)), stage), 1.0)


def test_training_ends_with_the_gains_of_its_restarts(run: Path, prepared: store.Prepared) -> None:
    path = run / calibration.GAINS_FILE
    lines = train(run, prepared, sampling=RESTARTS, steps=3)
    assert any("measuring the gains" in line and "2 cases" in line for line in lines)
    gains = calibration.read_gains(run, (0.6, 0.4))
    assert np.array(gains).shape == (2, LATENT[0])
    assert np.all((np.array(gains) > 0.5) & (np.array(gains) <= 2.0))
    before = path.read_bytes()
    assert not any("measuring" in line for line in train(run, prepared, sampling=RESTARTS, steps=3, resume=True))
    path.write_text("{")
    with pytest.raises(TrainingError, match=r"gains\.json"):
        calibration.read_gains(run, (0.6, 0.4))
    train(run, prepared, sampling=RESTARTS, steps=3, resume=True)
    assert path.read_bytes() == before
    with pytest.raises(TrainingError, match=r"gains\.json .*weights"):
        calibration.read_gains(run, (0.6,))


def test_without_restarts_there_are_no_gains(undisturbed: Path) -> None:
    assert calibration.read_gains(undisturbed, ()) == ()


def test_command(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    shared = ["train", "diffusion", "--data", str(data), "--workers", "0"]
    nothing = CliRunner().invoke(app, [*shared, "--out", str(tmp_path / "nothing")])
    assert nothing.exit_code == 2
    assert "nothing is not a training run" in nothing.stderr
    monkeypatch.setattr(generator_presets, "diffusion_config", lambda preset, **options: tiny(steps=1))
    done = CliRunner().invoke(app, [*shared, "--out", str(run)])
    assert done.exit_code == 0, done.stderr
    assert "diffusion: least error " in done.stderr
    again = CliRunner().invoke(app, [*shared, "--out", str(run), "--preset", "demo", "--resume"])
    assert again.exit_code == 2
    assert all(fact in again.stderr for fact in ("preset", "'test'", "'demo'"))

"""The diffusion stage: the denoiser, kept latents, stateless examples, exact resume; conditions are learned."""

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

from cardiacldm_training.cases import pairs, store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.stages import autoencoder, config, diffusion, generator_config, loop
from cardiacldm_training.stages.autoencoder import LatentStatistics
from cardiacldm_training.stages.generator_config import DiffusionConfig, GeneratorRunConfig
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.generation.sampler import guided, integrate, noise, signal_shares, step_generator
from CardiacLDMLib.networks.architectures import check_arguments
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.denoiser import Denoiser, GaussianPrior
from CardiacLDMLib.packages.generator_spec import SOLVERS, Sampling
from CardiacLDMLib.packages.manifest import NetworkSpec
from CardiacLDMLib.packages.weights import pack_weights
from tests.support.training import equal, write_cases

GRID = (16, 16, 16)
LATENT = (2, 4, 4, 4)
SPACING_MM = 8.0
AUTOENCODER = {"channels": [4, 4, 8], "norm_num_groups": 4, "stem_channels": 2, "latent_channels": 2}
ARGUMENTS: dict[str, Any] = {
    "channels": [8, 16], "attention_levels": [False, True], "num_head_channels": 8, "norm_num_groups": 4,
    "context_dim": 8,
}  # fmt: skip
SIZES: dict[str, Any] = {"choices": [2, 3], "numbers": 1}
NAMES = [f"cohort/case_{n:04d}" for n in range(3)]
KNOWN: dict[str, dict[str, str | float]] = {
    name: {"sex": sex, "spacing_mm": spacing}
    for name, sex, spacing in zip(NAMES, ("female", "male", "female"), (0.5, 1.0, 2.0), strict=True)
}


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


@pytest.fixture(scope="module")
def encoded(prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose autoencoder has taken a step."""
    run = tmp_path_factory.mktemp("runs") / "run"
    settings = GeneratorRunConfig.model_validate({
        "preset": "test", "seed": 3, "cases": len(prepared.cases), "cases_digest": prepared.digest, "grid": GRID,
        "spacing_mm": SPACING_MM, "autoencoder": {
            "arguments": AUTOENCODER, "batch": 1, "steps": 1, "validate_every": 1, "patience": 1, "validation_cases": 1,
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
    """A run whose diffusion was trained from start to end; ``said.txt`` in it holds what was said."""
    run = Path(shutil.copytree(encoded, tmp_path_factory.mktemp("runs") / "undisturbed"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (run / "said.txt").write_text("\n".join(train(run, prepared)))
    torch.set_num_threads(threads)
    return run


@pytest.fixture
def trained(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(undisturbed, tmp_path / "trained", copy_function=shutil.copy2))


def tiny(**changes: object) -> DiffusionConfig:
    values = {
        "arguments": {**ARGUMENTS, "prior_modes": 2}, "variants": 2, "batch": 2, "steps": 6, "validate_every": 3,
        "patience": 10, "save_every": 3, "warmup_steps": 2, "learning_rate": 3e-3, "validation_cases": 1,
    }  # fmt: skip
    return DiffusionConfig.model_validate({**values, **changes})


def train(
    run: Path, prepared: store.Prepared, *, resume: bool = False, workers: int = 0,
    known: dict[str, dict[str, str | float]] = KNOWN, **changes: object,
) -> list[str]:  # fmt: skip
    lines: list[str] = []
    diffusion.train_diffusion(
        run, tiny(**changes), prepared, known, resume=resume, workers=workers, say=lines.append
    )  # fmt: skip
    return lines


# --- the network ---------------------------------------------------------------------------------------------------


def denoiser(**changes: object) -> Denoiser:
    """With weights drawn anew that MONAI sets to zero, which would hide everything else."""
    torch.manual_seed(0)
    network = build_network("diffusion_unet", {**ARGUMENTS, **SIZES, "latent_channels": LATENT[0], **changes})  # type: ignore[dict-item]
    assert isinstance(network, Denoiser)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(samples: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    z = torch.stack([noise(1, n, 0, LATENT) for n in range(samples)])
    return z, torch.full((samples,), 0.5), torch.tensor([[1, 2]] * samples), torch.tensor([[0.3]] * samples)


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


PRIOR: dict[str, Any] = {"prior_modes": 2, "latent_shape": LATENT[1:]}


def correlated_latents(count: int = 400) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Latents, their mean and the direction (of length 1) in which they vary by 6; all else varies by 0.5."""
    rng = np.random.default_rng(1)
    mean, mode = rng.standard_normal((2, *LATENT), dtype=np.float32)
    mode /= np.linalg.norm(mode)
    along = 6.0 * rng.standard_normal((count, 1, 1, 1, 1))
    beside = 0.5 * rng.standard_normal((count, *LATENT))
    return list((mean + along * mode + beside).astype(np.float32)), mean, mode


def test_the_prior_is_the_distribution_of_the_latents() -> None:
    latents, _, mode = correlated_latents()
    prior = GaussianPrior(LATENT[0], LATENT[1:], 2)
    diffusion.learn_prior(prior, iter(latents), modes=2)
    assert prior.mean.numpy() == pytest.approx(np.mean(latents, axis=0), abs=1e-5)
    assert abs(float((prior.modes[0].numpy() * mode).sum())) == pytest.approx(1.0, abs=0.01)
    assert (prior.modes.flatten(1) @ prior.modes.flatten(1).T).numpy() == pytest.approx(np.eye(2), abs=1e-5)
    assert float(prior.variances[0]) == pytest.approx(36, rel=0.2)
    assert prior.rest.numpy() == pytest.approx(np.full(LATENT, 0.5), abs=0.1)
    again = GaussianPrior(LATENT[0], LATENT[1:], 2)
    diffusion.learn_prior(again, iter(latents), modes=2)
    assert all(torch.equal(one, other) for one, other in zip(prior.buffers(), again.buffers(), strict=True))


def test_a_prior_of_few_cases_and_of_numbers_that_never_vary() -> None:
    prior = GaussianPrior(LATENT[0], LATENT[1:], 5)
    diffusion.learn_prior(prior, iter([np.zeros(LATENT, np.float32), np.ones(LATENT, np.float32)]), modes=1)
    assert all(buffer.isfinite().all() for buffer in prior.buffers())
    assert float(prior.rest.min()) == pytest.approx(0.05)
    assert prior.modes[0].any()
    assert not prior.modes[1:].any()
    z, t, _, _ = inputs()
    assert all(out.isfinite().all() for time in (0.0, 0.5, 1.0) for out in prior(z, torch.full_like(t, time)))


def test_untrained_a_network_with_a_prior_draws_from_it() -> None:
    """MONAI's last layer begins at zero: what is left is the exact velocity of the normal distribution."""
    latents, mean, mode = correlated_latents()
    torch.manual_seed(0)
    network: Any = build_network("diffusion_unet", {**ARGUMENTS, **SIZES, "latent_channels": LATENT[0], **PRIOR})
    diffusion.learn_prior(network.prior, iter(latents), modes=2)
    begin, _, choices, numbers = inputs()
    with torch.no_grad():
        sampling = Sampling(schedule="rectified_flow", solver="heun", steps=100)
        end = integrate(lambda z, t: network(z, t, choices, numbers), begin, sampling).numpy()
    direction = network.prior.modes[0].numpy()
    along, drawn = (((v * direction).sum((1, 2, 3, 4))) for v in (begin.numpy(), end - network.prior.mean.numpy()))
    assert drawn == pytest.approx(along * float(network.prior.variances[0]) ** 0.5, rel=0.03)
    other = network.prior.modes.flatten(1).numpy()
    beside, left = ((v - (v @ other.T) @ other) for v in (
        begin.flatten(1).numpy(), (end - network.prior.mean.numpy()).reshape(len(end), -1)
    ))  # fmt: skip
    assert left == pytest.approx(beside * network.prior.rest.flatten().numpy(), abs=0.03)
    assert abs(float((direction * mode).sum())) > 0.99
    assert np.abs(network.prior.mean.numpy() - mean).max() < 1.5


def test_the_data_are_expected_where_they_are_when_there_is_no_noise() -> None:
    latents, _, _ = correlated_latents()
    prior = GaussianPrior(LATENT[0], LATENT[1:], 2)
    diffusion.learn_prior(prior, iter(latents), modes=2)
    rng = np.random.default_rng(2)
    data = torch.from_numpy(np.stack(latents[:8]))
    error = torch.from_numpy(rng.standard_normal(data.shape, np.float32))
    errors = []
    for time in (0.1, 0.5, 0.9):
        t = torch.full((8,), time)
        velocity, seen, scale = prior((1 - time) * data + time * error, t)
        guess = (1 - time) * data + time * error - time * velocity
        errors.append(float((guess - data).square().mean()))
        assert seen.shape == (8, 2 * LATENT[0], *LATENT[1:])
        assert seen[:, LATENT[0] :].std() == pytest.approx(1.0, abs=0.15)
        assert (scale > 0).all()
    assert errors == sorted(errors)
    assert errors[0] < 0.05 < errors[-1] < 0.6  # of 0.25 by themselves, and the mode's 36 in 128 numbers


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


# --- what the network is shown -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SOLVERS)
def test_a_network_that_says_what_it_is_to_say_gives_the_data_back(schedule: str) -> None:
    """Training and sampling agree on schedule, time and target."""
    data, error = (noise(2, n, 0, LATENT).double().numpy() for n in range(2))

    def perfect(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        shown, target = diffusion.noised(schedule, data, error, float(t[0]))
        assert np.abs(z[0].numpy() - shown).max() < 1e-9
        return torch.from_numpy(target)[None]

    begin, _ = diffusion.noised(schedule, data, error, 1.0)
    sampling = Sampling(schedule=schedule, solver=SOLVERS[schedule][0], steps=8)  # type: ignore[index,arg-type]
    end = integrate(perfect, torch.from_numpy(begin)[None], sampling)
    assert np.abs(end[0].numpy() - data).max() < 1e-9


def test_conditions_are_dropped_each_alone_and_all_at_once() -> None:
    rng = np.random.default_rng(0)
    choices, numbers = np.array([1, 0, 2]), np.array([0.5], dtype=np.float32)
    gone = []
    for _ in range(4000):
        some, values = diffusion.dropped(choices, numbers, rng, 0.1)
        assert some.dtype == np.int64
        assert values.dtype == np.float32
        assert set(some[some != choices]) <= {-1}
        gone.append([*(some < 0), np.isnan(values[0])])
    share = np.array(gone)
    assert share.mean(0) == pytest.approx(0.19, abs=0.025)  # 1 - 0.9 * 0.9
    assert share.all(1).mean() == pytest.approx(0.1, abs=0.02)
    kept = diffusion.dropped(choices, numbers, rng, 0.0)
    assert np.array_equal(kept[0], choices)
    assert np.array_equal(kept[1], numbers)


def run_settings(schedule: str = "rectified_flow", **changes: object) -> tuple[GeneratorRunConfig, DiffusionConfig]:
    settings = tiny(schedule=schedule, choices={"sex": ("female", "male")}, **changes)
    run_config = GeneratorRunConfig.model_validate({
        "preset": "test", "seed": 3, "cases": 2, "cases_digest": "x", "grid": GRID, "spacing_mm": SPACING_MM,
        "autoencoder": {"arguments": AUTOENCODER, "steps": 1, "validate_every": 1, "patience": 1},
    })  # fmt: skip
    return run_config, settings


def stage_of_two(folder: Path, schedule: str = "rectified_flow") -> diffusion.DiffusionStage:
    """Two cases to learn from: women's latents are 3 everywhere, men's -1; normalised: 1 and -1."""
    cases = []
    for place, value in enumerate((3.0, -1.0)):
        path = folder / f"{place}.npy"
        np.save(path, np.full(LATENT, value, dtype=np.float32))
        cases.append(diffusion.Latents(str(place), [path], np.array([place]), np.zeros(0, dtype=np.float32)))
    statistics = LatentStatistics(shift=(1.0,) * LATENT[0], scale=(2.0,) * LATENT[0], cases=2, autoencoder="")
    run_config, settings = run_settings(schedule)
    return diffusion.DiffusionStage(run_config, settings, statistics, None, train=cases, held_out=cases[:1])  # type: ignore[arg-type]


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


def test_times_of_training_are_moved_towards_noise(tmp_path: Path) -> None:
    even, moved = stage_of_two(tmp_path), stage_of_two(tmp_path)
    moved.config = moved.config.model_copy(update={"learnt_shift": 2.0})
    for n in range(20):
        t = float(even.example(n)["t"])
        assert float(moved.example(n)["t"]) == pytest.approx(2 * t / (1 + t))


class Known(torch.nn.Module):
    """Says what a perfect network would of data that are 1 everywhere."""

    def forward(self, z: torch.Tensor, t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return (z - 1) / t[:, None, None, None, None]


def test_score_is_the_error_on_the_same_questions_every_time(tmp_path: Path) -> None:
    fabric, stage = Fabric(accelerator="cpu"), stage_of_two(tmp_path)
    assert stage.score(fabric, Known()).value == pytest.approx(0.0, abs=1e-9)
    network = denoiser(choices=[2], numbers=0)
    with torch.inference_mode():
        one, other = (stage.score(fabric, network) for _ in range(2))
    assert one == other
    assert one.value < -0.1
    assert one.value == pytest.approx(-np.mean(list(one.parts.values())))
    assert next(iter(one.parts)) == "error_at_0.06"


class Guess(torch.nn.Module):
    """Takes all data of a condition for one value, which it learns."""

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
def test_what_is_learned_of_each_condition_is_what_is_drawn_for_it(schedule: str, tmp_path: Path) -> None:
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
            drawn = integrate(
                predict, begin, Sampling(schedule=schedule, solver=solver, steps=10),  # type: ignore[arg-type]
                generators=[step_generator(0, n, 0) for n in range(3)],
            )  # fmt: skip
        assert drawn.flatten(1).mean(1).tolist() == pytest.approx([0.0, 1.0, -1.0], abs=0.4), solver


# --- the whole stage -----------------------------------------------------------------------------------------------


def test_latents_are_kept_and_made_again_when_damaged(trained: Path, prepared: store.Prepared) -> None:
    files = sorted((trained / diffusion.LATENTS_FOLDER).iterdir())
    assert len(files) == 2 * 2 + 1  # two cases to learn from in two variants, one to validate on
    assert f"diffusion: encoding {len(files)} pairs of 3 cases." in (trained / "said.txt").read_text()
    assert {np.load(path).shape for path in files} == {LATENT}
    assert len({path.read_bytes() for path in files}) == len(files)
    before = {path: path.stat().st_mtime_ns for path in files}
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-40])
    shutil.rmtree(trained / "diffusion")
    lines = train(trained, prepared, steps=1)
    assert "diffusion: encoding 1 pairs of 3 cases." in lines
    assert files[0].read_bytes() == content
    assert all(path.stat().st_mtime_ns == before[path] for path in files[1:])


def test_the_first_latent_of_a_case_is_the_case_as_it_is(undisturbed: Path, prepared: store.Prepared) -> None:
    stored = generator_config.read_config(undisturbed)
    network = autoencoder.load_autoencoder(undisturbed, stored.autoencoder)
    kept = [np.load(path) for path in (undisturbed / diffusion.LATENTS_FOLDER).iterdir()]
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
    assert loop.load_checkpoint(run / "diffusion" / loop.LAST)["state"]["step"] == 3
    train(run, prepared, resume=True, workers=1)
    for name in (loop.BEST, loop.LAST):
        one, other = (loop.load_checkpoint(folder / "diffusion" / name) for folder in (undisturbed, run))
        assert equal(one, other), name
    assert one["state"]["finished"]


def test_the_run_says_all_that_a_package_needs(undisturbed: Path) -> None:
    stored = generator_config.read_config(undisturbed)
    assert stored.diffusion is not None
    assert stored.diffusion.choices["sex"]
    assert stored.diffusion.autoencoder == autoencoder.read_latents(undisturbed).autoencoder
    network = build_network("diffusion_unet", stored.diffusion.network_arguments)
    network.load_state_dict(loop.averaged_weights(undisturbed / "diffusion" / loop.BEST))
    lines = (undisturbed / "said.txt").read_text().splitlines()
    assert any("conditions: sex (" in line and "spacing_mm (" in line for line in lines)
    assert any("validation score -" in line for line in lines)


def test_what_does_not_belong_to_the_run_is_refused(trained: Path, prepared: store.Prepared) -> None:
    with pytest.raises(TrainingError, match="already holds a diffusion: go on with --resume"):
        train(trained, prepared)
    with pytest.raises(ConfigError, match=r"diffusion\.schedule is 'rectified_flow', not 'ddpm'"):
        train(trained, prepared, resume=True, schedule="ddpm")
    with pytest.raises(ConfigError, match=r"diffusion\.conditions_digest is"):
        train(trained, prepared, resume=True, known={**KNOWN, prepared.cases[0].name: {}})
    with pytest.raises(ConfigError, match="cases is 3, not 2"):
        train(trained, store.Prepared(prepared.cases[:2], []), resume=True)
    with pytest.raises(ConfigError, match="preset is 'test', not 'demo'"):
        diffusion.train_diffusion(trained, tiny(), prepared, KNOWN, resume=True, workers=0, preset="demo")


def test_an_autoencoder_is_needed_that_is_trained_to_its_end(run: Path, prepared: store.Prepared) -> None:
    best = run / "autoencoder" / loop.BEST
    content = torch.load(best, weights_only=True)
    content["average"]["module.image_stem.0.weight"] += 1.0
    torch.save(content, best)
    with pytest.raises(TrainingError, match="was trained on: resume its training"):
        train(run, prepared)
    (run / "autoencoder" / autoencoder.LATENTS_FILE).unlink()
    with pytest.raises(TrainingError, match="has no finished autoencoder: train it first"):
        train(run, prepared)


def test_training_without_any_condition(run: Path, prepared: store.Prepared) -> None:
    lines = train(run, prepared, known={}, schedule="ddpm", steps=1, arguments=ARGUMENTS)
    assert "diffusion: conditions: none are known." in lines


# --- gains of restarts ---------------------------------------------------------------------------------------------


class Pale(torch.nn.Module):
    """A denoiser that sees all data, which are ``value``, at a share of it, another one for each channel."""

    def __init__(self, value: torch.Tensor, shares: tuple[float, ...]) -> None:
        super().__init__()
        self.seen = value * torch.tensor(shares).view(-1, 1, 1, 1)

    def forward(self, z: torch.Tensor, t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return (z - self.seen) / t[:, None, None, None, None]


def test_gains_undo_half_of_how_much_paler_latents_are_after_a_restart(tmp_path: Path) -> None:
    stage = stage_of_two(tmp_path)
    stage.config = stage.config.model_copy(update={"restarts": (0.5, 0.25)})
    value = noise(1, 0, 0, LATENT)
    for case in stage.train:
        np.save(case.files[0], 2.0 * value.numpy() + 1.0)  # shift and scale of the stage
    gains = diffusion.measure_gains(Fabric(accelerator="cpu"), Pale(value[None], (0.5, 0.01)), stage)
    assert np.allclose(gains, [(1.5, 2.0)] * 2)  # at most threefold is made up for
    assert np.allclose(diffusion.measure_gains(Fabric(accelerator="cpu"), Pale(value[None], (1.0, 1.0)), stage), 1.0)


def test_training_ends_with_the_gains_of_its_restarts(run: Path, prepared: store.Prepared) -> None:
    path = run / "diffusion" / diffusion.GAINS_FILE
    said = train(run, prepared, restarts=(0.6, 0.4), steps=3)
    assert "diffusion: measuring what restarts take from the latents of 2 cases." in said
    settings = generator_config.read_config(run).diffusion
    assert settings is not None
    gains = diffusion.read_gains(run, settings)
    assert np.array(gains).shape == (2, LATENT[0])
    assert np.all((np.array(gains) > 0.5) & (np.array(gains) <= 2.0))
    before = path.read_bytes()
    assert not any("measuring" in line for line in train(run, prepared, restarts=(0.6, 0.4), steps=3, resume=True))
    path.write_text("{")
    with pytest.raises(TrainingError, match="is damaged: delete it, and resume"):
        diffusion.read_gains(run, settings)
    train(run, prepared, restarts=(0.6, 0.4), steps=3, resume=True)
    assert path.read_bytes() == before
    with pytest.raises(TrainingError, match="is of other weights or restarts"):
        diffusion.read_gains(run, settings.model_copy(update={"restarts": (0.6,)}))


def test_without_restarts_there_are_no_gains(undisturbed: Path) -> None:
    settings = generator_config.read_config(undisturbed).diffusion
    assert settings is not None
    assert diffusion.read_gains(undisturbed, settings) == ()


# --- presets and command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", generator_config.PRESETS)
def test_presets_build_networks_that_fit_their_grids(preset: str) -> None:
    settings = generator_config.diffusion_config(preset, steps=1000, schedule="ddpm", devices=2)
    assert (settings.steps, settings.schedule, settings.devices) == (1000, "ddpm", 2)
    assert settings.warmup_steps <= 100
    known = settings.model_copy(update={"choices": {"sex": ("female", "male")}, "numbers": {"spacing_mm": (0.5, 3.0)}})
    grid, spacing_mm = generator_config.grid_of(preset)
    with torch.device("meta"):
        network = build_network("diffusion_unet", known.network_arguments)
        latent = torch.empty(1, 4, *(side // 4 for side in grid))
        conditions = torch.zeros(1, 2, dtype=torch.int64)[:, :1], torch.zeros(1, 1)
        assert network(latent, torch.zeros(1), *conditions).shape == latent.shape
    assert spacing_mm > 0
    config.check_same(DiffusionConfig.model_validate_json(known.model_dump_json()), known)
    assert settings.time_shift == settings.learnt_shift == 1
    assert not settings.restarts
    assert settings.smoothing is settings.deblocking_hu is None
    assert settings.arguments.get("prior_modes") is None  # all of these are for rectified flow


def test_unknown_presets_and_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match="There is no preset 'huge'"):
        generator_config.diffusion_config("huge")
    with pytest.raises(ConfigError, match="There is no schedule 'cosine': choose rectified_flow or ddpm"):
        generator_config.diffusion_config("demo", schedule="cosine")


def test_command(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    shared = ["train", "diffusion", "--data", str(data), "--workers", "0"]
    nothing = CliRunner().invoke(app, [*shared, "--out", str(tmp_path / "nothing")])
    assert nothing.exit_code == 1
    assert "nothing is not a training run" in nothing.stderr
    monkeypatch.setattr(generator_config, "diffusion_config", lambda preset, **options: tiny(steps=1))
    done = CliRunner().invoke(app, [*shared, "--out", str(run)])
    assert done.exit_code == 0, done.stderr
    assert "diffusion: least error " in done.stderr
    again = CliRunner().invoke(app, [*shared, "--out", str(run), "--preset", "demo", "--resume"])
    assert again.exit_code == 1
    assert "Error: The run cannot be resumed: its preset is 'test', not 'demo'." in again.stderr

"""The autoencoder stage: loss, adversary and scores, exact resume, principal components, statistics of latents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from pydantic import ValidationError
from typer.testing import CliRunner

from cardiacldm_training.cases import pairs, split, store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.stages import (
    adversary,
    autoencoder,
    calibration,
    config,
    generator_presets,
    loop,
    run_folder,
)
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder, palette_coded
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.packages.weights import load_networks
from tests.support.generator_package import write_tiny_generator
from tests.support.package import write_tiny_package
from tests.support.training import equal, facts

GRID = (16, 16, 16)
SPACING_MM = 8.0
WINDOW = (-1000.0, 1000.0)
ARGUMENTS = {"channels": [8, 8, 16], "norm_num_groups": 4, "stem_channels": 4}
#: With an adversary, on patches of a larger grid; trained linear maps.
LARGE_GRID, PATCH = (32, 24, 28), 24
CONTEST = {
    "grid": LARGE_GRID, "patch": PATCH, "adversary_weight": 0.8, "adversary_channels": 4, "adversary_from": 0,
    "train_linear": True,
}  # fmt: skip


def tiny_run(prepared: store.Prepared, steps: int = 6, **changes: object) -> config.RunConfig:
    values = {
        "arguments": ARGUMENTS, "batch": 1, "steps": steps, "validate_every": 3, "patience": 10, "save_every": 3,
        "warmup_steps": 2, "learning_rate": 3e-3, "validation_cases": 1,
    }  # fmt: skip
    grid = changes.pop("grid", GRID)
    model = {"kind": "generator", "grid": grid, "spacing_mm": SPACING_MM, "autoencoder": {**values, **changes}}
    return config.RunConfig.model_validate({"preset": "test", "seed": 3, "data": facts(prepared), "model": model})


def train(run: Path, prepared: store.Prepared, *, resume: bool = False, steps: int = 6, **changes: object) -> list[str]:
    lines: list[str] = []
    settings = tiny_run(prepared, steps, **changes)
    autoencoder.train_autoencoder(run, settings, prepared, resume=resume, workers=0, say=lines.append)
    return lines


@pytest.fixture(scope="module")
def undisturbed(prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_undisturbed(tmp_path_factory.mktemp("runs") / "undisturbed", prepared)


@pytest.fixture(scope="module")
def contested(prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with an adversary."""
    return train_undisturbed(tmp_path_factory.mktemp("runs") / "contested", prepared, **CONTEST)


def train_undisturbed(run: Path, prepared: store.Prepared, **changes: object) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lines = train(run, prepared, **changes)
    torch.set_num_threads(threads)
    (run / "lines.txt").write_text("\n".join(lines))
    return run


def network(**changes: object) -> JointAutoencoder:
    torch.manual_seed(0)
    built = build_network("joint_autoencoder", {**ARGUMENTS, **changes})  # type: ignore[dict-item]
    assert isinstance(built, JointAutoencoder)
    return built.eval()


# --- scores ------------------------------------------------------------------------------------------------------


def test_third_class_voxels_against_hand_counts() -> None:
    labels = np.zeros((6, 1, 1), dtype=np.uint8)
    labels[3:] = 2
    decoded = labels.copy()
    assert autoencoder.third_class_share(labels, decoded) == 0
    decoded[:, 0, 0] = [5, 0, 7, 0, 2, 2]  # voxels 2 and 3 are the boundary; 7 is a third class at that place, 0 is not
    assert autoencoder.third_class_share(labels, decoded) == 0.5
    assert autoencoder.third_class_share(np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)) == 0


def test_figures_of_a_perfect_and_of_a_bad_reconstruction() -> None:
    image, labels = torch.rand(1, 1, *GRID), torch.randint(0, 9, (1, 1, *GRID), dtype=torch.uint8)
    perfect = autoencoder.scores_of_pair(image, labels, image, labels)
    assert perfect.tolist() == pytest.approx([1.0] * 8 + [100.0, 1.0, 0.0, 0.0])
    worse = autoencoder.scores_of_pair(image, labels, image + 0.1, (labels + 1) % 9)
    assert worse[:8].tolist() == [0.0] * 8
    assert worse[8] == pytest.approx(20.0)
    assert 0 < worse[9] < 1
    assert worse[10] == pytest.approx(0.0, abs=1e-3)  # brighter, but as sharp
    blurred = torch.nn.functional.avg_pool3d(image, 3, stride=1, padding=1)
    assert autoencoder.scores_of_pair(image, labels, blurred, labels)[10] > 3


def test_divergence_against_torch() -> None:
    mu, sigma = torch.randn(2, 4, 3, 3, 3), torch.rand(2, 4, 3, 3, 3) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0)).mean()
    assert autoencoder.divergence(mu, sigma) == pytest.approx(float(expected), rel=1e-5)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("undisturbed_run", "changes"), [("undisturbed", {}), ("contested", CONTEST)])
def test_a_run_stopped_and_resumed_ends_with_the_same_bits(
    prepared: store.Prepared, undisturbed_run: str, changes: dict[str, object], tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Stop after step 6, resume from the checkpoint of step 3."""
    run, undisturbed = tmp_path / "run", request.getfixturevalue(undisturbed_run)

    def stop(line: str) -> None:
        if "step 6:" in line:
            raise InterruptedError

    settings = tiny_run(prepared, **changes)
    with pytest.raises(InterruptedError):
        autoencoder.train_autoencoder(run, settings, prepared, resume=False, workers=0, say=stop)
    assert run_folder.load_checkpoint(run / "autoencoder" / run_folder.LAST)["state"]["step"] == 3
    torch.manual_seed(99)
    train(run, prepared, resume=True, **changes)
    for name in (run_folder.LAST, run_folder.BEST):
        one, other = (run_folder.load_checkpoint(r / "autoencoder" / name) for r in (undisturbed, run))
        assert equal(one, other), name
    assert calibration.read_latent_statistics(run) == calibration.read_latent_statistics(undisturbed)


def test_training_lowers_the_loss(prepared: store.Prepared) -> None:
    settings = tiny_run(prepared, 20, batch=2)
    train_cases, held_out = split.split(prepared.cases, 0.1)
    stage = autoencoder.AutoencoderStage(settings, train=train_cases, held_out=held_out)
    run = loop._Run(Fabric(accelerator="cpu"), settings.generator.autoencoder, network(), stage)
    run.wrap()
    losses = [float(run.step(batch(stage, 2 * n))) for n in range(20)]
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def batch(stage: autoencoder.AutoencoderStage, first: int) -> dict[str, torch.Tensor]:
    examples = [stage.example(first + i) for i in range(2)]
    return {name: torch.stack([torch.as_tensor(e[name]) for e in examples]) for name in examples[0]}


def test_a_run_leaves_weights_and_latent_statistics(prepared: store.Prepared, undisturbed: Path) -> None:
    settings = run_folder.read_config(undisturbed).generator
    net = autoencoder.load_autoencoder(undisturbed, settings.autoencoder)
    assert set(net.state_dict()) == set(autoencoder.best_weights(undisturbed))
    latents = calibration.read_latent_statistics(undisturbed)
    assert latents.cases == 2
    assert latents.autoencoder == run_folder.weights_digest(net.state_dict())
    train_cases, _ = split.split(prepared.cases, 0.1)
    with torch.no_grad():
        mus = torch.cat([net.encode(*(torch.from_numpy(a)[None] for a in pairs.pair(c, GRID, WINDOW)))[0]
                         for c in train_cases])  # fmt: skip
    assert latents.shift == pytest.approx(mus.mean((0, 2, 3, 4)).tolist(), abs=1e-5)
    deviation = mus.std((0, 2, 3, 4), unbiased=False).clamp(min=1e-3).numpy()
    spread = deviation / latents.scale
    assert np.mean(spread**2) == pytest.approx(1.0, abs=0.1)
    assert ((spread >= 0.3 - 1e-3) & (spread <= 3.0 + 1e-2)).all()


def test_a_channel_that_matters_more_is_larger_for_the_diffusion(prepared: store.Prepared) -> None:
    net, model = network(), tiny_run(prepared).generator
    with torch.no_grad():
        net.block_decoder.conv_block.weight[:, 2] *= 40.0
    gains = calibration.sensitivities(
        Fabric(accelerator="cpu", devices=1), net, model, prepared.cases, np.array([1.0, 1.0, 1.0, 1e-3])
    )
    assert gains.argmax() == 2
    assert gains.argmin() == 3  # its deviation is small
    spread = calibration.spreads(gains)
    assert (np.diff(spread[gains.argsort()]) >= 0).all()
    assert spread[2] > 2 * spread[3]
    assert calibration.spreads(np.ones(5)) == pytest.approx(np.ones(5))
    assert calibration.spreads(np.zeros(5)) == pytest.approx(np.ones(5))
    assert np.mean(calibration.spreads(np.array([1.0, 2.0, 4.0])) ** 2) == pytest.approx(1.0)


@pytest.mark.parametrize("labels_out", ["logits", "palette"])
def test_it_starts_as_the_principal_components_of_blocks(prepared: store.Prepared, labels_out: str) -> None:
    """Before training: independent latents of unit variance, and the best linear image."""
    errors = []
    for channels in (1, 4, 16):
        net = network(latent_channels=channels, labels_out=labels_out)
        autoencoder.initialise_linear(net, tiny_run(prepared).generator, prepared.cases)
        assert all(p.requires_grad for p in net.parameters())
        examples = [pairs.pair(case, GRID, WINDOW) for case in prepared.cases]
        image, labels = (torch.stack([torch.from_numpy(each[part]) for each in examples]) for part in (0, 1))
        with torch.no_grad():
            mu, _ = net.encode(image, labels)
            decoded, raw = net.decode_raw(mu)
        latents = mu.transpose(0, 1).flatten(1)
        assert latents.mean(1).abs().max() < 1e-3
        assert torch.allclose(torch.cov(latents, correction=0), torch.eye(channels), atol=0.02)
        errors.append(float((decoded - image).square().mean()))
    assert errors[0] > 1.5 * errors[1] > 2.0 * errors[2]
    if labels_out == "palette":
        assert float((raw - palette_coded(labels)).abs().mean()) < 0.1


@pytest.mark.parametrize("labels_out", ["logits", "palette"])
def test_it_learns_without_linear_maps(prepared: store.Prepared, labels_out: str) -> None:
    net = network(linear_maps=False, labels_out=labels_out)
    assert not [name for name, _ in net.named_parameters() if name.startswith("block_")]
    assert all(p.requires_grad for p in net.parameters())
    settings = tiny_run(prepared, 20, batch=2, arguments={**ARGUMENTS, "linear_maps": False, "labels_out": labels_out})
    train_cases, held_out = split.split(prepared.cases, 0.1)
    stage = autoencoder.AutoencoderStage(settings, train=train_cases, held_out=held_out)
    run = loop._Run(Fabric(accelerator="cpu"), settings.generator.autoencoder, net, stage)
    run.wrap()
    losses = [float(run.step(batch(stage, 2 * n))) for n in range(20)]
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def test_logits_start_as_the_nearness_of_colours(prepared: store.Prepared) -> None:
    """Before training both kinds of output decode the same labels."""
    image, labels = (torch.from_numpy(each)[None] for each in pairs.pair(prepared.cases[0], GRID, WINDOW))
    scores = {}
    for labels_out in ("logits", "palette"):
        net = network(latent_channels=16, labels_out=labels_out)
        autoencoder.initialise_linear(net, tiny_run(prepared).generator, prepared.cases)
        with torch.no_grad():
            scores[labels_out] = net.decode(net.encode(image, labels)[0])[1]
    nearness = scores["palette"] - scores["palette"][:, :1]
    logits = scores["logits"] - scores["logits"][:, :1]
    assert torch.allclose(logits, 8.0 * nearness, atol=1e-3)
    assert len(scores["logits"].argmax(1).unique()) > 2


def test_linear_maps_are_trained_only_if_asked_for(prepared: store.Prepared) -> None:
    maps = {f"block_{kind}.{part}" for kind in ("encoder", "decoder.conv_block") for part in ("weight", "bias")}
    for train_linear, expected in ((False, maps), (True, set[str]())):
        net = autoencoder.new_autoencoder(tiny_run(prepared, train_linear=train_linear).generator, prepared.cases)
        assert {name for name, p in net.named_parameters() if not p.requires_grad} == expected


def test_without_an_adversary_none_is_built_and_nothing_is_drawn_for_it(
    prepared: store.Prepared, undisturbed: Path
) -> None:
    names = set(run_folder.load_checkpoint(undisturbed / "autoencoder" / run_folder.LAST)["network"])
    assert names == set(network().state_dict())
    train_cases, held_out = split.split(prepared.cases, 0.1)
    stage = autoencoder.AutoencoderStage(tiny_run(prepared), train=train_cases, held_out=held_out)
    assert set(stage.example(0)) == {"image", "labels", "noise"}
    assert stage.measure == "Dice"


def test_both_sides_of_the_contest_and_the_linear_maps_learn(contested: Path) -> None:
    checkpoint = run_folder.load_checkpoint(contested / "autoencoder" / run_folder.LAST)
    assert {name.split(".")[0] for name in checkpoint["network"]} == {"maker", "adversary"}
    states = checkpoint["optimizer"]["state"]
    assert len(states) == len([name for name in checkpoint["network"]])
    assert all(float(state["exp_avg"].abs().max()) > 0 for state in states.values())


def test_the_weights_of_a_contest_are_the_autoencoders(contested: Path) -> None:
    settings = run_folder.read_config(contested)
    net = autoencoder.load_autoencoder(contested, settings.generator.autoencoder)
    assert set(net.state_dict()) == set(autoencoder.best_weights(contested)) == set(network().state_dict())
    digest = run_folder.weights_digest(net.state_dict())
    assert calibration.read_latent_statistics(contested).autoencoder == digest
    part = autoencoder.package_part(contested, settings)
    assert set(part.weights) == set(net.state_dict())
    built = build_network(part.spec.architecture, part.spec.arguments)
    built.load_state_dict(part.weights)


def test_the_adversary_joins_by_degrees_and_its_pull_is_that_of_the_weight(prepared: store.Prepared) -> None:
    settings = tiny_run(prepared, batch=2, **{**CONTEST, "adversary_from": 4})
    stage = autoencoder.AutoencoderStage(settings, train=prepared.cases, held_out=prepared.cases)
    assert [float(stage.example(n)["adversary_share"]) for n in (0, 9, 308, 5000)] == pytest.approx(
        [0, 1 / 600, 0.5, 1]
    )
    net = autoencoder.in_training(
        autoencoder.new_autoencoder(settings.generator, prepared.cases), settings.generator.autoencoder
    )
    assert isinstance(net, adversary.Contest)
    pulls = []
    for share in (0.0, 1.0):
        net.zero_grad()
        stage.loss(net, {**batch(stage, 0), "adversary_share": torch.full((2,), share)}).backward()
        pulls.append(torch.cat([p.grad.flatten() for p in net.maker.parameters() if p.grad is not None]))
        assert all(p.grad is not None for p in net.adversary.parameters())  # it learns from the first step on
    assert not torch.allclose(*pulls)


def test_patches_are_boxes_of_the_pairs(prepared: store.Prepared) -> None:
    still = {"augment": {"jitter": 0, "crop": 0, "boost": 0}}
    settings = tiny_run(prepared, grid=LARGE_GRID, patch=PATCH, **still)
    stage = autoencoder.AutoencoderStage(settings, train=prepared.cases, held_out=prepared.cases)
    whole = [pairs.pair(case, LARGE_GRID, WINDOW) for case in prepared.cases]
    corners = set()
    for n in range(12):
        example = stage.example(n)
        assert example["image"].shape == example["labels"].shape == (1, 24, 24, 24)
        assert example["noise"].shape == (4, 6, 6, 6)
        found = [
            (i, k)
            for image, labels in whole for i in range(9) for k in range(5)
            if np.array_equal(labels[:, i : i + 24, :, k : k + 24], example["labels"])
            and np.array_equal(image[:, i : i + 24, :, k : k + 24], example["image"])
        ]  # fmt: skip
        assert found
        corners.update(found)
    assert len({i for i, _ in corners}) > 2
    assert len({k for _, k in corners}) > 1
    image, _ = stage._pair(Fabric(accelerator="cpu"), prepared.cases[0])
    assert image.shape[2:] == LARGE_GRID  # validation sees all


def test_a_pair_smaller_than_a_patch_is_trained_whole(prepared: store.Prepared) -> None:
    assert tiny_run(prepared, patch=64).generator.training_box == GRID


@pytest.mark.parametrize("patch", [18, 0])
def test_patches_that_do_not_fit_the_autoencoder_are_refused(prepared: store.Prepared, patch: int) -> None:
    with pytest.raises(ValidationError, match="patch"):
        tiny_run(prepared, patch=patch)


@pytest.mark.parametrize("changes", [{}, {"grid": LARGE_GRID, "patch": 20}])
def test_examples_too_small_for_an_adversary_are_refused(
    prepared: store.Prepared, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="24 voxels"):
        train(tmp_path / "run", prepared, adversary_weight=0.5, **changes)
    assert not (tmp_path / "run").exists()


def test_the_sharper_of_two_networks_counts_more_with_an_adversary(
    prepared: store.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = np.array([*[0.9] * 8, 30.0, 0.8, 4.0, 0.1])
    monkeypatch.setattr(autoencoder, "scores_of_pair", lambda *tensors: table)
    for changes, value in (({}, 0.9), (CONTEST, 0.81)):
        stage = autoencoder.AutoencoderStage(
            tiny_run(prepared, **changes), train=prepared.cases, held_out=prepared.cases
        )
        score = stage.score(Fabric(accelerator="cpu"), network())
        assert score.value == pytest.approx(value)
        assert score.parts["gap_dB"] == pytest.approx(4.0)


def test_a_reconstruction_that_is_not_a_number_ends_training(prepared: store.Prepared) -> None:
    stage = autoencoder.AutoencoderStage(tiny_run(prepared), train=prepared.cases, held_out=prepared.cases)
    net = network()
    with torch.no_grad():
        net.block_decoder.conv_block.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="not numbers"):
        stage.score(Fabric(accelerator="cpu"), net)


def test_training_says_what_it_brought_beside_the_linear_code(prepared: store.Prepared, undisturbed: Path) -> None:
    (line,) = [line for line in (undisturbed / "lines.txt").read_text().splitlines() if "linear code" in line]
    own, linear = line.split(";")
    model = tiny_run(prepared).generator
    train_cases, held_out = split.split(prepared.cases, 0.1)
    stage = autoencoder.AutoencoderStage(tiny_run(prepared), train=train_cases, held_out=held_out)
    fabric = Fabric(accelerator="cpu")
    assert stage.figures(fabric, autoencoder.load_autoencoder(undisturbed, model.autoencoder)) in own
    assert stage.figures(fabric, autoencoder.new_autoencoder(model, train_cases).eval()) in linear
    validations = [line for line in (undisturbed / "lines.txt").read_text().splitlines() if "validation" in line]
    assert all("gap_dB" in line for line in validations)


def test_a_network_without_linear_maps_has_no_linear_code(prepared: store.Prepared, tmp_path: Path) -> None:
    lines = train(tmp_path / "run", prepared, steps=1, arguments={**ARGUMENTS, "linear_maps": False})
    assert not any("linear code" in line for line in lines)


def test_a_run_of_before_means_what_it_meant(prepared: store.Prepared, tmp_path: Path) -> None:
    run_folder.write_config(tiny_run(prepared), tmp_path)
    path = tmp_path / run_folder.CONFIG_FILE
    content = json.loads(path.read_text())
    for field in (
        "patch",
        "train_linear",
        "adversary_weight",
        "adversary_from",
        "adversary_channels",
        "feature_weight",
    ):
        del content["model"]["autoencoder"][field]
    path.write_text(json.dumps(content))
    settings = run_folder.read_config(tmp_path).generator.autoencoder
    assert (settings.patch, settings.train_linear, settings.adversary_weight) == (None, False, 0)


def test_training_starts_from_a_package_that_fits(prepared: store.Prepared, tmp_path: Path) -> None:
    package = open_package(write_tiny_generator(tmp_path / "hearts"))
    weights = load_networks(package)["autoencoder"].state_dict()
    settings = tiny_run(prepared, steps=1, validate_every=1, learning_rate=1e-7)
    quiet = {"resume": False, "workers": 0, "say": lambda line: None}
    autoencoder.train_autoencoder(tmp_path / "run", settings, prepared, start=package, **quiet)  # type: ignore[arg-type]
    trained = autoencoder.load_autoencoder(tmp_path / "run", settings.generator.autoencoder).state_dict()
    assert all(torch.allclose(trained[name], weights[name], atol=1e-5) for name in weights)
    assert all(torch.equal(trained[name], weights[name]) for name in weights if name.startswith("block_"))
    further = tiny_run(prepared, steps=2, validate_every=1, **CONTEST)
    autoencoder.train_autoencoder(tmp_path / "further", further, prepared, start=package, **quiet)  # type: ignore[arg-type]
    trained = autoencoder.load_autoencoder(tmp_path / "further", further.generator.autoencoder).state_dict()
    assert all(not torch.equal(trained[name], weights[name]) for name in weights if name.startswith("block_"))
    assert all(torch.allclose(trained[name], weights[name], atol=0.02) for name in weights)
    other = tiny_run(prepared, arguments={**ARGUMENTS, "stem_channels": 8})
    with pytest.raises(ConfigError, match=r"autoencoder.*hearts"):
        autoencoder.train_autoencoder(tmp_path / "other", other, prepared, start=package, **quiet)  # type: ignore[arg-type]
    segmenter = open_package(write_tiny_package(tmp_path / "segmenter"))
    with pytest.raises(ConfigError, match=r"autoencoder"):
        autoencoder.train_autoencoder(tmp_path / "other", settings, prepared, start=segmenter, **quiet)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_the_choices_of_the_paper_train_too(prepared: store.Prepared, tmp_path: Path) -> None:
    choices = {"labels_out": "palette", "fusion": "concatenation", "linear_maps": False, "checkpointed": True}
    lines = train(tmp_path / "run", prepared, steps=1, arguments={**ARGUMENTS, **choices}, **CONTEST)
    assert any("validation score" in line and "third_percent" in line for line in lines)


def test_an_existing_run_is_not_overwritten_nor_mixed_with_another(
    prepared: store.Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="--resume"):
        train(undisturbed, prepared)
    with pytest.raises(ConfigError, match=r"autoencoder\.kl_weight is 0\.0001, not 0\.5"):
        train(undisturbed, prepared, resume=True, kl_weight=0.5)
    with pytest.raises(TrainingError, match=str(tmp_path)):
        calibration.read_latent_statistics(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--preset", "huge"], "'huge'"),
        (["--data", "nowhere"], "nowhere"),
        (["--from", "nothing"], "nothing"),
    ],
)
def test_wrong_options_are_named(data: Path, tmp_path: Path, arguments: list[str], fact: str) -> None:
    base = [] if "--data" in arguments else ["--data", str(data)]
    result = CliRunner().invoke(app, ["train", "autoencoder", "--out", str(tmp_path / "run"), *base, *arguments])
    assert result.exit_code == 2
    assert fact in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_says_what_it_does(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo preset on a tiny grid, with one broken case beside the sound ones."""
    monkeypatch.setitem(generator_presets._GRIDS, "demo", (GRID, SPACING_MM))
    monkeypatch.setitem(
        generator_presets._AUTOENCODERS, "demo",
        lambda batch: config.AutoencoderConfig(
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
    assert json.loads((run / "config.json").read_text())["model"]["diffusion"] is None
    assert len(calibration.read_latent_statistics(run).shift) == 4

"""The pre-training stage: images alone, hidden voxels, exact resume, a loss that falls; and its command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from typer.testing import CliRunner

from cardiacldm_training.cases import store
from cardiacldm_training.cli import app
from cardiacldm_training.errors import ConfigError
from cardiacldm_training.export import export_run
from cardiacldm_training.stages import config, presets, pretrain, run_folder
from cardiacldm_training.stages.masking import MASKS, BlockMask, BoxMask
from CardiacLDMLib.segmentation.scan import to_window
from tests.support.training import TINY, equal, facts, prepare, write_cases

BLOCKS = BlockMask(side=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans, one of them without labels."""
    folder = write_cases(tmp_path_factory.mktemp("data") / "scans", 4)
    (folder / "case_0002" / "labels.nii.gz").unlink()
    return folder


@pytest.fixture(scope="module")
def prepared(data: Path) -> store.Prepared:
    return store.prepare(store.gather([data], None, images_alone=True), 6.0)


def tiny(prepared: store.Prepared, mask: BoxMask | BlockMask = BLOCKS, **changes: object) -> config.RunConfig:
    values = {
        "architecture": "unet", "arguments": TINY, "spacing_mm": 6.0, "patch": (16, 16, 16), "steps": 8,
        "validate_every": 4, "patience": 10, "save_every": 2, "warmup_steps": 2, "mask": mask,
    }  # fmt: skip
    model = config.PretrainingModel(network=config.PretrainConfig.model_validate({**values, **changes}))
    return config.RunConfig(preset="test", seed=3, data=facts(prepared), model=model)


def stage_of(prepared: store.Prepared, settings: config.RunConfig) -> pretrain.PretrainStage:
    train, held_out = prepared.cases[1:], prepared.cases[:1]
    return pretrain.PretrainStage(settings.pretraining.network, seed=3, train=train, held_out=held_out)


# --- examples ------------------------------------------------------------------------------------------------------


def test_images_without_labels_are_enough(data: Path, prepared: store.Prepared) -> None:
    assert len(prepared.cases) == 4
    assert not prepared.skipped
    assert not prepared.cases[2].labels.any()
    assert (prepared.cases[2].points == -1).all()
    with_labels = store.prepare(store.gather([data.parent / "scans"], None, images_alone=True), 6.0)
    assert with_labels.digest == prepared.digest


def test_hidden_voxels_are_air_and_the_others_are_as_in_the_target(prepared: store.Prepared) -> None:
    stage = stage_of(prepared, tiny(prepared))
    for n in range(5):
        example = stage.example(n)
        assert {array.shape for array in example.values()} == {(1, 16, 16, 16)}
        assert (example["image"][example["mask"]] == pretrain.HIDDEN).all()
        assert np.array_equal(example["image"][~example["mask"]], example["target"][~example["mask"]])
        assert example["mask"].mean() == pytest.approx(0.75, abs=0.02)
        again = stage.example(n)
        assert all(np.array_equal(example[name], again[name]) for name in example)


def test_the_intensities_of_targets_are_those_of_the_scan(prepared: store.Prepared) -> None:
    """Of the augmentation only the geometry is used."""
    settings = tiny(prepared, augment={"noise": 1.0, "contrast": 1.0, "bias": 1.0, "gamma": 1.0, "view": 0.0})
    stage = stage_of(prepared, settings)
    values = to_window(np.unique(np.concatenate([np.unique(case.image) for case in stage.train])), (-300.0, 700.0))
    target = np.concatenate([stage.example(n)["target"].ravel() for n in range(6)])
    assert values.min() <= target.min() + 1e-5
    assert target.max() <= values.max() + 1e-5


@pytest.mark.parametrize("kind", MASKS)
def test_the_loss_is_taken_where_the_mask_says(prepared: store.Prepared, kind: str) -> None:
    stage = stage_of(prepared, tiny(prepared, MASKS[kind]))
    mask = torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    mask[..., :4] = True
    batch = {"image": torch.zeros(1, 1, 16, 16, 16), "target": mask.float() * 2.0, "mask": mask}
    expected = {"paper": 1.0, "mae": 4.0}[kind]
    assert float(stage.loss(torch.nn.Identity(), batch)) == pytest.approx(expected)


def test_held_out_images_have_fixed_masks(prepared: store.Prepared) -> None:
    stage = stage_of(prepared, tiny(prepared, BoxMask(probability=0.05, sides=(2, 4))))
    one, two, other = stage.view(0, 0), stage.view(0, 0), stage.view(0, 1)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["mask"], other["mask"])
    assert one["mask"].any()  # most of these masks are empty


# --- training ------------------------------------------------------------------------------------------------------


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(prepared: store.Prepared, tmp_path: Path) -> None:
    settings, whole, parts = tiny(prepared), tmp_path / "whole", tmp_path / "parts"
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if "step 4:" in line:
            raise InterruptedError

    torch.set_num_threads(1)
    pretrain.train_pretraining(whole, settings, prepared, resume=False, workers=0, say=lines.append)
    with pytest.raises(InterruptedError):
        pretrain.train_pretraining(parts, settings, prepared, resume=False, workers=0, say=stop)
    assert run_folder.load_checkpoint(parts / "pretrain" / run_folder.LAST)["state"]["step"] == 2
    pretrain.train_pretraining(parts, settings, prepared, resume=True, workers=0, say=lines.append)
    for name in (run_folder.LAST, run_folder.BEST):
        one, other = (run_folder.load_checkpoint(run / "pretrain" / name) for run in (whole, parts))
        assert equal(one, other), name
    assert any("75.0%" in line for line in lines)
    with pytest.raises(ConfigError, match="mask"):
        pretrain.train_pretraining(whole, tiny(prepared, BoxMask()), prepared, resume=True, workers=0)
    with pytest.raises(ConfigError, match="pre-training"):
        export_run(whole, tmp_path / "package", "package")


def test_training_lowers_the_error_of_hidden_voxels(prepared: store.Prepared) -> None:
    settings = tiny(prepared, steps=60, validate_every=60, learning_rate=1e-2)
    stage, fabric = stage_of(prepared, settings), Fabric(accelerator="cpu")
    torch.manual_seed(0)
    network = pretrain.build_reconstructor("unet", TINY)
    with torch.inference_mode():
        before = stage.score(fabric, network.eval())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network.train()
    for n in range(60):
        batch = {name: torch.from_numpy(array)[None] for name, array in stage.example(n).items()}
        optimizer.zero_grad()
        stage.loss(network, batch).backward()
        optimizer.step()
    with torch.inference_mode():
        after, panel = stage.score(fabric, network.eval()), stage.panel(fabric, network)
    assert after.parts["hidden"] < 0.5 * before.parts["hidden"]
    assert after.value > before.value
    assert panel.shape == (48, 48, 3)


@pytest.mark.parametrize("architecture", [None, "dynunet", "segresnet", "swinunetr"])
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_architecture_fits_the_patch_of_every_preset(preset: str, architecture: str | None) -> None:
    data = config.DataFacts(cases=20, digest="")
    settings = presets.pretraining_config(preset, data, BoxMask(), architecture=architecture).pretraining.network
    with torch.device("meta"):
        network = pretrain.build_reconstructor(settings.architecture, settings.arguments)
        assert network(torch.empty(1, 1, *settings.patch)).shape == (1, 1, *settings.patch)
    with pytest.raises(ConfigError, match="joint_autoencoder"):
        presets.pretraining_config(preset, data, BoxMask(), architecture="joint_autoencoder")


def test_the_command_refuses_what_cannot_be(data: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        out = ("--data", data, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
        result = CliRunner().invoke(app, ["train", "pretrain", *map(str, (*out, *arguments))])
        assert result.exit_code == 2, result.output
        return result.stderr

    assert "maskk" in run("--mask", "maskk")
    assert "--columns" in run("--mask", "mae", "--columns")
    assert "vnet" in run("--network", "vnet")
    shutil.rmtree(tmp_path / "cache")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    assert "empty" in run("--data", tmp_path / "empty")


def test_preparation_for_segmenters_still_needs_labels(data: Path) -> None:
    prepared = prepare(data)
    assert len(prepared.cases) == 3
    assert [name for name, reason in prepared.skipped if "no labels" in reason] == ["scans/case_0002"]

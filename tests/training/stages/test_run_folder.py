"""The folder of a run: checkpoints that are damaged, configurations that do not fit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from cardiacldm_training.cases import store
from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.stages import run_folder
from cardiacldm_training.stages.config import FORMAT
from tests.support.training import tiny_run


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(TrainingError, match=r"last\.ckpt is damaged"):
        run_folder.load_checkpoint(tmp_path / "last.ckpt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state": Path("anything but numbers")}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match="damaged"):
        run_folder.load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("content", [{}, [1], torch.zeros(2), {"average": {}, "state": {}, "network": {}}])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "best.ckpt")
    for read in (run_folder.load_checkpoint, run_folder.averaged_weights, run_folder.load_state):
        with pytest.raises(TrainingError, match=r"best\.ckpt is damaged"):
            read(tmp_path / "best.ckpt")


@pytest.mark.parametrize("state", [{"speed": 1}, {"step": "x"}, {"curve": 3}])
def test_the_state_of_another_version_is_named(tmp_path: Path, state: dict[str, object]) -> None:
    torch.save({"network": {}, "average": {}, "optimizer": {}, "state": state}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match=r"last\.ckpt .*version"):
        run_folder.load_state(tmp_path / "last.ckpt")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a training run"):
        run_folder.read_config(tmp_path)
    (tmp_path / run_folder.CONFIG_FILE).write_text('{"preset": "demo"}')
    with pytest.raises(ConfigError, match="another version"):
        run_folder.read_config(tmp_path)
    (tmp_path / run_folder.CONFIG_FILE).write_text(f'{{"format": {FORMAT}, "preset": "demo"}}')
    with pytest.raises(ConfigError, match="'data'"):
        run_folder.read_config(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_run_in_a_folder_that_tensorboard_cannot_open_is_refused(tmp_path: Path) -> None:
    prepared = store.Prepared([], [])
    with pytest.raises(TrainingError, match="Unicode"):
        run_folder.check_run(tmp_path / os.fsdecode(b"run\xff"), tiny_run(prepared), ["segmenter"], resume=False)

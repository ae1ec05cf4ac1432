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

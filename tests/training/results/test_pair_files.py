"""Folders of pairs: complete pairs, one run at a time, the same settings, rates counted from the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiacldm_training.results import pair_files
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import UserError
from CardiacLDMLib.files import PART
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.image.grid import Volume
from tests.support.blocks import blocks

SETTINGS = {"package": "tiny 1", "seed": 7, "steps": 4}


def pair(index: int, rejected: list[list[str]] | None = None) -> Pair:
    scan, labels = blocks("RAS", values=(1, 2, 3))
    grid = np.diag([4.0, 4.0, 4.0, 1.0])
    counts = np.bincount(labels.array.ravel(), minlength=anatomy.NUM_CLASSES) * 64 / 1000
    provenance: dict[str, Any] = {
        "volumes_ml": {s.name: round(float(counts[s.value]), 2) for s in anatomy.STRUCTURES}, "conditions": {},
        "notice": "Synthetic.", "package": {"name": "tiny", "version": "1"}, "seed": 7, "index": index, "attempt": 0,
        "solver": "euler", "steps": 4, "guidance": 1.0, "acceptance": {"rejected": rejected or []},
    }  # fmt: skip
    return Pair(Volume(scan.array, grid), Volume(labels.array, grid), provenance)


def test_pairs_come_back_as_they_were_written(tmp_path: Path) -> None:
    size = pair_files.write_pair(pair(3), tmp_path)
    folder = tmp_path / "pair_0003"
    assert sorted(path.name for path in folder.iterdir()) == sorted(pair_files.FILES)
    assert size == sum(path.stat().st_size for path in folder.iterdir())
    back = pair_files.read_pair(tmp_path, 3)
    assert back.provenance == pair(3).provenance
    assert np.array_equal(back.image.array, pair(3).image.array)
    assert np.array_equal(back.labels.array, pair(3).labels.array)
    assert pair_files.pair_indices(tmp_path, 4) == {3}
    assert pair_files.pair_indices(tmp_path, 3) == set()


def test_a_pair_without_all_files_is_named(tmp_path: Path) -> None:
    pair_files.write_pair(pair(0), tmp_path)
    (tmp_path / "pair_0000" / "labels.nii.gz").unlink()
    with pytest.raises(UserError, match=r"pair_0000.*labels\.nii\.gz"):
        pair_files.pair_indices(tmp_path, 1)


def test_a_folder_is_held_by_one_run_with_the_same_settings(tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    again = pytest.raises(UserError, match="pairs")
    with pair_files.hold_folder(out, SETTINGS), again, pair_files.hold_folder(out, SETTINGS):
        pytest.fail("two runs hold the folder")
    (out / f"{PART}killed").mkdir()
    with pair_files.hold_folder(out, SETTINGS):
        assert [path.name for path in out.iterdir()] == ["generation.json"]
    with pytest.raises(UserError, match=r"seed.*7.*8"), pair_files.hold_folder(out, {**SETTINGS, "seed": 8}):
        pytest.fail("other settings were accepted")
    (out / "generation.json").write_text("[")
    with pytest.raises(UserError, match=r"generation\.json"), pair_files.hold_folder(out, SETTINGS):
        pytest.fail("damaged settings were accepted")


def test_rates_are_counted_from_the_files(tmp_path: Path) -> None:
    pair_files.write_pair(pair(0), tmp_path)
    pair_files.write_pair(pair(2, [["contact: LV, RV", "contact: LA, RV"], ["size: LA"]]), tmp_path)
    pair_files.write_rejection(tmp_path, 1, [["size: LAA"]])
    pair_files.write_rejection(tmp_path, 9, [["size: LAA"]])
    assert pair_files.rejections(tmp_path, 3) == {1: [["size: LAA"]]}
    rates = pair_files.acceptance_rates(tmp_path, 3)
    pair_files.write_rates(tmp_path, rates)
    assert json.loads((tmp_path / "acceptance.json").read_text()) == {
        "accepted": 2, "drawn": 5, "rejected": 3, "rules": {"contact": 1, "size": 2}, "never_accepted": ["pair_0001"],
    }  # fmt: skip


def test_sheets_have_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_files, "SHEET_PAIRS", 2)
    for index in range(3):
        pair_files.write_pair(pair(index), tmp_path)
    sheets = pair_files.write_sheets(tmp_path, 3)
    assert [path.name for path in sheets] == ["contact_sheet.png", "contact_sheet_2.png"]
    assert all(path.is_file() for path in sheets)

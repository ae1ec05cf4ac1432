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


def pair(index: int, rejected: list[list[str]] | None = None, remarks: list[str] | None = None) -> Pair:
    scan, labels = blocks("RAS", values=(1, 2, 3))
    grid = np.diag([4.0, 4.0, 4.0, 1.0])
    counts = np.bincount(labels.array.ravel(), minlength=anatomy.NUM_CLASSES) * 64 / 1000
    provenance: dict[str, Any] = {
        "volumes_ml": {s.name: round(float(counts[s.value]), 2) for s in anatomy.STRUCTURES}, "conditions": {},
        "notice": "Synthetic.", "package": {"name": "tiny", "version": "1"}, "seed": 7, "index": index, "attempt": 0,
        "solver": "euler", "steps": 4, "guidance": 1.0,
        "acceptance": {"rejected": rejected or [], "remarks": remarks or []},
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


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip_a_bit(path: Path) -> None:
    """Change one bit of the compressed voxels: ITK reads other voxels without an error."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("ct.nii.gz", _cut), ("ct.nii.gz", _flip_a_bit), ("labels.nii.gz", _cut), ("overview.png", _cut),
     ("provenance.json", _cut), ("labels.nii.gz", Path.unlink), ("ct.nii.gz", lambda path: path.write_bytes(b""))],
)  # fmt: skip
def test_a_damaged_pair_is_named_and_removed(tmp_path: Path, name: str, damage: Any) -> None:
    for index in range(3):
        pair_files.write_pair(pair(index), tmp_path)
    damage(tmp_path / "pair_0001" / name)
    lines: list[str] = []
    assert pair_files.finished_indices(tmp_path, 3, lines.append) == {0, 2}
    assert len(lines) == 1
    assert "pair_0001" in lines[0]
    assert name in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair_0000", "pair_0002"]


def test_a_damaged_pair_with_edited_labels_is_never_removed(tmp_path: Path) -> None:
    pair_files.write_pair(pair(0), tmp_path)
    provenance = tmp_path / "pair_0000" / "provenance.json"
    provenance.write_text(json.dumps({**json.loads(provenance.read_text()), "edited": True}))
    _cut(tmp_path / "pair_0000" / "ct.nii.gz")
    with pytest.raises(UserError, match="pair_0000"):
        pair_files.finished_indices(tmp_path, 1, print)
    assert (tmp_path / "pair_0000" / "labels.nii.gz").is_file()


def test_rejected_pairs_are_finished_unless_their_record_is_damaged(tmp_path: Path) -> None:
    for index in range(3):
        pair_files.write_rejection(tmp_path, index, [["size: LAA"]])
    (tmp_path / "pair_0001.rejected.json").write_text('{"index": 1}')
    lines: list[str] = []
    assert pair_files.finished_indices(tmp_path, 2, lines.append) == {0}
    assert "pair_0001" in lines[0]
    assert not (tmp_path / "pair_0001.rejected.json").exists()


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
    pair_files.write_pair(pair(2, [["contact: LV, RV", "contact: LA, RV"], ["size: LA"]], ["fat: little"]), tmp_path)
    pair_files.write_rejection(tmp_path, 1, [["size: LAA"]])
    pair_files.write_rejection(tmp_path, 9, [["size: LAA"]])
    assert pair_files.rejections(tmp_path, 3) == {1: [["size: LAA"]]}
    rates = pair_files.acceptance_rates(tmp_path, 3)
    pair_files.write_rates(tmp_path, rates)
    assert json.loads((tmp_path / "acceptance.json").read_text()) == {
        "accepted": 2, "drawn": 5, "rejected": 3, "rules": {"contact": 1, "size": 2}, "remarks": {"fat": 1},
        "never_accepted": ["pair_0001"],
    }  # fmt: skip


def test_sheets_have_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_files, "SHEET_PAIRS", 2)
    for index in range(3):
        pair_files.write_pair(pair(index), tmp_path)
    sheets = pair_files.write_sheets(tmp_path, 3)
    assert [path.name for path in sheets] == ["contact_sheet.png", "contact_sheet_2.png"]
    assert all(path.is_file() for path in sheets)

"""A synthetic pair as files: all of them, or none; edited labels are recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.pairs import IMAGE, LABELS, PROVENANCE, pair_name, write_pair
from tests.support.blocks import blocks


def provenance(labels: Volume) -> dict[str, Any]:
    counts = np.bincount(labels.array.ravel(), minlength=anatomy.NUM_CLASSES)
    return {"volumes_ml": {s.name: round(float(counts[s.value]) * labels.grid.voxel_ml, 2) for s in anatomy.STRUCTURES}}


def test_pair_is_written_as_training_reads_it(tmp_path: Path) -> None:
    scan, labels = blocks("RAS")
    image = Volume(scan.array + np.float32(0.6), scan.affine)
    folder = tmp_path / pair_name(12)
    write_pair(folder, tmp_path / ".part-1", image, labels, provenance(labels))
    assert folder.name == "pair_0012"
    assert sorted(path.name for path in folder.iterdir()) == sorted((IMAGE, LABELS, PROVENANCE))
    assert list(tmp_path.iterdir()) == [folder]
    written = read_volume(folder / IMAGE)
    assert written.array.dtype == np.int16
    assert np.array_equal(written.array, scan.array + 1)  # rounded
    assert np.array_equal(read_volume(folder / LABELS).array, labels.array)
    assert json.loads((folder / PROVENANCE).read_text()) == provenance(labels)


def test_values_beyond_int16_are_clipped(tmp_path: Path) -> None:
    scan, labels = blocks()
    write_pair(tmp_path / "pair", None, Volume(scan.array * 1e6, scan.affine), labels, provenance(labels))
    assert read_volume(tmp_path / "pair" / IMAGE).array.max() == np.iinfo(np.int16).max


def test_edited_labels_are_recorded(tmp_path: Path) -> None:
    scan, labels = blocks()
    original = provenance(labels)
    labels.array[0, 0, 0] = anatomy.VALUE["LV"]
    write_pair(tmp_path / "pair", None, scan, labels, original)
    assert json.loads((tmp_path / "pair" / PROVENANCE).read_text()) == {**original, "edited": True}


def test_an_error_or_an_existing_folder_leaves_what_was_there(tmp_path: Path) -> None:
    scan, labels = blocks()

    def full(folder: Path) -> None:
        (folder / "overview.png").write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"pair_0000.*No space left on device"):
        write_pair(tmp_path / "pair_0000", None, scan, labels, provenance(labels), draw=full)
    assert not list(tmp_path.iterdir())
    (tmp_path / "pair_0000").mkdir()
    with pytest.raises(OutputError, match="pair_0000"):
        write_pair(tmp_path / "pair_0000", None, scan, labels, provenance(labels))
    assert not list((tmp_path / "pair_0000").iterdir())

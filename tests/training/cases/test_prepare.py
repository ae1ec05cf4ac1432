"""Preparing the cases of folders: at one spacing, or for several networks; unusable cases are left out everywhere."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cardiacldm_training.cases.prepare import prepare_cases, prepare_for_networks
from cardiacldm_training.errors import DatasetError
from tests.support.training import write_cases


def test_a_case_that_one_network_cannot_use_is_left_out_for_all(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "cohort", 3)
    (data / "case_0001" / "ct.nii.gz").write_bytes(b"broken")
    lines: list[str] = []
    prepared = prepare_for_networks([data], tmp_path / "cache", {"locator": 12.0, "segmenter": 8.0}, 1, lines.append)
    assert {name: part.cases[0].spacing_mm for name, part in prepared.items()} == {"locator": 12.0, "segmenter": 8.0}
    for part in prepared.values():
        assert [case.name for case in part.cases] == ["cohort/case_0000", "cohort/case_0002"]
        assert [name for name, _ in part.skipped] == ["cohort/case_0001"]
    assert [line for line in lines if "cohort/case_0001" in line]
    one = prepare_cases([data], tmp_path / "cache", 8.0, 1, lambda line: None)
    assert one.digest == prepared["segmenter"].digest


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=tmp_path.name):
        prepare_cases([tmp_path], None, 8.0, 1, lambda line: None)


def test_a_scan_in_doubt_is_used_and_named(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "cohort", 2)
    scan = data / "case_0001" / "ct.nii.gz"
    image = nib.load(scan)
    clipped = nib.Nifti1Image(np.clip(np.asarray(image.dataobj), -200, 500), image.affine)
    clipped.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
    nib.save(clipped, scan)
    for _ in range(2):  # also when the prepared case is found again
        lines: list[str] = []
        assert len(prepare_cases([data], tmp_path / "cache", 8.0, 1, lines.append).cases) == 2
        notes = [line for line in lines if "cohort/case_0001" in line]
        assert len(notes) == 2
        assert "sform" in notes[0]
        assert "-200 HU" in notes[1]
        assert not [line for line in lines if "case_0000" in line]

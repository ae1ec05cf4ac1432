"""Preparing the cases of folders: at one spacing, or for several networks; unusable cases are left out everywhere."""

from __future__ import annotations

from pathlib import Path

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

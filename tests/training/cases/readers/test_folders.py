"""Cases in folders: both layouts, folders that cannot be used, and the check of labels when a case is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cardiacldm_training.cases.readers.cases import read_case
from cardiacldm_training.cases.readers.layouts import find_cases
from cardiacldm_training.errors import DatasetError
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.blocks import blocks
from tests.support.training import write_case, write_cases


def test_both_layouts_are_found(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 2)
    assert [case.name for case in find_cases(data)] == ["case_0000", "case_0001"]
    paired = tmp_path / "paired"
    for kind, name in (("images", "ct"), ("labels", "labels")):
        (paired / kind).mkdir(parents=True)
        for case in ("case_0000", "case_0001"):
            shutil.copy(data / case / f"{name}.nii.gz", paired / kind / f"{case}.nii.gz")
    (paired / "images" / "notes.txt").write_text("not a case")
    assert [case.name for case in find_cases(paired)] == ["case_0000", "case_0001"]
    assert all(case.labels.is_file() for case in find_cases(paired))


def test_endings_in_capitals_are_found(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 1)
    for name in ("ct.nii.gz", "labels.nii.gz"):
        (data / "case_0000" / name).rename(data / "case_0000" / name.upper())
    (case,) = find_cases(data)
    assert read_case(case)[1].array.any()
    for kind, name in (("images", "CT"), ("labels", "LABELS")):
        (tmp_path / "paired" / kind).mkdir(parents=True)
        shutil.copy(data / "case_0000" / f"{name}.NII.GZ", tmp_path / "paired" / kind / "one.Nii.GZ")
    assert [case.name for case in find_cases(tmp_path / "paired")] == ["one"]


def test_folders_without_cases_or_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=tmp_path.name):
        find_cases(tmp_path)
    data = write_cases(tmp_path / "data", 2)
    (data / "case_0001" / "labels.nii.gz").unlink()
    good, bad = find_cases(data)
    assert not good.problem
    with pytest.raises(VolumeError, match="no labels"):
        read_case(bad)
    (data / "case_0000" / "labels.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case_0000"):
        find_cases(data)


def test_two_files_of_one_kind_are_no_case(tmp_path: Path) -> None:
    image, labels = blocks()
    for name in ("images/a.nii.gz", "images/b.nii.gz", "images/b.nrrd", "images/c.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_volume(image, tmp_path / name)
    for name in ("labels/a.nii.gz", "labels/a.nrrd", "labels/b.nii.gz", "labels/c.nii.gz", "labels/d.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_volume(labels, tmp_path / name)
    problems = {case.name: case.problem for case in find_cases(tmp_path)}
    assert "a.nii.gz" in problems["a"]
    assert "a.nrrd" in problems["a"]
    assert "b.nrrd" in problems["b"]
    assert not problems["c"]
    assert "no scan" in problems["d"]


def test_scan_and_labels_of_a_case_share_a_grid(tmp_path: Path) -> None:
    write_case(tmp_path / "data" / "case")
    image, labels, notes, unknown = read_case(find_cases(tmp_path / "data")[0])
    assert image.grid.same_as(labels.grid)
    assert labels.array.any()
    assert notes == ()
    assert unknown == frozenset()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda labels: labels[:-1].copy(), "grid"),
        (lambda labels: labels + np.uint8(4), "12"),
        (lambda labels: labels.astype(np.int16) - 3, "-3"),
        (lambda labels: labels.astype(np.float32) * np.float32(0.5), r"\d\.5"),
        (lambda labels: np.where(labels == 0, np.float32(-1), labels), "-1"),
        (lambda labels: np.where(labels == 3, np.uint8(255), labels), "255"),
    ],
)
def test_labels_that_are_none_are_refused(change, fact: str, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "data" / "case")
    labels = read_volume(folder / "labels.nii.gz")
    write_volume(Volume(change(labels.array), labels.affine), folder / "labels.nii.gz")
    with pytest.raises(VolumeError, match=fact):
        read_case(find_cases(tmp_path / "data")[0])

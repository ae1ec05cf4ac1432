"""``cardiacldm data``: what a folder holds, its split by patient, and the commands that read the split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cardiacldm_training.cases.readers.layouts import find_cases
from cardiacldm_training.cases.splits import read_fold, read_splits
from cardiacldm_training.cli import app
from cardiacldm_training.commands.evaluate import choose
from cardiacldm_training.errors import ConfigError, DatasetError
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support import datasets
from tests.support.training import write_case, write_cases


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture(scope="module")
def mmwhs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases of MM-WHS's layout."""
    folder = tmp_path_factory.mktemp("mmwhs")
    for seed in range(2):
        case = write_case(folder / "own" / str(seed), seed)
        image, labels = (read_volume(case / f"{name}.nii.gz") for name in ("ct", "labels"))
        datasets.write_mmwhs(folder / "whs", image, labels, f"ct_train_{1001 + seed}")
    return folder / "whs"


def test_a_sound_folder_is_understood(mmwhs: Path) -> None:
    result = run("check", mmwhs)
    assert result.exit_code == 0, result.output
    assert "mmwhs" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("ct_train_1001"))
    for fact in ("36 x 34 x 32", "4 x 4 x 4", "LA LV RA RV MYO AO PA", "AO PA LAA"):
        assert fact in row
    appendage = next(line for line in result.stdout.splitlines() if line.startswith("LAA"))
    assert appendage.split() == ["LAA", "0", "0", "2", "0"]  # labelled, absent, unknown, unusual
    assert "missing" not in result.stdout.lower()  # the appendage is unknown, not missing
    last = result.stdout.splitlines()[-1]
    assert "2 of 2 cases" in last
    assert "LAA" in last


def test_bad_cases_copies_and_leaks_are_named(mmwhs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mmwhs, tmp_path / "data")
    image = read_volume(folder / "ct_train_1001_image.nii.gz")
    turned = image.affine.copy()
    turned[:3, 0] *= -1
    turned[:3, 3] += image.affine[:3, 0] * (image.array.shape[0] - 1)
    write_volume(Volume(np.flip(image.array, 0).copy(), turned), folder / "ct_test_2001_image.nii.gz")
    for name in ("image", "label"):
        shutil.copy(folder / f"ct_train_1002_{name}.nii.gz", folder / f"ct_train_1003_{name}.nii.gz")
    shutil.copy(folder / "ct_train_1002_image.nii.gz", folder / "ct_train_1004_image.nii.gz")
    write_volume(Volume((image.array // 8 + 128).astype(np.int16), image.affine), folder / "ct_train_1004_image.nii.gz")
    shutil.copy(folder / "ct_train_1002_label.nii.gz", folder / "ct_train_1005_label.nii.gz")
    result = run("check", folder, "--workers", 2)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    for case, fact in {"ct_train_1004": "Hounsfield", "ct_train_1005": "no scan"}.items():
        assert any(case in line and fact in line for line in lines)
    assert any("ct_train_1002, ct_train_1003" in line for line in lines)
    assert any("ct_test_2001" in line and "training case ct_train_1001" in line for line in lines)
    assert any("two patients" in line and "ct_train_1003" in line for line in lines)
    assert "4 of 6 cases" in lines[-1]
    assert "1 without" not in lines[-1]


def test_folders_that_cannot_be_understood(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (["check", tmp_path / "gone"], ["check", tmp_path / "empty"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Error" in result.stderr
    assert "nnunet" in run("check", tmp_path / "empty", "--layout", "nothing").stderr


def test_a_split_and_its_extension(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 6)
    for n in (1, 3, 5):  # a patient has two cases
        (data / f"case_{n:04d}").rename(data / f"case_{n - 1:04d}b")
    out = tmp_path / "split.json"
    result = run("split", data, "--out", out, "--folds", 3, "--group-by", r"(case_\d+)")
    assert result.exit_code == 0, result.output
    assert "6 cases of 3 patients" in result.stdout
    splits = read_splits(out)
    assert splits.cases["data/case_0000"] == splits.cases["data/case_0000b"]
    assert {case.fold for case in splits.cases.values()} == {0, 1, 2}
    assert run("split", data, "--out", out).exit_code == 2  # it is there already
    write_case(data / "case_0002c", 9)
    shutil.copytree(data / "case_0004", data / "case_0009")  # a copy under another patient's name
    result = run("split", data, "--out", out, "--extend")
    assert result.exit_code == 0, result.output
    new = read_splits(out)
    assert {name: new.cases[name] for name in splits.cases} == splits.cases
    assert new.cases["data/case_0002c"] == splits.cases["data/case_0002"]
    assert new.cases["data/case_0009"].fold == splits.cases["data/case_0004"].fold
    assert "same scan" in result.stderr


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    first = write_cases(tmp_path / "a" / "data", 2)
    second = shutil.copytree(first, tmp_path / "b" / "data")
    assert "data/case_0000" in run("split", first, second, "--out", tmp_path / "split.json").stderr


def test_evaluation_chooses_the_part_of_a_split(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 5)
    out = tmp_path / "split.json"
    assert run("split", data, "--out", out, "--folds", 2, "--test", 0.2).exit_code == 0
    fold, cases = read_fold(out, 0), find_cases(data)
    parts = {part: {case.name for case in choose(data, cases, fold, part)} for part in ("train", "validation", "test")}
    assert sorted(map(len, parts.values())) == [1, 2, 2]
    assert set().union(*parts.values()) == {case.name for case in cases}
    assert {case.name for case in choose(data, cases, fold, None)} == parts["test"]
    assert choose(data, cases, None, None) == cases
    content = json.loads(out.read_text())
    content["cases"] = {name: case for name, case in content["cases"].items() if case["fold"] is not None}
    out.write_text(json.dumps(content))
    fold = read_fold(out, 0)
    assert {case.name for case in choose(data, cases, fold, None)} == parts["validation"]
    with pytest.raises(DatasetError, match="test"):
        choose(data, cases, fold, "test")
    with pytest.raises(ConfigError, match="validation"):
        choose(data, cases, fold, "some")


def test_evaluation_prefers_a_data_sets_own_test_cases(mmwhs: Path, tmp_path: Path) -> None:
    image, labels = (read_volume(mmwhs / f"ct_train_1001_{name}.nii.gz") for name in ("image", "label"))
    folder = tmp_path / "nnunet"
    datasets.write_nnunet(
        folder, image, Volume((labels.array == 500).astype(np.uint8) * 2, labels.affine), {"LV": 1}, {"LV": 1}
    )
    shutil.copytree(folder / "imagesTr", folder / "imagesTs")
    shutil.copytree(folder / "labelsTr", folder / "labelsTs")
    assert [case.part for case in choose(folder, find_cases(folder), None, None)] == ["test"]


def test_training_takes_layout_and_split(mmwhs: Path, tmp_path: Path) -> None:
    """Wrong options end the command before anything is prepared; unknown structures are no data of a generator."""
    split = tmp_path / "split.json"
    assert run("split", mmwhs, "--out", split, "--folds", 2).exit_code == 0

    def train(*arguments: object) -> str:
        options = ["--data", mmwhs, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--workers", 0]
        result = CliRunner().invoke(app, ["train", *map(str, [arguments[0], *options, *arguments[1:]])])
        assert result.exit_code == 2, result.output
        return result.stderr

    assert "no fold 7" in train("segmenter", "--split", split, "--fold", 7)
    assert "--split" in train("pretrain", "--fold", 1)
    assert "nnunet" in train("segmenter", "--layout", "nothing")
    assert "gone.csv" in train("autoencoder", "--map", tmp_path / "gone.csv")
    assert "LAA" in train("autoencoder", "--split", split)

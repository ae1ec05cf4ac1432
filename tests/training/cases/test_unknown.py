"""What a data set does not label: scores leave it out, a prepared case keeps it, a generator does without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cardiacldm_training.cases.prepare import prepare_cases
from cardiacldm_training.cases.readers.label_map import IGNORED
from cardiacldm_training.cases.unknown import comparable, fitting_classes
from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.labels import dice_per_structure
from tests.support import datasets
from tests.support.training import write_case

LA, LV, AO, LAA = (anatomy.VALUE[name] for name in ("LA", "LV", "AO", "LAA"))


def test_scores_leave_out_what_is_unknown() -> None:
    reference = np.array([0, 0, LA, LA, LV, AO, IGNORED, 0], dtype=np.uint8)[None, None]
    prediction = np.array([LAA, AO, LA, LAA, LAA, LV, LV, LV], dtype=np.uint8)[None, None]
    first, second = comparable(prediction, reference, {"LAA", "AO"})
    assert first.ravel().tolist() == [0, 0, LA, LA, 0, LV, 0, LV]
    assert second.ravel().tolist() == [0, 0, LA, LA, LV, 0, 0, 0]
    dice = dice_per_structure(first, second)
    assert np.isnan(dice[[AO - 1, LAA - 1]]).all()
    assert dice[LA - 1] == 1.0


def test_complete_labels_are_compared_as_they_are() -> None:
    maps = np.random.default_rng(0).integers(0, 9, (2, 4, 4, 4)).astype(np.uint8)
    for got, given in zip(comparable(maps[0], maps[1], frozenset()), maps, strict=True):
        assert np.array_equal(got, given)


def test_labels_stand_for_what_is_not_labelled() -> None:
    table = fitting_classes({"LAA", "AO"})
    assert set(np.flatnonzero(table[0])) == {0, LAA, AO}
    assert set(np.flatnonzero(table[LA])) == {LA, LAA}
    assert set(np.flatnonzero(table[AO])) == {AO}
    assert table[anatomy.NUM_CLASSES].all()


def write_mixed(folder: Path) -> list[Path]:
    """Write a folder of complete cases, one of MM-WHS's layout, and one whose labels are ignored in part."""
    write_case(folder / "own" / "case_0000")
    image, labels = (read_volume(folder / "own" / "case_0000" / f"{name}.nii.gz") for name in ("ct", "labels"))
    datasets.write_mmwhs(folder / "mmwhs", image, labels)
    names = {**{name: anatomy.VALUE[name] for name in anatomy.NAMES if name != "RV"}, "ignore": anatomy.VALUE["RV"]}
    datasets.write_nnunet(folder / "nnunet", image, labels, names, anatomy.VALUE)
    return [folder / name for name in ("own", "mmwhs", "nnunet")]


def test_a_prepared_case_tells_what_is_unknown(tmp_path: Path) -> None:
    folders = write_mixed(tmp_path)
    lines: list[str] = []
    for _ in range(2):  # also when the prepared case is found again
        own, mmwhs, nnunet = prepare_cases(folders, tmp_path / "cache", 6.0, 1, lines.append).cases
    assert own.is_complete
    assert (mmwhs.unknown, mmwhs.ignores) == ({"LAA", "AO", "PA"}, False)
    assert (nnunet.unknown, nnunet.ignores) == ({"RV"}, True)
    values = np.unique(np.asarray(nnunet.labels))
    assert IGNORED in values
    assert anatomy.VALUE["RV"] not in values
    assert (mmwhs.points[LAA - 1] == -1).all()
    assert np.array_equal(own.image, mmwhs.image)
    same = np.asarray(own.labels) == np.asarray(mmwhs.labels)
    assert same[np.asarray(own.labels) != LAA].mean() > 0.999  # the appendage's voxels go to its neighbours
    assert any("LAA" in line for line in lines)


def test_a_generator_leaves_out_cases_with_unknown_structures(tmp_path: Path) -> None:
    lines: list[str] = []
    prepared = prepare_cases(write_mixed(tmp_path), tmp_path / "cache", 6.0, 1, lines.append, whole=True)
    assert [case.name for case in prepared.cases] == ["own/case_0000"]
    assert [name for name, _ in prepared.skipped] == ["mmwhs/ct_train_1001", "nnunet/heart_001"]
    assert "LAA" in prepared.skipped[0][1]


def test_another_meaning_of_the_same_files_is_another_entry(tmp_path: Path) -> None:
    _, _, folder = write_mixed(tmp_path)
    keys = {prepare_cases([folder], tmp_path / "cache", 6.0, 1, lambda line: None).cases[0].key}
    about = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(about.replace("ignore", "RV"))
    keys.add(prepare_cases([folder], tmp_path / "cache", 6.0, 1, lambda line: None).cases[0].key)
    assert len(keys) == 2

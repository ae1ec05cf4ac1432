"""Splits by patient: stable, even, never a patient on two sides; cases added later are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cardiacldm_training.cases.prepare import prepare_cases
from cardiacldm_training.cases.readers.files import ImageFiles
from cardiacldm_training.cases.split import sides
from cardiacldm_training.cases.splits import (
    Fold,
    Splits,
    groups_of,
    joined_groups,
    make_splits,
    read_fold,
    read_splits,
    scan_digest,
    write_splits,
)
from cardiacldm_training.errors import ConfigError, DatasetError, TrainingError
from tests.support.training import write_cases

#: Three scans of each of twenty patients.
GROUPS = {f"data/p{n:02d}_{visit}": f"p{n:02d}" for n in range(20) for visit in range(3)}


def check_sides(splits: Splits) -> None:
    for number in range(splits.folds):
        fold = Fold(splits, number, "split.json")
        parts: dict[str, set[str | None]] = {}
        for name, case in splits.cases.items():
            parts.setdefault(case.group, set()).add(fold.part(name))
        assert all(len(each) == 1 for each in parts.values())


def test_folds_are_even_and_by_patient() -> None:
    splits = make_splits(GROUPS, 5, test=0.2, seed=1)
    check_sides(splits)
    assert {case.group for case in splits.cases.values()} <= set(
        GROUPS
    )  # names of cases: no patient, and no hash of one
    counts = Counter(case.fold for case in splits.cases.values())
    assert counts[None] == 12
    assert sorted(counts[fold] for fold in range(5)) == [9, 9, 9, 9, 12]
    assert splits == make_splits(dict(reversed(GROUPS.items())), 5, test=0.2, seed=1)
    assert splits != make_splits(GROUPS, 5, test=0.2, seed=2)
    held_out = [Fold(splits, number, "").held_out for number in range(5)]
    assert len(frozenset().union(*held_out)) == sum(map(len, held_out)) == 48


def test_the_test_cases_of_a_data_set_stay_apart_with_their_patients() -> None:
    splits = make_splits(GROUPS, 4, tests=["data/p03_1"])
    assert {name for name, case in splits.cases.items() if case.fold is None} == {f"data/p03_{n}" for n in range(3)}
    check_sides(splits)


def test_an_extended_split_keeps_what_it_knows() -> None:
    old = make_splits({name: group for name, group in GROUPS.items() if group < "p15" and name[-1] != "2"}, 5, test=0.2)
    new = make_splits(GROUPS, old.folds, known=old)
    assert all(new.cases[name] == case for name, case in old.cases.items())
    assert len(new.cases) == 60
    check_sides(new)
    with pytest.raises(DatasetError, match="two sides"):
        make_splits(dict.fromkeys(GROUPS, "all one"), 5, known=old)


def test_too_few_patients_are_named() -> None:
    with pytest.raises(DatasetError, match="1 patient "):
        make_splits(dict.fromkeys(GROUPS, "p"), 2)


def files(name: str, **changes: object) -> ImageFiles:
    return ImageFiles(name, Path(name), None, **changes)  # type: ignore[arg-type]


def test_what_tells_the_patient(tmp_path: Path) -> None:
    cases = {name: files(name.partition("/")[2], columns={"site": name[6]}) for name in GROUPS}
    assert groups_of(cases, None) == {name: name for name in GROUPS}
    assert groups_of(cases, r"^(p\d+)_") == GROUPS
    assert set(groups_of(cases, "site").values()) == {"0", "1"}
    table = tmp_path / "patients.csv"
    table.write_text(
        "case,patient\n" + "\n".join(f"{name.partition('/')[2]},{group}" for name, group in GROUPS.items())
    )
    assert groups_of(cases, str(table)) == GROUPS
    assert groups_of({"a": files("a", patient="x"), "b": files("b")}, None) == {"a": "x", "b": "b"}
    with pytest.raises(DatasetError, match="data/p10_0"):
        groups_of(cases, r"^p0\d")
    with pytest.raises(ConfigError, match="regular"):
        groups_of(cases, "(")


def test_two_patients_with_one_scan_are_one_group() -> None:
    groups = {"a": "p1", "b": "p2", "c": "p3", "d": "p3", "e": "p4"}
    joined, copies = joined_groups(groups, {"a": "1", "b": "2", "c": "1", "d": "2", "e": "3"})
    assert joined["a"] == joined["b"] == joined["c"] == joined["d"] != joined["e"]
    assert copies == [["a", "c"], ["b", "d"]]


def test_a_copy_packed_otherwise_is_the_same_scan(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.nii").write_bytes(b"scan" * 1000)
    for level in (1, 9):
        (tmp_path / f"{level}.nii.gz").write_bytes(gzip.compress(b"scan" * 1000, level))
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "9.nii.gz").read_bytes()[:-9])
    digests = {path.name: scan_digest([path]) for path in sorted(tmp_path.iterdir())}
    assert digests["1.nii.gz"] == digests["9.nii.gz"] == digests["a.nii"] != digests["cut.nii.gz"]


def test_files_are_read_back_and_wrong_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    splits = make_splits(GROUPS, 5)
    write_splits(splits, path)
    assert read_fold(path, 4) == Fold(splits, 4, "split.json")
    with pytest.raises(ConfigError, match="no fold 5"):
        read_fold(path, 5)
    text = path.read_text()
    moved = text.replace('"fold": 0', '"fold": 1', 1)
    for wrong in ("{", "[]", text.replace('"format": 1', '"format": 9'), moved, text.replace('"fold": 0', '"fold": 9')):
        path.write_text(wrong)
        with pytest.raises(DatasetError, match=r"split\.json"):
            read_splits(path)
    with pytest.raises(DatasetError, match=r"gone\.json"):
        read_splits(tmp_path / "gone.json")


def test_training_takes_the_sides_of_a_stored_split(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 5)
    groups = {f"data/case_{n:04d}": f"p{n}" for n in range(4)}
    splits = make_splits({**groups, "data/gone": "p9"}, 2, tests=["data/case_0003"])
    fold, lines = Fold(splits, 1, "split.json"), list[str]()
    prepared = prepare_cases([data], tmp_path / "cache", 6.0, 1, lines.append, fold=fold)
    train, held_out = sides(prepared, 0.1)
    assert {case.name: fold.part(case.name) for case in train} == dict.fromkeys([c.name for c in train], "train")
    assert {case.name for case in held_out} == fold.held_out - {"data/gone"}
    assert len(train) + len(held_out) == 3
    assert any("case_0004" in line and "split.json" in line for line in lines)
    assert any("data/gone" in line for line in lines)
    other = prepare_cases([data], tmp_path / "cache", 6.0, 1, lambda line: None, fold=Fold(splits, 0, ""))
    assert prepared.digest != other.digest  # another fold is another run
    alone = prepare_cases([data / "."], tmp_path / "cache", 6.0, 1, lambda line: None)
    assert alone.held_out is None
    with pytest.raises(DatasetError, match="none of the cases"):
        prepare_cases([data], None, 6.0, 1, print, fold=Fold(make_splits({"x": "x", "y": "y"}, 2), 0, ""))


def test_a_fold_without_cases_on_one_side_is_refused(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", 1)
    splits = make_splits({"data/case_0000": "a", "data/case_0001": "b"}, 2)
    for number in range(2):
        prepared = prepare_cases([data], tmp_path / "cache", 6.0, 1, lambda line: None, fold=Fold(splits, number, ""))
        with pytest.raises(TrainingError, match="no usable case"):
            sides(prepared, 0.1)

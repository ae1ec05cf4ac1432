"""Conditions of cases: read from case.json and tables, checked, and encoded for a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cardiacldm_training.cases import conditions
from cardiacldm_training.errors import DatasetError

FULL = {"sex": "female", "contrast_phase": "venous", "scan_location": "university", "implant": "leads",
        "spacing_mm": 0.5}  # fmt: skip


def cohort(folder: Path, *records: object) -> Path:
    """Cases in the virtual cohort's layout; files are only looked for, not opened."""
    for number, record in enumerate(records):
        case = folder / f"case_{number}"
        case.mkdir(parents=True)
        (case / "ct.nii.gz").touch()
        (case / "labels.nii.gz").touch()
        if record is not None:
            (case / "case.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


def table(folder: Path, text: str, names: tuple[str, ...] = ("a", "b")) -> Path:
    """Cases in the layout of two folders, and conditions.csv."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        for name in names:
            (folder / part / f"{name}.nii.gz").touch()
    (folder / "conditions.csv").write_text(text, encoding="utf-8")
    return folder


def test_conditions_come_with_the_cases_of_the_cohort(tmp_path: Path) -> None:
    data = cohort(
        tmp_path / "data", {"conditions": FULL}, {"conditions": {"sex": "male", "smokes": True, "implant": None}},
        {"seed": 3}, None,
    )  # fmt: skip
    assert conditions.read_conditions([data]) == {
        "data/case_0": FULL, "data/case_1": {"sex": "male"}, "data/case_2": {}, "data/case_3": {},
    }  # fmt: skip


def test_conditions_come_in_a_table_beside_folders_of_images(tmp_path: Path) -> None:
    text = "\ufeffcase,sex,spacing_mm,scan_location\nb,female,0.75,St. Elsewhere\ngone,male,,\n a ,,,\n"
    assert conditions.read_conditions([table(tmp_path / "data", text)]) == {
        "data/a": {}, "data/b": {"sex": "female", "spacing_mm": 0.75, "scan_location": "St. Elsewhere"},
    }  # fmt: skip


def test_a_table_replaces_the_values_of_records(tmp_path: Path) -> None:
    data = cohort(tmp_path / "data", {"conditions": FULL}, {"conditions": FULL})
    (data / "conditions.csv").write_text("case,sex\ncase_1,male\n")
    read = conditions.read_conditions([data])
    assert [read[f"data/case_{n}"]["sex"] for n in (0, 1)] == ["female", "male"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,sex\na,male\n", "column named case"),
        ("case,gender\na,male\n", "'gender'"),
        ("case,sex\na,M\n", r"case a: sex is 'M'.*female or male"),
        ("case,contrast_phase\na,early\n", "arterial or dual or venous or none"),
        ("case,spacing_mm\na,thin\n", "spacing_mm is 'thin'"),
        ("case,spacing_mm\na,-1\n", "spacing_mm is"),
        ("case,spacing_mm\na,inf\n", "spacing_mm is"),
        ("case,sex\na,male\na,female\n", "two rows.*case a"),
        ("case,scan_location\na," + "x" * 61 + "\n", "60 characters"),
        ("", "column named case"),
    ],
)
def test_wrong_tables_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        conditions.read_conditions([table(tmp_path / "data", text)])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", r"case\.json"),
        ("[1]", r"case\.json"),
        ({"conditions": {"sex": "unclear"}}, "sex is 'unclear'"),
        ({"conditions": {"implant": ["leads"]}}, "implant is"),
        ({"conditions": {"spacing_mm": True}}, "spacing_mm is True"),
        ({"conditions": {"scan_location": 7}}, "scan_location"),
    ],
)
def test_wrong_records_are_refused(record: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        conditions.read_conditions([cohort(tmp_path / "data", record)])


def test_the_vocabulary_is_what_the_cases_have_in_a_fixed_order() -> None:
    words = conditions.vocabulary([
        {"scan_location": "Zurich", "spacing_mm": 0.5}, {"scan_location": "screening", "implant": "clips"},
        {"scan_location": "heart_centre", "implant": "none", "spacing_mm": 2.0}, {},
    ])  # fmt: skip
    assert words.choices == {"scan_location": ("heart_centre", "screening", "Zurich"), "implant": ("none", "clips")}
    assert list(words.choices) == ["scan_location", "implant"]
    assert words.numbers == {"spacing_mm": (0.5, 2.0)}
    assert words.chances == {"scan_location": (0.333, 0.333, 0.333), "implant": (0.5, 0.5)}  # of cases that have any
    assert conditions.Vocabulary.model_validate_json(words.model_dump_json()) == words


def test_conditions_become_places_and_numbers_about_one() -> None:
    words = conditions.vocabulary([FULL, {**FULL, "sex": "male", "spacing_mm": 2.5}])
    places, numbers = words.encode({**FULL, "implant": "clips"})
    assert places.tolist() == [0, 0, 0, -1]  # the cases have no clips
    assert places.dtype == np.int64
    assert numbers.tolist() == [-1.0]
    assert numbers.dtype == np.float32
    places, numbers = words.encode({"sex": "male", "spacing_mm": 1.5})
    assert places.tolist() == [1, -1, -1, -1]
    assert numbers.tolist() == [0.0]
    assert np.isnan(words.encode({})[1]).all()
    nothing = conditions.vocabulary([{}])
    assert [array.shape for array in nothing.encode(FULL)] == [(0,), (0,)]


def test_more_values_than_a_package_can_list_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"65 .*scan_location.* 64"):
        conditions.vocabulary([{"scan_location": f"site {n}"} for n in range(65)])


def test_other_conditions_have_another_digest() -> None:
    one = conditions.digest({"a": FULL, "b": {}})
    assert one == conditions.digest({"b": {}, "a": dict(reversed(FULL.items()))})
    assert one != conditions.digest({"a": {**FULL, "sex": "male"}, "b": {}})

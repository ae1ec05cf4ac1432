"""Folders in the layouts of others are recognised and read back exactly; what they do not label is unknown."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cardiacldm_training.cases.readers.cases import ReadCase, read_case, read_whole_labels
from cardiacldm_training.cases.readers.label_map import IGNORED, read_label_map
from cardiacldm_training.cases.readers.layouts import (
    LAYOUTS,
    Reading,
    find_cases,
    find_images,
    layout_of,
    other_layouts,
)
from cardiacldm_training.errors import ConfigError, DatasetError
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.grid import Volume
from tests.support import datasets
from tests.support.blocks import blocks
from tests.support.datasets import valued, write
from tests.support.training import write_cases

IMAGE, LABELS = blocks()
#: Values of a data set that numbers the structures from the last to the first.
BACKWARDS = {name: 9 - anatomy.VALUE[name] for name in anatomy.NAMES}


def only_case(folder: Path, reading: Reading | None = None) -> ReadCase:
    (case,) = find_cases(folder, reading)
    return read_case(case)


def check_read(case: ReadCase, names: object = anatomy.NAMES, unknown: tuple[str, ...] = ()) -> None:
    assert np.array_equal(case.image.array, IMAGE.array)
    assert np.array_equal(case.labels.array, datasets.only(LABELS, dict.fromkeys(names)))  # type: ignore[call-overload]
    assert case.unknown == frozenset(unknown)


# --- nnU-Net -------------------------------------------------------------------------------------------------------


def test_nnunet_with_names_of_its_own(tmp_path: Path) -> None:
    names = {"background": 0, **{anatomy.BY_VALUE[anatomy.VALUE[n]].title: v for n, v in BACKWARDS.items()}}
    datasets.write_nnunet(tmp_path, IMAGE, LABELS, names, BACKWARDS)
    write(IMAGE, tmp_path / "imagesTs" / "heart_002_0000.nii.gz")
    assert layout_of(tmp_path).NAME == "nnunet"
    check_read(only_case(tmp_path))
    assert [(image.name, image.part) for image in find_images(tmp_path)] == [("heart_001", ""), ("heart_002", "test")]


def test_nnunet_with_regions_an_ignored_label_and_strange_names(tmp_path: Path) -> None:
    names = {"background": 0, "whole heart": [1, 2, 3, 4], "left_atrium": [2, 3], "LAA": 3, "thingy": 4, "ignore": 5}
    values = {"RV": 1, "LA": 2, "LAA": 3, "RA": 4, "PA": 5}
    datasets.write_nnunet(tmp_path, IMAGE, LABELS, names, values)
    case = only_case(tmp_path)
    expected = datasets.only(LABELS, {"LA": 2, "LAA": 3})
    expected[np.isin(LABELS.array, [anatomy.VALUE[name] for name in ("RV", "RA", "PA")])] = IGNORED
    assert np.array_equal(case.labels.array, expected)
    assert case.unknown == frozenset(anatomy.NAMES) - {"LA", "LAA"}
    assert any("thingy" in note for note in case.notes)


def test_nnunet_of_the_first_version(tmp_path: Path) -> None:
    names = {"0": "background", "1": "LV", "2": "ascending aorta"}
    datasets.write_nnunet(tmp_path, IMAGE, LABELS, names, {"LV": 1, "AO": 2})
    case = only_case(tmp_path)
    assert np.array_equal(case.labels.array, datasets.only(LABELS, {"LV": 1, "AO": 2}))
    assert case.unknown == frozenset(anatomy.NAMES) - {"LV"}  # of the aorta there is only a part


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"labels": {"LA": "x"}}', '{"labels": 3}'])
def test_a_wrong_dataset_json_is_named(content: str, tmp_path: Path) -> None:
    datasets.write_nnunet(tmp_path, IMAGE, LABELS, {"LA": 1}, {"LA": 1})
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        find_cases(tmp_path)


# --- MM-WHS --------------------------------------------------------------------------------------------------------


def test_mmwhs(tmp_path: Path) -> None:
    datasets.write_mmwhs(tmp_path / "ct_train", IMAGE, LABELS)
    write(IMAGE, tmp_path / "ct_test" / "ct_test_2001_image.nii.gz")
    assert layout_of(tmp_path).NAME == "mmwhs"
    check_read(only_case(tmp_path), datasets.MMWHS, ("LAA", "AO", "PA"))


def test_mmwhs_with_its_stray_value_and_with_others(tmp_path: Path) -> None:
    for case, la in (("ct_train_1010", 421), ("ct_train_1011", 422)):
        write(IMAGE, tmp_path / f"{case}_image.nii.gz")
        write(valued(LABELS, {**datasets.MMWHS, "LA": la}), tmp_path / f"{case}_label.nii.gz")
    write(IMAGE, tmp_path / "mr_train_1001_image.nii.gz")
    good, bad, magnetic = find_cases(tmp_path)
    check_read(read_case(good), datasets.MMWHS, ("LAA", "AO", "PA"))
    for case, fact in ((bad, "422"), (magnetic, "MR")):
        with pytest.raises(VolumeError, match=fact):
            read_case(case)


# --- others --------------------------------------------------------------------------------------------------------


def test_imagecas(tmp_path: Path) -> None:
    values = {"MYO": 1, "LA": 2, "LV": 3, "RA": 4, "RV": 5, "AO": 6, "PA": 7, "LAA": 8}
    write(IMAGE, tmp_path / "1-200" / "1.img.nii.gz")
    coronary = (LABELS.array == 1).astype(np.uint8)
    write(Volume(coronary, LABELS.affine), tmp_path / "1-200" / "1.label.nii.gz")
    assert layout_of(tmp_path).NAME == "imagecas"
    with pytest.raises(VolumeError, match="coronary"):
        only_case(tmp_path)
    write(valued(LABELS, values), tmp_path / "segmentations" / "1.nii.gz")
    check_read(only_case(tmp_path))


def test_totalsegmentator(tmp_path: Path) -> None:
    datasets.write_totalsegmentator(tmp_path, IMAGE, LABELS)
    (tmp_path / "meta.csv").write_text("image_id;age;gender;split\ns0001;50;f;train\n")
    assert layout_of(tmp_path).NAME == "totalsegmentator"
    check_read(only_case(tmp_path))
    (case,) = find_cases(tmp_path)
    assert (case.sex, case.columns["age"]) == ("female", "50")


def test_bad_cases_of_totalsegmentator_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    facts = {
        "s0002": r"ct\.nii\.gz",
        "s0003": "no labels",
        "s0004": r"aorta\.nii\.gz.*grid",
        "s0005": r"aorta.*several",
        "s0007": r"aorta\.nrrd",
    }
    facts["s0006"] = r"aorta\.nii\.gz"
    for case in ("s0001", *facts):
        datasets.write_totalsegmentator(tmp_path, IMAGE, LABELS, {"LA": "heart_atrium_left", "AO": "aorta"}, case)
    masks = {case: tmp_path / case / "segmentations" / "aorta.nii.gz" for case in facts}
    (tmp_path / "s0002" / "ct.nii.gz").unlink()
    shutil.rmtree(tmp_path / "s0003" / "segmentations")
    write(Volume(LABELS.array[1:].copy(), LABELS.affine), masks["s0004"])
    write(LABELS, masks["s0005"])
    write(Volume((LABELS.array == 1).astype(np.uint8), LABELS.affine), masks["s0007"].with_name("aorta.nrrd"))
    masks["s0006"].write_bytes(masks["s0006"].read_bytes()[:100])
    good, *bad = find_cases(tmp_path)
    assert read_case(good).unknown == frozenset(anatomy.NAMES) - {"LA", "AO"}
    for case in bad:
        with pytest.raises(VolumeError, match=facts.pop(case.name)):
            read_case(case)
    assert not facts


def test_totalsegmentator_without_chambers(tmp_path: Path) -> None:
    masks = {"AO": "aorta", "LV": "heart", "LAA": "atrial_appendage_left"}
    datasets.write_totalsegmentator(tmp_path, IMAGE, LABELS, masks)
    case = only_case(tmp_path)
    expected = datasets.only(LABELS, {"AO": 0, "LAA": 0})
    expected[LABELS.array == anatomy.VALUE["LV"]] = IGNORED
    assert np.array_equal(case.labels.array, expected)
    assert case.unknown == frozenset(anatomy.NAMES) - {"AO", "LAA"}
    heart = Volume((LABELS.array > 0).astype(np.uint8), LABELS.affine)
    datasets.write_totalsegmentator(tmp_path / "all", IMAGE, LABELS)
    write(heart, tmp_path / "all" / "s0001" / "segmentations" / "heart.nii.gz")
    check_read(only_case(tmp_path / "all"))  # the chambers say more


def test_a_table_of_files(tmp_path: Path) -> None:
    write(IMAGE, tmp_path / "scans" / "x.nii.gz")
    write(LABELS, tmp_path / "truth" / "y.nrrd")
    table = "case;image;labels;patient;sex;site\nfirst;scans/x.nii.gz;truth/y.nrrd;p1;F;north\n"
    (tmp_path / "cases.csv").write_text(table)
    for place in (tmp_path, tmp_path / "cases.csv"):
        assert layout_of(place).NAME == "table"
        check_read(only_case(place))
    (case,) = find_cases(tmp_path)
    assert (case.name, case.patient, case.sex, case.columns) == ("first", "p1", "female", {"site": "north"})


def test_bad_rows_of_a_table_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(IMAGE, tmp_path / "x.nii.gz")
    write(LABELS, tmp_path / "y.nii.gz")
    rows = [
        "good,x.nii.gz,y.nii.gz",
        "twice,x.nii.gz,y.nii.gz",
        "twice,x.nii.gz,",
        "none,,y.nii.gz",
        "gone,z.mha,y.nii.gz",
    ]
    (tmp_path / "cases.csv").write_text("\n".join(["case,image,labels", *rows]))
    good, *bad = find_cases(tmp_path)
    check_read(read_case(good))
    for case, fact in zip(bad, ("rows", "rows", "no image", r"z\.mha"), strict=True):
        with pytest.raises(VolumeError, match=fact):
            read_case(case)


def test_this_projects_folders_are_read_as_before(tmp_path: Path) -> None:
    write_cases(tmp_path, 1)
    assert layout_of(tmp_path).NAME == "cardiacldm"
    assert only_case(tmp_path).unknown == frozenset()


def test_labels_that_must_be_whole_are_refused_where_something_is_unknown(tmp_path: Path) -> None:
    names = {"background": 0, **BACKWARDS}
    (case,) = find_cases(datasets.write_nnunet(tmp_path / "nn", IMAGE, LABELS, names, BACKWARDS))
    assert np.array_equal(read_whole_labels(case).array, LABELS.array)
    (case,) = find_cases(datasets.write_mmwhs(tmp_path / "whs", IMAGE, LABELS))
    with pytest.raises(VolumeError, match="LAA"):
        read_whole_labels(case)


# --- choosing ------------------------------------------------------------------------------------------------------


def test_a_layout_can_be_named(tmp_path: Path) -> None:
    datasets.write_mmwhs(tmp_path, IMAGE, LABELS)
    assert only_case(tmp_path, Reading("mmwhs")).unknown
    with pytest.raises(DatasetError, match="no cases"):
        find_cases(tmp_path, Reading("nnunet"))
    with pytest.raises(ConfigError, match="mmwhs"):
        find_cases(tmp_path, Reading("nothing"))


def test_a_folder_of_two_layouts_is_named(tmp_path: Path) -> None:
    datasets.write_mmwhs(tmp_path, IMAGE, LABELS)
    assert other_layouts(tmp_path, layout_of(tmp_path)) == []
    write_cases(tmp_path, 1)
    assert layout_of(tmp_path).NAME == "mmwhs"
    assert other_layouts(tmp_path, layout_of(tmp_path)) == ["cardiacldm"]


def test_the_folder_above_a_data_set_names_it(tmp_path: Path) -> None:
    datasets.write_nnunet(tmp_path / "Dataset001_Heart", IMAGE, LABELS, {"LA": 1}, {"LA": 1})
    with pytest.raises(DatasetError, match="Dataset001_Heart has the layout nnunet"):
        find_cases(tmp_path)


def test_an_empty_folder_names_all_layouts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        find_cases(tmp_path)
    assert all(layout.NAME in str(raised.value) for layout in LAYOUTS)


def test_a_table_of_labels_replaces_values_and_adds_names(tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text("label,structure,whole\n7,LV,\n8,AO,no\n9,unknown,\n10,background,yes\n")
    folder = tmp_path / "data"
    write(IMAGE, folder / "images" / "a.nii.gz")
    write(valued(LABELS, {"LV": 7, "AO": 8, "RV": 9, "RA": 10}), folder / "labels" / "a.nii.gz")
    case = only_case(folder, Reading(table=read_label_map(table)))
    expected = datasets.only(LABELS, {"LV": 0, "AO": 0})
    expected[LABELS.array == anatomy.VALUE["RV"]] = IGNORED
    assert np.array_equal(case.labels.array, expected)
    assert case.unknown == frozenset(anatomy.NAMES) - {"LV"}
    names = {"Linker Vorhof": 1, "Herzohr": 2}
    datasets.write_nnunet(tmp_path / "nn", IMAGE, LABELS, names, {"LA": 1, "LAA": 2})
    table.write_text("label,structure\nlinker vorhof,LA\nHerzohr,laa\n")
    case = only_case(tmp_path / "nn", Reading(table=read_label_map(table)))
    assert np.array_equal(case.labels.array, datasets.only(LABELS, {"LA": 0, "LAA": 0}))


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("", "columns"),
        ("label;thing\n1;LA\n", "structure"),
        ("label,structure\n1,XX\n", "line 2"),
        ("label,structure\n1,LA\n1,LV\n", "line 3"),
        ("label,structure,whole\n1,LA,perhaps\n", "whole"),
        ("label,structure\n,LA\n", "label"),
        ("label,structure\n", "no labels"),
    ],
)
def test_wrong_tables_of_labels_are_named(content: str, fact: str, tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text(content)
    with pytest.raises(DatasetError, match=fact) as raised:
        read_label_map(table)
    assert "map.csv" in str(raised.value)


def test_labels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    datasets.write_nnunet(tmp_path, IMAGE, LABELS, {"background": 0, "LA": 1}, {"LA": 1}, ("a", "b", "c", "d", "e"))
    other = Volume(LABELS.array[:-1].copy(), LABELS.affine)
    write(other, tmp_path / "labelsTr" / "a.nii.gz")
    write(valued(LABELS, {"LA": 1, "LV": 2, "RV": 7}), tmp_path / "labelsTr" / "b.nii.gz")
    whole = (tmp_path / "labelsTr" / "c.nii.gz").read_bytes()
    (tmp_path / "labelsTr" / "c.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "labelsTr" / "d.nii.gz").unlink()
    facts = {"a": "grid", "b": "2 and 7", "c": r"c\.nii\.gz", "d": "no labels"}
    for case in find_cases(tmp_path):
        if case.name in facts:
            with pytest.raises(VolumeError, match=facts[case.name]):
                read_case(case)
        else:
            assert read_case(case).labels.array.any()

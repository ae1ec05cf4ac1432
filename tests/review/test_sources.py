"""Where the cases of a review are found, in every layout, and how bad ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Case, find_cases, read_case
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.segmentation_file import write_segmentation
from CardiacLDMLib.review.sources import (
    ReviewCase,
    cases_of_scene,
    cases_of_table,
    open_source,
    package_of,
    read_both,
)
from CardiacLDMLib.review.worklist import open_worklist
from tests.support.cases import hu_values
from tests.support.dicom import write_series
from tests.support.review import pairs_folder, results_folder, small_labels, training_folder, write_case


def names(path: Path) -> list[str]:
    return [case.name for case in open_source(path).cases]


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    source = open_source(pairs_folder(tmp_path, 2))
    assert [case.name for case in source.cases] == ["pair_0001", "pair_0002"]
    assert source.review == tmp_path / "review"
    labels, image = read_both(source.cases[0])
    assert image is not None
    assert labels.array.shape == image.array.shape
    assert package_of(source.cases[0]) == "pairs 2.0"


def test_a_folder_of_training_cases_with_parts_missing(tmp_path: Path) -> None:
    training_folder(tmp_path, ("a", "b", "c"))
    (tmp_path / "labels" / "a.nii.gz").unlink()
    (tmp_path / "images" / "b.nii.gz").unlink()
    cases = open_source(tmp_path).cases
    assert [(c.name, c.labels is None, c.image is None) for c in cases] == [
        ("a", True, False), ("b", False, True), ("c", False, False),
    ]  # fmt: skip
    with pytest.raises(VolumeError, match="no labels"):
        read_both(cases[0])
    assert read_both(cases[1])[1] is None


def test_results_find_their_scans_beside_them_above_them_and_elsewhere(tmp_path: Path) -> None:
    folder, scans = tmp_path / "scans" / "out", tmp_path / "scans"
    results_folder(folder, scans)
    (case, _other) = open_source(folder).cases
    assert case.image == scans / "a.nii.gz"
    assert package_of(case) == "hearts 1.1"
    (scans / "a.nii.gz").rename(folder / "a.nii.gz")
    assert open_source(folder).cases[0].image == folder / "a.nii.gz"
    (folder / "a.nii.gz").rename(tmp_path / "a.nii.gz")
    assert open_source(folder).cases[0].image is None
    found = open_source(folder, tmp_path).cases[0]
    assert read_both(found)[1] is not None
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError):
        open_source(folder, tmp_path / "empty")


def test_results_of_a_dicom_folder_find_their_series(tmp_path: Path) -> None:
    for patient in ("one", "two"):
        write_series(tmp_path / "scans" / patient, hu_values(seed=ord(patient[0])), study=f"1.2.{ord(patient[0])}")
    out = tmp_path / "out"
    out.mkdir()
    scan = read_case(next(case for case in find_cases([tmp_path / "scans"]) if isinstance(case, Case)))
    write_volume(Volume((scan.array > 0).astype(np.uint8), scan.affine), out / "one.labels.nii.gz")
    (case,) = open_source(out, tmp_path / "scans").cases
    image = read_both(case)[1]
    assert image is not None
    assert (image.array == scan.array).all()
    cases = open_worklist(out, "Ann", scans=tmp_path / "scans")
    write_volume(Volume((scan.array > 0).astype(np.uint8), scan.affine), out / "two.labels.nii.gz")
    both = open_worklist(out, "Ann", scans=tmp_path / "scans")
    digests = [each.judge("one", "accept").scan_sha256 for each in (cases, both)]
    digests.append(both.judge("two", "accept").scan_sha256)
    assert digests[0] == digests[1] != digests[2]
    assert all(len(digest) == 64 for digest in digests)
    (tmp_path / "list.csv").write_text("case,labels,image\none,out/one.labels.nii.gz,scans/one\n")
    (listed,) = cases_of_table(tmp_path / "list.csv")
    image = read_both(listed)[1]
    assert image is not None
    assert (image.array == scan.array).all()


def test_layouts_may_be_mixed_and_other_files_are_left_out(tmp_path: Path) -> None:
    pairs_folder(tmp_path, 1)
    training_folder(tmp_path, ("pair_0001",))
    (tmp_path / "review" / "labels").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "other").mkdir()
    assert names(tmp_path) == ["pair_0001", "pair_0001-2"]


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_text("x")])
def test_what_holds_no_cases_is_refused(tmp_path: Path, make: object) -> None:
    make(tmp_path / "it")  # type: ignore[operator]
    with pytest.raises(VolumeError, match="it"):
        open_source(tmp_path / "it")


def test_cases_of_a_scene_get_names_of_their_own() -> None:
    assert [case.name for case in cases_of_scene(["Heart", "heart", "a/b", ""])] == ["Heart", "heart-2", "a_b", "case"]


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("case,image,labels\nx,i/a.nii.gz,l/a.nii.gz\ny,,l/b.nii.gz\n", "utf-8"),
        ("Case;Labels;Image;who\r\nx;l/a.nii.gz;i/a.nii.gz;me\r\n\r\ny;l/b.nii.gz\r\n", "utf-8-sig"),
        ('\n"case"\t"labels"\t"image"\nx\tl/a.nii.gz\ti/a.nii.gz\ny\tl/b.nii.gz\t\n', "utf-8"),
    ],
)
def test_a_table_of_cases(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode(encoding))
    source = open_source(tmp_path / "list.csv")
    assert [(c.name, c.labels, c.image) for c in source.cases] == [
        ("x", tmp_path / "l/a.nii.gz", tmp_path / "i/a.nii.gz"), ("y", tmp_path / "l/b.nii.gz", None),
    ]  # fmt: skip
    assert source.review == tmp_path / "list-review"


def test_a_table_of_a_spreadsheet_on_windows(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("case;labels\nJürgen;ä.nii.gz\n".encode("cp1252"))
    (case,) = cases_of_table(tmp_path / "list.csv")
    assert (case.name, case.labels) == ("Jürgen", tmp_path / "ä.nii.gz")


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"case,labels\n", b"PK\0\0", b"case,image\nx,y\n"])
def test_a_bad_table_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(VolumeError, match=r"list\.csv"):
        cases_of_table(tmp_path / "list.csv")


def test_a_row_without_labels_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("case,image,labels\nx\n,,l/y.nii.gz\n,,\nx,a.nii.gz,b.nii.gz\n")
    cases = cases_of_table(tmp_path / "list.csv")
    assert [case.name for case in cases] == ["x", "y", "x-2"]
    with pytest.raises(VolumeError):
        read_both(cases[0])


# --- reading -------------------------------------------------------------------------------------------------------


def test_bad_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    image, labels = tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"
    write_case(image, labels)
    case = ReviewCase("x", labels, image)
    small = small_labels()
    write_volume(small, labels)
    with pytest.raises(VolumeError, match="grid"):
        read_both(case)
    write_volume(Volume(small.array * 9, small.affine), labels)
    with pytest.raises(VolumeError, match="9"):
        read_both(case)
    labels.write_bytes(b"nonsense")
    with pytest.raises(VolumeError, match="labels"):
        read_both(case)
    labels.unlink()
    with pytest.raises(VolumeError, match="labels"):
        read_both(case)


def test_a_segmentation_of_slicer_is_refused(tmp_path: Path) -> None:
    training_folder(tmp_path, ("a",))
    write_segmentation(small_labels(), tmp_path / "labels" / "a.seg.nrrd")
    (tmp_path / "labels" / "a.nii.gz").unlink()
    (case,) = open_source(tmp_path).cases
    with pytest.raises(VolumeError, match="labelmap"):
        read_both(case)

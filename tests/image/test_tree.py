"""Cases in trees of folders: one for each study and volume file, at any depth, whatever else lies there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from CardiacLDMLib.image.cases import Case, Refused, find_cases, read_case
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.worker.handlers import single_case
from tests.support.cases import hu_values, only_case
from tests.support.dicom import write_series

UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.29880613728863345324697563017"
SCAN = Volume(hu_values(), np.diag([2.0, 2.0, 3.0, 1.0]))


def of_patient(patient: str) -> Callable[[FileDataset, int], None]:
    def change(data: FileDataset, _: int) -> None:
        data.PatientID = patient

    return change


def write_tree(root: Path, *images: tuple[str, str, str] | str) -> Path:
    """Write series (folder, study, patient) of 6, 7, 8, ... slices, and volume files, below ``root``."""
    for number, image in enumerate(images):
        if isinstance(image, str):
            write_volume(SCAN, root / image)
            continue
        folder, study, patient = image
        values = hu_values((12, 10, 6 + number), seed=number)
        write_series(root / folder, values, study=study, prefix=f"S{number}", change=of_patient(patient), number=number)
    return root


def found(root: Path) -> dict[str, int | str]:
    """Name -> number of slices, or the reason of a refusal."""
    return {
        case.name: case.reason if isinstance(case, Refused) else read_case(case).array.shape[2]
        for case in find_cases([root])
    }


# --- studies and patients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "manifest-1/collection/", "a/b/c/d/e/"])
def test_every_study_of_every_patient_is_a_case_at_any_depth(tmp_path: Path, above: str) -> None:
    write_tree(
        tmp_path,
        (f"{above}P-1/01-02-2000-NA-30178/300.000-NA-1", "1.1", "one"),
        (f"{above}P-1/03-04-2001-NA-30179/300.000-NA-2", "1.2", "one"),
        (f"{above}P-2/01-02-2000-NA-30178/300.000-NA-3", "1.3", "two"),
        (f"{above}P-2/01-02-2000-NA-30178/300.000-NA-4", "1.3", "two"),
    )
    assert found(tmp_path) == {"P-1-01-02-2000-NA-30178": 6, "P-1-03-04-2001-NA-30179": 7, "P-2": 9}


def test_two_studies_in_a_patients_folder_are_two_cases_and_share_no_name_with_another_patient(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "anna", ("DICOM/ST0/SE0", "1.1", "a"), ("DICOM/ST1/SE0", "1.2", "a"))
    assert found(root) == {"anna-ST0": 6, "anna-ST1": 7}
    mixed = write_tree(tmp_path / "mixed", ("dicom", "1.1", "a"), ("slices", "1.2", "b"))
    assert found(mixed) == {"dicom": 6, "slices": 7}
    flat = write_tree(tmp_path / "berta", (".", "1.1", "b"), (".", "1.2", "b"))
    assert found(flat) == {"berta": 6, "berta-2": 7}
    series = write_tree(tmp_path / "cora", ("a", "1.1", "c"), ("b", "1.1", "c"), ("x", "1.2", "c"))
    assert found(series) == {"cora": 7, "x": 8}


def test_the_worker_finds_each_study_of_a_shared_folder_again(tmp_path: Path) -> None:
    write_tree(tmp_path, (".", "1.1", "a"), (".", "1.2", "a"), ("sub", "1.3", "a"), "ct.nii.gz")
    cases = find_cases([tmp_path])
    assert len(cases) == 4
    for case in cases:
        assert isinstance(case, Case)
        again = single_case(case.path, case.study)
        assert (again.path, again.series) == (case.path, case.series)


def test_a_study_whose_series_lie_in_several_folders_is_one_case(tmp_path: Path) -> None:
    write_tree(tmp_path, ("p/x/one", "1.1", "a"), ("p/y/z/two", "1.1", "a"), ("q", "1.2", "b"))
    assert found(tmp_path) == {"p": 7, "q": 8}


def test_patients_under_one_study_uid_are_told_apart(tmp_path: Path) -> None:
    """Careless anonymisation gives every study the same UID."""
    write_tree(tmp_path, ("p", "1.1", "a"), ("q", "1.1", "b"), ("q/more", "1.1", ""))
    assert [case.name for case in find_cases([tmp_path])] == ["p", "q"]
    write_tree(tmp_path / "no uid", ("p", "", ""), ("q", "", ""))
    assert [case.name for case in find_cases([tmp_path / "no uid"])] == ["p", "q"]


def test_slices_that_each_name_a_study_of_their_own_are_one_case(tmp_path: Path) -> None:
    def split(data: FileDataset, number: int) -> None:
        data.StudyInstanceUID, data.SeriesInstanceUID = f"1.1.{number}", f"1.2.{number}"

    write_series(tmp_path / "p", hu_values((12, 10, 6)), change=split)
    write_tree(tmp_path, ("q", "1.2", "b"))
    assert found(tmp_path) == {"p": 6, "q": 6}


def test_a_uid_of_a_series_leaves_out_the_other_studies(tmp_path: Path) -> None:
    write_tree(tmp_path, ("p", "1.1", "a"), ("q", "1.2", "a"))
    case = only_case(tmp_path / "q")
    assert case.series is not None
    assert only_case(tmp_path, series=case.series.uid).series == case.series


# --- names ---------------------------------------------------------------------------------------------------------


def test_uids_in_names_are_short_and_the_names_unique(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        (f"c/P-1/{UID}1/{UID}2", "1.1", "a"),
        (f"c/P-1/{UID}3/{UID}4", "1.2", "a"),
        (f"c/P-2/{UID}5/{UID}6", "1.3", "b"),
    )
    assert found(tmp_path) == {"P-1-75630171": 6, "P-1-75630173": 7, "P-2": 8}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("DICOM/ST0/SE0", "root"),
        (f"coll/P-7/{UID}1/{UID}2", "P-7"),
        ("P-7/20200101/3", "P-7"),
        ("P-7/series1", "P-7"),
        ("P-7", "P-7"),
        (".", "root"),
    ],
)
def test_the_only_study_is_named_after_the_patients_folder(tmp_path: Path, place: str, name: str) -> None:
    write_tree(tmp_path / "root", (place, "1.1", "a"))
    assert list(found(tmp_path / "root")) == [name]


def test_names_too_long_for_results_are_shortened_and_stay_unique(tmp_path: Path) -> None:
    for name in ("n" * 250 + "1", "n" * 250 + "2", "ü" * 125):
        write_volume(SCAN, tmp_path / "a.nii")
        (tmp_path / "a.nii").rename(tmp_path / f"{name}.nii")
    names = [case.name for case in find_cases([tmp_path])]
    assert len(set(names)) == 3
    assert all(200 < len(name.encode()) <= 255 - len(".labels.nii.gz-99999") + 2 for name in names)
    assert len({name[:200] for name in names}) == 2


def test_names_can_be_printed_and_written(tmp_path: Path) -> None:
    write_tree(tmp_path, ("line\nbreak", "1.1", "a"), "tab\t.nii.gz", "-dash.nii.gz", " .nii.gz")
    names = [case.name for case in find_cases([tmp_path])]
    assert sorted(names) == ["-dash", "case", "line_break", "tab_"]


# --- what else lies in folders -------------------------------------------------------------------------------------


def test_volumes_and_studies_are_found_side_by_side(tmp_path: Path) -> None:
    write_tree(tmp_path, ("p", "1.1", "a"), "p/ct.nii.gz", "q/r/s/t/ct.mha", "x.nrrd", "q/labels.nii.gz")
    for name in (".hidden.nii.gz", "__MACOSX/._x.nii.gz", "__MACOSX/y.nii.gz", ".part-1/z.nii.gz", "x.seg.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "p" / "ct.nii.gz", tmp_path / name)
    assert found(tmp_path) == {"p": 6, "p-ct": 8, "q": 8, "x": 8}


def test_results_among_the_scans_change_no_case(tmp_path: Path) -> None:
    write_tree(tmp_path, ("p", "1.1", "a"), ("q", "1.2", "b"))
    before = found(tmp_path)
    (tmp_path / "results").mkdir()
    shutil.copy(next((tmp_path / "p").iterdir()), tmp_path / "results" / "p.seg.dcm")
    for name in ("p.seg.nrrd", "p.labels.nii.gz", "p.png", "p.report.json"):
        (tmp_path / "results" / name).write_bytes(b"result")
    assert found(tmp_path) == before


def test_folders_that_links_lead_to_are_searched_once(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", ("p/s", "1.1", "a"), ("q", "1.2", "b"))
    write_tree(tmp_path / "elsewhere", ("r", "1.3", "c"))
    (root / "a-link").symlink_to("q")
    (root / "p" / "loop").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "far").symlink_to(tmp_path / "elsewhere")
    assert found(root) == {"far": 6, "p": 6, "q": 7}
    (tmp_path / "name").symlink_to(root / "q")
    assert found(tmp_path / "name") == {"name": 7}
    assert len(find_cases([root, root / "q", tmp_path / "name"])) == 3


def test_files_without_images_belong_to_the_nearest_study_or_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path, ("p/ct", "1.1", "a"), ("q", "1.2", "b"))
    no_image = b"\0" * 128 + b"DICM" + b"\0" * 40
    report = b"\0" * 128 + b"DICM\2\0\2\0UI\x1e\x001.2.840.10008.5.1.4.1.1.88.22\0" + b"\0" * 40
    for name, data in (("p/sr/1.dcm", report), ("damaged/1.dcm", no_image), ("reports/1.dcm", report)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
    (tmp_path / "DICOMDIR").write_bytes(no_image)
    damaged, p, q = find_cases([tmp_path])
    assert isinstance(damaged, Refused)
    assert damaged.name in damaged.reason
    assert isinstance(p, Case)
    assert isinstance(q, Case)
    assert any(note.startswith("1 DICOM file ") for note in p.notes)
    assert q.notes == ()


@pytest.mark.skipif(os.name != "posix", reason="pipes and links as Unix has them")
def test_things_that_are_no_files_are_refused_and_the_others_found(tmp_path: Path) -> None:
    write_tree(tmp_path, "good.nii.gz", ("p", "1.1", "a"))
    os.mkfifo(tmp_path / "pipe.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.nrrd").symlink_to("loop.nrrd")
    (tmp_path / "gone.mha").symlink_to("nowhere")
    (tmp_path / "folder.nii.gz").mkdir()
    cases = found(tmp_path)
    assert {name for name, result in cases.items() if isinstance(result, int)} == {"good", "p"}
    assert "link" in str(cases["loop"])
    assert "link" in str(cases["gone"])
    assert "pipe.nii.gz" in str(cases["pipe"])


@pytest.mark.parametrize(
    ("name", "fact"),
    [("x" * 300, "long"), ("/".join(["y" * 200] * 30), "long"), ("loop", "link"), ("folder.nii.gz", "folder.nii.gz")],
)
def test_inputs_that_cannot_be_opened_are_refused(tmp_path: Path, name: str, fact: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder.nii.gz").mkdir()
    (refused,) = find_cases([tmp_path / name])
    assert isinstance(refused, Refused)
    assert fact in refused.reason
    assert len(refused.reason) < 200


def test_folders_that_cannot_be_opened_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, ("closed", "1.1", "a"), ("open", "1.2", "b"))
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may open everything
    cases = found(tmp_path)
    assert cases["open"] == 7
    assert "Permission denied" in str(cases["closed"])

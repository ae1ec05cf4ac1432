"""Segmentations of Slicer's and DICOM SEG: recognised by code, then name; overlaps, smaller extents, damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import nrrd
import numpy as np
import pytest

from cardiacldm_training.cases.readers.cases import read_case
from cardiacldm_training.cases.readers.label_map import IGNORED, read_label_map
from cardiacldm_training.cases.readers.labels import on_grid
from cardiacldm_training.cases.readers.layouts import Reading, find_cases, layout_of
from cardiacldm_training.results.dicom_seg import write_dicom_seg
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.dicom.headers import read_headers
from CardiacLDMLib.image.dicom.series import find_series
from CardiacLDMLib.image.dicom.voxels import read_series
from CardiacLDMLib.image.grid import LPS_TO_RAS, Grid, Volume
from CardiacLDMLib.results.segmentation_file import write_segmentation
from tests.support.blocks import KINDS, SHAPE, affine, blocks, case_report
from tests.support.datasets import only, write
from tests.support.dicom import PATIENT_ID, write_series

IMAGE, LABELS = blocks()
V = anatomy.VALUE


def terminology(code: str, scheme: str = "SCT") -> str:
    return f"TerminologyEntry:x~SCT^123037004^Anatomical Structure~{scheme}^{code}^y~^^~~^^~^^|"


def write_segments(path: Path, layers: list[np.ndarray], place: np.ndarray, segments: list[dict[str, object]]) -> None:
    """Write a segmentation as Slicer does: ``layers`` (I, J, K), whose ``place`` takes them to RAS mm."""
    lps = LPS_TO_RAS @ place
    header = {
        "space": "left-posterior-superior", "space origin": lps[:3, 3], "kinds": ["domain"] * 3,
        "space directions": lps[:3, :3].T, "encoding": "gzip", "Segmentation_MasterRepresentation": "Binary labelmap",
    }  # fmt: skip
    array = layers[0]
    if len(layers) > 1:
        array = np.stack(layers)
        header["kinds"] = ["list", "domain", "domain", "domain"]
        header["space directions"] = np.vstack([[np.nan] * 3, lps[:3, :3].T])
    for number, segment in enumerate(segments):
        fields = {"ID": f"Segment_{number + 1}", "LabelValue": 1, "Layer": 0, "Tags": "", **segment}
        header |= {f"Segment{number}_{name}": str(value) for name, value in fields.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    nrrd.write(str(path), array.astype(np.uint8), header)


def only_case(folder: Path):
    (case,) = find_cases(folder)
    return read_case(case)


# --- Slicer --------------------------------------------------------------------------------------------------------


def test_a_segmentation_beside_its_scan(tmp_path: Path) -> None:
    for patient in ("anna", "berta"):
        write(IMAGE, tmp_path / patient / "ct.nrrd")
        write_segmentation(LABELS, tmp_path / patient / "Segmentation.seg.nrrd")
    assert layout_of(tmp_path).NAME == "slicer"
    cases = find_cases(tmp_path)
    assert [(case.name, case.patient) for case in cases] == [("anna", "anna"), ("berta", "berta")]
    case = read_case(cases[0])
    assert np.array_equal(case.labels.array, LABELS.array)
    assert np.array_equal(case.image.array, IMAGE.array)
    assert case.unknown == frozenset()


def test_codes_come_before_names_and_smaller_segments_before_larger_ones(tmp_path: Path) -> None:
    """Two layers overlap: an atrium drawn with its appendage. The extent is smaller than the scan's."""
    write(IMAGE, tmp_path / "scan.nii.gz")
    start = np.array([3, 2, 1])
    inside = np.s_[3:28, 2:26, 1:20]
    atrium = np.isin(LABELS.array, [V["LA"], V["LAA"]])[inside]
    other = np.select([LABELS.array[inside] == V["LAA"], LABELS.array[inside] == V["RV"]], [1, 7], 0)
    place = LABELS.affine.copy()
    place[:3, 3] += place[:3, :3] @ start
    write_segments(
        tmp_path / "scan.seg.nrrd", [atrium, other], place,
        [
            {"Name": "right ventricle", "Tags": terminology("82471001")},  # the code of the left atrium
            {"Name": "Left atrial appendage", "Layer": 1},
            {"Name": "my lesion", "Layer": 1, "LabelValue": 7, "Tags": terminology("85756007")},
        ],
    )  # fmt: skip
    case = only_case(tmp_path)
    expected = only(LABELS, {"LA": 0, "LAA": 0})
    expected[LABELS.array == V["RV"]] = IGNORED
    assert np.array_equal(case.labels.array, expected)
    assert case.unknown == frozenset(anatomy.NAMES) - {"LA", "LAA"}
    assert any("overlap" in note for note in case.notes)
    assert any("my lesion" in note for note in case.notes)


def test_older_codes_are_known(tmp_path: Path) -> None:
    write(IMAGE, tmp_path / "scan.nii.gz")
    write_segments(
        tmp_path / "scan.seg.nrrd", [LABELS.array == V["LA"]], LABELS.affine,
        [{"Name": "Segment_1", "Tags": terminology("T-32300", "SRT")}],
    )  # fmt: skip
    assert np.array_equal(only_case(tmp_path).labels.array, only(LABELS, {"LA": 0}))


def test_a_users_table_comes_before_codes(tmp_path: Path) -> None:
    write(IMAGE, tmp_path / "data" / "scan.nii.gz")
    layer = np.select([LABELS.array == V[name] for name in ("LA", "PA", "AO")], [1, 2, 3], 0)
    write_segments(
        tmp_path / "data" / "scan.seg.nrrd", [layer], LABELS.affine,
        [
            {"Name": "Herzohr", "Tags": terminology("82471001")},
            {"Name": "Stamm", "LabelValue": 2, "Tags": terminology("45341000")},  # pulmonary trunk
            {"Name": "Gefaess", "LabelValue": 3, "Tags": terminology("113262008")},
        ],
    )  # fmt: skip
    (tmp_path / "map.csv").write_text("label,structure\nherzohr,LAA\nSCT 113262008,AO\n")
    (case,) = find_cases(tmp_path / "data", Reading(table=read_label_map(tmp_path / "map.csv")))
    expected = only(LABELS, {"PA": 0, "AO": 0})
    expected[LABELS.array == V["LA"]] = V["LAA"]
    read = read_case(case)
    assert np.array_equal(read.labels.array, expected)
    assert read.unknown == frozenset(anatomy.NAMES) - {"LAA", "AO"}


@pytest.mark.parametrize("kind", KINDS[:4])
def test_segments_with_axes_in_another_order_lie_right(kind: str) -> None:
    grid = Grid(SHAPE, affine("left-handed"))
    order = {"permuted": (1, 2, 0)}.get(kind, (0, 1, 2))
    _, labels = blocks("left-handed")
    turned = labels.array.transpose(np.argsort(order)) if kind == "permuted" else labels.array
    place = labels.affine.copy()
    if kind == "permuted":
        place = place[:, [*np.argsort(order), 3]]
    flips = {"RAS": (0,), "LPS": (1,), "left-handed": (), "permuted": (2,)}[kind]
    for axis in flips:
        place[:3, 3] += place[:3, axis] * (turned.shape[axis] - 1)
        place[:3, axis] *= -1
        turned = np.flip(turned, axis)
    assert np.array_equal(on_grid(turned, place, grid), labels.array)


def test_broken_segmentations_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    names = ("cut", "good", "grid", "strange", "two", "none")
    for name in names:
        write(IMAGE, tmp_path / f"{name}.nii.gz")
    for name in ("cut", "good"):
        write_segmentation(LABELS, tmp_path / f"{name}.seg.nrrd")
    whole = (tmp_path / "cut.seg.nrrd").read_bytes()
    (tmp_path / "cut.seg.nrrd").write_bytes(whole[: len(whole) - 400])
    shifted = LABELS.affine.copy()
    shifted[0, 3] += 1.7
    write_segmentation(Volume(LABELS.array, shifted), tmp_path / "grid.seg.nrrd")
    write_segments(tmp_path / "strange.seg.nrrd", [LABELS.array > 0], LABELS.affine, [{"Name": "thing"}])
    for name in ("two", "two-again"):
        shutil.copy(tmp_path / "good.seg.nrrd", tmp_path / f"{name}.seg.nrrd")
    shutil.copy(tmp_path / "good.seg.nrrd", tmp_path / "elsewhere.seg.nrrd")
    facts = {
        "cut": r"cut\.seg\.nrrd", "grid": r"grid\.seg\.nrrd.*resample", "strange": "thing", "two": "two-again",
        "none": "no labels", "elsewhere": r"elsewhere\.seg\.nrrd",
    }  # fmt: skip
    cases = {case.name: case for case in find_cases(tmp_path)}
    assert set(cases) == {*facts, "good"}
    for name, fact in facts.items():
        with pytest.raises(VolumeError, match=fact):
            read_case(cases[name])
    assert np.array_equal(read_case(cases["good"]).labels.array, LABELS.array)


# --- DICOM SEG -----------------------------------------------------------------------------------------------------


def write_dicom(
    folder: Path, values: tuple[int, ...] = (1, 2, 4, 5, 8), study: str = "1.2.3.4"
) -> tuple[Volume, Volume]:
    """Write a series in ``folder/ct`` and a segmentation beside it; return scan and labels."""
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    write_series(folder / "ct", array, spacing=(0.75, 1.0, 2.5), study=study)
    (series,) = find_series(read_headers(sorted((folder / "ct").iterdir()))[0])
    scan = read_series(series)
    labels = Volume(blocks("RAS", values=(1, 2, 4, 5, 8))[1].array, scan.affine)
    write_dicom_seg(series, labels, case_report(labels), folder / "heart.dcm")
    return scan, labels


def test_a_dicom_segmentation_with_its_series(tmp_path: Path) -> None:
    scan, labels = write_dicom(tmp_path / "p1")
    assert layout_of(tmp_path).NAME == "dicom"
    (case,) = find_cases(tmp_path)
    read = read_case(case)
    assert case.name == "p1"
    assert case.patient
    assert PATIENT_ID not in repr(case) + case.patient
    assert np.array_equal(read.image.array, scan.array)
    assert np.array_equal(read.labels.array, labels.array)
    assert read.unknown == {"RA", "AO", "PA"}


def test_a_segmentation_of_slicers_with_a_dicom_series(tmp_path: Path) -> None:
    scan, labels = write_dicom(tmp_path / "p1")
    (tmp_path / "p1" / "heart.dcm").unlink()
    write_segmentation(labels, tmp_path / "p1" / "heart.seg.nrrd")
    assert layout_of(tmp_path).NAME == "slicer"
    read = only_case(tmp_path)
    assert np.array_equal(read.image.array, scan.array)
    assert np.array_equal(read.labels.array, labels.array)


def test_a_dicom_segmentation_among_its_slices(tmp_path: Path) -> None:
    scan, labels = write_dicom(tmp_path)
    shutil.move(tmp_path / "heart.dcm", tmp_path / "ct" / "heart.dcm")
    read = only_case(tmp_path / "ct")
    assert np.array_equal(read.image.array, scan.array)
    assert np.array_equal(read.labels.array, labels.array)


def test_wrong_dicom_segmentations_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_dicom(tmp_path / "good")
    write_dicom(tmp_path / "other", study="1.2.3.5")
    shutil.rmtree(tmp_path / "other" / "ct")
    write_dicom(tmp_path / "two", study="1.2.3.6")
    shutil.copy(tmp_path / "two" / "heart.dcm", tmp_path / "two" / "lungs.dcm")
    write_dicom(tmp_path / "cut", study="1.2.3.7")
    whole = (tmp_path / "cut" / "heart.dcm").read_bytes()
    (tmp_path / "cut" / "heart.dcm").write_bytes(whole[: len(whole) - 300])
    (tmp_path / "stump.dcm").write_bytes(whole[:700])
    cases = {case.name: case for case in find_cases(tmp_path)}
    facts = {"other": r"heart\.dcm", "two": r"lungs\.dcm", "cut": r"heart\.dcm", "stump": r"stump\.dcm"}
    assert set(cases) == {*facts, "good"}
    for name, fact in facts.items():
        with pytest.raises(VolumeError, match=fact):
            read_case(cases[name])
    assert read_case(cases["good"]).labels.array.any()

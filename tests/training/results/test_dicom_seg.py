"""Labels as DICOM SEG: geometry, codes and frames of reference as pydicom and highdicom read them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import Segmentation, segread
from pydicom.dataset import FileDataset

from cardiacldm_training.results.dicom_seg import write_dicom_seg
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.image.dicom.headers import read_headers
from CardiacLDMLib.image.dicom.series import find_series
from CardiacLDMLib.image.dicom.stacks import Series
from CardiacLDMLib.image.dicom.voxels import read_series
from CardiacLDMLib.image.grid import LPS_TO_RAS, Volume
from tests.support.blocks import SHAPE, blocks, case_report
from tests.support.dicom import AXIAL, CORONAL, PATIENT_ID, write_series

SPACING = (0.75, 1.0, 2.5)


def scan(folder: Path, **changes: object) -> tuple[Series, Volume]:
    """Write a series and return it with labels on the grid that it is read on."""
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    write_series(folder, array, spacing=SPACING, **changes)  # type: ignore[arg-type]
    (series,) = find_series(read_headers(sorted(folder.iterdir()))[0])
    affine = read_series(series).affine
    return series, Volume(blocks("RAS", values=(1, 2, 4, 5, 8))[1].array, affine)  # three structures are absent


def write(series: Series, labels: Volume, path: Path) -> Segmentation:
    write_dicom_seg(series, labels, case_report(labels), path)
    return segread(path)


def in_ras(seg: Segmentation) -> Volume:
    """Return the segments as one label map with the values of :mod:`anatomy`."""
    volume = seg.get_volume(combine_segments=True)
    values = [0] + [anatomy.VALUE[next(s.name for s in anatomy.STRUCTURES if s.title == d.segment_label)]
                    for d in map(seg.get_segment_description, seg.segment_numbers)]  # fmt: skip
    affine = LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
    return Volume(np.array(values, dtype=np.uint8)[volume.array.transpose(2, 1, 0)], affine)


def check_same_place(one: Volume, other: Volume) -> None:
    """Check that the same points bear the same labels: highdicom leaves out empty slices, and may turn their order."""
    for value in np.unique(one.array[one.array > 0]):
        points = [
            volume.affine[:3, :3] @ np.argwhere(volume.array == value).T + volume.affine[:3, 3:]
            for volume in (one, other)
        ]
        sorted_points = [p[:, np.lexsort(np.round(p, 2))] for p in points]
        assert sorted_points[0].shape == sorted_points[1].shape
        assert np.abs(sorted_points[0] - sorted_points[1]).max() < 0.01


@pytest.mark.parametrize("axes", [AXIAL, CORONAL])
def test_labels_come_back_in_their_place(tmp_path: Path, axes: tuple) -> None:
    series, labels = scan(tmp_path / "scan", axes=axes)
    seg = write(series, labels, tmp_path / "case.seg.dcm")
    check_same_place(labels, in_ras(seg))


def test_segments_have_names_codes_colours_and_the_algorithm(tmp_path: Path) -> None:
    series, labels = scan(tmp_path / "scan")
    write(series, labels, tmp_path / "case.seg.dcm")
    data = pydicom.dcmread(tmp_path / "case.seg.dcm")
    assert data.Modality == "SEG"
    assert data.SegmentationType == "BINARY"
    expected = [s for s in anatomy.STRUCTURES if s.name in ("LA", "LV", "RV", "MYO", "LAA")]
    assert [s.SegmentNumber for s in data.SegmentSequence] == [1, 2, 3, 4, 5]
    for segment, structure in zip(data.SegmentSequence, expected, strict=True):
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (structure.snomed_code, "SCT")
        assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == anatomy.CATEGORY_CODE
        assert segment.SegmentLabel == structure.title
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert "tiny" in segment.SegmentAlgorithmName
        assert segment.RecommendedDisplayCIELabValue
    assert "Research" in data.ContentDescription


def test_frames_refer_to_their_slices(tmp_path: Path) -> None:
    series, labels = scan(tmp_path / "scan")
    seg = write(series, labels, tmp_path / "case.seg.dcm")
    first = pydicom.dcmread(series.files[0])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert seg[name].value == first[name].value
    assert seg.PatientID == PATIENT_ID  # an archive files it by that
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    for k, file in enumerate(series.files):
        uid = pydicom.dcmread(file).SOPInstanceUID
        frame = seg.get_pixels_by_source_instance(
            [uid], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
        )
        for number, structure in zip(seg.segment_numbers, (1, 2, 4, 5, 8), strict=True):
            assert np.array_equal(frame[0, :, :, number - 1], structure == labels.array[:, :, k].T)


def test_labels_on_another_grid_keep_their_own(tmp_path: Path) -> None:
    """A resampled scan, such as that of a tilted gantry, has labels on other slices than the files."""
    series, labels = scan(tmp_path / "scan")
    other = Volume(labels.array[:, :, ::2].copy(), labels.affine @ np.diag([1.0, 1.0, 2.0, 1.0]))
    seg = write(series, other, tmp_path / "case.seg.dcm")
    check_same_place(other, in_ras(seg))
    assert seg.FrameOfReferenceUID == pydicom.dcmread(series.files[0]).FrameOfReferenceUID


@pytest.mark.parametrize("shift", [0.6, -0.6])
def test_labels_of_a_tilted_gantry_keep_the_grid_at_right_angles(tmp_path: Path, shift: float) -> None:
    write_series(tmp_path / "scan", np.zeros(SHAPE), spacing=SPACING, step=(0.0, shift, 2.5))
    (series,) = find_series(read_headers(sorted((tmp_path / "scan").iterdir()))[0])
    volume = read_series(series)
    assert volume.array.shape[1] > SHAPE[1]
    labels = Volume((np.indices(volume.array.shape).sum(axis=0) % 7 == 0).astype(np.uint8), volume.affine)
    check_same_place(labels, in_ras(write(series, labels, tmp_path / "case.seg.dcm")))


@pytest.mark.parametrize("jitter", [1e-6, 1e-3])
def test_rounded_headers_do_not_matter(tmp_path: Path, jitter: float) -> None:
    rng = np.random.default_rng(1)

    def rounded(data: FileDataset, _: int) -> None:
        axes = [f"{float(x) + rng.uniform(-jitter, jitter):.8f}" for x in data.ImageOrientationPatient]
        data.ImageOrientationPatient = axes
        data.PixelSpacing = [f"{float(x) + rng.uniform(-jitter, jitter) / 10:.8f}" for x in data.PixelSpacing]

    series, labels = scan(tmp_path / "scan", change=rounded)
    check_same_place(labels, in_ras(write(series, labels, tmp_path / "case.seg.dcm")))


def _without_names(data: FileDataset, _: int) -> None:
    for name in ("PatientName", "PatientID", "PatientBirthDate"):
        del data[name]
    data.PatientSex = "X"


def test_headers_without_names_are_enough(tmp_path: Path) -> None:
    series, labels = scan(tmp_path / "scan", change=_without_names)
    seg = write(series, labels, tmp_path / "case.seg.dcm")
    check_same_place(labels, in_ras(seg))
    assert not seg.PatientID


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_malformed_dates_are_left_out(tmp_path: Path) -> None:
    """Tools that remove names write anything in their place."""

    def removed(data: FileDataset, _: int) -> None:
        data.StudyDate, data.PatientBirthDate, data.StudyTime = "2020-01-01", "ANON", "noon"

    series, labels = scan(tmp_path / "scan", change=removed)
    seg = write(series, labels, tmp_path / "case.seg.dcm")
    check_same_place(labels, in_ras(seg))
    assert not seg.StudyDate
    assert seg.PatientID == PATIENT_ID


def test_headers_without_a_study_are_refused_by_name(tmp_path: Path) -> None:
    series, labels = scan(tmp_path / "scan", change=lambda data, _: data.__delattr__("StudyInstanceUID"))
    with pytest.raises(OutputError, match="StudyInstanceUID") as refused:
        write(series, labels, tmp_path / "case.seg.dcm")
    assert "object" not in str(refused.value)


def test_headers_without_a_frame_of_reference_are_refused(tmp_path: Path) -> None:
    series, labels = scan(tmp_path / "scan", change=lambda data, _: data.__delattr__("FrameOfReferenceUID"))
    with pytest.raises(OutputError, match="Frame Of Reference"):
        write(series, labels, tmp_path / "case.seg.dcm")
    assert not (tmp_path / "case.seg.dcm").exists()


def test_without_labels_there_is_no_file(tmp_path: Path) -> None:
    series, labels = scan(tmp_path / "scan")
    labels = Volume(np.zeros_like(labels.array), labels.affine)
    write_dicom_seg(series, labels, case_report(labels), tmp_path / "case.seg.dcm")
    assert not (tmp_path / "case.seg.dcm").exists()

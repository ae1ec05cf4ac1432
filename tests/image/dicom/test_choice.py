"""Which of several DICOM series is taken, and what the user is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset

from CardiacLDMLib.image.cases import find_cases, read_case
from tests.support.cases import hu_values, only_case, refusal
from tests.support.dicom import CORONAL, DESCRIPTION, PATIENT_ID, PATIENT_NAME, write_series


def study(folder: Path) -> None:
    """A scout, a coronal reformat with most slices, two axial reconstructions, an MR series: all in one folder."""
    write_series(
        folder, hu_values((12, 12, 1)), number=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), axes=CORONAL
    )
    write_series(
        folder, hu_values((12, 10, 30)), number=2, axes=CORONAL, prefix="B", image_type=("DERIVED", "SECONDARY")
    )
    write_series(folder, hu_values((12, 10, 9)), number=3, prefix="C", spacing=(1.0, 1.0, 5.0))
    write_series(folder, hu_values((12, 10, 20)), number=4, prefix="D", spacing=(1.0, 1.0, 2.0))
    write_series(folder, hu_values((12, 10, 25)), number=5, prefix="E", modality="MR")


def test_of_several_series_the_axial_ct_with_most_slices_is_taken(tmp_path: Path) -> None:
    study(tmp_path / "study")
    case = only_case(tmp_path / "study")
    assert case.series is not None
    assert case.series.number == "4"
    assert read_case(case).array.shape == (12, 10, 20)
    for fact in ("series 4 (20 slices, CT, axial, 2 mm apart)", "series 1 (1 slice, scout)"):
        assert fact in case.notes[0]
    assert any("series 5 is MR" in note for note in case.notes)
    assert not any("--series" in note for note in case.notes)


def test_series_can_be_chosen_by_number_or_uid(tmp_path: Path) -> None:
    study(tmp_path / "study")
    coronal = only_case(tmp_path / "study", series="2")
    assert read_case(coronal).array.shape == (12, 10, 30)
    assert coronal.series is not None
    assert only_case(tmp_path / "study", series=coronal.series.uid).series == coronal.series
    assert "series 1 (1 slice, scout), series 2" in refusal(tmp_path / "study", series="9")
    assert "is MR" in refusal(tmp_path / "study", series="5")


def test_likely_series_are_named_or_asked_about(tmp_path: Path) -> None:
    for number in (7, 8):
        write_series(tmp_path / "two", hu_values((12, 10, 20 - number)), number=number, prefix=f"S{number}-")
    case = only_case(tmp_path / "two")
    assert case.series is not None
    assert case.series.number == "7"
    assert any("--series" in note for note in case.notes)
    asked = []
    chosen = only_case(tmp_path / "two", ask=lambda name, options: asked.append((name, len(options))) or options[1])
    assert asked == [("two", 2)]
    assert chosen.series is not None
    assert chosen.series.number == "8"
    assert chosen.notes == ()


def test_series_with_the_same_number_stay_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "two", hu_values((12, 10, 9)), number=3)
    write_series(tmp_path / "two", hu_values((12, 10, 8)), number=3, prefix="B")
    write_series(tmp_path / "two", hu_values((12, 10, 7)), number=None, prefix="C")
    sizes = {
        number: read_case(only_case(tmp_path / "two", series=number)).array.shape[2]
        for number in ("3", "3-2", "unnumbered")
    }
    assert sizes == {"3": 9, "3-2": 8, "unnumbered": 7}


def test_sub_folders_of_one_study_are_one_case_and_those_of_several_are_several(tmp_path: Path) -> None:
    for place, study_uid in (("anna/S1", "1.2.1"), ("anna/S2", "1.2.1"), ("berta/S1", "1.2.2")):
        write_series(
            tmp_path / "all" / place, hu_values((12, 10, 6 + int(place[-1]))), study=study_uid, number=int(place[-1])
        )
    assert [case.name for case in find_cases([tmp_path / "all"])] == ["anna", "berta"]
    anna = only_case(tmp_path / "all" / "anna")
    assert anna.name == "anna"
    assert anna.series is not None
    assert anna.series.number == "2"


def test_files_without_an_image_are_left_out_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values())
    (tmp_path / "s" / "report.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    (tmp_path / "s" / "readme.txt").write_text("viewer")
    (note,) = only_case(tmp_path / "s").notes
    assert note.startswith("1 DICOM file ")


def test_no_output_names_the_patient(tmp_path: Path) -> None:
    study(tmp_path / "study")
    write_series(tmp_path / "gap", hu_values(), skip=(3,))
    output = repr(find_cases([tmp_path / "study", tmp_path / "gap"])) + refusal(tmp_path / "study", series="99")
    for secret in (PATIENT_NAME, PATIENT_ID, DESCRIPTION, "Mustermann", "19701224", "Musterstadt"):
        assert secret not in output


def test_a_fragment_is_not_taken_for_a_large_series_with_a_problem(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values((12, 10, 40)), number=1, skip=(11, 12))
    write_series(tmp_path / "s", hu_values((12, 10, 2)), number=2, prefix="B")
    reason = refusal(tmp_path / "s")
    for fact in ("eries 1 (38 slices", "lacks 2 slices", "eries 2 (2 slices", "--series 2"):
        assert fact in reason
    assert read_case(only_case(tmp_path / "s", series="2")).array.shape == (12, 10, 2)


def test_a_fragment_is_not_taken_for_a_multi_frame_file(tmp_path: Path) -> None:
    def frames(data: FileDataset, _: int) -> None:
        data.NumberOfFrames = 30
        data.PixelData = data.PixelData * 30

    write_series(tmp_path / "s", hu_values((12, 10, 1)), number=1, change=frames)
    write_series(tmp_path / "s", hu_values((12, 10, 5)), number=2, prefix="B")
    assert "multi-frame" in refusal(tmp_path / "s")


def test_a_short_scan_of_the_heart_is_no_fragment_beside_a_chest_that_lacks_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values((12, 10, 70)), number=1, spacing=(1.0, 1.0, 5.0), skip=(30,))
    write_series(tmp_path / "s", hu_values((12, 10, 90)), number=2, spacing=(1.0, 1.0, 1.25), prefix="B")
    assert read_case(only_case(tmp_path / "s")).array.shape == (12, 10, 90)


def test_pictures_and_scouts_within_a_series_do_not_hide_it(tmp_path: Path) -> None:
    def dose_report(data: FileDataset, _: int) -> None:
        del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]

    def unmarked_scout(data: FileDataset, _: int) -> None:
        data.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]

    write_series(tmp_path / "s", hu_values(), uid="1.2.3")
    write_series(tmp_path / "s", hu_values((12, 10, 1)), uid="1.2.3", prefix="A", axes=CORONAL, change=unmarked_scout)
    write_series(tmp_path / "s", hu_values((12, 10, 1)), uid="1.2.3", prefix="B", change=dose_report)
    write_series(
        tmp_path / "s", hu_values((12, 10, 1)), uid="1.2.3", prefix="C", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")
    )
    case = only_case(tmp_path / "s")
    assert np.array_equal(read_case(case).array, hu_values())
    assert "scout" in case.notes[0]


def test_a_uid_of_several_stacks_takes_the_largest_and_names_the_others(tmp_path: Path) -> None:
    def acquisition(number: int) -> Callable[[FileDataset, int], None]:
        def change(data: FileDataset, _: int) -> None:
            data.AcquisitionNumber = number

        return change

    for number, slices in ((1, 8), (2, 10)):
        write_series(
            tmp_path / "s", hu_values((12, 10, slices)), uid="1.2.3", prefix=f"A{number}", change=acquisition(number)
        )
    case = only_case(tmp_path / "s", series="1.2.3")
    assert np.array_equal(read_case(case).array, hu_values((12, 10, 10)))
    assert "acquisition 1" in case.notes[0]

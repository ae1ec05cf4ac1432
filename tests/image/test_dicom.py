"""DICOM folders: which series is taken, and where its voxels land."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Case, find_cases, read_case
from CardiacLDMLib.image.files import read_volume
from tests.support.cases import hu_values, only_case, refusal
from tests.support.dicom import CORONAL, DESCRIPTION, PATIENT_ID, PATIENT_NAME, write_series

# --- voxels and their places ---------------------------------------------------------------------------------------


def oblique() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    angle = np.radians(20.0)
    return (float(np.cos(angle)), float(np.sin(angle)), 0.0), (-float(np.sin(angle)), float(np.cos(angle)), 0.0)


@pytest.mark.parametrize("axes", [((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), oblique(), ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))])
def test_slices_are_ordered_by_position_and_rescaled(tmp_path: Path, axes: tuple) -> None:
    origin, spacing = (-20.0, 13.5, 102.25), (0.7, 0.8, 1.5)
    write_series(tmp_path / "s", hu_values(), axes=axes, origin=origin, spacing=spacing, seed=3)
    got = read_case(only_case(tmp_path / "s"))
    assert got.array.dtype == np.int16
    assert np.array_equal(got.array, hu_values())
    lps = np.stack([np.array(axes[0]) * 0.7, np.array(axes[1]) * 0.8, np.cross(*axes) * 1.5], axis=1)
    assert np.allclose(got.affine[:3, :3], np.diag([-1, -1, 1]) @ lps, atol=1e-5)
    assert np.allclose(got.affine[:3, 3], [20.0, -13.5, 102.25], atol=1e-5)


def test_geometry_equals_that_of_an_independent_reader(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values(), axes=oblique(), seed=5)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "itk.nrrd"))
    assert read_case(only_case(tmp_path / "s")).grid.same_as(read_volume(tmp_path / "itk.nrrd").grid)


def test_fractional_rescaling_gives_hounsfield_units(tmp_path: Path) -> None:
    array = hu_values().astype(np.float64) // 4 * 4
    write_series(tmp_path / "s", array, slope=0.5, intercept=-1024.0)
    got = read_case(only_case(tmp_path / "s")).array
    assert got.dtype == np.float32
    assert np.abs(got - array).max() <= 0.5


def test_slightly_rounded_positions_are_accepted(tmp_path: Path) -> None:
    def rounded(data: FileDataset, _: int) -> None:
        data.ImagePositionPatient[2] = f"{float(data.ImagePositionPatient[2]):.1f}"

    write_series(tmp_path / "s", hu_values(), spacing=(1.0, 1.0, 0.625), change=rounded)
    assert read_case(only_case(tmp_path / "s")).spacing[2] == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"skip": (4,)}, "lacks 1 slice (after slice 4 the next is 4 mm away"),
        ({"skip": (2, 5, 6)}, "lacks 3 slices"),
        ({"step": (0.0, 0.5, 2.0)}, "is sheared"),
        ({"modality": "MR"}, "is MR, not CT"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "is a scout view"),
    ],
)
def test_a_series_that_is_no_volume_says_why(tmp_path: Path, options: dict, reason: str) -> None:
    write_series(tmp_path / "s", hu_values(), **options)
    assert reason in refusal(tmp_path / "s")


def test_uneven_and_shifted_slices_are_refused(tmp_path: Path) -> None:
    def uneven(data: FileDataset, k: int) -> None:
        data.ImagePositionPatient[2] = str(k * 2.0 + (k > 3) * 0.9)

    def shifted(data: FileDataset, k: int) -> None:
        data.ImagePositionPatient[0] = str(-20.0 + 9.0 * (k == 3))

    write_series(tmp_path / "uneven", hu_values(), change=uneven)
    write_series(tmp_path / "shifted", hu_values(), change=shifted)
    assert "uneven" in refusal(tmp_path / "uneven")
    assert "shifted" in refusal(tmp_path / "shifted")


def test_phases_at_the_same_places_are_a_4d_series_and_copies_are_copies(tmp_path: Path) -> None:
    for phase in range(4):
        write_series(tmp_path / "phases", hu_values(seed=phase), uid="1.2.3", prefix=f"P{phase}")
    write_series(tmp_path / "copies", hu_values(), uid="1.2.3")
    write_series(tmp_path / "copies", hu_values(), uid="1.2.3", prefix="COPY", skip=tuple(range(1, 8)))
    assert "4 images" in refusal(tmp_path / "phases")
    assert "1 slice twice" in refusal(tmp_path / "copies")


def test_a_slice_cut_short_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values())
    path = sorted((tmp_path / "s").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-100])
    found = find_cases([tmp_path / "s"])[0]
    if isinstance(found, Case):
        with pytest.raises(VolumeError, match="damaged"):
            read_case(found)


# --- which series --------------------------------------------------------------------------------------------------


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

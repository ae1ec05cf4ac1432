"""What is found among files and folders, which DICOM series is taken, and where its voxels land."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Case, Refused, find_cases, read_case
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.dicom import CORONAL, DESCRIPTION, PATIENT_ID, PATIENT_NAME, write_series

SHAPE = (12, 10, 8)


def values(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def volume(seed: int = 0) -> Volume:
    return Volume(values(seed=seed), np.diag([2.0, 2.0, 3.0, 1.0]))


def only(path: Path, **options: object) -> Case:
    (found,) = find_cases([path], **options)  # type: ignore[arg-type]
    assert isinstance(found, Case), found
    return found


def refusal(path: Path, **options: object) -> str:
    (found,) = find_cases([path], **options)  # type: ignore[arg-type]
    assert isinstance(found, Refused), found
    return found.reason


# --- files and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".NII.GZ"])
def test_volume_files_are_cases_named_after_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"chest.v2{ending.lower()}"
    sitk.WriteImage(sitk.GetImageFromArray(values()), str(path))
    path = path.rename(tmp_path / f"chest.v2{ending}")
    case = only(path)
    assert case.name == "chest.v2"
    assert np.array_equal(read_case(case).array, values().transpose(2, 1, 0))


def test_a_folder_gives_each_file_and_sub_folder_without_earlier_results(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nrrd", "a.labels.nii.gz", "a.seg.nrrd", ".hidden.nii.gz"):
        write_volume(volume(), tmp_path / name)
    for name in ("case_0000/ct.nii.gz", "case_0000/labels.nii.gz", "two/x.mha", "two/y.mha"):
        write_volume(volume(), tmp_path / name)
    write_series(tmp_path / "slices", values())
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.report.json").write_text("{}")
    names = [found.name for found in find_cases([tmp_path])]
    assert names == ["a", "b", "case_0000", "slices", "two-x", "two-y"]


def test_equal_names_are_told_apart_and_the_same_file_is_taken_once(tmp_path: Path) -> None:
    paths = [tmp_path / place for place in ("x/ct.nii.gz", "y/ct.nrrd", "z/CT.mha", "ct-2.nii.gz")]
    for path in paths:
        write_volume(volume(), path)
    found = find_cases([*paths, paths[0], tmp_path / "x"])
    assert [case.name for case in found] == ["ct", "ct-2", "CT-3", "ct-2-2"]


def test_nothing_is_taken_from_what_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear colleague")
    assert refusal(tmp_path / "none.nii") == "There is no file or folder none.nii."
    assert "holds no NIfTI" in refusal(tmp_path)
    assert "by its ending" in refusal(tmp_path / "letter.txt")


@pytest.mark.parametrize(
    ("stored", "read"),
    [(np.float64, np.float32), (np.int32, np.int16), (np.uint16, np.int16), (np.float32, np.float32)],
)
def test_voxels_are_kept_small_with_their_values(tmp_path: Path, stored: type, read: type) -> None:
    array = np.abs(values()).astype(stored)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    got = read_case(only(tmp_path / "a.nrrd")).array
    assert got.dtype == read
    assert np.array_equal(got, array.transpose(2, 1, 0))


def test_integers_beyond_16_bits_are_not_wrapped(tmp_path: Path) -> None:
    array = values().astype(np.int32) + 40_000
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.mha"))
    assert read_case(only(tmp_path / "a.mha")).array.max() == array.max()


# --- DICOM: voxels and their places --------------------------------------------------------------------------------


def oblique() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    angle = np.radians(20.0)
    return (float(np.cos(angle)), float(np.sin(angle)), 0.0), (-float(np.sin(angle)), float(np.cos(angle)), 0.0)


@pytest.mark.parametrize("axes", [((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), oblique(), ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))])
def test_slices_are_ordered_by_position_and_rescaled(tmp_path: Path, axes: tuple) -> None:
    origin, spacing = (-20.0, 13.5, 102.25), (0.7, 0.8, 1.5)
    write_series(tmp_path / "s", values(), axes=axes, origin=origin, spacing=spacing, seed=3)
    got = read_case(only(tmp_path / "s"))
    assert got.array.dtype == np.int16
    assert np.array_equal(got.array, values())
    lps = np.stack([np.array(axes[0]) * 0.7, np.array(axes[1]) * 0.8, np.cross(*axes) * 1.5], axis=1)
    assert np.allclose(got.affine[:3, :3], np.diag([-1, -1, 1]) @ lps, atol=1e-5)
    assert np.allclose(got.affine[:3, 3], [20.0, -13.5, 102.25], atol=1e-5)


def test_geometry_equals_that_of_an_independent_reader(tmp_path: Path) -> None:
    write_series(tmp_path / "s", values(), axes=oblique(), seed=5)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "itk.nrrd"))
    assert read_case(only(tmp_path / "s")).grid.same_as(read_volume(tmp_path / "itk.nrrd").grid)


def test_fractional_rescaling_gives_hounsfield_units(tmp_path: Path) -> None:
    array = values().astype(np.float64) // 4 * 4
    write_series(tmp_path / "s", array, slope=0.5, intercept=-1024.0)
    got = read_case(only(tmp_path / "s")).array
    assert got.dtype == np.float32
    assert np.abs(got - array).max() <= 0.5


def test_slightly_rounded_positions_are_accepted(tmp_path: Path) -> None:
    def rounded(data: FileDataset, _: int) -> None:
        data.ImagePositionPatient[2] = f"{float(data.ImagePositionPatient[2]):.1f}"

    write_series(tmp_path / "s", values(), spacing=(1.0, 1.0, 0.625), change=rounded)
    assert read_case(only(tmp_path / "s")).spacing[2] == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"skip": (4,)}, "lacks 1 slice (after slice 4 the next is 4 mm away, elsewhere 2 mm)"),
        ({"skip": (2, 5, 6)}, "lacks 3 slices"),
        ({"step": (0.0, 0.5, 2.0)}, "is sheared"),
        ({"modality": "MR"}, "is MR, not CT"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "is a scout view"),
    ],
)
def test_a_series_that_is_no_volume_says_why(tmp_path: Path, options: dict, reason: str) -> None:
    write_series(tmp_path / "s", values(), **options)
    assert refusal(tmp_path / "s").startswith(f"Its only series {reason}")


def test_uneven_and_shifted_slices_are_refused(tmp_path: Path) -> None:
    def uneven(data: FileDataset, k: int) -> None:
        data.ImagePositionPatient[2] = str(k * 2.0 + (k > 3) * 0.9)

    def shifted(data: FileDataset, k: int) -> None:
        data.ImagePositionPatient[0] = str(-20.0 + 9.0 * (k == 3))

    write_series(tmp_path / "uneven", values(), change=uneven)
    write_series(tmp_path / "shifted", values(), change=shifted)
    assert "unevenly spaced" in refusal(tmp_path / "uneven")
    assert "shifted against each other" in refusal(tmp_path / "shifted")


def test_phases_at_the_same_places_are_a_4d_series_and_copies_are_copies(tmp_path: Path) -> None:
    for phase in range(4):
        write_series(tmp_path / "phases", values(seed=phase), uid="1.2.3", prefix=f"P{phase}")
    write_series(tmp_path / "copies", values(), uid="1.2.3")
    write_series(tmp_path / "copies", values(), uid="1.2.3", prefix="COPY", skip=tuple(range(1, 8)))
    assert "holds 4 images at each place" in refusal(tmp_path / "phases")
    assert "has 1 slice twice" in refusal(tmp_path / "copies")


def test_a_slice_cut_short_is_not_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path / "s", values())
    path = sorted((tmp_path / "s").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-100])
    found = find_cases([tmp_path / "s"])[0]
    if isinstance(found, Case):
        with pytest.raises(VolumeError, match="damaged or cut short"):
            read_case(found)


# --- DICOM: which series -------------------------------------------------------------------------------------------


def study(folder: Path) -> None:
    """A scout, a coronal reformat with most slices, two axial reconstructions, an MR series: all in one folder."""
    write_series(folder, values((12, 12, 1)), number=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), axes=CORONAL)
    write_series(folder, values((12, 10, 30)), number=2, axes=CORONAL, prefix="B", image_type=("DERIVED", "SECONDARY"))
    write_series(folder, values((12, 10, 9)), number=3, prefix="C", spacing=(1.0, 1.0, 5.0))
    write_series(folder, values((12, 10, 20)), number=4, prefix="D", spacing=(1.0, 1.0, 2.0))
    write_series(folder, values((12, 10, 25)), number=5, prefix="E", modality="MR")


def test_of_several_series_the_axial_ct_with_most_slices_is_taken(tmp_path: Path) -> None:
    study(tmp_path / "study")
    case = only(tmp_path / "study")
    assert case.series is not None
    assert case.series.number == "4"
    assert read_case(case).array.shape == (12, 10, 20)
    assert "series 4 (20 slices, CT, axial, 2 mm apart) was taken, not series 1 (1 slice, scout)" in case.notes[0]
    assert "Larger, but passed over: series 5 is MR, not CT." in case.notes
    assert not any("--series" in note for note in case.notes)


def test_series_can_be_chosen_by_number_or_uid(tmp_path: Path) -> None:
    study(tmp_path / "study")
    coronal = only(tmp_path / "study", series="2")
    assert read_case(coronal).array.shape == (12, 10, 30)
    assert coronal.series is not None
    assert only(tmp_path / "study", series=coronal.series.uid).series == coronal.series
    assert "There is no series 9, only series 1 (1 slice, scout), series 2" in refusal(tmp_path / "study", series="9")
    assert refusal(tmp_path / "study", series="5") == "Series 5 is MR, not CT."


def test_series_that_could_be_meant_as_well_are_told_or_asked_about(tmp_path: Path) -> None:
    for number in (7, 8):
        write_series(tmp_path / "two", values((12, 10, 20 - number)), number=number, prefix=f"S{number}-")
    case = only(tmp_path / "two")
    assert case.series is not None
    assert case.series.number == "7"
    assert "More than one series could be meant: choose with --series NUMBER." in case.notes
    asked = []
    chosen = only(tmp_path / "two", ask=lambda name, options: asked.append((name, len(options))) or options[1])
    assert asked == [("two", 2)]
    assert chosen.series is not None
    assert chosen.series.number == "8"
    assert chosen.notes == ()


def test_series_with_the_same_number_stay_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "two", values((12, 10, 9)), number=3)
    write_series(tmp_path / "two", values((12, 10, 8)), number=3, prefix="B")
    write_series(tmp_path / "two", values((12, 10, 7)), number=None, prefix="C")
    sizes = {
        number: read_case(only(tmp_path / "two", series=number)).array.shape[2] for number in ("3", "3-2", "unnumbered")
    }
    assert sizes == {"3": 9, "3-2": 8, "unnumbered": 7}


def test_sub_folders_of_one_study_are_one_case_and_those_of_several_are_several(tmp_path: Path) -> None:
    for place, study_uid in (("anna/S1", "1.2.1"), ("anna/S2", "1.2.1"), ("berta/S1", "1.2.2")):
        write_series(
            tmp_path / "all" / place, values((12, 10, 6 + int(place[-1]))), study=study_uid, number=int(place[-1])
        )
    assert [case.name for case in find_cases([tmp_path / "all"])] == ["anna", "berta"]
    anna = only(tmp_path / "all" / "anna")
    assert anna.name == "anna"
    assert anna.series is not None
    assert anna.series.number == "2"


def test_files_without_an_image_are_left_out_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "s", values())
    (tmp_path / "s" / "report.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    (tmp_path / "s" / "readme.txt").write_text("viewer")
    assert only(tmp_path / "s").notes == ("1 DICOM file without a readable image left out.",)


def test_nothing_found_or_said_names_the_patient(tmp_path: Path) -> None:
    study(tmp_path / "study")
    write_series(tmp_path / "gap", values(), skip=(3,))
    said = repr(find_cases([tmp_path / "study", tmp_path / "gap"])) + refusal(tmp_path / "study", series="99")
    for secret in (PATIENT_NAME, PATIENT_ID, DESCRIPTION, "Mustermann", "19701224", "Musterstadt"):
        assert secret not in said

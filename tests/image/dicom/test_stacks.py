"""Stacks of DICOM slices: where their voxels land, and why some are refused."""

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
from tests.support.dicom import write_series

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
        ({"step": (0.0, 5.0, 2.0)}, "obliquely"),
        ({"modality": "MR"}, "is MR, not CT"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "is a scout view"),
    ],
)
def test_a_series_that_is_no_volume_says_why(tmp_path: Path, options: dict, reason: str) -> None:
    write_series(tmp_path / "s", hu_values(), **options)
    assert reason in refusal(tmp_path / "s")


def test_directions_that_are_no_directions_are_refused(tmp_path: Path) -> None:
    def lost(data: FileDataset, _: int) -> None:
        data.ImageOrientationPatient = [0, 0, 0, 0, 0, 0]

    write_series(tmp_path / "s", hu_values(), change=lost)
    assert "where the slices lie" in refusal(tmp_path / "s")


def test_uneven_and_shifted_slices_are_refused(tmp_path: Path) -> None:
    def uneven(data: FileDataset, k: int) -> None:
        data.ImagePositionPatient[2] = str(k * 2.0 + (k > 3) * 0.9)

    def shifted(data: FileDataset, k: int) -> None:
        data.ImagePositionPatient[0] = str(-20.0 + 9.0 * (k == 3))

    write_series(tmp_path / "uneven", hu_values(), change=uneven)
    write_series(tmp_path / "shifted", hu_values(), change=shifted)
    assert "uneven" in refusal(tmp_path / "uneven")
    assert "shifted" in refusal(tmp_path / "shifted")


def test_phases_that_no_header_tells_apart_are_a_4d_series(tmp_path: Path) -> None:
    for phase in range(4):
        write_series(tmp_path / "phases", hu_values(seed=phase), uid="1.2.3", prefix=f"P{phase}")
    assert "4 images" in refusal(tmp_path / "phases")


def test_a_slice_cut_short_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values())
    path = sorted((tmp_path / "s").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-100])
    found = find_cases([tmp_path / "s"])[0]
    if isinstance(found, Case):
        with pytest.raises(VolumeError, match="damaged"):
            read_case(found)


# --- rounded headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", [1e-6, 1e-3])
def test_rounded_directions_do_not_cut_a_series(tmp_path: Path, jitter: float) -> None:
    rng = np.random.default_rng(1)
    angle = np.arcsin(0.3425)
    axes = ((float(np.cos(angle)), 0.3425, 0.0), (-0.3425, float(np.cos(angle)), 0.0))

    def rounded(data: FileDataset, _: int) -> None:
        data.ImageOrientationPatient = [f"{float(x) + rng.uniform(-jitter, jitter):.8f}" for x in np.ravel(axes)]

    write_series(tmp_path / "s", hu_values(), axes=axes, change=rounded)
    got = read_case(only_case(tmp_path / "s"))
    assert np.array_equal(got.array, hu_values())
    write_series(tmp_path / "exact", hu_values(), axes=axes)
    exact = read_case(only_case(tmp_path / "exact"))
    assert got.grid.same_as(exact.grid, tolerance_mm=12 * 2 * jitter + 1e-6)


def test_directions_of_three_decimals_are_put_at_right_angles(tmp_path: Path) -> None:
    def rounded(data: FileDataset, _: int) -> None:
        data.ImageOrientationPatient = [f"{float(x):.3f}" for x in data.ImageOrientationPatient]

    angle = np.radians(17.3)
    axes = ((1.0, 0.0, 0.0), (0.0, float(np.cos(angle)), float(np.sin(angle))))
    write_series(tmp_path / "s", hu_values((12, 10, 120)), axes=axes, change=rounded)
    write_series(tmp_path / "exact", hu_values((12, 10, 120)), axes=axes)
    got, exact = (read_case(only_case(tmp_path / name)) for name in ("s", "exact"))
    assert np.array_equal(got.array, exact.array)
    assert got.grid.same_as(exact.grid, tolerance_mm=0.02)


def test_pixel_spacings_that_differ_in_the_last_decimals_do_not_cut_a_series(tmp_path: Path) -> None:
    def rounded(data: FileDataset, k: int) -> None:
        data.PixelSpacing = ["0.703125", "0.703125"] if k % 2 else ["0.70312", "0.7032"]

    write_series(tmp_path / "s", hu_values(), change=rounded)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, hu_values())


def test_places_of_one_decimal_are_even_within_their_rounding(tmp_path: Path) -> None:
    def rounded(data: FileDataset, _: int) -> None:
        data.ImagePositionPatient[2] = f"{float(data.ImagePositionPatient[2]):.1f}"

    write_series(tmp_path / "s", hu_values((6, 5, 60)), spacing=(1.0, 1.0, 0.33), change=rounded)
    got = read_case(only_case(tmp_path / "s"))
    assert np.array_equal(got.array, hu_values((6, 5, 60)))
    assert got.spacing[2] == pytest.approx(0.33, abs=0.002)


def test_the_type_of_the_images_does_not_cut_a_series(tmp_path: Path) -> None:
    def mixed(data: FileDataset, k: int) -> None:
        data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if k >= 4 else ["ORIGINAL", "PRIMARY", "AXIAL"]

    def every_third(data: FileDataset, k: int) -> None:
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if k % 3 else "REFORMATTED"]

    for name, change in (("halves", mixed), ("thirds", every_third)):
        write_series(tmp_path / name, hu_values(), change=change)
        assert np.array_equal(read_case(only_case(tmp_path / name)).array, hu_values())


def test_acquisitions_and_times_that_change_along_a_stack_do_not_cut_it(tmp_path: Path) -> None:
    def slabs(data: FileDataset, k: int) -> None:
        data.AcquisitionNumber = 1 + k // 8
        data.AcquisitionTime, data.ContentTime = f"1015{k:02d}.5", f"1016{k:02d}.25"
        data.InstanceNumber = 100 - k

    def single(data: FileDataset, k: int) -> None:
        data.AcquisitionNumber = 7 + k
        del data.InstanceNumber

    for name, change in (("slabs", slabs), ("single", single)):
        write_series(tmp_path / name, hu_values((6, 5, 24)), change=change)
        assert np.array_equal(read_case(only_case(tmp_path / name)).array, hu_values((6, 5, 24)))


def test_a_series_with_a_uid_for_each_slice_or_part_is_one_stack(tmp_path: Path) -> None:
    def lone(data: FileDataset, k: int) -> None:
        data.SeriesInstanceUID = f"1.2.3.{k}"

    def part(data: FileDataset, k: int) -> None:
        data.SeriesInstanceUID = f"1.2.3.{k // 3}"

    for name, change in (("lone", lone), ("part", part)):
        write_series(tmp_path / name, hu_values(), change=change)
        assert np.array_equal(read_case(only_case(tmp_path / name)).array, hu_values())


def test_rounded_places_of_a_short_stack_are_no_tilted_gantry(tmp_path: Path) -> None:
    def rounded(data: FileDataset, _: int) -> None:
        data.ImagePositionPatient = [f"{float(x):.1f}" for x in data.ImagePositionPatient]

    axes = ((0.6, 0.0, 0.8), (0.0, 1.0, 0.0))
    write_series(tmp_path / "s", hu_values(), spacing=(0.7, 0.7, 1.25), axes=axes, change=rounded)
    case = only_case(tmp_path / "s")
    assert np.array_equal(read_case(case).array, hu_values())
    assert case.notes == ()

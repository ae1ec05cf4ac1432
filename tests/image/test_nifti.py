"""NIfTI files of every kind: nibabel is the reference for the place and the values of the voxels."""

from __future__ import annotations

import gzip
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Case, read_case_with_notes
from CardiacLDMLib.image.files import read_volume, read_with_notes, write_volume
from CardiacLDMLib.image.grid import Volume

SHAPE = (7, 6, 5)
KINDS = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def random_file(path: Path, seed: int) -> Any:
    """Write a random file, as a header allows it and some writers make it; return it as nibabel reads it."""
    rng = np.random.default_rng(seed)
    kind = (nib.Nifti1Image, nib.Nifti2Image)[seed % 2]
    order = "<>"[seed // 2 % 2]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(order + KINDS[seed % len(KINDS)]))
    header.set_data_shape(SHAPE)
    quaternion = rng.normal(size=4)
    quaternion[0] *= seed % 5 != 0  # a half turn, as of a scan stored in LPS
    quaternion /= np.linalg.norm(quaternion) * np.sign(quaternion[0] or 1.0)
    for letter, value in zip("bcd", quaternion[1:], strict=True):
        header[f"quatern_{letter}"] = value
    turn = nib.quaternions.quat2mat(rng.normal(size=4))
    header["pixdim"][:4] = [rng.choice([-1, 0, 1, 1.5]), *rng.uniform(0.5, 3, 3) * rng.choice([1, 1, -1], 3)]
    for letter, row in zip("xyz", turn @ np.diag(rng.uniform(0.5, 3, 3)), strict=True):
        header[f"qoffset_{letter}"] = rng.normal() * 100
        header[f"srow_{letter}"] = [*row, rng.normal() * 100]
    header["qform_code"], header["sform_code"] = rng.choice([0, 1, 2, 5, 7]), rng.choice([0, 0, 1, 4, 9])
    header["scl_slope"], header["scl_inter"] = rng.choice([0, 1, np.nan, 2.5, -1]), rng.choice([0, -1024, 3.5])
    header["xyzt_units"] = rng.choice([0, 2, 10])
    header["vox_offset"] = header.single_vox_offset + 16 * (seed % 3)
    header["magic"] = header.single_magic
    voxels = rng.integers(0, 100, SHAPE).astype(header.get_data_dtype())
    data = header.binaryblock.ljust(int(header["vox_offset"]), b"\0") + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(data) if seed % 4 == 3 else data)
    return kind.from_bytes(data)


@pytest.mark.parametrize("seed", range(80))
def test_voxels_lie_where_nibabel_puts_them(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "scan.nii"  # a quarter of them compressed, whatever the ending
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = random_file(path, seed)
        values = np.asarray(expected.dataobj)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-3)
    np.testing.assert_allclose(volume.array, values, rtol=1e-6)
    assert volume.array.dtype.isnative


def image(affine: np.ndarray, sform: int = 1, qform: int = 1, kind: type = np.int16) -> Any:
    array = np.arange(20 * 18 * 16).reshape(20, 18, 16).astype(kind)
    made = nib.Nifti1Image(array, affine)
    made.set_sform(affine, sform)
    made.set_qform(affine, qform)
    return made


AFFINE = np.array([[-0.8, 0.0, 0.0, 90.0], [0.0, -0.8, 0.0, 80.0], [0.0, 0.0, 2.0, -300.0], [0.0, 0.0, 0.0, 1.0]])


def notes_on(made: Any, folder: Path) -> tuple[str, ...]:
    nib.save(made, folder / "scan.nii.gz")
    return read_case_with_notes(Case("scan", folder / "scan.nii.gz"))[1]


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1), (4, 2)])
def test_a_file_whose_forms_agree_needs_no_note(tmp_path: Path, codes: tuple[int, int]) -> None:
    assert notes_on(image(AFFINE, *codes), tmp_path) == ()


def test_forms_that_differ_by_more_than_a_tenth_of_a_voxel_are_named(tmp_path: Path) -> None:
    made = image(AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 0.07
    made.set_qform(moved, 1)
    assert notes_on(made, tmp_path) == ()
    moved[0, 3] += 0.03
    made.set_qform(moved, 1)
    (note,) = notes_on(made, tmp_path)
    assert "0.1 mm" in note
    assert "sform" in note


@pytest.mark.parametrize("qform", [0, 1])
def test_the_sform_decides_over_the_voxel_size(tmp_path: Path, qform: int) -> None:
    made = image(AFFINE, qform=qform)
    made.header["pixdim"][1:4] = [0.8, 0.8, 0.588]
    (note,) = notes_on(made, tmp_path)
    assert read_volume(tmp_path / "scan.nii.gz").spacing == pytest.approx([0.8, 0.8, 2.0])
    assert "sform" in note


def test_a_file_with_neither_form_does_not_tell_how_the_patient_lies(tmp_path: Path) -> None:
    (note,) = notes_on(image(AFFINE, 0, 0), tmp_path)
    assert "left and right" in note


@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_an_empty_sform_leaves_the_place_to_the_qform(tmp_path: Path, empty: float) -> None:
    data = image(AFFINE).to_bytes()
    (tmp_path / "scan.nii").write_bytes(data[:280] + np.full(12, empty, "<f4").tobytes() + data[328:])
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize(("units", "factor"), [("meter", 1e-3), ("micron", 1e3)])
def test_sizes_in_other_units_become_millimetres(tmp_path: Path, units: str, factor: float) -> None:
    for scale in (factor, 1.0):  # with 1 the file does not mean what it says
        made = image(np.diag([scale, scale, scale, 1.0]) @ AFFINE)
        made.header.set_xyzt_units(units)
        (note,) = notes_on(made, tmp_path)
        assert "millimetres" in note
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nii.gz").affine, AFFINE, atol=1e-3)


@pytest.mark.parametrize("shear", [1e-5, 2e-4, 9e-4])
def test_a_slight_shear_is_read_and_written(tmp_path: Path, shear: float, capfd: pytest.CaptureFixture[str]) -> None:
    """ITK refuses a shear from about 1e-4 on, writes right angles, and prints a warning of its own."""
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    affine = AFFINE.copy()
    affine[0, 1] += shear * 0.8
    nib.save(image(affine, qform=0), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    for ending in (".nii", ".nii.gz"):
        write_volume(volume, tmp_path / f"labels{ending}")
        written = nib.load(tmp_path / f"labels{ending}")
        assert capfd.readouterr() == ("", "")
        assert read_volume(tmp_path / f"labels{ending}").grid.same_as(volume.grid)
        np.testing.assert_allclose(written.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(written.dataobj), volume.array)
        assert sitk.ReadImage(str(tmp_path / f"labels{ending}")).GetSize() == (20, 18, 16)


def test_axes_far_from_right_angles_are_refused(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 0.3
    nib.save(image(affine), tmp_path / "scan.nii.gz")
    with pytest.raises(VolumeError, match="sheared"):
        read_volume(tmp_path / "scan.nii.gz")


def test_values_are_scaled_and_gaps_stay(tmp_path: Path) -> None:
    made = image(AFFINE, kind=np.float32)
    array = np.asarray(made.dataobj).copy()
    array[2, 3, 4] = np.nan
    made = nib.Nifti1Image(array, AFFINE)
    made.header["scl_slope"], made.header["scl_inter"] = 2.0, -1024.0
    data = bytearray(made.to_bytes())
    data[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()
    (tmp_path / "SCAN.NII.GZ").write_bytes(gzip.compress(bytes(data)))
    read = read_volume(tmp_path / "SCAN.NII.GZ").array
    np.testing.assert_array_equal(read, array * 2.0 - 1024.0)
    assert np.isnan(read[2, 3, 4])


def _with_shape(*shape: int, kind: type = np.int16) -> Any:
    return nib.Nifti1Image(np.zeros(shape, dtype=kind), AFFINE)


@pytest.mark.parametrize(
    ("made", "fact"),
    [
        (_with_shape(8, 8, 8, 5), "4D series of 5"),
        (_with_shape(8, 8, 8, 1, 3, kind=np.float32), "3 numbers per voxel"),
        (_with_shape(8, 8, 8, kind=np.complex64), "complex"),
        (_with_shape(8, 8, 8, kind=np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), "colour"),
        (_with_shape(8, 8), "2 dimensions"),
    ],
    ids=["film", "vectors", "complex", "colour", "flat"],
)
def test_what_is_no_scan_is_named(tmp_path: Path, made: Any, fact: str) -> None:
    nib.save(made, tmp_path / "x.nii.gz")
    with pytest.raises(VolumeError, match=fact) as refused:
        read_with_notes(tmp_path / "x.nii.gz")
    assert "x.nii.gz" in str(refused.value)


def test_dimensions_of_one_voxel_are_left_out(tmp_path: Path) -> None:
    nib.save(_with_shape(8, 7, 6, 1, 1), tmp_path / "x.nii")
    assert read_volume(tmp_path / "x.nii").array.shape == (8, 7, 6)


def test_half_of_a_pair_is_named(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.zeros((8, 8, 8), np.int16), AFFINE), tmp_path / "scan.hdr")
    (tmp_path / "scan.hdr").rename(tmp_path / "half.nii")
    with pytest.raises(VolumeError, match="half"):
        read_volume(tmp_path / "half.nii")


@pytest.mark.parametrize("cut", [1, 9, 400])
def test_a_cut_or_changed_file_is_refused(tmp_path: Path, cut: int) -> None:
    nib.save(image(AFFINE), tmp_path / "scan.nii.gz")
    whole = (tmp_path / "scan.nii.gz").read_bytes()
    (tmp_path / "scan.nii.gz").write_bytes(whole[:-cut])
    with pytest.raises(VolumeError, match="damaged"):
        read_volume(tmp_path / "scan.nii.gz")
    middle = len(whole) // 2
    (tmp_path / "scan.nii.gz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(VolumeError, match="damaged"):
        read_volume(tmp_path / "scan.nii.gz")


def test_a_header_that_promises_more_than_the_file_can_hold_takes_no_memory(tmp_path: Path) -> None:
    data = bytearray(image(AFFINE).to_bytes())
    data[42:48] = np.array([1024, 1024, 1900], "<i2").tobytes()
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(bytes(data)))
    tracemalloc.start()
    with pytest.raises(VolumeError, match="damaged"):
        read_volume(tmp_path / "scan.nii.gz")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_volumes_are_in_single_precision_at_most_if_that_holds_them(tmp_path: Path) -> None:
    made = image(AFFINE)
    data = bytearray(made.to_bytes())
    data[112:120] = np.array([1.0, -1024.0], "<f4").tobytes()
    (tmp_path / "scan.nii").write_bytes(data)
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.array.dtype == np.float32
    assert isinstance(volume, Volume)
    np.testing.assert_array_equal(volume.array, np.asarray(made.dataobj) - 1024.0)

"""Volume files: the same voxels at the same places, damaged files, full disks."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from CardiacLDMLib.errors import OutputError, VolumeError
from CardiacLDMLib.image.files import from_sitk, read_volume, to_sitk, write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from tests.support.cases import only_case
from tests.support.grids import AXIS_ORDERS, grids, oriented


@settings(max_examples=40, deadline=None)
@given(grids, st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]),
       st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]))  # fmt: skip
def test_files_keep_places_and_values(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, ending: str, kind: type
) -> None:
    path = tmp_path_factory.mktemp("files") / f"scan{ending}"
    array = np.random.default_rng(2).integers(0, 200, grid.shape).astype(kind)
    write_volume(Volume(array, grid.affine), path)
    back = read_volume(path)
    assert back.array.dtype == kind
    np.testing.assert_array_equal(back.array, array)
    assert back.grid.same_as(grid, tolerance_mm=2e-3)  # NIfTI keeps its geometry in single precision
    assert list(path.parent.iterdir()) == [path]
    if ".nii" in ending:
        other = nib.load(path)
        np.testing.assert_array_equal(np.asarray(other.dataobj), array)
        np.testing.assert_allclose(other.affine, grid.affine, atol=2e-3)


@pytest.mark.parametrize("order", AXIS_ORDERS)
def test_nibabel_files_are_read_where_nibabel_puts_them(tmp_path: Path, order: tuple) -> None:
    grid = oriented((7, 9, 8), (0.7, 0.9, 2.5), order, (0.0, 0.0, 0.0))
    array = np.random.default_rng(3).integers(-1024, 2000, grid.shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, grid.affine), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, grid.affine, atol=1e-4)


def test_a_series_of_one_frame_is_a_volume(tmp_path: Path) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6, 1)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii").array, array[..., 0])


def test_a_nifti_file_of_several_gzip_members_or_with_trailing_data_is_complete(tmp_path: Path) -> None:
    array = np.random.default_rng(5).integers(0, 9, (12, 13, 14)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    data = (tmp_path / "scan.nii").read_bytes()
    (tmp_path / "parts.nii.gz").write_bytes(gzip.compress(data[:900]) + gzip.compress(data[900:]))
    (tmp_path / "more.nii.gz").write_bytes(gzip.compress(data + b"more"))
    for name in ("parts.nii.gz", "more.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, array)


@pytest.mark.parametrize("name", ["X.NII.GZ", "x.Nii", "X.NRRD", "x.MHA"])
def test_endings_in_capitals_are_written_and_read(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(6).integers(0, 9, (12, 13, 14)).astype(np.int16)
    write_volume(Volume(array, np.eye(4)), tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, array)
    assert only_case(tmp_path / name).name.lower() == "x"


def test_shared_memory_outlives_the_image() -> None:
    image = sitk.GetImageFromArray(np.full((40, 50, 60), 7, dtype=np.int16))
    volume = from_sitk(image)
    del image
    filler = [np.ones(40 * 50 * 60, dtype=np.int16) for _ in range(4)]  # would take the memory if it were free
    assert len(filler) == 4
    assert (volume.array == 7).all()


def test_booleans_become_bytes() -> None:
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1] = True
    np.testing.assert_array_equal(from_sitk(to_sitk(Volume(mask, np.eye(4)))).array, mask.astype(np.uint8))


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_values_that_are_not_finite_are_read_as_nan(tmp_path: Path, kind: str, ending: str) -> None:
    """ITK alone reads NaN and infinity as 0 HU, so that a damaged scan looks like water."""
    array = np.arange(6 * 7 * 8, dtype=np.float64).reshape(6, 7, 8) - 100.0
    array[1, 2, 3], array[5, 6, 7], array[0, 0, 0] = np.nan, np.inf, -np.inf
    header = nib.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(kind)
    nib.save(nib.Nifti1Image(array.astype(kind), np.diag([-1.0, 2.0, 3.0, 1.0]), header), tmp_path / f"x{ending}")
    read = read_volume(tmp_path / f"x{ending}").array
    assert np.array_equal(np.isfinite(read), np.isfinite(array))
    assert np.allclose(read[np.isfinite(read)], array[np.isfinite(array)])


#: An affine whose axes are not at right angles.
SHEARED = np.array([[1.0, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _damaged(folder: Path, name: str) -> Path:
    path = folder / name
    good = nib.Nifti1Image(np.random.default_rng(4).integers(0, 9, (20, 20, 20)).astype(np.int16), np.eye(4))
    if name == "sheared.nii":
        nib.save(
            nib.Nifti1Image(np.asarray(good.dataobj), SHEARED),
            path,
        )
    elif name == "series.nii":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), dtype=np.int16), np.eye(4)), path)
    elif name == "colour.mha":
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), dtype=np.uint8), isVector=True), str(path))
    elif name == "flat.mha":
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4), dtype=np.uint8)), str(path))
    elif name == "short.nii":
        nib.save(good, path)
        path.write_bytes(path.read_bytes()[:-1])
    elif name.startswith("short"):
        write_volume(Volume(np.asarray(good.dataobj), np.eye(4)), path)
        path.write_bytes(path.read_bytes()[:-600])
    elif name == "empty.nii.gz":
        path.write_bytes(b"")
    elif name == "text.nii":
        path.write_text("not a scan")
    return path


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("sheared.nii", "sheared"),
        ("series.nii", "3D"),
        ("colour.mha", "colour"),
        ("flat.mha", "3D"),
        ("short.nii.gz", "damaged"),
        ("short.nii", "damaged"),
        ("short.mha", "damaged"),
        ("short.nrrd", "damaged"),
        ("empty.nii.gz", "empty"),
        ("text.nii", "NIfTI"),
        ("missing.nii", "missing"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, name: str, fact: str) -> None:
    with pytest.raises(VolumeError, match=fact) as refused:
        read_volume(_damaged(tmp_path, name))
    assert str(tmp_path) not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_to_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_volume(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "file" / "labels.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_full_disk_is_an_error(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sitk.WriteImage

    def cut_short(image: sitk.Image, path: str, compress: bool) -> None:  # ITK's NIfTI writer does not look
        write(image, path, compress)
        os.truncate(path, os.path.getsize(path) - 9)

    monkeypatch.setattr(sitk, "WriteImage", cut_short)
    with pytest.raises(OutputError, match=f"ct{ending}"):
        write_volume(Volume(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / f"ct{ending}")
    assert not list(tmp_path.iterdir())

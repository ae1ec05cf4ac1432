"""Cases among files and folders: names, label files, voxel types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset

from CardiacLDMLib.image.cases import find_cases, read_case
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.cases import hu_values, only_case, refusal
from tests.support.dicom import write_series


def volume(seed: int = 0) -> Volume:
    return Volume(hu_values(seed=seed), np.diag([2.0, 2.0, 3.0, 1.0]))


# --- files and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".NII.GZ"])
def test_volume_files_are_cases_named_after_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"chest.v2{ending.lower()}"
    sitk.WriteImage(sitk.GetImageFromArray(hu_values()), str(path))
    path = path.rename(tmp_path / f"chest.v2{ending}")
    case = only_case(path)
    assert case.name == "chest.v2"
    assert np.array_equal(read_case(case).array, hu_values().transpose(2, 1, 0))


def test_a_folder_gives_its_files_and_sub_folders_without_label_files(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nrrd", "a.labels.nii.gz", "a.seg.nrrd", ".hidden.nii.gz"):
        write_volume(volume(), tmp_path / name)
    for name in ("case_0000/ct.nii.gz", "case_0000/labels.nii.gz", "two/x.mha", "two/y.mha"):
        write_volume(volume(), tmp_path / name)
    write_series(tmp_path / "slices", hu_values())
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.report.json").write_text("{}")
    names = [found.name for found in find_cases([tmp_path])]
    assert names == ["a", "b", "case_0000", "slices", "two-x", "two-y"]


def test_names_are_unique_and_a_file_is_one_case(tmp_path: Path) -> None:
    paths = [tmp_path / place for place in ("x/ct.nii.gz", "y/ct.nrrd", "z/CT.mha", "ct-2.nii.gz")]
    for path in paths:
        write_volume(volume(), path)
    found = find_cases([*paths, paths[0], tmp_path / "x"])
    assert [case.name for case in found] == ["ct", "ct-2", "CT-3", "ct-2-2"]


def test_inputs_without_a_scan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear colleague")
    for path in (tmp_path / "none.nii", tmp_path, tmp_path / "letter.txt"):
        assert path.name in refusal(path)


@pytest.mark.parametrize(
    ("stored", "read"),
    [(np.float64, np.float32), (np.int32, np.int16), (np.uint16, np.int16), (np.float32, np.float32)],
)
def test_voxels_are_kept_small_with_their_values(tmp_path: Path, stored: type, read: type) -> None:
    array = np.abs(hu_values()).astype(stored)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    got = read_case(only_case(tmp_path / "a.nrrd")).array
    assert got.dtype == read
    assert np.array_equal(got, array.transpose(2, 1, 0))


def test_integers_beyond_16_bits_are_not_wrapped(tmp_path: Path) -> None:
    array = hu_values().astype(np.int32) + 40_000
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.mha"))
    assert read_case(only_case(tmp_path / "a.mha")).array.max() == array.max()


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_an_image_with_too_few_voxels_is_left_out_and_named(tmp_path: Path, share: float) -> None:
    """Its elements are whole, and GDCM would fill up the voxels that lack."""

    def cut(data: FileDataset, k: int) -> None:
        if k == slices // 2:
            data.PixelData = data.PixelData[: int(share * len(data.PixelData)) // 2 * 2]

    scan = hu_values((64, 64, 7))
    slices = scan.shape[2]
    write_series(tmp_path / "s", scan, change=cut)
    reason = refusal(tmp_path / "s")
    assert "lacks 1 slice" in reason
    assert "1 DICOM file" in reason

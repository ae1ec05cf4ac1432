"""Paths that are not valid Unicode: ITK's binding would end the process."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import read_case
from CardiacLDMLib.image.files import read_volume, to_sitk, write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.plain_paths import plain_paths
from tests.support.cases import hu_values, only_case
from tests.support.dicom import write_series

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
ODD = os.fsdecode(b"M\xfcller\xff")
SCAN = Volume(hu_values(), np.diag([2.0, 2.0, 3.0, 1.0]))


@pytest.mark.parametrize("place", [f"{ODD}/a", f"a/{ODD}", f"{ODD}/{ODD}"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_volumes_are_written_and_read(tmp_path: Path, place: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / f"{place}{ending}"
    path.parent.mkdir()
    if ending in (".nhdr", ".mhd"):  # the voxels lie in a file beside the header
        sitk.WriteImage(to_sitk(SCAN), str(tmp_path / f"plain{ending}"))
        for file in tmp_path.glob("plain*"):
            shutil.move(file, path if file.suffix == ending else path.with_name(file.name))
    else:
        write_volume(SCAN, path)
    assert np.array_equal(read_volume(path).array, SCAN.array)
    case = only_case(path)
    assert np.array_equal(read_case(case).array, SCAN.array)
    case.name.encode()
    assert not list(tmp_path.glob("cardiacldm-*"))


def test_dicom_folders_and_files_are_read(tmp_path: Path) -> None:
    write_series(tmp_path / ODD / "s", hu_values())
    for path in sorted((tmp_path / ODD / "s").iterdir())[::2]:
        path.rename(path.with_name(f"{path.name}{ODD}"))
    case = only_case(tmp_path / ODD)
    assert np.array_equal(read_case(case).array, hu_values())


def test_a_temporary_folder_of_a_bad_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ODD).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ODD))
    with plain_paths([tmp_path / ODD / "scan.nrrd"]) as (name,):
        name.encode()
    monkeypatch.setattr("CardiacLDMLib.plain_paths.PLAIN_PLACES", ())
    with pytest.raises(VolumeError, match="Unicode"), plain_paths([tmp_path / ODD / "scan.nrrd"]):
        pass


def test_plain_paths_stay_as_they_are(tmp_path: Path) -> None:
    with plain_paths([tmp_path / "a b", tmp_path / "ä"]) as names:
        assert names == [str(tmp_path / "a b"), str(tmp_path / "ä")]

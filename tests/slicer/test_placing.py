"""Scans that Slicer's own reader puts elsewhere than the rules for NIfTI do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from CardiacLDMLib.slicer import volumes
from CardiacLDMLib.slicer.placing import remarks_on_place
from tests.support.scene import scan, transform_node

AFFINE = np.array([[-0.8, 0.0, 0.0, 90.0], [0.0, -0.8, 0.0, 80.0], [0.0, 0.0, 2.0, -300.0], [0.0, 0.0, 0.0, 1.0]])
MOVED = AFFINE + np.array([[0.0, 0.0, 0.0, 5.0]] * 3 + [[0.0] * 4])


def read(mrml: Any, path: Path, sform: int, qform: int, qform_affine: np.ndarray = AFFINE, **header: Any) -> Any:
    """Write a NIfTI file and let Slicer read it."""
    image = nib.Nifti1Image(np.zeros((20, 18, 16), np.int16), AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(qform_affine, qform)
    if "pixdim" in header:
        image.header["pixdim"][1:4] = header["pixdim"]
    nib.save(image, path)
    node, storage = (
        mrml.AddNewNodeByClass(f"vtkMRML{kind}Node") for kind in ("ScalarVolume", "VolumeArchetypeStorage")
    )
    storage.SetFileName(str(path))
    node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.ReadData(node) == 1
    return node


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (2, 2)])
def test_a_scan_where_its_file_puts_it_needs_no_remark(mrml: Any, tmp_path: Path, codes: tuple[int, int]) -> None:
    assert remarks_on_place(read(mrml, tmp_path / "scan.nii.gz", *codes)) == []


@pytest.mark.parametrize("qform", [0, 1])
def test_another_voxel_size_than_that_of_the_file_is_named(mrml: Any, tmp_path: Path, qform: int) -> None:
    node = read(mrml, tmp_path / "scan.nii.gz", 1, qform, pixdim=(1, 1, 1))
    (remark,) = remarks_on_place(node)
    assert "0.8 x 0.8 x 2 mm" in remark
    assert "1 x 1 x 1 mm" in remark


def test_another_place_than_that_of_the_file_is_named(mrml: Any, tmp_path: Path) -> None:
    node = read(mrml, tmp_path / "scan.nii.gz", 2, 1, MOVED)
    (remark,) = remarks_on_place(node)
    assert "8.66 mm" in remark


def test_a_file_that_does_not_tell_how_the_patient_lies_is_named(mrml: Any, tmp_path: Path) -> None:
    (remark,) = remarks_on_place(read(mrml, tmp_path / "scan.nii.gz", 0, 0))
    assert "left and right" in remark


def test_scans_without_a_file_of_theirs_need_no_remark(mrml: Any, tmp_path: Path) -> None:
    assert remarks_on_place(volumes.volume_to_node(mrml, scan(), "CT")) == []
    node = read(mrml, tmp_path / "scan.nii.gz", 1, 0, pixdim=(1, 1, 1))
    (tmp_path / "scan.nii.gz").unlink()
    assert remarks_on_place(node) == []
    node = read(mrml, tmp_path / "moved.nii.gz", 1, 1)
    node.SetAndObserveTransformNodeID(transform_node(mrml, MOVED).GetID())
    assert remarks_on_place(node) == []
    node.HardenTransform()
    assert remarks_on_place(node) == []

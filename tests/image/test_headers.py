"""NRRD and MetaImage files: what they are if no scan, and whether they tell how the patient lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Case, read_case_with_notes
from CardiacLDMLib.image.files import read_volume, read_with_notes, write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.segmentation_file import write_segmentation
from tests.support.cases import refusal

LPS = "space: left-posterior-superior"
AXES = "(1,0,0) (0,1,0) (0,0,2)"
SIZE = (7, 6, 5)


def write_nrrd(path: Path, array: np.ndarray, *lines: str) -> Path:
    kind = {"<i2": "short", "|u1": "uchar", "<f4": "float"}[array.dtype.str]
    header = ["NRRD0005", "# a comment", f"type: {kind}", f"dimension: {array.ndim}"]
    header += [f"sizes: {' '.join(map(str, array.shape))}", "endian: little", *lines]
    header += [] if any(line.startswith("encoding") for line in lines) else ["encoding: raw"]
    path.write_bytes("\n".join([*header, "", ""]).encode() + array.tobytes(order="F"))
    return path


def write_mha(path: Path, array: np.ndarray, *lines: str, channels: int = 1) -> Path:
    kind = {"<i2": "MET_SHORT", "|u1": "MET_UCHAR", "<f4": "MET_FLOAT"}[array.dtype.str]
    shape = array.shape if channels == 1 else array.shape[1:]
    header = ["ObjectType = Image", f"NDims = {len(shape)}", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    header += [f"DimSize = {' '.join(map(str, shape))}", f"ElementSpacing = {'1 ' * len(shape)}", *lines]
    header += [f"ElementNumberOfChannels = {channels}", f"ElementType = {kind}", "ElementDataFile = LOCAL", ""]
    path.write_bytes("\n".join(header).encode() + array.tobytes(order="F"))
    return path


SHORT = np.zeros(SIZE, "<i2")


@pytest.mark.parametrize(
    ("name", "array", "lines", "fact"),
    [
        ("heart.seq.nrrd", np.zeros((4, *SIZE), "<i2"),
         (LPS, f"space directions: none {AXES}", "kinds: list domain domain domain", "axis 0 index type:=numeric"),
         "sequence of 4"),
        ("list.nrrd", np.zeros((*SIZE, 4), "<i2"),
         (LPS, f"space directions: {AXES} none", "kinds: domain domain domain list"), "4D series of 4"),
        ("time.nrrd", np.zeros((*SIZE, 4), "<i2"),
         (LPS, f"space directions: {AXES} none", "kinds: domain domain domain time"), "4D series of 4"),
        ("plain.nrrd", np.zeros((*SIZE, 4), "<i2"), (), "4D series of 4"),
        ("space.nrrd", np.zeros((*SIZE, 2), "<i2"),
         ("space: right-anterior-superior-time", "space directions: (1,0,0,0) (0,1,0,0) (0,0,1,0) (0,0,0,1)"),
         "4D series of 2"),
        ("complex.nrrd", np.zeros((2, *SIZE), "<f4"),
         (LPS, f"space directions: none {AXES}", "kinds: complex domain domain domain"), "complex"),
        ("colour.nrrd", np.zeros((3, *SIZE), "|u1"),
         (LPS, f"space directions: none {AXES}", "kinds: RGB-color domain domain domain"), "colour"),
        ("field.nrrd", np.zeros((3, *SIZE), "<f4"),
         (LPS, f"space directions: none {AXES}", "kinds: vector domain domain domain"), "3 numbers"),
        ("bzip2.nrrd", SHORT, (LPS, f"space directions: {AXES}", "encoding: bzip2"), "bzip2"),
        ("spacings.nrrd", SHORT, (LPS, "spacings: 1 1 2"), "directions"),
        ("single.nrrd", SHORT[..., None],
         (LPS, f"space directions: {AXES} none", "kinds: domain domain domain time"), "fourth axis"),
    ],
)  # fmt: skip
def test_an_nrrd_that_is_no_scan_is_named(tmp_path: Path, name: str, array: np.ndarray, lines, fact: str) -> None:
    with pytest.raises(VolumeError, match=fact) as refused:
        read_volume(write_nrrd(tmp_path / name, array, *lines))
    assert name in str(refused.value)


def test_a_segmentation_is_no_case(tmp_path: Path) -> None:
    labels = Volume(np.ones((9, 8, 7), np.uint8), np.eye(4))
    write_segmentation(labels, tmp_path / "heart.seg.nrrd")
    assert "segmentation" in refusal(tmp_path / "heart.seg.nrrd")
    assert (read_volume(tmp_path / "heart.seg.nrrd").array == 1).all()  # as labels for training


@pytest.mark.parametrize(
    ("array", "channels", "fact"),
    [
        (np.zeros((*SIZE, 4), "<i2"), 1, "4D series of 4"),
        (np.zeros((2, *SIZE), "<f4"), 2, "2 numbers per voxel .complex"),
        (np.zeros((3, *SIZE), "|u1"), 3, "colour"),
    ],
)
def test_an_mha_that_is_no_scan_is_named(tmp_path: Path, array: np.ndarray, channels: int, fact: str) -> None:
    with pytest.raises(VolumeError, match=fact):
        read_volume(write_mha(tmp_path / "x.mha", array, channels=channels))


def test_a_fourth_axis_of_one_volume_is_left_out(tmp_path: Path) -> None:
    array = np.arange(7 * 6 * 5).reshape(SIZE).astype("<i2")
    lines = (LPS, f"space directions: none {AXES}", "kinds: list domain domain domain")
    path = write_nrrd(tmp_path / "x.nrrd", array[None], *lines)
    np.testing.assert_array_equal(read_volume(path).array, array)
    np.testing.assert_array_equal(read_volume(write_mha(tmp_path / "x.mha", array[..., None])).array, array)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((LPS, f"space directions: {AXES}"), True),
        (("space: RAS", f"space directions: {AXES}"), True),
        (("Space: left-anterior-superior", f"space directions: {AXES}"), True),
        (("spacings: 1 1 2",), False),
        (("space dimension: 3", f"space directions: {AXES}"), False),
        (("space: scanner-xyz", f"space directions: {AXES}"), False),
        (("space: 3D-right-handed", f"space directions: {AXES}"), False),
    ],
)
def test_an_nrrd_without_space_does_not_tell_how_the_patient_lies(tmp_path: Path, lines, told: bool) -> None:
    notes = read_with_notes(write_nrrd(tmp_path / "x.nrrd", SHORT, *lines))[1]
    assert [("left and right" in note) for note in notes] == ([] if told else [True])


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("TransformMatrix = 1 0 0 0 1 0 0 0 1",), True),
        (("Orientation = 1 0 0 0 1 0 0 0 1",), True),
        (("AnatomicalOrientation = RAI",), True),
        ((), False),
        (("AnatomicalOrientation = LPI",), False),
        (("AnatomicalOrientation = ???",), False),
    ],
)
def test_an_mha_without_directions_does_not_tell_how_the_patient_lies(tmp_path: Path, lines, told: bool) -> None:
    notes = read_with_notes(write_mha(tmp_path / "x.mha", SHORT, *lines))[1]
    assert [("left and right" in note) for note in notes] == ([] if told else [True])


@pytest.mark.parametrize("lines", [(), ("spacings: nan nan nan",)])
def test_a_file_without_a_voxel_size_says_so(tmp_path: Path, lines) -> None:
    notes = read_with_notes(write_nrrd(tmp_path / "x.nrrd", SHORT, *lines))[1]
    assert sum("1 mm" in note for note in notes) == 1
    write_mha(tmp_path / "x.mha", SHORT, "TransformMatrix = 1 0 0 0 1 0 0 0 1")
    data = (tmp_path / "x.mha").read_bytes()
    assert read_with_notes(tmp_path / "x.mha")[1] == ()
    (tmp_path / "x.mha").write_bytes(data.replace(b"ElementSpacing = 1 1 1 \n", b""))
    (note,) = read_with_notes(tmp_path / "x.mha")[1]
    assert "1 mm" in note


@pytest.mark.parametrize("name", ["x.nrrd", "x.nhdr", "x.mha", "x.mhd", "X.NRRD", "X.NHDR", "X.MHA", "X.MHD", "x.Mha"])
def test_files_of_itk_and_of_this_program_need_no_note(tmp_path: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(SHORT.transpose(2, 1, 0)), str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    assert read_case_with_notes(Case("x", tmp_path / name))[1] == ()
    write_volume(Volume(SHORT, np.diag([1.0, -1.0, 2.0, 1.0])), tmp_path / "own.nrrd")
    assert read_with_notes(tmp_path / "own.nrrd")[1] == ()

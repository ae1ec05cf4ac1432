"""How DICOM files are written: without the usual start, and compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import HTJ2KLossless, JPEGExtended12Bit, RLELossless

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.cases import Case, find_cases, read_case
from CardiacLDMLib.image.dicom.headers import is_dicom
from tests.support.cases import hu_values, only_case
from tests.support.dicom import write_series


def bare(path: Path, *, implicit: bool, little: bool) -> bytes:
    """Return the elements of a DICOM file alone, encoded anew."""
    data = dcmread(path)
    elements = Dataset({element.tag: element for element in data if element.tag.group != 2})
    if not little:
        elements.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, elements)
    return bytes(buffer.getvalue())


@pytest.mark.parametrize("start", ["none", "mark", "preamble", "group 2"])
@pytest.mark.parametrize(("implicit", "little"), [(False, True), (True, True), (False, False)])
def test_files_without_the_usual_start_are_read(tmp_path: Path, start: str, implicit: bool, little: bool) -> None:
    write_series(tmp_path / "s", hu_values())
    for path in (tmp_path / "s").iterdir():
        whole = path.read_bytes()
        if start == "group 2":
            path.write_bytes(whole[132:])
            continue
        elements = bare(path, implicit=implicit, little=little)
        path.write_bytes({"none": b"", "mark": b"DICM", "preamble": b"\0" * 128 + b"DICM"}[start] + elements)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, hu_values())


def test_other_files_are_no_dicom(tmp_path: Path) -> None:
    for name, content in (
        ("text", b"Dear colleague, please find attached the scan.\n" * 20),
        ("short", b"\x08\0"),
        ("zeros", b"\x08\0" + b"\0" * 500),
        ("numbers", np.arange(8, 400, dtype="<u2").tobytes()),
        ("nothing", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name), name


def test_twelve_bit_jpeg_is_read_without_noise(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    example = dcmread(str(get_testdata_file("JPGExtended.dcm", download=False)))
    (frame,) = generate_frames(example.PixelData, number_of_frames=1)

    def compressed(data: FileDataset, _: int) -> None:
        data.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        data.Rows, data.Columns = example.Rows, example.Columns
        data.PixelData = encapsulate([frame])

    write_series(tmp_path / "s", hu_values((12, 10, 3)), change=compressed)
    got = read_case(only_case(tmp_path / "s"))
    assert got.array.shape == (example.Columns, example.Rows, 3)
    assert (got.array.min(), got.array.max()) == (-1024, 264 - 1024)
    assert capfd.readouterr() == ("", "")


def test_run_lengths_are_read(tmp_path: Path) -> None:
    def compressed(data: FileDataset, _: int) -> None:
        data.compress(RLELossless)

    write_series(tmp_path / "s", hu_values(), change=compressed)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, hu_values())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.112"])
def test_images_that_cannot_be_decoded_name_the_tools(
    tmp_path: Path, syntax: str, capfd: pytest.CaptureFixture
) -> None:
    def compressed(data: FileDataset, _: int) -> None:
        data.file_meta.TransferSyntaxUID = HTJ2KLossless
        data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 100])

    write_series(tmp_path / "s", hu_values(), change=compressed)
    for path in (tmp_path / "s").iterdir():
        path.write_bytes(path.read_bytes().replace(HTJ2KLossless.encode(), syntax.ljust(23, "\0").encode()))
    (found,) = find_cases([tmp_path / "s"])
    if isinstance(found, Case):
        with pytest.raises(VolumeError, match="dcm2niix"):
            read_case(found)
    else:
        assert syntax in found.reason
        assert "dcm2niix" in found.reason
    assert capfd.readouterr() == ("", "")

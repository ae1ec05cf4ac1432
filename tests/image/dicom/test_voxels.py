"""Voxels of DICOM series: tilted gantries, inverted images, rescaling that differs from slice to slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from CardiacLDMLib.image.cases import read_case
from CardiacLDMLib.image.grid import Grid
from tests.support.cases import hu_values, only_case
from tests.support.dicom import AXIAL, write_series
from tests.support.phantom import phantom


def smooth(points: np.ndarray) -> np.ndarray:
    """HU at points (3, ...) in LPS mm: a field that linear interpolation keeps, within a box of air."""
    x, y, z = points
    return np.where((abs(x) < 30) & (abs(y) < 30), 3.0 * x - 2.0 * y + z, -1024.0)


@pytest.mark.parametrize("tilt", [(0.0, 0.6), (0.0, -0.25), (0.15, 0.4)])
def test_a_tilted_gantry_is_resampled_to_right_angles(tmp_path: Path, tilt: tuple[float, float]) -> None:
    spacing, origin = np.array([1.0, 1.5, 2.0]), np.array([-38.0, -48.0, -20.0])
    index = np.indices((77, 65, 20)).astype(float)
    step = np.array([2.0 * tilt[0], 2.0 * tilt[1], 2.0])
    lps = origin[:, None, None, None] + index * np.array([1.0, 1.5, 0.0])[:, None, None, None]
    lps += step[:, None, None, None] * index[2]
    write_series(tmp_path / "s", smooth(lps), spacing=tuple(spacing), origin=tuple(origin), step=tuple(step))
    case = only_case(tmp_path / "s")
    degrees = np.degrees(np.arctan(np.hypot(*tilt)))
    assert any(f"tilted by {degrees:.3g} degrees" in note for note in case.notes)
    got = read_case(case)
    assert np.allclose(got.spacing, spacing)
    lps = np.diag([-1.0, -1.0, 1.0]) @ got.affine[:3]
    places = np.einsum("ab,b...->a...", lps[:, :3], np.indices(got.array.shape)) + lps[:, 3, None, None, None]
    x, y, z = places
    inside = (abs(x) < 28) & (abs(y) < 27)
    assert inside.sum() > 5000
    assert np.abs(got.array - smooth(places))[inside].max() <= 1.0
    assert (z.min(), z.max()) == (-20.0, 18.0)


def test_slices_whose_planes_are_tilted_lie_where_their_headers_say(tmp_path: Path) -> None:
    """The table moves along the body: the planes lean, and each slice is straight above the last."""
    lean = np.radians(18.0)
    axes = ((1.0, 0.0, 0.0), (0.0, float(np.cos(lean)), -float(np.sin(lean))))
    place = np.array([-38.0, -48.0, -20.0])[:, None, None, None] + np.einsum(
        "ab,b...->a...", np.column_stack([axes[0], axes[1], (0.0, 0.0, 2.5)]), np.indices((77, 97, 24)).astype(float)
    )
    write_series(tmp_path / "s", smooth(place), axes=axes, origin=(-38.0, -48.0, -20.0), step=(0.0, 0.0, 2.5))
    case = only_case(tmp_path / "s")
    assert any("tilted by 18 degrees" in note for note in case.notes)
    got = read_case(case)
    assert got.spacing[2] == pytest.approx(2.5 * np.cos(lean))
    lps = np.diag([-1.0, -1.0, 1.0]) @ got.affine[:3]
    places = np.einsum("ab,b...->a...", lps[:, :3], np.indices(got.array.shape)) + lps[:, 3, None, None, None]
    inside = (abs(places[0]) < 28) & (abs(places[1]) < 27) & (got.array > -500)
    assert inside.sum() > 50_000
    assert np.abs(got.array - smooth(places))[inside].max() <= 1.0


def invert(stored: np.ndarray, how: str, largest: int) -> np.ndarray:
    return {"not": stored, "bits": 4095 - stored, "scan": largest - stored, "slice": stored.max() - stored}[how]


@pytest.mark.parametrize("how", ["not", "bits"])
def test_inverted_images_of_signed_values_are_read_as_ct(tmp_path: Path, how: str) -> None:
    ct = phantom(Grid((44, 44, 36), np.diag([4.0, 4.0, 5.0, 1.0])))[0].array.astype(int)

    def marked(data: FileDataset, k: int) -> None:
        values = ct[:, :, k].T
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME1", 1
        data.BitsStored, data.HighBit, data.RescaleIntercept = 16, 15, 0
        data.PixelData = (values if how == "not" else -1 - values).astype("<i2").tobytes()

    write_series(tmp_path / "s", ct, change=marked)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, ct)


def test_only_the_marked_images_of_a_series_are_inverted(tmp_path: Path) -> None:
    ct = phantom(Grid((44, 44, 36), np.diag([4.0, 4.0, 5.0, 1.0])))[0].array.astype(int)

    def marked(data: FileDataset, k: int) -> None:
        if k % 2:
            data.PhotometricInterpretation = "MONOCHROME1"
            data.PixelData = (4095 - data.pixel_array).astype("<u2").tobytes()

    write_series(tmp_path / "s", ct, change=marked)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, ct)


@pytest.mark.parametrize("how", ["not", "bits", "scan", "slice"])
def test_inverted_images_are_read_as_ct(tmp_path: Path, how: str) -> None:
    ct = phantom(Grid((44, 44, 36), np.diag([4.0, 4.0, 5.0, 1.0])))[0].array.astype(int)
    ct[0] = -1024
    largest = int(ct.max()) + 1024

    def marked(data: FileDataset, _: int) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"
        data.PixelData = invert(data.pixel_array.astype(int), how, largest).astype("<u2").tobytes()

    write_series(tmp_path / "s", ct, change=marked)
    case = only_case(tmp_path / "s")
    assert any("MONOCHROME1" in note for note in case.notes)
    got = read_case(case).array
    assert got.dtype == np.int16
    assert np.array_equal(got, ct)


def test_rescaling_may_differ_from_slice_to_slice(tmp_path: Path) -> None:
    def rescaled(data: FileDataset, k: int) -> None:
        values = data.pixel_array.astype(int) - 1024
        slope, intercept = ((1.0, 0), (0.5, -1024), (1.0, -2048), (2.0, -1000))[k % 4]
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 15, int(intercept == 0)
        data.PixelData = ((values - intercept) / slope).astype("<i2" if intercept == 0 else "<u2").tobytes()

    ct = hu_values().astype(int) // 2 * 2
    write_series(tmp_path / "s", ct, change=rescaled)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, ct)


def test_slices_from_the_head_down_are_put_in_order(tmp_path: Path) -> None:
    write_series(tmp_path / "s", hu_values(), step=(0.0, 0.0, -2.0), axes=AXIAL)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, hu_values()[:, :, ::-1])


def test_signed_and_unsigned_slices_may_be_mixed(tmp_path: Path) -> None:
    def coded(data: FileDataset, k: int) -> None:
        values = data.pixel_array.astype(int) - 1024
        data.RescaleIntercept, data.BitsStored, data.HighBit, data.PixelRepresentation = 0, 16, 15, int(k > 0)
        data.PixelData = values.astype("<i2" if k else "<u2").tobytes()

    ct = hu_values().astype(int)
    ct[:, :, 0] = np.abs(ct[:, :, 0])
    write_series(tmp_path / "s", ct, change=coded)
    assert np.array_equal(read_case(only_case(tmp_path / "s")).array, ct)

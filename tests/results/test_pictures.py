"""Planes through the heart: the right way round, in true proportions, with labels in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.image.grid import AIR_HU, Volume
from CardiacLDMLib.results import pictures
from CardiacLDMLib.results.lettering import text_mask
from CardiacLDMLib.results.pictures import PLANES, Field, heart_field, sample_plane
from tests.support.blocks import KINDS, MIDDLE, SHAPE, blocks, case_report

PIXELS = 512


def read_png(path: Path) -> np.ndarray:
    array: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array


def label_plane(kind: str, plane: int) -> np.ndarray:
    """Return the label values of one plane as on the screen."""
    _, labels = blocks(kind)
    return sample_plane(labels, PLANES[plane], Field(MIDDLE + 5.0, 120.0), PIXELS, linear=False, outside=0)


@pytest.mark.parametrize("kind", KINDS)
def test_planes_are_seen_as_radiologists_look(kind: str) -> None:
    axial, coronal, sagittal = (label_plane(kind, plane) for plane in range(3))
    for image in (axial, coronal):  # the patient's left, with value 8, on the right of the screen's left half
        columns = [np.flatnonzero((image == value).any(axis=0)).mean() for value in (7, 5, 4, 2)]
        assert columns == sorted(columns)
    rows, columns = np.nonzero(axial)
    assert rows.mean() < PIXELS / 2  # in front: at the top
    rows, _ = np.nonzero(coronal)
    assert rows.mean() < PIXELS / 2  # above: at the top
    rows, columns = np.nonzero(sagittal)
    assert rows.mean() < PIXELS / 2
    assert columns.mean() < PIXELS / 2  # in front: on the left


def test_planes_keep_the_true_proportions() -> None:
    image = label_plane("left-handed", 1)  # voxels of 4 x 6 mm
    rows, columns = np.nonzero((image >= 2) & (image <= 7))
    pixel = 120.0 / PIXELS
    assert (np.ptp(columns) + 1) * pixel == pytest.approx(60.0, abs=4.1)
    assert (np.ptp(rows) + 1) * pixel == pytest.approx(45.0, abs=6.1)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_an_independent_resampler(kind: str, linear: bool) -> None:
    _, labels = blocks(kind)
    scan = Volume(np.random.default_rng(3).normal(0, 300, SHAPE), labels.affine)
    field = Field(MIDDLE + [1.3, -2.2, 0.7], 60.0)  # within the grid
    for plane in PLANES:
        got = sample_plane(scan, plane, field, 64, linear=linear, outside=AIR_HU)
        steps = (np.arange(64) - 31.5) * 60.0 / 64
        ras = field.centre - steps[:, None, None] * np.array(plane.up) + steps[None, :, None] * np.array(plane.right)
        index = (ras - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
        expected = ndimage.map_coordinates(scan.array, index.transpose(2, 0, 1), order=int(linear))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-3)


def test_nothing_is_read_beyond_the_scan() -> None:
    volume = Volume(np.full((4, 4, 1), 7.0), np.eye(4))  # a single slice
    plane = sample_plane(volume, pictures.AXIAL, Field(np.array([1.5, 1.5, 0.4]), 8.0), 8, linear=True, outside=-1.0)
    assert (plane[2:6, 2:6] == 7.0).all()
    plane[2:6, 2:6] = -1.0
    assert (plane == -1.0).all()


def test_layers_average_through_the_depth_of_a_pixel() -> None:
    volume = Volume(np.arange(9, dtype=float)[None, None].repeat(5, 0).repeat(5, 1) ** 2, np.eye(4))
    field = Field(np.array([2.0, 2.0, 4.0]), 3.0)
    one, three = (
        sample_plane(volume, pictures.AXIAL, field, 1, linear=True, outside=0, layers=layers) for layers in (1, 3)
    )
    assert one.item() == pytest.approx(16.0)
    assert three.item() == pytest.approx((9 + 16 + 25) / 3)


def test_field_holds_the_heart_or_the_whole_scan() -> None:
    _, labels = blocks("oblique")
    field = heart_field(labels)
    inside = np.argwhere(np.isin(labels.array, [anatomy.VALUE[name] for name in anatomy.HEART]))
    ras = inside @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    np.testing.assert_allclose(field.centre, ras.mean(0), atol=1e-9)
    assert np.abs(ras - field.centre).max() + pictures.MARGIN_MM <= field.size_mm / 2
    empty = Volume(np.zeros(SHAPE, np.uint8), labels.affine)
    low, high = labels.grid.bounds_ras()
    assert heart_field(empty).size_mm == pytest.approx((high - low).max())
    np.testing.assert_allclose(heart_field(empty).centre, MIDDLE)


def test_picture_shows_every_structure_in_its_colour(tmp_path: Path) -> None:
    scan, labels = blocks("oblique")
    pictures.draw_planes(scan, labels, case_report(labels), tmp_path / "heart.png")
    picture = read_png(tmp_path / "heart.png")
    assert picture.shape == (2 * PIXELS, 2 * PIXELS, 3)
    quarters = [picture[:PIXELS, :PIXELS], picture[PIXELS:, :PIXELS], picture[:PIXELS, PIXELS:]]
    for structure in anatomy.STRUCTURES:
        seen = [int((quarter == structure.colour).all(-1).sum()) for quarter in quarters]
        assert max(seen) > 20, (structure.name, seen)  # outlines
        assert (picture[PIXELS:, PIXELS:] == structure.colour).all(-1).sum() > 200, structure.name  # legend


def test_picture_of_a_scan_without_a_heart(tmp_path: Path) -> None:
    scan, labels = blocks()
    scan = Volume(np.where(labels.array == 1, np.nan, scan.array).astype(np.float32), scan.affine)
    empty = Volume(np.zeros_like(labels.array), labels.affine)
    report = case_report(empty, "$x^{[bold] 心" * 9, warnings=["50 % of $nothing$"] * 20)
    pictures.draw_planes(scan, empty, report, tmp_path / "none.png")
    picture = read_png(tmp_path / "none.png")
    axial = picture[:PIXELS, :PIXELS]
    assert (axial == axial[..., :1]).all()  # grey: no label
    assert len(np.unique(axial)) > 5
    assert (picture[PIXELS:, PIXELS:] == pictures.AMBER).all(-1).sum() > 500  # says so


def test_png_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"picture\.nothing"):
        pictures.write_png(np.zeros((4, 4), np.uint8), tmp_path / "picture.nothing")
    assert not list(tmp_path.iterdir())


def test_letters_are_legible() -> None:
    assert text_mask("l", 1).astype(int).tolist() == [[1, 0, 0, 0, 0, 0]] * 6 + [[1, 1, 1, 1, 1, 0]]
    characters = [chr(code) for code in range(ord("A"), ord("Z") + 1)] + list("0123456789.,-_/:()?")
    masks = {text_mask(character, 1).tobytes() for character in characters}
    assert len(masks) == len(characters)
    assert np.array_equal(text_mask("心", 2), text_mask("?", 2))

"""Borders by HU: a wall drawn too thick gets its true borders, other structures and scans without contrast stay."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, uniform_filter

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.image.resample import interpolate, largest
from CardiacLDMLib.packages.manifest import BorderSpec
from CardiacLDMLib.progress import Quality
from CardiacLDMLib.segmentation import segmenter
from CardiacLDMLib.segmentation.borders import BAND, Borders, averaged, find_borders
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.phantom import ByIntensity, phantom, phantom_package

LV, MYO, RV, LA = (anatomy.VALUE[name] for name in ("LV", "MYO", "RV", "LA"))
HU = {anatomy.BACKGROUND: -80.0, LV: 350.0, MYO: 110.0, RV: 250.0, LA: 340.0}
#: The network's grid, and the scan's, whose voxels are half as large.
COARSE = Grid((36, 30, 30), np.diag([2.5, 2.5, 2.5, 1.0]))
FINE = Grid((72, 60, 60), np.array([[1.25, 0, 0, -0.625], [0, 1.25, 0, -0.625], [0, 0, 1.25, -0.625], [0, 0, 0, 1.0]]))


def heart(grid: Grid, thicker_mm: float = 0.0) -> np.ndarray:
    """Labels (uint8): LV within a wall, RV and LA beside it. ``thicker_mm``: of the wall, on each side."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    place = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    from_lv = np.linalg.norm(place - [50.0, 37.0, 37.0], axis=-1)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[np.linalg.norm(place - [22.0, 37.0, 37.0], axis=-1) < 20.0] = RV
    labels[np.linalg.norm(place - [78.0, 37.0, 37.0], axis=-1) < 12.0] = LA
    labels[from_lv < 23.0 + thicker_mm] = MYO
    labels[from_lv < 14.0 - thicker_mm] = LV
    return labels


def scan(labels: np.ndarray, noise_hu: float = 0.0, hu: dict[int, float] = HU) -> np.ndarray:
    table = np.array([hu.get(value, 0.0) for value in range(anatomy.NUM_CLASSES)])
    return np.rint(table[labels] + np.random.default_rng(5).normal(0.0, 1.0, labels.shape) * noise_hu).astype(np.int16)


def logits(labels: np.ndarray) -> np.ndarray:
    """A network's logits (9, I, J, K) of ``labels``, unsure within a voxel or two of their borders."""
    sharp = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), anatomy.NUM_CLASSES).movedim(-1, 0)
    soft = torch.nn.functional.avg_pool3d(sharp[None].float(), 5, stride=1, padding=2)[0]
    return (soft * 0.9 + 0.01).log().numpy()


def moved(drawn: np.ndarray, image: np.ndarray, weight: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Labels on FINE without and with refined borders, of a network that draws ``drawn`` on COARSE."""
    scores = logits(drawn)
    values = np.concatenate([slab.copy() for _, slab in interpolate(scores, COARSE.affine, FINE)], axis=3)
    plain = largest(values)
    borders = find_borders(largest(scores), image[::2, ::2, ::2], weight)
    refined = plain.copy()
    if borders is not None:
        borders.move(refined, values, image, np.stack(list(borders.on(COARSE, FINE)), axis=2))
    return plain, refined


def dice(labels: np.ndarray, truth: np.ndarray, value: int) -> float:
    return float(2 * np.sum((labels == value) & (truth == value)) / np.sum([labels == value, truth == value]))


@pytest.mark.parametrize("noise_hu", [0.0, 20.0, 80.0])
def test_a_wall_drawn_too_thick_gets_its_borders_back(noise_hu: float) -> None:
    truth = heart(FINE)
    plain, refined = moved(heart(COARSE, thicker_mm=2.0), scan(truth, noise_hu))
    for value in (LV, MYO):
        assert dice(plain, truth, value) < 0.87
        assert dice(refined, truth, value) > dice(plain, truth, value) + 0.04
    assert dice(refined, truth, RV) > dice(plain, truth, RV)
    assert np.array_equal(refined == LA, plain == LA)


def test_nothing_moves_far_from_a_border_or_in_other_structures() -> None:
    drawn, truth = heart(COARSE), heart(FINE)
    image = scan(truth, 20.0)
    image[60:, :, :] = HU[RV]  # the atrium, and all around it
    image[36:44, 26:34, 26:34] = HU[MYO]  # a muscle within the LV
    plain, refined = moved(drawn, image)
    inside = np.zeros(FINE.shape, dtype=bool)
    inside[37:43, 27:33, 27:33] = True
    assert (refined[inside] == LV).all()
    assert np.array_equal(refined == LA, plain == LA)
    assert (refined != plain).any()


def test_a_papillary_muscle_stays_in_the_ventricle() -> None:
    drawn, truth = heart(COARSE, thicker_mm=1.0), heart(FINE)
    image = scan(truth, 20.0)
    image[(truth == LV) & (np.arange(FINE.shape[2]) > 34)] = HU[MYO]  # next to the wall
    plain, refined = moved(drawn, image)
    assert (refined[plain == LV] == LV).all()
    assert (refined == LV).sum() > (plain == LV).sum()  # blood elsewhere


@pytest.mark.parametrize(("spacing", "reach"), [((0.5, 0.7, 2.5), (2, 1, 0)), ((1.5, 1.2, 1.11), (0, 0, 0))])
def test_small_voxels_are_averaged(spacing: tuple[float, ...], reach: tuple[int, ...]) -> None:
    array = np.random.default_rng(3).integers(-1000, 1000, (9, 8, 7), dtype=np.int16)
    expected = uniform_filter(array.astype(float), [2 * n + 1 for n in reach], mode="nearest")
    np.testing.assert_allclose(averaged(array, np.array(spacing)), expected, atol=1e-3)


def test_without_contrast_all_stays() -> None:
    labels = heart(COARSE)
    alike = {**HU, LV: 45.0, RV: 45.0, MYO: 40.0}
    assert find_borders(labels, scan(labels, 20.0, alike), 0.25) is None
    assert find_borders(labels, scan(labels, 20.0, {**alike, LV: 100.0}), 0.25) is not None


def test_a_structure_too_small_to_be_measured_leaves_all_as_it_is() -> None:
    labels = heart(COARSE)
    labels[labels == RV] = anatomy.BACKGROUND
    labels[5:8, 5:8, 5:8] = RV
    assert find_borders(labels, scan(labels), 0.25) is None


def test_the_band_is_two_voxels_on_each_side() -> None:
    labels = heart(COARSE)
    borders = find_borders(labels, scan(labels), 0.25)
    assert isinstance(borders, Borders)
    kinds = [anatomy.BACKGROUND, LV, MYO, RV]
    cube = np.ones((2 * BAND + 1,) * 3)
    near = {kind: binary_dilation(labels == kind, cube) for kind in kinds}
    expected = [(labels == kind) & near[other] for kind in kinds for other in kinds if other != kind]
    assert np.array_equal(borders.band, np.any(expected, axis=0))


@pytest.mark.parametrize(("quality", "refined"), [("full", True), ("fast", False)])
def test_a_package_that_asks_for_it_gets_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch, quality: Quality, refined: bool
) -> None:
    """At the quality fast pairs are judged, whose voxels must stay."""
    monkeypatch.setattr(segmenter, "load_networks", lambda _: {n: ByIntensity() for n in ("locator", "segmenter")})
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -60.0
    ct, _ = phantom(Grid((46, 44, 48), affine))
    ct = Volume(ct.array + np.random.default_rng(1).normal(0.0, 12.0, ct.array.shape).astype(np.int16), affine)
    package = phantom_package()
    plain = Segmenter(package, "cpu").segment(ct, quality=quality).labels.array
    asking = phantom_package()
    asking.manifest = SimpleNamespace(**{**vars(package.manifest), "borders": BorderSpec(weight=1.0)})
    other = Segmenter(asking, "cpu").segment(ct, quality=quality).labels.array
    assert (other != plain).any() == refined
    kinds = [anatomy.BACKGROUND, LV, MYO, RV]
    assert np.isin(other[other != plain], kinds).all()
    assert np.isin(plain[other != plain], kinds).all()

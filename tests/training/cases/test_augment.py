"""Augmentation: image and labels move together, only the seed matters, inputs stay unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from cardiacldm_training.cases import augment
from cardiacldm_training.cases.augment import (
    bias_field,
    blur,
    calibration,
    contrast_phase,
    field_of_view,
    gamma,
    mixing,
    noise,
    random_affine,
    random_warp,
    sample_patch,
    smooth_field,
    thick_slices,
    vary_intensity,
)
from cardiacldm_training.cases.settings import AugmentConfig
from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.image.grid import AIR_HU
from CardiacLDMLib.segmentation.scan import to_window

SETTINGS = AugmentConfig()
SPACING = 2.5
INTENSITY = (contrast_phase, mixing, bias_field, blur, thick_slices, noise, calibration, field_of_view, vary_intensity)


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray]:
    """HU (int16) and labels of three touching blocks in fat."""
    labels = np.zeros((40, 36, 32), dtype=np.uint8)
    labels[8:20, 8:28, 8:24] = VALUE["LV"]
    labels[20:32, 8:28, 8:24] = VALUE["RV"]
    labels[8:32, 8:28, 24:28] = VALUE["MYO"]
    return labels.astype(np.int16) * 100 - 100, labels


def patch(scan: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return scan[0].astype(np.float32), scan[1]


def test_no_change_is_a_plain_crop(scan: tuple[np.ndarray, np.ndarray]) -> None:
    hu, names = sample_patch(*scan, centre=np.array([19.5, 15.5, 15.5]), shape=(16, 12, 8), matrix=np.eye(3))
    crop = (slice(12, 28), slice(10, 22), slice(12, 20))
    np.testing.assert_allclose(hu, scan[0][crop], atol=0.01)
    assert np.array_equal(names, scan[1][crop])
    assert hu.dtype == np.float32
    assert names.dtype == np.uint8


def test_a_flip_mirrors_the_patch(scan: tuple[np.ndarray, np.ndarray]) -> None:
    place = {"centre": np.array([17.5, 17.5, 15.5]), "shape": (20, 20, 20)}
    hu, names = sample_patch(*scan, matrix=np.eye(3), **place)
    mirrored_hu, mirrored = sample_patch(*scan, matrix=np.diag([-1.0, 1.0, 1.0]), **place)
    np.testing.assert_allclose(mirrored_hu, hu[::-1], atol=0.01)
    assert np.array_equal(mirrored, names[::-1])


def test_beyond_the_scan_is_air_without_labels(scan: tuple[np.ndarray, np.ndarray]) -> None:
    hu, names = sample_patch(*scan, centre=np.array([500.0, 0.0, 0.0]), shape=(8, 8, 8), matrix=np.eye(3))
    assert (hu == AIR_HU).all()
    assert not names.any()
    hu, _ = sample_patch(*scan, centre=np.array([-0.5, 18.0, 16.0]), shape=(8, 8, 8), matrix=np.eye(3))
    assert (hu[:3] == AIR_HU).all()
    np.testing.assert_allclose(hu[5:], -100.0, atol=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_image_and_labels_move_together(scan: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    """Where linear interpolation of the labels gives one of their values, the labels must have it too."""
    rng = np.random.default_rng(seed)
    matrix = random_affine(rng, SETTINGS)
    warp = random_warp(rng, (32, 32, 32), SETTINGS, SPACING)
    image = (scan[1] * 100).astype(np.int16)
    hu, names = sample_patch(
        image, scan[1], centre=np.array([20.0, 18, 16]), shape=(32, 32, 32), matrix=matrix, warp=warp
    )
    near = np.abs(hu / 100 - np.rint(hu / 100)) < 0.01
    inside = near & (hu >= 0)
    agree = np.rint(hu[inside] / 100) == names[inside]
    assert inside.mean() > 0.3
    assert agree.mean() > 0.995  # between LV (2) and RV (4) lies 3 now and then


def test_affine_stays_within_its_limits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        matrix = random_affine(rng, SETTINGS)
        scales = np.linalg.svd(matrix, compute_uv=False)
        assert scales.max() <= 1 / 0.8 + 1e-9
        assert scales.min() >= 1 / 1.25 - 1e-9
    rigid = SETTINGS.model_copy(update={"scale": (1.0, 1.0), "flip": 0.0, "rotation_deg": 15.0})
    matrix = random_affine(rng, rigid)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_warps_are_smooth_and_do_not_fold() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        warp = random_warp(rng, (48, 48, 48), SETTINGS, SPACING)
        jacobian = (
            np.stack([np.stack(np.gradient(component)) for component in warp]) + np.eye(3)[:, :, None, None, None]
        )
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
        assert determinant.min() > 0
        assert np.abs(warp).max() * SPACING < 25.0


def test_smooth_field_of_equal_controls_is_that_value() -> None:
    np.testing.assert_allclose(smooth_field(np.full((2, 5, 4, 7), 3.0), (20, 9, 30)), 3.0, rtol=1e-5)


@pytest.mark.parametrize("function", INTENSITY)
def test_intensity_functions_are_reproducible_and_leave_their_input(scan, function) -> None:
    image, labels = patch(scan)
    before = image.copy(), labels.copy()
    first = function(image, labels, np.random.default_rng(4), SETTINGS, SPACING)
    again = function(image, labels, np.random.default_rng(4), SETTINGS, SPACING)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert np.array_equal(image, before[0])
    assert np.array_equal(labels, before[1])
    assert first[0].shape == image.shape
    assert first[0].dtype == np.float32
    assert first[1].dtype == np.uint8
    assert np.isfinite(first[0]).all()


def test_contrast_phase_moves_structures_apart_and_nothing_else(scan) -> None:
    image, labels = patch(scan)
    changed, names = contrast_phase(image, labels, np.random.default_rng(0), SETTINGS, SPACING)
    shift = changed - image
    assert np.array_equal(names, labels)
    assert not shift[:6].any()
    left, right, wall = shift[13, 18, 15], shift[26, 18, 15], shift[13, 18, 26]
    assert len({round(float(v)) for v in (left, right, wall)}) == 3
    assert abs(wall) <= SETTINGS.wall_shift_hu
    assert shift[11:17, 11:25, 11:21] == pytest.approx(left, abs=1e-3)


def test_mixing_stays_in_the_right_heart(scan) -> None:
    image, labels = patch(scan)
    change = mixing(image, labels, np.random.default_rng(0), SETTINGS, SPACING)[0] - image
    right = np.isin(labels, [VALUE["RA"], VALUE["RV"]])
    assert change[right].std() > 10.0
    assert not change[~binary_dilation(right, np.ones((3, 3, 3)))].any()


def test_thick_slices_and_blur_keep_even_tissue(scan) -> None:
    even = np.full((30, 30, 30), 40.0, dtype=np.float32)
    for function in (thick_slices, blur):
        for seed in range(10):
            changed, _ = function(even, scan[1][:30, :30, :30], np.random.default_rng(seed), SETTINGS, SPACING)
            np.testing.assert_allclose(changed, 40.0, atol=0.01)


def test_thick_slices_lose_detail_along_one_axis_only() -> None:
    image = np.zeros((24, 24, 24), dtype=np.float32)
    image[:, :, ::2] = 100.0
    labels = np.zeros(image.shape, dtype=np.uint8)
    thick = SETTINGS.model_copy(update={"thick_slices_mm": 12.0})
    spreads = [thick_slices(image, labels, np.random.default_rng(seed), thick, SPACING)[0].std() for seed in range(12)]
    assert min(spreads) < 10.0
    assert max(spreads) <= image.std() + 1e-3


def test_noise_is_at_most_as_strong_as_the_settings() -> None:
    image, labels = np.zeros((40, 40, 40), dtype=np.float32), np.zeros((40, 40, 40), dtype=np.uint8)
    spreads = [noise(image, labels, np.random.default_rng(seed), SETTINGS, SPACING)[0].std() for seed in range(30)]
    assert max(spreads) <= SETTINGS.noise_hu * 1.05
    assert np.mean(spreads) == pytest.approx(SETTINGS.noise_hu / 2, rel=0.35)


def test_field_of_view_cuts_image_and_labels_alike(scan) -> None:
    image, labels = patch(scan)
    always = SETTINGS.model_copy(update={"view": 1.0, "view_smallest": 0.3})
    cut, names = field_of_view(image, labels, np.random.default_rng(2), always, SPACING)
    inside = cut != AIR_HU
    assert 0.02 < inside.mean() < 1.0
    assert np.array_equal(names, np.where(inside, labels, 0))
    assert np.array_equal(cut[inside], image[inside])


def test_window_and_gamma_stay_between_0_and_1() -> None:
    image = np.linspace(-1024, 3000, 500, dtype=np.float32)
    windowed = to_window(image, (-300.0, 700.0))
    assert windowed[image <= -300].max() == 0.0
    assert windowed[image >= 700].min() == 1.0
    assert to_window(np.array([200.0]), (-300.0, 700.0))[0] == pytest.approx(0.5)
    always = SETTINGS.model_copy(update={"gamma": 1.0})
    bent = gamma(windowed, np.random.default_rng(0), always)
    assert (bent.min(), bent.max()) == (0.0, 1.0)
    assert (np.diff(bent) >= 0).all()
    assert bent.dtype == np.float32
    assert gamma(windowed, np.random.default_rng(0), SETTINGS.model_copy(update={"gamma": 0.0})) is windowed


def test_contrast_groups_are_known_structures() -> None:
    assert set(augment.LEFT_HEART) | set(augment.RIGHT_HEART) <= set(VALUE)

"""Spectra of images: blur, noise and brightness."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cardiacldm_training.stages.sharpness import spectrum, spectrum_gap


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, 32, 24))


def test_white_noise_has_a_flat_spectrum(image: np.ndarray) -> None:
    power = spectrum(image)[3:]  # the lowest bands hold few frequencies
    assert power.max() / power.min() < 1.5


def test_blur_takes_high_frequencies(image: np.ndarray) -> None:
    gap = spectrum_gap(image, ndimage.gaussian_filter(image, 1.0))
    assert np.all(np.diff(gap[1:]) < 0)
    expected = -8.686 * (np.pi * 0.8 * 15.5 / 16) ** 2 / 2  # of a Gaussian of one voxel, in the middle of the last band
    assert gap[-1] == pytest.approx(expected, rel=0.15)


def test_twice_the_contrast_is_six_decibels(image: np.ndarray) -> None:
    np.testing.assert_allclose(spectrum_gap(image, 2 * image + 7), 20 * np.log10(2), atol=1e-6)

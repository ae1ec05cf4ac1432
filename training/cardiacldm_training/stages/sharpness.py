"""How sharp an image is beside another: their power spectra."""

from __future__ import annotations

import numpy as np

#: Of the highest frequency that voxels can show; beyond it a spectrum says little.
HIGHEST = 0.8
_BANDS = 16
#: What a decibel of the mean gap costs in a score that is otherwise a Dice: of two networks with the same labels, the
#: sharper one is kept, and one that invents grain is not.
DECIBEL = 0.01


def spectrum(image: np.ndarray) -> np.ndarray:
    """Return the mean power (B,) of an image (I, J, K) in bands of spatial frequency, from 0 to :data:`HIGHEST`.

    A Hann window along each axis keeps the borders of the image from counting as edges.
    """
    tapered = image - image.mean()
    for axis, side in enumerate(image.shape):
        shape = [side if a == axis else 1 for a in range(3)]
        tapered = tapered * np.hanning(side).reshape(shape)
    power = np.abs(np.fft.rfftn(tapered)) ** 2
    axes = [np.fft.fftfreq(side) for side in image.shape[:2]] + [np.fft.rfftfreq(image.shape[2])]
    i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
    band = np.floor(np.sqrt(i**2 + j**2 + k**2) / (0.5 * HIGHEST) * _BANDS).astype(int).clip(max=_BANDS)
    counts = np.bincount(band.ravel(), minlength=_BANDS + 1)
    sums = np.bincount(band.ravel(), power.ravel(), minlength=_BANDS + 1)
    return sums[:_BANDS] / np.maximum(counts[:_BANDS], 1)


def mean_gap(image: np.ndarray, other: np.ndarray) -> float:
    """Return by how many dB the power of ``other`` (I, J, K) is off that of ``image``, as the mean over bands."""
    return float(np.abs(spectrum_gap(image, other)).mean())


def spectrum_gap(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (B,) by how many dB the power of ``other`` (I, J, K) is above that of ``image`` in each band."""
    tiny = np.finfo(np.float64).tiny
    return 10 * np.log10((spectrum(other) + tiny) / (spectrum(image) + tiny))

"""Noise that a generated image lacks, put back tissue by tissue.

Autoencoders average the noise of a scan away. What is missing is described by a power spectrum for each tissue: that of
reference scans less that of generated ones, both measured alike. White noise, filtered to that spectrum, brings the
image's texture back to the reference's; where nothing is missing, nothing is added.

Spectra are in HU^2 per mode, by distance from the origin of the frequencies: ``BINS`` equally wide rings from 0 to the
corner of the frequencies' cube, at sqrt(3) times the Nyquist frequency. White noise of variance v has the spectrum v
everywhere, and the mean of a spectrum over all modes is the variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..anatomy import BACKGROUND, VALUE

BINS = 14
#: Tissues with a texture of their own; their place in a map of tissues is their index plus one.
TISSUES = ("blood", "wall", "soft", "fat")
#: Unlabelled voxels of these HU, averaged over their neighbours, are soft tissue or fat; the rest (lung, air, bone,
#: enhanced vessels) gets no noise.
SOFT_HU, FAT_HU = (-20.0, 160.0), (-160.0, -20.0)

#: Beyond any noise of a scan, HU^2: a standard deviation of 1000 HU.
MOST_POWER = 1e6

Spectra = Mapping[str, Sequence[float]]


def check_spectra(spectra: Spectra) -> None:
    """Raises ValueError for spectra of other tissues, length or size."""
    for name, values in spectra.items():
        if name not in TISSUES or len(values) != BINS or not all(0 <= value <= MOST_POWER for value in values):
            raise ValueError(
                f"the spectrum of {name!r} must be {BINS} numbers from 0 to {MOST_POWER:g}, of one of {TISSUES}"
            )


def tissue_map(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(I, J, K) uint8: which of ``TISSUES`` each voxel is (1 and up), 0 for none. ``labels`` are those of the image."""
    import torch

    image = torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32))[None, None]
    mean = torch.nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)[0, 0].numpy()
    outside = labels == BACKGROUND
    tissues = np.where(outside, 0, 1).astype(np.uint8)
    tissues[labels == VALUE["MYO"]] = 2
    for index, (low, high) in ((3, SOFT_HU), (4, FAT_HU)):
        tissues[outside & (mean >= low) & (mean < high)] = index
    return tissues


def radii(shape: Sequence[int]) -> np.ndarray:
    """Distance of each mode of ``rfftn`` over an array of ``shape`` from the origin, as a part of the corner's."""
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    squares = sum(f.reshape([-1 if a == b else 1 for b in range(len(shape))]) ** 2 for a, f in enumerate(axes))
    return np.sqrt(squares) / (np.sqrt(len(shape)) / 2)


def lacking(reference: Spectra, generated: Spectra) -> dict[str, tuple[float, ...]]:
    """What spectra of generated images lack, by tissue: never below zero; tissues that both have."""
    return {
        name: tuple(max(float(r) - float(g), 0.0) for r, g in zip(reference[name], generated[name], strict=True))
        for name in TISSUES
        if name in reference and name in generated
    }


def add_noise(hu: np.ndarray, tissues: np.ndarray, spectra: Spectra, rng: np.random.Generator) -> np.ndarray:
    """``hu`` (I, J, K) with noise of the tissue's spectrum in each voxel, float32; a function of its arguments alone.

    ``tissues`` is a :func:`tissue_map`; ``spectra`` holds ``BINS`` values, HU^2, at the image's own voxel size. One
    field of white noise feeds all tissues, so that grains go on over their borders. Raises ValueError for spectra of
    other tissues, length or size.
    """
    check_spectra(spectra)
    out = np.array(hu, dtype=np.float32, order="C")
    white = np.fft.rfftn(rng.standard_normal(hu.shape, dtype=np.float32))
    places, middles = radii(hu.shape), (np.arange(BINS) + 0.5) / BINS
    for name, values in spectra.items():
        here = tissues == TISSUES.index(name) + 1
        if max(values) > 0 and here.any():
            filtered = np.fft.irfftn(white * np.sqrt(np.interp(places, middles, values)), hu.shape, axes=(0, 1, 2))
            out[here] += filtered[here].astype(np.float32)
    return out

"""Add the noise that generated images lack, tissue by tissue.

An autoencoder averages the noise of scans away. The noise that a tissue lacks is described by a power spectrum: that of
reference scans minus that of generated ones. White noise filtered to this spectrum restores the texture.

A spectrum is in HU^2 per mode, in ``BINS`` equally wide rings of spatial frequency from 0 to the corner of the cube of
frequencies, sqrt(3) times the Nyquist frequency. White noise of variance v has the value v in every ring. The mean of
a spectrum over all modes is the variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, FiniteFloat, field_validator

from ..anatomy import BACKGROUND, VALUE
from .kinds import HuStep

BINS = 14
#: Tissues with a texture of their own. In a tissue map, the value of a tissue is its index plus one.
TISSUES = ("blood", "wall", "soft", "fat")
#: Unlabelled voxels whose neighbourhood has these mean HU are soft tissue or fat. Others (lung, air, bone, enhanced
#: vessels) have no noise of their own. Air is below AIR_HU.
SOFT_HU, FAT_HU, AIR_HU = (-20.0, 160.0), (-160.0, -20.0), -980.0

#: The upper limit of a spectrum, HU^2: a standard deviation of 1000 HU, beyond the noise of any scan.
MOST_POWER = 1e6

Spectra = Mapping[str, Sequence[float]]
TissueName = Annotated[str, Field(pattern=f"^({'|'.join(TISSUES)})$")]


class Texture(HuStep):
    """Add noise with a power spectrum for each tissue.

    Scans differ in their noise: ``strengths`` are factors of its standard deviation, of which each pair takes one at
    random. With ``filled``, bone and enhanced vessels get the noise of soft tissue, lung that of fat: what varies in
    lung is mostly vessels, which noise cannot stand for.
    """

    step: Literal["texture"] = "texture"
    filled: Annotated[bool, Field(description="Bone, enhanced vessels and lung get noise too.")] = False
    strengths: Annotated[
        tuple[Annotated[FiniteFloat, Field(ge=0, le=10)], ...],
        Field(max_length=64, description="Factors of the noise; each pair takes one of them at random. Empty: 1."),
    ] = ()
    spectra: Annotated[
        dict[TissueName, tuple[FiniteFloat, ...]],
        Field(min_length=1, description="Power of the added noise, HU^2, by tissue and ring of spatial frequency."),
    ]

    @field_validator("spectra")
    @classmethod
    def _is_valid(cls, spectra: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        check_spectra(spectra)
        return spectra

    def apply(self, hu: np.ndarray, labels: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
        """Return ``hu`` changed by :func:`add_noise`. ``spacing_mm`` is not used: the spectra are for it."""
        strength = float(rng.choice(self.strengths)) if self.strengths else 1.0
        return add_noise(hu, tissue_map(hu, labels, self.filled), self.spectra, rng, strength)

    def describe(self) -> str:
        """Return the sentence of the model card."""
        others = ", and to bone, enhanced vessels and lung" if self.filled else ""
        varied = " Its strength differs from pair to pair, as between scans." if self.strengths else ""
        return f"Noise that decoded images lack is added to {', '.join(self.spectra)}{others}.{varied}"


def check_spectra(spectra: Spectra) -> None:
    """Raise ValueError for an unknown tissue, another number of rings, or a power out of range."""
    for name, values in spectra.items():
        if name not in TISSUES or len(values) != BINS or not all(0 <= value <= MOST_POWER for value in values):
            raise ValueError(
                f"the spectrum of {name!r} must be {BINS} numbers from 0 to {MOST_POWER:g}, of one of {TISSUES}"
            )


def tissue_map(hu: np.ndarray, labels: np.ndarray, filled: bool = False) -> np.ndarray:
    """Return the tissue of each voxel, (I, J, K) uint8: 1 and up for ``TISSUES``, 0 for none.

    ``filled``: lung counts as fat, and what is denser than soft tissue as soft tissue.
    """
    import torch

    image = torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32))[None, None]
    mean = torch.nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)[0, 0].numpy()
    outside = labels == BACKGROUND
    tissues = np.where(outside, 0, 1).astype(np.uint8)
    tissues[labels == VALUE["MYO"]] = 2
    soft, fat = ((SOFT_HU[0], np.inf), (AIR_HU, FAT_HU[1])) if filled else (SOFT_HU, FAT_HU)
    for index, (low, high) in ((3, soft), (4, fat)):
        tissues[outside & (mean >= low) & (mean < high)] = index
    return tissues


def radii(shape: Sequence[int]) -> np.ndarray:
    """Return the frequency of each mode of ``rfftn`` for an array of ``shape``: 0 to 1, which is the cube's corner."""
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    squares = sum(f.reshape([-1 if a == b else 1 for b in range(len(shape))]) ** 2 for a, f in enumerate(axes))
    return np.sqrt(squares) / (np.sqrt(len(shape)) / 2)


def missing_power(reference: Spectra, generated: Spectra) -> dict[str, tuple[float, ...]]:
    """Return the power by tissue that generated images lack, at least 0, for tissues with both spectra."""
    return {
        name: tuple(max(float(r) - float(g), 0.0) for r, g in zip(reference[name], generated[name], strict=True))
        for name in TISSUES
        if name in reference and name in generated
    }


def add_noise(
    hu: np.ndarray, tissues: np.ndarray, spectra: Spectra, rng: np.random.Generator, strength: float = 1.0
) -> np.ndarray:
    """Return ``hu`` (I, J, K), float32, with noise added according to each voxel's tissue.

    ``tissues``: a :func:`tissue_map`. ``spectra``: ``BINS`` values in HU^2 by tissue, at the image's voxel size;
    ``strength`` is a factor of the noise. All tissues filter the same field of white noise, so that the grain continues
    across their borders. Raises ValueError as :func:`check_spectra` does.
    """
    check_spectra(spectra)
    out = np.array(hu, dtype=np.float32, order="C")
    white = np.fft.rfftn(rng.standard_normal(hu.shape, dtype=np.float32))
    places, middles = radii(hu.shape), (np.arange(BINS) + 0.5) / BINS
    for name, values in spectra.items():
        here = tissues == TISSUES.index(name) + 1
        if max(values) > 0 and here.any():
            filtered = np.fft.irfftn(white * np.sqrt(np.interp(places, middles, values)), hu.shape, axes=(0, 1, 2))
            out[here] += strength * filtered[here].astype(np.float32)
    return out

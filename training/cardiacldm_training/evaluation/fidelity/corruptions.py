"""Known corruptions of references. A figure that cannot tell one from true references is seen to be unable."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

#: Standard deviations of the blur, mm, and of the noise, HU.
BLUR_MM, NOISE_HU = 3.0, 50.0
#: How many cases are repeated.
REPEATED_CASES = 3
#: Name of the set that consists of a few references only.
REPEATED = "three cases repeated"

Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(hu: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image smoothed with a Gaussian of ``BLUR_MM``."""
    return ndimage.gaussian_filter(hu.astype(np.float32), BLUR_MM / spacing_mm)


def mirror(hu: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image with left and right exchanged."""
    return hu[::-1]


def add_noise(hu: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image with white noise of ``NOISE_HU``."""
    return hu + rng.normal(0.0, NOISE_HU, hu.shape)


CORRUPTIONS: Mapping[str, Corruption] = {"3 mm blur": blur, "mirrored": mirror, "white noise": add_noise}


def corrupt(hu: np.ndarray, name: str, spacing_mm: float) -> np.ndarray:
    """Return the corrupted image as int16 HU. The same image gives the same noise."""
    rng = np.random.default_rng(int(np.abs(hu.astype(np.int64)).sum()))
    return np.ascontiguousarray(np.rint(CORRUPTIONS[name](hu, spacing_mm, rng)).astype(np.int16))


def repeat_cases(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return as many rows as ``rows`` (n, F), all of them from ``REPEATED_CASES`` of these."""
    few = rows[rng.choice(len(rows), min(REPEATED_CASES, len(rows)), replace=False)]
    return few[np.arange(len(rows)) % len(few)]

"""Training pairs of a generator: the box around the heart of a prepared case, windowed and augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import AIR_HU
from CardiacLDMLib.segmentation.scan import to_window

from . import augment, store
from .settings import PairAugmentConfig

Shape = tuple[int, int, int]
_HEART = [anatomy.VALUE[name] - 1 for name in anatomy.HEART]  # rows of a prepared case's points


def missing_structures(cases: Sequence[store.PreparedCase]) -> list[str]:
    """Return the names of the structures that none of ``cases`` has."""
    present = np.zeros(len(anatomy.STRUCTURES), dtype=bool)
    for case in cases:
        present |= case.points[:, 0, 0] >= 0
    return [name for name, exists in zip(anatomy.NAMES, present, strict=True) if not exists]


def heart_centre(case: store.PreparedCase) -> np.ndarray:
    """Return (3,) voxels: the centre of the box around chambers, wall and appendage, or all labels.

    It is computed from the stored random voxels of each structure, so that no label map is read.
    """
    points = case.points.astype(np.float64)
    heart = points[_HEART] if (points[_HEART, 0, 0] >= 0).any() else points
    inside = heart[heart[:, 0, 0] >= 0].reshape(-1, 3)
    if not len(inside):  # labels so small that none is left at this spacing
        return (np.array(case.image.shape) - 1) / 2
    return (inside.min(0) + inside.max(0)) / 2


def pair(
    case: store.PreparedCase, grid: Shape, window_hu: tuple[float, float], *, rng: np.random.Generator | None = None,
    settings: PairAugmentConfig | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return image (1, *grid) float32 in 0..1 and labels (1, *grid) uint8 around the heart; air beyond the scan.

    With ``rng`` the pair is augmented by ``settings``; the same generator state gives the same pair.
    """
    if rng is None:
        image, labels = _cut(case, grid, np.zeros(3))
        image = image.astype(np.float32)
    else:
        image, labels = _augment(case, grid, rng, settings or PairAugmentConfig())
    return to_window(image, window_hu)[None], np.ascontiguousarray(labels)[None]


def _augment(
    case: store.PreparedCase, grid: Shape, rng: np.random.Generator, settings: PairAugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return an augmented pair, image in HU. Only a crop interpolates, because it stretches the axial plane."""
    shift = np.round(rng.uniform(-settings.jitter, settings.jitter, 3) * grid)
    if rng.random() < settings.crop:
        part = rng.uniform(settings.crop_smallest, 1.0)
        shift[:2] += rng.uniform(-0.5, 0.5, 2) * (1.0 - part) * grid[:2]  # anywhere inside the uncropped box
        image, labels = augment.sample_patch(
            case.image, case.labels, centre=heart_centre(case) + shift, shape=grid, matrix=np.diag([part, part, 1.0])
        )
    else:
        image, labels = _cut(case, grid, shift)
        image = image.astype(np.float32)
    for axis, probability in enumerate((settings.horizontal_flip, settings.vertical_flip)):
        if rng.random() < probability:
            image, labels = np.flip(image, axis), np.flip(labels, axis)
    if rng.random() < settings.boost:
        image = image + np.float32(settings.boost_hu)
    return image, labels


def _cut(case: store.PreparedCase, grid: Shape, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the box at the nearest whole voxels: without interpolation the noise of the scan stays."""
    low = np.round(heart_centre(case) + shift - (np.array(grid) - 1) / 2).astype(int)
    high = low + np.array(grid)
    return augment.box(case.image, low, high, AIR_HU), augment.box(case.labels, low, high, anatomy.BACKGROUND)

"""Training pairs of a generator: the box around the heart of a prepared case, windowed, and the paper's variations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import AIR_HU

from . import augment, store
from .settings import PairAugmentConfig

Shape = tuple[int, int, int]
_HEART = [anatomy.VALUE[name] - 1 for name in anatomy.HEART]  # rows of a prepared case's points


def prepare_pairs(
    folders: Sequence[Path], cache: Path | None, spacing_mm: float, workers: int, say: Callable[[str], None]
) -> store.Prepared:
    """The cases of ``folders`` at ``spacing_mm``; those that cannot be used are named and left out.

    Raises DatasetError for a folder without cases.
    """
    found = store.gather(folders, cache)
    say(f"Preparing {len(found)} cases at {spacing_mm:g} mm.")
    prepared = store.prepare(found, spacing_mm, workers=workers, progress=store.tenths(say))
    for name, why in prepared.skipped:
        say(f"Skipped {name}: {why}")
    return prepared


def missing_structures(cases: Sequence[store.PreparedCase]) -> list[str]:
    """The structures that not one of ``cases`` has."""
    present = np.zeros(len(anatomy.STRUCTURES), dtype=bool)
    for case in cases:
        present |= case.points[:, 0, 0] >= 0
    return [name for name, there in zip(anatomy.NAMES, present, strict=True) if not there]


def heart_centre(case: store.PreparedCase) -> np.ndarray:
    """(3,) voxels: the centre of the box around the chambers, wall and appendage, or of all labels if it has none.

    Found from the random voxels kept of each structure, which is as good as all of them and reads no array.
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
    """Image (1, *grid) float32 in 0..1 and labels (1, *grid) uint8 around the heart; air where the scan ends.

    With ``rng`` the pair is varied as ``settings`` say: the same generator gives the same pair.
    """
    if rng is None:
        image, labels = _cut(case, grid, np.zeros(3))
        image = image.astype(np.float32)
    else:
        image, labels = _varied(case, grid, rng, settings or PairAugmentConfig())
    return augment.to_window(image, window_hu)[None], np.ascontiguousarray(labels)[None]


def _varied(
    case: store.PreparedCase, grid: Shape, rng: np.random.Generator, settings: PairAugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """A varied pair, image in HU. Only a crop interpolates: it stretches the axial plane; the rest keeps the voxels."""
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
    for axis, chance in enumerate((settings.horizontal_flip, settings.vertical_flip)):
        if rng.random() < chance:
            image, labels = np.flip(image, axis), np.flip(labels, axis)
    if rng.random() < settings.boost:
        image = image + np.float32(settings.boost_hu)
    return image, labels


def _cut(case: store.PreparedCase, grid: Shape, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box of whole voxels nearest to where it should be: no interpolation, the noise stays as it is."""
    low = np.round(heart_centre(case) + shift - (np.array(grid) - 1) / 2).astype(int)
    high = low + np.array(grid)
    return augment.box(case.image, low, high, AIR_HU), augment.box(case.labels, low, high, anatomy.BACKGROUND)

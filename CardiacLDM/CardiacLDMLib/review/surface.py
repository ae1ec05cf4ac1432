"""Compare the surface of a structure with that in a second label map: how far it lies off, outside or inside of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scene import shrunk

#: Points further apart than this, mm, belong to different parts: where one map follows a vessel and the other does not.
FURTHEST_MM = 12.0
#: Residuals beyond this, mm, have no weight in the fit, so that a leak or a cut tip does not move the whole surface.
LEAST_WEIGHT_MM = 6.0
#: Fewest points of a surface that are fitted, and times that the weights are found again.
FEWEST, ROUNDS = 60, 6


@dataclass(frozen=True)
class Fit:
    """How a surface lies against another: ``moved_mm``: as a whole, in any direction; ``outside_mm``: beyond it."""

    moved_mm: float
    outside_mm: float


def signed_distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the distance (I, J, K) of voxels from the outermost ones of ``mask`` in mm, negative inside."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1].tolist())
    return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, False, False, True))


def fit(away: np.ndarray, away_from_other: np.ndarray, spacing: np.ndarray) -> Fit:
    """Return how the surface of a mask lies against another, by the :func:`signed_distance` (I, J, K) from both.

    At each point of both surfaces the distance to the other surface is a constant (how far the one lies outside), and
    the part along the normal of how far it was moved. Both come from least squares with Tukey's weights.
    """
    normals, distances = (
        np.concatenate(parts) for parts in zip(
            _points(away, away_from_other, spacing), _points(away_from_other, -away, spacing), strict=True
        )
    )  # fmt: skip
    near = np.abs(distances) < FURTHEST_MM
    normals, distances = normals[near], distances[near]
    if len(distances) < FEWEST:
        return Fit(0.0, 0.0)
    terms = np.concatenate([np.ones((len(normals), 1)), normals], axis=1)
    weights, solution = np.ones(len(distances)), np.zeros(4)
    for _ in range(ROUNDS):
        weighted = terms * weights[:, None]
        solution = np.linalg.lstsq(weighted.T @ terms, weighted.T @ distances, rcond=None)[0]
        rest = np.abs(distances - terms @ solution) / LEAST_WEIGHT_MM
        weights = (1.0 - np.minimum(rest, 1.0) ** 2) ** 2
    return Fit(float(np.linalg.norm(solution[1:])), float(solution[0]))


def _points(away: np.ndarray, values: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normals (N, 3) of the outermost voxels inside a surface, and the ``values`` (N,) there."""
    inside = away <= 0.0
    points = tuple(np.argwhere(inside & ~shrunk(inside)).T)
    slopes = np.stack([_slope(away, points, axis) / spacing[axis] for axis in range(3)], axis=-1)
    lengths = np.linalg.norm(slopes, axis=1, keepdims=True)
    return slopes / np.maximum(lengths, 1e-6), values[points]


def _slope(values: np.ndarray, points: tuple[np.ndarray, ...], axis: int) -> np.ndarray:
    """Return the change (N,) of ``values`` per voxel along an axis, from the neighbours of each point."""
    before, after = list(points), list(points)
    before[axis] = np.maximum(points[axis] - 1, 0)
    after[axis] = np.minimum(points[axis] + 1, values.shape[axis] - 1)
    return np.asarray((values[tuple(after)] - values[tuple(before)]) / np.maximum(after[axis] - before[axis], 1))

"""Courses of tubular organs, kept clear of the labelled structures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ..tissue import Tissue
from .canvas import Canvas
from .frame import Landmarks


@dataclass(frozen=True)
class Course:
    """A tube through ``points`` (N, 3) with ``radii`` (N,), in mm, and its wall if it has one."""

    points: np.ndarray
    radii: np.ndarray
    tissue: Tissue
    wall: Tissue | None = None
    wall_mm: float = 0.0


class Obstacles:
    """Distances (mm) to the labelled structures, to push courses clear of them."""

    def __init__(self, marks: Landmarks) -> None:
        self.lattice, thin = marks.lattice, marks.labels
        free = ndimage.distance_transform_edt(thin == 0) - ndimage.distance_transform_edt(thin > 0)
        self.distance = free.astype(np.float32) * self.lattice.spacing
        self.gradient = np.stack(np.gradient(ndimage.gaussian_filter(self.distance, 1.0)))

    def distance_at(self, point: np.ndarray) -> float:
        """Return the distance (mm) of a point (3,; mm) to the nearest structure, negative inside."""
        index = self.lattice.index(point)[:, None]
        return float(ndimage.map_coordinates(self.distance, index, order=1, mode="nearest")[0])

    def push_out(self, points: ArrayLike, radius: float, clearance: float = 1.0) -> np.ndarray:
        """Return points (N, 3; mm) moved away from the heart until a tube of ``radius`` mm fits beside it.

        ``clearance`` is the distance between tube and heart, mm.
        """
        moved = np.array(points, dtype=float)
        for _ in range(8):
            index = self.lattice.index(moved).T
            need = radius + clearance - ndimage.map_coordinates(self.distance, index, order=1, mode="nearest")
            slope = np.stack([ndimage.map_coordinates(g, index, order=1, mode="nearest") for g in self.gradient], -1)
            norm = np.linalg.norm(slope, axis=-1, keepdims=True)
            moved += slope / np.maximum(norm, 1e-3) * np.clip(need, 0.0, 6.0)[:, None]
        return moved


def make_course(
    points: ArrayLike, radii: ArrayLike, tissue: Tissue, wall: Tissue | None = None, wall_mm: float = 0.0
) -> Course:
    """Return a course; one radius stands for all points."""
    return Course(np.asarray(points, float), np.broadcast_to(np.asarray(radii, float), len(np.asarray(points))).copy(),
                  tissue, wall, wall_mm)  # fmt: skip


def paint_courses(canvas: Canvas, courses: list[Course]) -> None:
    """Paint the walls of all courses first, so that tubes that join are open to each other."""
    for one in courses:
        if one.wall is not None:
            canvas.paint_tube(one.points, one.radii + one.wall_mm, one.wall)
    for one in courses:
        canvas.paint_tube(one.points, one.radii, one.tissue)

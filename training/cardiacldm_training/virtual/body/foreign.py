"""Foreign bodies: calcifications, implants and catheters, and the sites and shapes that they have in a body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from ..shapes import Lattice, smooth_path, tube_mask
from ..tissue import Body, Tissue, tissue_mask

#: HU of metal, far above the stored range, so that its blurred surroundings show blooming.
METAL_HU = 8000.0


@dataclass(frozen=True)
class ForeignBody:
    """Voxels (N, 3) of a calcification or a part of an implant, and their HU."""

    where: np.ndarray
    hu: float


def paint_foreign_bodies(image: np.ndarray, foreign: Iterable[ForeignBody]) -> None:
    """Set the HU of foreign bodies in an image. In place."""
    for one in foreign:
        image[tuple(one.where.T)] = one.hu


class BodyMap:
    """Sites and shapes of foreign bodies in one body."""

    def __init__(self, body: Body, lattice: Lattice, rng: np.random.Generator) -> None:
        self.body, self.lattice, self.rng = body, lattice, rng
        self.boxes = ndimage.find_objects(body.labels, max_label=max(VALUE.values()))

    def to_mm(self, voxels: np.ndarray) -> np.ndarray:
        return self.lattice.origin + self.lattice.spacing * voxels

    def tissue_voxels(self, *codes: Tissue) -> np.ndarray:
        """Return the voxels (N, 3) of some tissues."""
        return np.argwhere(tissue_mask(self.body.tissue, codes))

    def structure_voxels(self, name: str) -> np.ndarray:
        """Return the voxels (N, 3) of a labelled structure."""
        box = self.boxes[VALUE[name] - 1]
        if box is None:
            return np.empty((0, 3), dtype=int)
        return np.argwhere(self.body.labels[box] == VALUE[name]) + [s.start for s in box]

    def contact_voxels(self, first: str, second: str) -> np.ndarray:
        """Return the voxels (N, 3) of the first structure within two voxels of the second."""
        box = self.boxes[VALUE[first] - 1]
        if box is None:
            return np.empty((0, 3), dtype=int)
        wide = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
        part = self.body.labels[wide]
        near = ndimage.binary_dilation(part == VALUE[second], iterations=2)
        return np.argwhere(near & (part == VALUE[first])) + [s.start for s in wide]

    def make_tube(self, points: np.ndarray, radius: float, hu: float = METAL_HU) -> ForeignBody:
        """Return a tube along a path (mm), at least a voxel thick; thinner ones get lower HU to keep their mass."""
        thick = max(radius, 0.62 * self.lattice.spacing)
        path = smooth_path(points, [thick] * len(points), step=0.7 * self.lattice.spacing)
        box, mask = tube_mask(self.lattice, path)
        thinned = min(1.0, (radius / thick) ** 1.2)
        return ForeignBody(np.argwhere(mask) + [s.start for s in box], hu * thinned)

    def make_grain(self, voxel: np.ndarray, radius: float, hu: float) -> ForeignBody:
        """Return a ragged grain around a voxel, with ``radius`` in mm."""
        reach = int(np.ceil(radius / self.lattice.spacing))
        ball = np.argwhere(np.ones((2 * reach + 1,) * 3)) - reach
        size = np.linalg.norm(ball, axis=1) * self.lattice.spacing * self.rng.uniform(0.7, 1.5, len(ball))
        where = ball[size <= radius] + voxel
        inside = ((where >= 0) & (where < self.body.tissue.shape)).all(1)
        small = min(1.0, (radius / (0.6 * self.lattice.spacing)) ** 2)
        return ForeignBody(where[inside], hu * small)

"""The model of a heart before deformation: partial volumes of the structures and their measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from CardiacLDMLib.anatomy import HEART, NAMES, NUM_CLASSES, VALUE
from CardiacLDMLib.image.resample import largest

from ..shapes import Lattice, sample


@dataclass(frozen=True)
class HeartModel:
    """Partial volumes of the structures on a RAS lattice whose origin is the heart's middle.

    ``shares``: (9, I, J, K) uint8, background first; 255 is a whole voxel.
    """

    name: str
    shares: np.ndarray
    lattice: Lattice

    @cached_property
    def coarse(self) -> tuple[np.ndarray, Lattice]:
        """Partial volumes (8, I, J, K; float32, 0 to 1) of the structures, and their lattice, twice as coarse."""
        shape = tuple(n // 2 for n in self.lattice.shape)
        cut = self.shares[1:, : 2 * shape[0], : 2 * shape[1], : 2 * shape[2]]
        blocks = np.zeros((len(cut), *shape), dtype=np.uint16)
        for i, j, k in np.ndindex(2, 2, 2):
            blocks += cut[:, i::2, j::2, k::2]
        spacing = self.lattice.spacing
        return blocks.astype(np.float32) / (8 * 255), Lattice(self.lattice.origin + spacing / 2, 2 * spacing, shape)

    def shares_at(self, points: np.ndarray) -> np.ndarray:
        """Return the partial volumes (8, ...) of the structures at points (..., 3), float32."""
        values, lattice = self.coarse
        return sample(values, lattice, points)

    def share_at(self, value: int, points: np.ndarray) -> np.ndarray:
        """Return one structure's partial volume (0 to 1) at points (..., 3), at the model's full resolution."""
        ends = np.array([(points[..., a].min() - 2.0, points[..., a].max() + 2.0) for a in range(3)])
        box = self.lattice.box(ends[:, 0], ends[:, 1])
        return sample(self.shares[(value, *box)][None], self.lattice.crop(box), points)[0] / np.float32(255)

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (uint8): the structure with the largest share of each voxel."""
        return largest(self.shares)

    @cached_property
    def boxes(self) -> dict[str, tuple[slice, slice, slice]]:
        """The bounding box of each structure that is present."""
        boxes = ndimage.find_objects(self.labels, max_label=NUM_CLASSES - 1)
        return {name: box for name, box in zip(NAMES, boxes, strict=True) if box is not None}

    @cached_property
    def volumes_ml(self) -> np.ndarray:
        """Volume (9,) of each class in mL."""
        return np.array([self.volume_ml(value) for value in range(NUM_CLASSES)])

    def volume_ml(self, value: int) -> float:
        """Return the volume of one class in mL."""
        return float(self.shares[value].sum(dtype=np.uint32)) / 255 * self.lattice.spacing**3 / 1000

    def points(self, name: str) -> np.ndarray:
        """Return the voxel centres (N, 3; mm) of a structure."""
        part = self.lattice.crop(self.boxes[name])
        return part.origin + part.spacing * np.argwhere(self.labels[self.boxes[name]] == VALUE[name])

    @cached_property
    def bottom_z(self) -> float:
        """Height of the chambers' lowest part, mm."""
        return float(np.quantile(np.concatenate([self.points(n)[:, 2] for n in ("MYO", "RV", "RA")]), 0.003))

    @cached_property
    def calibres_mm(self) -> dict[str, float]:
        """Diameters in mm of ascending aorta (AO), descending aorta (AO behind) and pulmonary trunk (PA)."""
        points, ground = self.points("AO"), self.points("LV")[:, 2].max()
        front = points[:, 1] > self.descending_y
        rising = points[front & (points[:, 2] > ground) & (points[:, 2] < ground + 35.0), 2]
        falling = points[~front & (points[:, 2] < ground + 25.0), 2]
        ascending = 0.95 * self._width(rising)  # horizontal sections of a slanting tube are larger
        descending = 0.98 * self._width(falling) if len(falling) > 300 else 0.75 * ascending
        trunk = ndimage.distance_transform_edt(np.pad(self.labels[self.boxes["PA"]] == VALUE["PA"], 1))
        trunk_mm = 2 * float(np.quantile(trunk[trunk > 0] - 0.3, 0.985)) * self.lattice.spacing
        return {"AO": ascending, "AO behind": descending, "PA": trunk_mm}

    def _width(self, heights: np.ndarray) -> float:
        """Return the median diameter (mm) of a vessel's horizontal sections, whose voxels have these ``heights``."""
        count = np.unique(np.rint(heights / self.lattice.spacing), return_counts=True)[1]
        return float(np.sqrt(4 / np.pi * np.median(count)) * self.lattice.spacing) if len(count) else 30.0

    @cached_property
    def descending_y(self) -> float:
        """The y (mm) behind which the aorta is its descending part."""
        return float(self.points("LA")[:, 1].mean()) - 8.0

    @cached_property
    def appendage_neck(self) -> tuple[np.ndarray, np.ndarray]:
        """Point (mm) where the appendage leaves the left atrium, and the unit vector from there into it."""
        atrium, appendage = self.points("LA"), self.points("LAA")
        away, _ = cKDTree(appendage).query(atrium)
        neck = atrium[away <= max(2.1, away.min() + 0.1)].mean(0)
        outward = appendage.mean(0) - neck
        return neck, outward / np.linalg.norm(outward)


def make_model(name: str, shares: np.ndarray, lattice: Lattice) -> HeartModel:
    """Return a model whose origin is the middle of its chambers and pulmonary artery."""
    total = sum(shares[VALUE[n]].astype(np.uint16) for n in (*HEART, "PA"))
    middle = lattice.origin + lattice.spacing * np.array(ndimage.center_of_mass(total))
    return HeartModel(name, shares, Lattice(lattice.origin - middle, lattice.spacing, lattice.shape))


class SharePainter:
    """Partial volumes (9, I, J, K; float32) to which solids are added one after the other, with soft edges."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.shares = np.zeros((NUM_CLASSES, *lattice.shape), dtype=np.float32)
        self.shares[0] = 1.0

    def paint(
        self, name: str, box: tuple[slice, slice, slice], distance: np.ndarray, only: tuple[str, ...] | None = None
    ) -> None:
        """Paint ``name`` where the signed ``distance`` (mm) is negative.

        With ``only`` it replaces background and these structures alone.
        """
        share = np.clip(0.5 - distance / self.lattice.spacing, 0.0, 1.0).astype(np.float32)
        here = self.shares[(slice(None), *box)]
        values = range(NUM_CLASSES) if only is None else [0, *(VALUE[n] for n in only)]
        taken = np.zeros_like(share)
        for value in values:
            part = here[value] * share
            here[value] -= part
            taken += part
        here[VALUE[name]] += taken

    def to_uint8(self) -> np.ndarray:
        """Return the partial volumes as uint8, 255 for a whole voxel. Overwrites ``shares``."""
        out = np.empty(self.shares.shape, dtype=np.uint8)
        for value, share in enumerate(self.shares):
            np.multiply(share, 255, out=share)
            np.add(share, 0.5, out=share)
            out[value] = share
        return out

"""A heart before it is bent: each structure's share of every voxel, and the measures that drawing needs."""

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
class Model:
    """Shares of the eight structures (9, I, J, K; uint8, 255 is all of it, background first) on a RAS lattice whose
    origin is the heart's middle."""

    name: str
    shares: np.ndarray
    lattice: Lattice

    @cached_property
    def coarse(self) -> tuple[np.ndarray, Lattice]:
        """Shares of the structures (8, I, J, K; float32, 0 to 1) on a lattice twice as coarse."""
        shape = tuple(n // 2 for n in self.lattice.shape)
        cut = self.shares[1:, : 2 * shape[0], : 2 * shape[1], : 2 * shape[2]]
        blocks = np.zeros((len(cut), *shape), dtype=np.uint16)
        for i, j, k in np.ndindex(2, 2, 2):
            blocks += cut[:, i::2, j::2, k::2]
        spacing = self.lattice.spacing
        return blocks.astype(np.float32) / (8 * 255), Lattice(self.lattice.origin + spacing / 2, 2 * spacing, shape)

    def shares_at(self, points: np.ndarray) -> np.ndarray:
        """Shares of the structures (8, ...) at points (..., 3), float32."""
        values, lattice = self.coarse
        return sample(values, lattice, points)

    def share_at(self, value: int, points: np.ndarray) -> np.ndarray:
        """One structure's share (0 to 1) at points (..., 3), at the model's full resolution."""
        ends = np.array([(points[..., a].min() - 2.0, points[..., a].max() + 2.0) for a in range(3)])
        box = self.lattice.box(ends[:, 0], ends[:, 1])
        return sample(self.shares[(value, *box)][None], self.lattice.part(box), points)[0] / np.float32(255)

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (uint8): the largest share of each voxel."""
        return largest(self.shares)

    @cached_property
    def boxes(self) -> dict[str, tuple[slice, slice, slice]]:
        """The box of voxels of each structure that has any."""
        found = ndimage.find_objects(self.labels, max_label=NUM_CLASSES - 1)
        return {name: box for name, box in zip(NAMES, found, strict=True) if box is not None}

    @cached_property
    def volumes_ml(self) -> np.ndarray:
        """(9,) volume of each class."""
        return np.array([self.volume_ml(value) for value in range(NUM_CLASSES)])

    def volume_ml(self, value: int) -> float:
        return float(self.shares[value].sum(dtype=np.uint32)) / 255 * self.lattice.spacing**3 / 1000

    def points(self, name: str) -> np.ndarray:
        """(N, 3) voxel centres of a structure."""
        part = self.lattice.part(self.boxes[name])
        return part.origin + part.spacing * np.argwhere(self.labels[self.boxes[name]] == VALUE[name])

    @cached_property
    def bottom(self) -> float:
        """z of the chambers' lowest part, mm."""
        return float(np.quantile(np.concatenate([self.points(n)[:, 2] for n in ("MYO", "RV", "RA")]), 0.003))

    @cached_property
    def calibre(self) -> dict[str, float]:
        """Width in mm of the ascending (AO) and descending aorta (AO behind) and of the pulmonary trunk (PA)."""
        points, ground = self.points("AO"), self.points("LV")[:, 2].max()
        front = points[:, 1] > self.behind
        rising = points[front & (points[:, 2] > ground) & (points[:, 2] < ground + 35.0), 2]
        falling = points[~front & (points[:, 2] < ground + 25.0), 2]
        ascending = 0.95 * self._width(rising)  # a slanting tube, cut level
        descending = 0.98 * self._width(falling) if len(falling) > 300 else 0.75 * ascending
        trunk = ndimage.distance_transform_edt(np.pad(self.labels[self.boxes["PA"]] == VALUE["PA"], 1))
        trunk_mm = 2 * float(np.quantile(trunk[trunk > 0] - 0.3, 0.985)) * self.lattice.spacing
        return {"AO": ascending, "AO behind": descending, "PA": trunk_mm}

    def _width(self, heights: np.ndarray) -> float:
        """Median diameter (mm) of the discs whose voxels have these ``heights``."""
        count = np.unique(np.rint(heights / self.lattice.spacing), return_counts=True)[1]
        return float(np.sqrt(4 / np.pi * np.median(count)) * self.lattice.spacing) if len(count) else 30.0

    @cached_property
    def behind(self) -> float:
        """The y (mm) behind which the aorta descends."""
        return float(self.points("LA")[:, 1].mean()) - 8.0

    @cached_property
    def neck(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the appendage leaves the left atrium (mm), and the unit vector from there into it."""
        atrium, appendage = self.points("LA"), self.points("LAA")
        away, _ = cKDTree(appendage).query(atrium)
        neck = atrium[away <= max(2.1, away.min() + 0.1)].mean(0)
        outward = appendage.mean(0) - neck
        return neck, outward / np.linalg.norm(outward)


def centred(name: str, shares: np.ndarray, lattice: Lattice) -> Model:
    """A model of shares whose lattice has any origin: its chambers' middle becomes the origin."""
    total = sum(shares[VALUE[n]].astype(np.uint16) for n in (*HEART, "PA"))
    middle = lattice.origin + lattice.spacing * np.array(ndimage.center_of_mass(total))
    return Model(name, shares, Lattice(lattice.origin - middle, lattice.spacing, lattice.shape))


class Paint:
    """Paints solids, given as signed distances, with soft edges over one another: (9, I, J, K) float32 shares."""

    def __init__(self, lattice: Lattice, shares: np.ndarray | None = None) -> None:
        self.lattice = lattice
        if shares is None:
            shares = np.zeros((NUM_CLASSES, *lattice.shape), dtype=np.float32)
            shares[0] = 1.0
        self.shares = shares

    def over(
        self, name: str, box: tuple[slice, slice, slice], distance: np.ndarray, only: tuple[str, ...] | None = None
    ) -> None:
        """Paint ``name`` where ``distance`` (mm) is negative; ``only`` over background and these structures."""
        share = np.clip(0.5 - distance / self.lattice.spacing, 0.0, 1.0).astype(np.float32)
        here = self.shares[(slice(None), *box)]
        values = range(NUM_CLASSES) if only is None else [0, *(VALUE[n] for n in only)]
        taken = np.zeros_like(share)
        for value in values:
            part = here[value] * share
            here[value] -= part
            taken += part
        here[VALUE[name]] += taken

    def as_bytes(self) -> np.ndarray:
        out = np.empty(self.shares.shape, dtype=np.uint8)
        for value, share in enumerate(self.shares):
            np.multiply(share, 255, out=share)
            np.add(share, 0.5, out=share)
            out[value] = share
        return out

"""Read the label map of a real trunk: lungs with their lobes, organs of the upper abdomen, airways, sternum.

The values are those of :data:`VALUES`. The map has no chambers: a virtual heart takes the place of its heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.files import read_volume

from ...errors import AnatomyError
from ..shapes import Lattice

#: Spacing of the level sets, mm, and the largest distance in them.
STEP_MM, FAR_MM = 3.0, 40.0
#: Values of the label map. A file may lack the veins and the appendage.
VALUES = {
    "heart": 1, "appendage": 2, "pulmonary veins": 3, "superior vena cava": 4, "inferior vena cava": 5, "aorta": 6,
    "left upper lobe": 7, "left lower lobe": 8, "right upper lobe": 9, "right middle lobe": 10,
    "right lower lobe": 11, "liver": 12, "oesophagus": 13, "trachea": 14, "sternum": 15, "spleen": 16, "stomach": 17,
}  # fmt: skip
LEFT_LOBES, RIGHT_LOBES = (7, 8), (9, 10, 11)
#: Structures whose level sets are kept, and the values that they consist of.
PARTS: dict[str, tuple[int, ...]] = {
    "left lung": LEFT_LOBES, "right lung": RIGHT_LOBES, "heart": (1, 2, 3, 4, 5, 6),
    **{name: (VALUES[name],) for name in ("left upper lobe", "left lower lobe", "right upper lobe",
                                          "right middle lobe", "right lower lobe", "liver", "spleen", "stomach",
                                          "sternum")},
}  # fmt: skip
NEEDED = ("heart", "aorta", "oesophagus", "trachea", *(name for name in PARTS if name in VALUES))


@dataclass(frozen=True)
class RealTrunk:
    """A label map ``labels`` (uint8, (I, J, K)) on a RAS ``lattice`` of 3 mm, named ``name``.

    ``levels`` (N, I, J, K; float32): depth in mm below the surface of each of ``PARTS``, negative outside.
    """

    name: str
    labels: np.ndarray
    lattice: Lattice
    levels: np.ndarray

    def points(self, *names: str) -> np.ndarray:
        """Return the voxel centres (N, 3; mm) of some structures of :data:`VALUES`."""
        inside = np.isin(self.labels, [VALUES[name] for name in names])
        return np.asarray(self.lattice.origin + self.lattice.spacing * np.argwhere(inside))


@lru_cache(maxsize=4)
def read_trunk(path: Path) -> RealTrunk:
    """Read a label map in any orientation. Raises :class:`AnatomyError` if it is not that of a trunk."""
    try:
        volume = read_volume(path)
    except VolumeError as error:
        raise AnatomyError(f"The trunk {path.name} cannot be read: {error}") from error
    values = np.unique(volume.array)
    if not np.isin(values, [0, *VALUES.values()]).all():
        raise AnatomyError(f"The trunk {path.name} has values other than 0 to {max(VALUES.values())}.")
    missing = [name for name in NEEDED if VALUES[name] not in values]
    if missing:
        raise AnatomyError(f"The trunk {path.name} lacks {', '.join(missing)}.")
    inside = np.argwhere(volume.array > 0)
    world = inside @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low = world.min(0) - 2 * STEP_MM
    lattice = Lattice(low, STEP_MM, tuple(np.ceil((world.max(0) - low) / STEP_MM).astype(int) + 3))
    to_index = np.linalg.inv(volume.affine)
    start = to_index[:3, :3] @ low + to_index[:3, 3]
    labels = ndimage.affine_transform(
        volume.array.astype(np.uint8), to_index[:3, :3] * STEP_MM, start, lattice.shape, order=0, mode="constant"
    )
    trunk = RealTrunk(path.name.split(".")[0], labels, lattice, _levels(labels))
    _check_shape(trunk, path.name)
    return trunk


def _levels(labels: np.ndarray) -> np.ndarray:
    """Return the level sets of :data:`PARTS`."""
    out = np.full((len(PARTS), *labels.shape), -FAR_MM, dtype=np.float32)
    ball = ndimage.generate_binary_structure(3, 1)
    reach = int(FAR_MM / STEP_MM)
    for level, values in zip(out, PARTS.values(), strict=True):
        mask, smooth = np.isin(labels, values), 0.8 if len(values) > 1 else 0.5
        if len(values) > 1:  # vessels and bronchi leave holes in lungs, walls gaps between chambers
            mask = ndimage.binary_closing(np.pad(mask, 3), ball, iterations=2)[3:-3, 3:-3, 3:-3]
            mask = ndimage.binary_fill_holes(mask)
        else:
            pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
            mask = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax() if count > 1 else mask
        spans = ndimage.find_objects(mask.astype(np.uint8))
        if not spans:
            continue
        box = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in spans[0])
        depth = ndimage.distance_transform_edt(mask[box]) - ndimage.distance_transform_edt(~mask[box])
        level[box] = np.clip(ndimage.gaussian_filter(depth * STEP_MM, smooth), -FAR_MM, FAR_MM)
    return out


def _check_shape(trunk: RealTrunk, name: str) -> None:
    """Raise AnatomyError for a trunk that is mirrored, upside down or not in millimetres."""
    heart, liver, spleen = (trunk.points(n).mean(0) for n in ("heart", "liver", "spleen"))
    height = np.ptp(trunk.points("left lower lobe", "left upper lobe")[:, 2])
    if not (120.0 < height < 450.0):
        raise AnatomyError(f"The trunk {name} is not an adult's in millimetres: its left lung is {height:.0f} mm high.")
    aorta, sternum = trunk.points("aorta").mean(0), trunk.points("sternum").mean(0)
    if not (liver[0] > spleen[0] and heart[2] > liver[2] and sternum[1] > aorta[1]):
        raise AnatomyError(f"The trunk {name} has a wrong orientation: correct it in its header.")

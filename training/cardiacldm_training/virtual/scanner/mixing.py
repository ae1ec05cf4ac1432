"""Unmixed contrast medium in the right heart: swirls, a stream from above, clear blood from below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..protocol import NATIVE_BLOOD_HU, ScanProtocol
from ..shapes import Lattice, smooth_field, smooth_path, tube_distance
from ..tissue import Tissue, tissue_mask

T = Tissue
#: Cavities and vessels with unmixed contrast medium.
MIXED = (T.RA, T.RV, T.PA, T.CAVA, T.INFERIOR_CAVA)
#: Lowest HU of unmixed blood, and most of the dense blood of the superior vena cava.
LOWEST_HU, DENSEST_HU = 20.0, 1200.0


@dataclass(frozen=True)
class RightHeart:
    """HU (changed in place) and tissues of the box around the right heart, both (I, J, K), on ``lattice``.

    ``slow`` and ``fine`` are noise by which the borders of streams curl.
    """

    image: np.ndarray
    tissue: np.ndarray
    lattice: Lattice
    slow: np.ndarray
    fine: np.ndarray

    def points(self, tissue: Tissue) -> np.ndarray:
        """Return the voxel centres (N, 3; mm) of a tissue."""
        return self.lattice.origin + self.lattice.spacing * np.argwhere(self.tissue == tissue)


def mix_contrast(
    image: np.ndarray, tissue: np.ndarray, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator
) -> None:
    """Add unmixed contrast medium to the right heart, less and less from atrium to pulmonary artery. In place.

    Level sets of a smooth field curl like stirred fluid, so the sine of a multiple of such a field gives streaks.
    """
    where = tissue_mask(tissue, MIXED)
    box = ndimage.find_objects(where.astype(np.uint8))
    if not box or protocol.mixing <= 0.02:
        return
    part, spacing = tissue[box[0]], lattice.spacing
    slow = smooth_field(rng, part.shape, rng.uniform(7, 15) / spacing)
    fine = smooth_field(rng, part.shape, rng.uniform(2.5, 5) / spacing)
    swirl = np.sin(rng.uniform(1.5, 4.0) * slow + rng.uniform(0.5, 1.6) * fine)
    blend = rng.uniform(0.4, 0.95)
    swirl *= 0.6 + 0.4 * np.tanh(2 * smooth_field(rng, part.shape, 16 / spacing))  # stirred in some regions only
    pattern = blend * swirl + (1 - blend) * np.clip(slow + 0.6 * fine, -1.7, 1.7)
    amount = np.zeros(max(Tissue) + 1, np.float32)
    decay = rng.uniform(0.25, 0.85)
    amount[[T.RA, T.RV, T.PA]] = 1.0, decay, 0.35 * decay**2
    amount[[T.CAVA, T.INFERIOR_CAVA]] = 0.35, 0.3
    image[box[0]] += protocol.mixing * np.maximum(image[box[0]] - NATIVE_BLOOD_HU, 30.0) * amount[part] * pattern
    heart = RightHeart(image[box[0]], part, lattice.crop(box[0]), slow, fine)
    if protocol.phase in ("arterial", "dual") and (part == T.RA).any():
        _add_clear_blood(heart, protocol, rng)
        if protocol.stream > 0.0:
            _add_stream(heart, protocol, rng)
    image[box[0]] = np.where(where[box[0]], np.maximum(image[box[0]], LOWEST_HU), image[box[0]])


def _add_clear_blood(heart: RightHeart, protocol: ScanProtocol, rng: np.random.Generator) -> None:
    """Layer the blood of the inferior vena cava, without contrast medium, below and behind in the atrium. In place."""
    atrium = heart.tissue == T.RA
    lean = np.deg2rad(rng.uniform(0.0, 75.0))  # 0: on the floor; 90: at the back, as in a patient who lies
    along = np.cos(lean) * heart.lattice.axis(2) + np.sin(lean) * heart.lattice.axis(1)
    along = np.broadcast_to(along, atrium.shape)
    low, high = np.quantile(along[atrium], (0.02, 0.98))
    up = (along - low) / max(high - low, 1.0) + rng.uniform(0.05, 0.22) * heart.slow + 0.04 * heart.fine
    share = min(protocol.mixing, 1.0) * rng.uniform(0.3, 1.0)
    if protocol.stream > 0.0:
        share = max(share, protocol.stream)
    clear = share / (1.0 + np.exp((up - rng.uniform(0.1, 0.55)) / rng.uniform(0.03, 0.1)))
    below = heart.image[heart.tissue == T.INFERIOR_CAVA]
    native = float(np.median(below)) if below.size else NATIVE_BLOOD_HU
    mixed = heart.image + clear * (native - heart.image)
    heart.image[atrium] = mixed[atrium]


def _add_stream(heart: RightHeart, protocol: ScanProtocol, rng: np.random.Generator) -> None:
    """Add the stream of dense blood from the superior vena cava through the tricuspid valve. In place."""
    atrium, ventricle = heart.points(T.RA), heart.points(T.RV)
    roof = atrium[atrium[:, 2] >= np.quantile(atrium[:, 2], 0.93)].mean(0)
    if not len(ventricle):
        return
    away = np.linalg.norm(atrium - ventricle.mean(0), axis=1)
    valve = atrium[away <= np.quantile(away, 0.06)].mean(0)
    middle = 0.5 * atrium.mean(0) + 0.25 * roof + 0.25 * valve + rng.normal(0, 4.0, 3)
    end = valve + 0.5 * (ventricle.mean(0) - valve)
    r = rng.uniform(5.0, 11.0)
    path = smooth_path([roof + [0, 0, 6], middle, valve, end], [r, 1.1 * r, 1.2 * r, 0.9 * r], step=2.0)
    margin = 6.0
    box, distance = tube_distance(heart.lattice, path, margin)
    if not distance.size:
        return
    curl = rng.uniform(1.5, 4.5) * heart.slow[box] + rng.uniform(1.0, 4.5) * heart.fine[box]
    share = protocol.stream / (1.0 + np.exp((distance + curl) / rng.uniform(0.6, 2.5)))
    share *= (distance < margin) * (1.0 - rng.uniform(0.0, 0.6) * np.clip(heart.fine[box], 0.0, 1.0))
    fading = np.zeros(max(Tissue) + 1, np.float32)
    fading[[T.RA, T.RV]] = 1.0, rng.uniform(0.1, 0.7)
    dense = NATIVE_BLOOD_HU + rng.uniform(0.6, 1.0) * (min(protocol.superior_cava_hu, DENSEST_HU) - NATIVE_BLOOD_HU)
    heart.image[box] += fading[heart.tissue[box]] * share * (dense - heart.image[box])

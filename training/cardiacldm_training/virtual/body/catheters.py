"""Catheters in the central veins and the heart, and ports under the skin. They change the image, never the labels."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..shapes import Lattice, unit
from ..tissue import Body, Tissue, tissue_mask
from .foreign import METAL_HU, BodyMap, ForeignBody

#: Share of ports on the patient's right, and of ports of metal (the others are of plastic); our estimates.
PORT_ON_RIGHT, PORT_OF_METAL = 0.85, 0.6
#: Tissues in which a port lies.
SOFT = (Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE, Tissue.BREAST)


def draw_catheter(body: Body, lattice: Lattice, kind: str, rng: np.random.Generator) -> list[ForeignBody]:
    """Draw a catheter of a kind in ``CATHETERS``; empty if it is ``none`` or its veins are not in the scan.

    A central one ends where the superior vena cava opens into the right atrium or a little beyond; so does that of a
    port, which begins at its reservoir under the skin of the chest; a pulmonary one runs through both right chambers
    into the pulmonary artery. Plastic made visible to X-rays has some hundred HU and is 2 to 3 mm thick.
    """
    body_map = BodyMap(body, lattice, rng)
    cava, atrium = body_map.tissue_voxels(Tissue.CAVA), body_map.structure_voxels("RA")
    if kind == "none" or len(cava) < 20 or not len(atrium):
        return []
    levels = np.quantile(cava[:, 2], np.linspace(1.0, 0.0, 6))
    way = [cava[np.abs(cava[:, 2] - z) <= 2.0].mean(0) for z in levels]
    way = [p + rng.normal(0, 1.0, 3) for p in way]
    port: list[ForeignBody] = []
    if kind != "pulmonary":
        way = way[: int(rng.integers(4, 7))] + ([0.5 * (way[-1] + atrium.mean(0))] if rng.random() < 0.4 else [])
        if kind == "port":
            port, tunnel = _draw_port(body_map, way[0])
            way = tunnel + way
    else:
        ventricle, artery = body_map.structure_voxels("RV"), body_map.structure_voxels("PA")
        if not len(ventricle) or not len(artery):
            return []
        root = artery[artery[:, 1] >= np.quantile(artery[:, 1], 0.9)].mean(0)
        side = artery[artery[:, 0] >= np.quantile(artery[:, 0], 0.85)].mean(0)
        way += [atrium.mean(0), ventricle.mean(0), 0.4 * ventricle.mean(0) + 0.6 * root, artery.mean(0), side]
    tube = body_map.make_tube(body_map.to_mm(np.array(way)), rng.uniform(0.9, 1.5), rng.uniform(250.0, 1200.0))
    return [tube, *port]


def _draw_port(body_map: BodyMap, entry: np.ndarray) -> tuple[list[ForeignBody], list[np.ndarray]]:
    """Draw a port's reservoir, and the way (voxels) of its catheter from there under the skin to ``entry``.

    Both are empty if the scan does not show a place for it. A reservoir is a drum of 24 to 32 mm with a wall of metal
    or plastic around a chamber with fluid, whose lid faces the skin.
    """
    rng, lattice = body_map.rng, body_map.lattice
    side = 1.0 if rng.random() < PORT_ON_RIGHT else -1.0
    radius, half = rng.uniform(11.0, 16.0), rng.uniform(5.0, 7.0)
    middle = _find_pocket(body_map, side, half + rng.uniform(2.5, 6.0))
    if middle is None:
        return [], []
    centre, normal = middle
    reach = radius + 2.0
    box = lattice.box(centre - reach, centre + reach)
    local = lattice.crop(box)
    offset = local.points() - centre.astype(np.float32)
    along = np.abs(offset @ normal.astype(np.float32))
    across = np.linalg.norm(offset - (offset @ normal.astype(np.float32))[..., None] * normal, axis=-1)
    drum = np.minimum(half - along, radius - across)
    free = tissue_mask(body_map.body.tissue[box], SOFT)
    wall = max(rng.uniform(1.2, 2.4), 0.9 * lattice.spacing)
    hu = METAL_HU * rng.uniform(0.3, 0.8) if rng.random() < PORT_OF_METAL else rng.uniform(180.0, 700.0)
    start = np.array([s.start for s in box])
    parts = [ForeignBody(np.argwhere((drum > 0) & (drum <= wall) & free) + start, float(hu)),
             ForeignBody(np.argwhere((drum > wall) & free) + start, float(rng.uniform(0.0, 160.0)))]  # fmt: skip
    top = lattice.index(centre + [-0.5 * side * radius, -2.0, radius])
    over = 0.5 * (top + entry) + [0.0, 12.0 / lattice.spacing, 14.0 / lattice.spacing]
    return [p for p in parts if len(p.where)], [top, 0.5 * (top + over), over]


def _find_pocket(body_map: BodyMap, side: float, depth: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return middle (mm) and outward normal of a port ``depth`` mm under the skin; None if its site is not in the scan.

    Its site is below the collar bone, between breastbone and shoulder.
    """
    rng, lattice, tissue = body_map.rng, body_map.lattice, body_map.body.tissue
    cava = body_map.to_mm(body_map.tissue_voxels(Tissue.CAVA))
    at = np.array([np.median(cava[:, 0]) - 18.0 + side * rng.uniform(55.0, 85.0), 0.0,
                   cava[:, 2].max() + rng.uniform(-45.0, 5.0)])  # fmt: skip
    heights = []
    for dx, dz in ((0.0, 0.0), (8.0, 0.0), (-8.0, 0.0), (0.0, 8.0), (0.0, -8.0)):
        i, _, k = np.rint(lattice.index(at + [dx, 0.0, dz])).astype(int)
        if not (0 <= i < lattice.shape[0] and 0 <= k < lattice.shape[2]):
            return None
        inside = np.flatnonzero(ndimage.binary_opening(tissue_mask(tissue[i, :, k], SOFT), iterations=1))
        if not len(inside):
            return None
        heights.append(float(lattice.origin[1] + lattice.spacing * inside[-1]))
    normal = unit([-(heights[1] - heights[2]) / 16.0, 1.0, -(heights[3] - heights[4]) / 16.0])
    surface = at + [0.0, float(np.median(heights)), 0.0]
    if surface[1] < cava[:, 1].mean() or surface[1] > lattice.origin[1] + lattice.spacing * (lattice.shape[1] - 3):
        return None  # behind the vessels, or cut by the scan's edge
    return surface - depth * normal, normal

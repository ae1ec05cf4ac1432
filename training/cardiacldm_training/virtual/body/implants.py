"""Calcifications and implants. They change the image, never the labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from ..protocol import ScanProtocol
from ..shapes import Lattice, perpendicular, unit
from ..tissue import Body, Tissue
from .foreign import METAL_HU, BodyMap, ForeignBody


def draw_calcium(body: Body, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator) -> list[ForeignBody]:
    """Draw the calcifications of one patient, where the scan contains their sites."""
    body_map = BodyMap(body, lattice, rng)
    bodies: list[ForeignBody] = []
    if protocol.calcium:
        chosen = rng.random(len(CALCIFICATIONS)) < (0.6, 0.5, 0.18, 0.2)
        for source, here in zip(CALCIFICATIONS, chosen, strict=True):
            if here:
                bodies += source(body_map)
    if protocol.calcified_arch:
        bodies += _calcify_arch(body_map)
    return [one for one in bodies if len(one.where)]


def draw_implant(body: Body, lattice: Lattice, kind: str, rng: np.random.Generator) -> list[ForeignBody]:
    """Draw an implant of a kind in ``IMPLANTS``; empty for ``none``, or if its site is not in the scan."""
    bodies = IMPLANT_SHAPES[kind](BodyMap(body, lattice, rng)) if kind != "none" else []
    return [one for one in bodies if len(one.where)]


# --- calcifications ------------------------------------------------------------------------------------------------


def _draw_grains(
    body_map: BodyMap, voxels: np.ndarray, most: int, radius: tuple[float, float], run: float
) -> list[ForeignBody]:
    """Draw up to ``most`` plaques on some of ``voxels`` (N, 3), each a run of grains of up to ``run`` mm."""
    if not len(voxels):
        return []
    rng, bodies = body_map.rng, []
    for _ in range(int(rng.integers(1, most + 1))):
        seed = voxels[rng.integers(len(voxels))]
        close = voxels[np.linalg.norm(voxels - seed, axis=1) * body_map.lattice.spacing < rng.uniform(0.3, 1.0) * run]
        for voxel in close[rng.random(len(close)) < 0.35][:40]:
            bodies.append(
                body_map.make_grain(voxel, rng.uniform(*radius), float(np.clip(rng.normal(750, 300), 200, 1500)))
            )
    return bodies


def _calcify_coronaries(body_map: BodyMap) -> list[ForeignBody]:
    return _draw_grains(body_map, body_map.tissue_voxels(Tissue.CORONARY_ARTERY), 6, (0.5, 1.4), 7.0)


def _aortic_rim(body_map: BodyMap) -> np.ndarray:
    """Return the voxels (N, 3) on the surface of the aorta."""
    box = body_map.boxes[VALUE["AO"] - 1]
    if box is None:
        return np.empty((0, 3), dtype=int)
    inside = body_map.body.labels[box] == VALUE["AO"]
    return np.argwhere(inside & ~ndimage.binary_erosion(inside, border_value=1)) + [s.start for s in box]


def _calcify_arch(body_map: BodyMap) -> list[ForeignBody]:
    """Draw many long plaques on the arch and what follows it, as in the old."""
    rim = _aortic_rim(body_map)
    if not len(rim):
        return []
    depth = (rim[:, 2].max() - rim[:, 2]) * body_map.lattice.spacing
    arch = rim[depth < body_map.rng.uniform(30.0, 60.0)]
    return [one for _ in range(3) for one in _draw_grains(body_map, arch, 18, (1.0, 2.6), 16.0)]


def _calcify_aortic_wall(body_map: BodyMap) -> list[ForeignBody]:
    """Draw plaques on the surface of the aorta."""
    rim = _aortic_rim(body_map)
    most = 8 if body_map.rng.random() < 0.7 else 40  # in some patients the whole arch is calcified
    return _draw_grains(body_map, rim, most, (0.5, 1.6), 9.0)


def _calcify_mitral_annulus(body_map: BodyMap) -> list[ForeignBody]:
    """Draw plaques along the rim of the plane where left atrium and ventricle meet."""
    plane = body_map.contact_voxels("LA", "LV")
    if not len(plane):
        return []
    away = np.linalg.norm(plane - plane.mean(0), axis=1)
    return _draw_grains(body_map, plane[away > np.quantile(away, 0.75)], 3, (0.8, 2.6), 18.0)


def _calcify_aortic_valve(body_map: BodyMap) -> list[ForeignBody]:
    return _draw_grains(body_map, body_map.contact_voxels("AO", "LV"), 4, (0.6, 2.0), 6.0)


CALCIFICATIONS: tuple[Callable[[BodyMap], list[ForeignBody]], ...] = (
    _calcify_coronaries, _calcify_aortic_wall, _calcify_mitral_annulus, _calcify_aortic_valve,
)  # fmt: skip


# --- implants ------------------------------------------------------------------------------------------------------


def _make_leads(body_map: BodyMap) -> list[ForeignBody]:
    """Draw leads of a pacemaker or defibrillator: to the right ventricle's apex, often also to the right atrium."""
    cava, atrium, ventricle = (
        body_map.tissue_voxels(Tissue.CAVA),
        body_map.structure_voxels("RA"),
        body_map.structure_voxels("RV"),
    )
    if not len(cava) or not len(atrium) or not len(ventricle):
        return []
    rng, to_mm = body_map.rng, body_map.to_mm
    top = cava[cava[:, 2] >= np.quantile(cava[:, 2], 0.9)].mean(0)
    low = cava[cava[:, 2] <= np.quantile(cava[:, 2], 0.15)].mean(0)
    away = ventricle - atrium.mean(0) - [0, 0, 0.6] * (ventricle[:, 2:3] - atrium.mean(0)[2])
    apex = ventricle[np.linalg.norm(away, axis=1) >= np.quantile(np.linalg.norm(away, axis=1), 0.995)].mean(0)
    middle = 0.55 * atrium.mean(0) + 0.45 * ventricle.mean(0)
    sag = rng.normal(0, 2.0, 3)
    way = [top, low, atrium.mean(0) + sag, middle + [0, 0, -rng.uniform(0, 6)], 0.9 * apex + 0.1 * ventricle.mean(0)]
    bodies = [body_map.make_tube(to_mm(np.array(way)), 1.0)]
    if rng.random() < 0.4:  # a defibrillator's coil
        bodies.append(body_map.make_tube(to_mm(np.array(way[3:])), 1.8))
    if rng.random() < 0.6:
        front = atrium[atrium[:, 1] >= np.quantile(atrium[:, 1], 0.98)].mean(0)
        bend = 0.5 * atrium.mean(0) + 0.5 * front - [0, 0, 3]
        bodies.append(body_map.make_tube(to_mm(np.array([top + 2, low + 1, bend, front])), 0.9))
    return bodies


def _make_valve(body_map: BodyMap) -> list[ForeignBody]:
    """Draw the ring of an aortic or mitral prosthesis; mechanical ones have two leaflets."""
    rng = body_map.rng
    upper = "AO" if rng.random() < 0.65 else "LA"
    plane = body_map.to_mm(body_map.contact_voxels(upper, "LV"))
    if len(plane) < 8:
        return []
    centre, normal = plane.mean(0), np.linalg.svd(plane - plane.mean(0), full_matrices=False)[2][2]
    radius = float(np.clip(np.median(np.linalg.norm(plane - centre, axis=1)) * 1.3, 9.0, 16.0))
    first = perpendicular([0.3, 1.0, 0.2], unit(normal))
    second = np.cross(unit(normal), first)
    turn = np.linspace(0, 2 * np.pi, 25)[:, None]
    ring = centre + radius * (np.cos(turn) * first + np.sin(turn) * second)
    bodies = [body_map.make_tube(ring, rng.uniform(0.8, 1.8), METAL_HU * rng.uniform(0.5, 1.0))]
    if rng.random() < 0.5:
        lean = 0.5 * radius * unit(normal)
        for side in (-1.0, 1.0):
            leaf = [centre + side * 2 * first - s * second * radius * 0.7 + lean * (1 - abs(s)) for s in (-1, 0, 1)]
            bodies.append(body_map.make_tube(np.array(leaf), 0.8, METAL_HU * 0.7))
    return bodies


def _make_stent(body_map: BodyMap) -> list[ForeignBody]:
    """Draw a stent graft of the aorta or one to three coronary stents."""
    return (_make_stent_graft(body_map) if body_map.rng.random() < 0.35 else []) or _make_coronary_stents(body_map)


def _make_stent_graft(body_map: BodyMap) -> list[ForeignBody]:
    """Draw the zigzag rings of a stent graft on the wall of the descending aorta."""
    rng, aorta, atrium = body_map.rng, body_map.structure_voxels("AO"), body_map.structure_voxels("LA")
    if not len(atrium):
        return []
    behind = body_map.to_mm(aorta[aorta[:, 1] < atrium[:, 1].mean() - 8.0 / body_map.lattice.spacing])
    if len(behind) * body_map.lattice.spacing**3 < 8000.0:
        return []
    top = behind[:, 2].max() - rng.uniform(6.0, 20.0)
    turn, bodies = np.linspace(0, 2 * np.pi, 33), []
    zigzag = rng.uniform(2.0, 4.0) * np.abs((turn * 4 / np.pi) % 2 - 1)
    for z in np.arange(top, max(top - rng.uniform(80.0, 180.0), behind[:, 2].min() + 4.0), -rng.uniform(9.0, 14.0)):
        section = behind[np.abs(behind[:, 2] - z) < body_map.lattice.spacing]
        if len(section) < 12:
            continue
        radius = np.clip(2.0 * section[:, :2].std(0).mean(), 6.0, 22.0)
        ring = section.mean(0) + np.column_stack([radius * np.cos(turn), radius * np.sin(turn), zigzag])
        bodies.append(body_map.make_tube(ring, 0.35))
    return bodies


def _make_coronary_stents(body_map: BodyMap) -> list[ForeignBody]:
    """Draw one to three stents: pieces of coronary artery whose voxels hold blood and metal mesh."""
    artery = body_map.tissue_voxels(Tissue.CORONARY_ARTERY)
    if not len(artery):
        return []
    rng, bodies = body_map.rng, []
    for _ in range(int(rng.integers(1, 4))):
        seed = artery[rng.integers(len(artery))]
        close = np.linalg.norm(artery - seed, axis=1) * body_map.lattice.spacing < rng.uniform(5.0, 12.0)
        bodies.append(ForeignBody(artery[close], float(rng.uniform(800, 1700))))
    return bodies


def _make_wires(body_map: BodyMap) -> list[ForeignBody]:
    """Draw sternal wires: loops around the sternum after surgery."""
    heart = body_map.to_mm(body_map.structure_voxels("RV"))
    bone = body_map.to_mm(body_map.tissue_voxels(Tissue.BONE, Tissue.MARROW))
    if not len(heart) or not len(bone):
        return []
    rng = body_map.rng
    front = bone[(bone[:, 1] > heart[:, 1].max() - 12) & (bone[:, 2] > heart[:, 2].mean() - 20)]
    if len(front) < 30:
        return []
    middle = float(np.median(front[front[:, 1] >= np.quantile(front[:, 1], 0.6), 0]))
    sternum = front[np.abs(front[:, 0] - middle) < 24]
    bodies = []
    for z in np.arange(sternum[:, 2].min() + 8, sternum[:, 2].max(), rng.uniform(20, 28)):
        here = sternum[np.abs(sternum[:, 2] - z) < 3]
        if len(here) < 6:
            continue
        low, high = np.quantile(here[:, :2], 0.05, axis=0) - 2, np.quantile(here[:, :2], 0.95, axis=0) + 2
        half, centre = np.minimum((high - low) / 2, (17.0, 10.0)), (high + low) / 2
        turn = np.linspace(0, 2 * np.pi, 17) + rng.uniform(0, 6)
        loop = np.column_stack([centre[0] + half[0] * np.cos(turn), centre[1] + half[1] * np.sin(turn),
                                z + rng.normal(0, 1.5) + 3 * np.cos(turn + rng.uniform(0, 6))])  # fmt: skip
        bodies.append(body_map.make_tube(loop, 0.5))
    return bodies


def _make_clips(body_map: BodyMap) -> list[ForeignBody]:
    """Draw surgical clips in front of the heart, as after bypass surgery."""
    heart, fat = body_map.to_mm(body_map.structure_voxels("RV")), body_map.tissue_voxels(Tissue.FAT, Tissue.PERICARDIUM)
    if not len(heart) or not len(fat):
        return []
    rng, points = body_map.rng, body_map.to_mm(fat)
    front = points[(np.abs(points - heart.mean(0)) < [55, 60, 70]).all(1) & (points[:, 1] > heart[:, 1].mean())]
    if not len(front):
        return []
    bodies = []
    for start in front[rng.integers(len(front), size=int(rng.integers(3, 10)))]:
        along = unit(rng.standard_normal(3))
        bodies.append(body_map.make_tube(np.array([start, start + rng.uniform(3, 6) * along]), 0.6))
    return bodies


IMPLANT_SHAPES: dict[str, Callable[[BodyMap], list[ForeignBody]]] = {
    "leads": _make_leads, "valve": _make_valve, "stent": _make_stent, "wires": _make_wires, "clips": _make_clips,
}  # fmt: skip

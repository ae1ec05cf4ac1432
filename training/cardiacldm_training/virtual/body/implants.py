"""What is harder than bone: calcifications and implants. They change the image, never the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import VALUE

from ..protocol import Scan
from ..shapes import Lattice, inside_tube, perpendicular, smooth_path, unit
from ..tissue import Body, Tissue

#: HU of metal, far beyond what is stored: what blur leaves of it in the voxels around is stored as blooming.
METAL_HU = 8000.0


@dataclass(frozen=True)
class Foreign:
    """A foreign body: voxels (N, 3) and the HU that fill them."""

    where: np.ndarray
    hu: float


def draw_calcium(body: Body, lattice: Lattice, protocol: Scan, rng: np.random.Generator) -> list[Foreign]:
    """Calcifications of one patient, as far as the scan holds the places for them."""
    place = _Place(body, lattice, rng)
    found: list[Foreign] = []
    if protocol.calcium:
        chosen = rng.random(len(CALCIFIED)) < (0.6, 0.5, 0.18, 0.2)
        for source, here in zip(CALCIFIED, chosen, strict=True):
            if here:
                found += source(place)
    return [one for one in found if len(one.where)]


def draw_implant(body: Body, lattice: Lattice, kind: str, rng: np.random.Generator) -> list[Foreign]:
    """An implant of one of the kinds in ``IMPLANTS``; empty for ``none``, or if its place is not in the scan."""
    found = IMPLANTED[kind](_Place(body, lattice, rng)) if kind != "none" else []
    return [one for one in found if len(one.where)]


def paint(image: np.ndarray, foreign: Iterable[Foreign]) -> None:
    """Put foreign bodies into an image of HU. In place."""
    for one in foreign:
        image[tuple(one.where.T)] = one.hu


class _Place:
    """Finds places in one body."""

    def __init__(self, body: Body, lattice: Lattice, rng: np.random.Generator) -> None:
        self.body, self.lattice, self.rng = body, lattice, rng
        self.boxes = ndimage.find_objects(body.labels, max_label=max(VALUE.values()))

    def mm(self, voxels: np.ndarray) -> np.ndarray:
        return self.lattice.origin + self.lattice.spacing * voxels

    def of(self, *codes: Tissue) -> np.ndarray:
        """(N, 3) voxels of these tissues."""
        table = np.zeros(256, dtype=bool)
        table[list(codes)] = True
        return np.argwhere(table[self.body.tissue])

    def structure(self, name: str) -> np.ndarray:
        """(N, 3) voxels of a labelled structure."""
        box = self.boxes[VALUE[name] - 1]
        if box is None:
            return np.empty((0, 3), dtype=int)
        return np.argwhere(self.body.labels[box] == VALUE[name]) + [s.start for s in box]

    def contact(self, first: str, second: str) -> np.ndarray:
        """(N, 3) voxels of the first structure within two voxels of the second."""
        box = self.boxes[VALUE[first] - 1]
        if box is None:
            return np.empty((0, 3), dtype=int)
        wide = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
        part = self.body.labels[wide]
        near = ndimage.binary_dilation(part == VALUE[second], iterations=2)
        return np.argwhere(near & (part == VALUE[first])) + [s.start for s in wide]

    def tube(self, points: np.ndarray, radius: float, hu: float = METAL_HU) -> Foreign:
        """A thin tube along a path, at least one voxel thick; thinner ones keep their amount of metal."""
        thick = max(radius, 0.62 * self.lattice.spacing)
        path = smooth_path(points, [thick] * len(points), step=0.7 * self.lattice.spacing)
        box, mask = inside_tube(self.lattice, path)
        thinned = min(1.0, (radius / thick) ** 1.2)
        return Foreign(np.argwhere(mask) + [s.start for s in box], hu * thinned)

    def blob(self, voxel: np.ndarray, radius: float, hu: float) -> Foreign:
        """A ragged grain around a voxel."""
        reach = int(np.ceil(radius / self.lattice.spacing))
        ball = np.argwhere(np.ones((2 * reach + 1,) * 3)) - reach
        size = np.linalg.norm(ball, axis=1) * self.lattice.spacing * self.rng.uniform(0.7, 1.5, len(ball))
        where = ball[size <= radius] + voxel
        inside = ((where >= 0) & (where < self.body.tissue.shape)).all(1)
        small = min(1.0, (radius / (0.6 * self.lattice.spacing)) ** 2)
        return Foreign(where[inside], hu * small)


# --- calcifications ------------------------------------------------------------------------------------------------


def _grains(place: _Place, voxels: np.ndarray, most: int, radius: tuple[float, float], run: float) -> list[Foreign]:
    """Grains on some of the voxels, in runs of ``run`` mm: plaques follow what they sit on."""
    if not len(voxels):
        return []
    rng, found = place.rng, []
    for _ in range(int(rng.integers(1, most + 1))):
        seed = voxels[rng.integers(len(voxels))]
        close = voxels[np.linalg.norm(voxels - seed, axis=1) * place.lattice.spacing < rng.uniform(0.3, 1.0) * run]
        for voxel in close[rng.random(len(close)) < 0.35][:40]:
            found.append(place.blob(voxel, rng.uniform(*radius), float(np.clip(rng.normal(750, 300), 200, 1500))))
    return found


def _in_coronaries(place: _Place) -> list[Foreign]:
    return _grains(place, place.of(Tissue.CORONARY_ARTERY), 6, (0.5, 1.4), 7.0)


def _in_aortic_wall(place: _Place) -> list[Foreign]:
    """Plaques on the rim of arch, root and descending aorta."""
    box = place.boxes[VALUE["AO"] - 1]
    if box is None:
        return []
    inside = place.body.labels[box] == VALUE["AO"]
    rim = np.argwhere(inside & ~ndimage.binary_erosion(inside, border_value=1)) + [s.start for s in box]
    return _grains(place, rim, 8, (0.5, 1.6), 9.0)


def _on_mitral_annulus(place: _Place) -> list[Foreign]:
    """Along the rim of the plane where left atrium and ventricle meet."""
    plane = place.contact("LA", "LV")
    if not len(plane):
        return []
    away = np.linalg.norm(plane - plane.mean(0), axis=1)
    return _grains(place, plane[away > np.quantile(away, 0.75)], 3, (0.8, 2.6), 18.0)


def _on_aortic_valve(place: _Place) -> list[Foreign]:
    return _grains(place, place.contact("AO", "LV"), 4, (0.6, 2.0), 6.0)


CALCIFIED: tuple[Callable[[_Place], list[Foreign]], ...] = (
    _in_coronaries, _in_aortic_wall, _on_mitral_annulus, _on_aortic_valve,
)  # fmt: skip


# --- implants ------------------------------------------------------------------------------------------------------


def _leads(place: _Place) -> list[Foreign]:
    """Pacemaker or defibrillator: through the superior cava to the right ventricle's apex, often one to the atrium."""
    cava, atrium, ventricle = place.of(Tissue.CAVA), place.structure("RA"), place.structure("RV")
    if not len(cava) or not len(atrium) or not len(ventricle):
        return []
    rng, mm = place.rng, place.mm
    top = cava[cava[:, 2] >= np.quantile(cava[:, 2], 0.9)].mean(0)
    low = cava[cava[:, 2] <= np.quantile(cava[:, 2], 0.15)].mean(0)
    away = ventricle - atrium.mean(0) - [0, 0, 0.6] * (ventricle[:, 2:3] - atrium.mean(0)[2])
    apex = ventricle[np.linalg.norm(away, axis=1) >= np.quantile(np.linalg.norm(away, axis=1), 0.995)].mean(0)
    middle = 0.55 * atrium.mean(0) + 0.45 * ventricle.mean(0)
    sag = rng.normal(0, 2.0, 3)
    way = [top, low, atrium.mean(0) + sag, middle + [0, 0, -rng.uniform(0, 6)], 0.9 * apex + 0.1 * ventricle.mean(0)]
    found = [place.tube(mm(np.array(way)), 1.0)]
    if rng.random() < 0.4:  # a defibrillator's coil
        found.append(place.tube(mm(np.array(way[3:])), 1.8))
    if rng.random() < 0.6:
        front = atrium[atrium[:, 1] >= np.quantile(atrium[:, 1], 0.98)].mean(0)
        bend = 0.5 * atrium.mean(0) + 0.5 * front - [0, 0, 3]
        found.append(place.tube(mm(np.array([top + 2, low + 1, bend, front])), 0.9))
    return found


def _valve(place: _Place) -> list[Foreign]:
    """The ring of an aortic or mitral prosthesis; mechanical ones have two leaves."""
    rng = place.rng
    upper = "AO" if rng.random() < 0.65 else "LA"
    plane = place.mm(place.contact(upper, "LV"))
    if len(plane) < 8:
        return []
    centre, normal = plane.mean(0), np.linalg.svd(plane - plane.mean(0), full_matrices=False)[2][2]
    radius = float(np.clip(np.median(np.linalg.norm(plane - centre, axis=1)) * 1.3, 9.0, 16.0))
    first = perpendicular([0.3, 1.0, 0.2], unit(normal))
    second = np.cross(unit(normal), first)
    turn = np.linspace(0, 2 * np.pi, 25)[:, None]
    ring = centre + radius * (np.cos(turn) * first + np.sin(turn) * second)
    found = [place.tube(ring, rng.uniform(0.8, 1.8), METAL_HU * rng.uniform(0.5, 1.0))]
    if rng.random() < 0.5:
        lean = 0.5 * radius * unit(normal)
        for side in (-1.0, 1.0):
            leaf = [centre + side * 2 * first - s * second * radius * 0.7 + lean * (1 - abs(s)) for s in (-1, 0, 1)]
            found.append(place.tube(np.array(leaf), 0.8, METAL_HU * 0.7))
    return found


def _stent(place: _Place) -> list[Foreign]:
    """One to three stretches of coronary artery with a metal mesh: blood and metal share the voxels."""
    artery = place.of(Tissue.CORONARY_ARTERY)
    if not len(artery):
        return []
    rng, found = place.rng, []
    for _ in range(int(rng.integers(1, 4))):
        seed = artery[rng.integers(len(artery))]
        close = np.linalg.norm(artery - seed, axis=1) * place.lattice.spacing < rng.uniform(5.0, 12.0)
        found.append(Foreign(artery[close], float(rng.uniform(800, 1700))))
    return found


def _wires(place: _Place) -> list[Foreign]:
    """Loops around the sternum after surgery."""
    heart = place.mm(place.structure("RV"))
    bone = place.mm(place.of(Tissue.BONE, Tissue.MARROW))
    if not len(heart) or not len(bone):
        return []
    rng = place.rng
    front = bone[(bone[:, 1] > heart[:, 1].max() - 12) & (bone[:, 2] > heart[:, 2].mean() - 20)]
    if len(front) < 30:
        return []
    middle = float(np.median(front[front[:, 1] >= np.quantile(front[:, 1], 0.6), 0]))
    sternum = front[np.abs(front[:, 0] - middle) < 24]
    found = []
    for z in np.arange(sternum[:, 2].min() + 8, sternum[:, 2].max(), rng.uniform(20, 28)):
        here = sternum[np.abs(sternum[:, 2] - z) < 3]
        if len(here) < 6:
            continue
        low, high = np.quantile(here[:, :2], 0.05, axis=0) - 2, np.quantile(here[:, :2], 0.95, axis=0) + 2
        half, centre = np.minimum((high - low) / 2, (17.0, 10.0)), (high + low) / 2
        turn = np.linspace(0, 2 * np.pi, 17) + rng.uniform(0, 6)
        loop = np.column_stack([centre[0] + half[0] * np.cos(turn), centre[1] + half[1] * np.sin(turn),
                                z + rng.normal(0, 1.5) + 3 * np.cos(turn + rng.uniform(0, 6))])  # fmt: skip
        found.append(place.tube(loop, 0.5))
    return found


def _clips(place: _Place) -> list[Foreign]:
    """Surgical clips along the front of the heart, as after a bypass."""
    heart, fat = place.mm(place.structure("RV")), place.of(Tissue.FAT, Tissue.PERICARDIUM)
    if not len(heart) or not len(fat):
        return []
    rng, points = place.rng, place.mm(fat)
    front = points[(np.abs(points - heart.mean(0)) < [55, 60, 70]).all(1) & (points[:, 1] > heart[:, 1].mean())]
    if not len(front):
        return []
    found = []
    for start in front[rng.integers(len(front), size=int(rng.integers(3, 10)))]:
        along = unit(rng.standard_normal(3))
        found.append(place.tube(np.array([start, start + rng.uniform(3, 6) * along]), 0.6))
    return found


IMPLANTED: dict[str, Callable[[_Place], list[Foreign]]] = {
    "leads": _leads, "valve": _valve, "stent": _stent, "wires": _wires, "clips": _clips,
}  # fmt: skip

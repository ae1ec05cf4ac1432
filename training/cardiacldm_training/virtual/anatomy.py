"""Virtual hearts: parametric shapes or template label maps, bent by random smooth invertible deformations.

Coordinates are RAS millimetres with the heart's centre near the origin. Every heart that leaves this module has all
eight structures, each in one piece, touching what it should and nothing that it should not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import cc3d
import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import FORBIDDEN_CONTACTS, NAMES, NUM_CLASSES, REQUIRED_CONTACTS, VALUE
from CardiacLDMLib.volume import Grid, Volume, VolumeError, read_volume, resample

from .shapes import (
    Deformation,
    Lattice,
    ellipsoid,
    exponential,
    inside_tube,
    perpendicular,
    rotation,
    smallest_jacobian,
    smooth_field,
    smooth_path,
    unit,
)

#: Half the side of the cube around the heart in which labels are drawn, mm: the arch and the hila fit in.
REACH_MM = 115.0
#: Distance below which two structures count as touching, mm (walls between blood pools are background).
CONTACT_MM = 2.0
#: What remains between two structures that must not touch, mm; a little more than a contact.
GAP_MM = 3.2
#: Fewest millilitres of each structure in a usable heart.
SMALLEST_ML = {"LA": 12, "LV": 25, "RA": 15, "RV": 30, "MYO": 40, "AO": 20, "PA": 12, "LAA": 1.0}

LV, MYO = VALUE["LV"], VALUE["MYO"]


class AnatomyError(ValueError):
    """A template folder that cannot be used; one sentence."""


@dataclass(frozen=True)
class Heart:
    """Labels (uint8) on ``lattice`` and where they came from (``parametric`` or the template's name)."""

    labels: np.ndarray
    lattice: Lattice
    source: str
    sex: str = "female"
    findings: tuple[str, ...] = ()
    appendage: str = ""
    measures: dict[str, float] = field(default_factory=dict)

    def centre(self, name: str) -> np.ndarray:
        """Centre of mass of a structure, mm."""
        index = np.argwhere(self.labels == VALUE[name]).mean(0)
        return self.lattice.origin + self.lattice.spacing * index

    def extreme(self, name: str, direction: np.ndarray, quantile: float = 0.99) -> np.ndarray:
        """Middle of the part of a structure that reaches furthest along ``direction``, mm."""
        points = self.lattice.origin + self.lattice.spacing * np.argwhere(self.labels == VALUE[name])
        along = points @ direction
        return points[along >= np.quantile(along, quantile)].mean(0)


@dataclass(frozen=True)
class Anatomies:
    """Where hearts come from: the share drawn from template files, and how strongly all are bent (1: adult range)."""

    templates: list[Path] = field(default_factory=list)
    template_share: float = 0.7
    deformation: float = 1.0


# --- the parametric heart ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Measures of one parametric heart, mm. Drawn by :func:`draw_shape`."""

    base_to_apex: np.ndarray  # unit vector of the LV's long axis
    lv_length: float
    lv_radius: float
    wall: float
    la_axes: np.ndarray
    ra_axes: np.ndarray
    rv_axes: np.ndarray
    aorta_radius: float
    pa_radius: float
    laa_radius: float
    laa_path: np.ndarray


def draw_shape(rng: np.random.Generator) -> Shape:
    """Plausible adult measures: LV length 8.2 +- 0.7 cm, cavity radius 2.4 +- 0.3 cm, wall 9 +- 1.7 mm, and so on."""

    def normal(mean: float, sd: float) -> float:
        return float(mean + sd * np.clip(rng.standard_normal(), -2.2, 2.2))

    def axes(*mean: float) -> np.ndarray:
        return np.array(mean) * normal(1.0, 0.09) * (1.0 + 0.07 * rng.standard_normal(3).clip(-2, 2))

    laa = np.array([[0, 0, 0], [-16, 6, 4], [-26, 18, 3], [-30, 31, -2]], dtype=float)
    laa[1:] += rng.normal(0, 2.5, (3, 3))
    return Shape(
        base_to_apex=unit([normal(-0.62, 0.10), normal(0.58, 0.10), normal(-0.48, 0.10)]),
        lv_length=normal(82, 7),
        lv_radius=normal(24, 3),
        wall=normal(9.0, 1.7),
        la_axes=axes(34, 22, 27),
        ra_axes=axes(25, 27, 32),
        rv_axes=axes(46, 33, 42),
        aorta_radius=normal(15.5, 2.2),
        pa_radius=normal(12.5, 1.6),
        laa_radius=normal(8.0, 1.3),
        laa_path=laa * normal(1.0, 0.12),
    )


def _ventricle_profile(along: np.ndarray, length: float, radius: float) -> np.ndarray:
    """Radius of the left ventricle ``along`` mm from its base: widest at 0.3 of the length, closed at the apex."""
    s = along / length
    return radius * np.sqrt(np.clip(1 - np.where(s > 0.3, ((s - 0.3) / 0.7) ** 2, 0.4 * ((0.3 - s) / 0.3) ** 2), 0, 1))


def parametric_heart(shape: Shape, lattice: Lattice, points: np.ndarray) -> np.ndarray:
    """Labels (uint8) at deformed ``points`` (I, J, K, 3) of ``lattice``: all eight structures from simple solids.

    The vessels are tubes along smooth paths; they are looked up on a plain lattice and carried along by the
    deformation like everything else.
    """
    d = shape.base_to_apex
    base = -0.42 * shape.lv_length * d
    to_front = perpendicular([0.5, 0.6, 0.6], d)
    to_septum = perpendicular([0.62, 0.75, 0.1], d)
    frame = np.stack([d, to_septum, np.cross(d, to_septum)])
    valve = base + 0.55 * shape.lv_radius * to_front
    rv_centre = base + 0.42 * shape.lv_length * d + to_septum * (shape.lv_radius + shape.wall)
    ra_centre = rv_centre + np.array([37.0, -16.0, 2.0])
    la_centre = base - d * (shape.la_axes.mean() * 0.86) - to_front * 5.0

    offset = points - base.astype(np.float32)
    along = offset @ d.astype(np.float32)
    radial = np.linalg.norm(offset - along[..., None] * d.astype(np.float32), axis=-1)
    cavity = (along > 0) & (radial < _ventricle_profile(along, shape.lv_length, shape.lv_radius))
    wall = (along > 0) & (
        radial < _ventricle_profile(along, shape.lv_length + 0.8 * shape.wall, shape.lv_radius + shape.wall)
    )

    plane = unit(rv_centre - ra_centre)
    tricuspid = ra_centre + 0.46 * (rv_centre - ra_centre)
    beyond = (points - tricuspid.astype(np.float32)) @ plane.astype(np.float32)

    out = np.zeros(points.shape[:-1], dtype=np.uint8)
    out[(ellipsoid(points, ra_centre, shape.ra_axes) < 1) & (beyond < 0)] = VALUE["RA"]
    out[(ellipsoid(points, rv_centre, shape.rv_axes, frame) < 1) & (beyond > 0)] = VALUE["RV"]
    tubes = _vessels(shape, valve, rv_centre, la_centre)
    plain = Lattice(lattice.origin - 25.0, lattice.spacing, tuple(n + int(50 / lattice.spacing) for n in lattice.shape))
    carried = _look_up(tubes, plain, points)
    out[carried == VALUE["RV"]] = VALUE["RV"]
    out[carried == VALUE["LAA"]] = VALUE["LAA"]
    out[ellipsoid(points, la_centre, shape.la_axes) < 1] = VALUE["LA"]
    for name in ("PA", "AO"):
        out[carried == VALUE[name]] = VALUE[name]
    out[wall] = MYO
    out[cavity] = LV
    return out


def _vessels(shape: Shape, valve: np.ndarray, rv: np.ndarray, la: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Paths of conus, appendage, pulmonary artery and aorta, in the order in which they are painted."""
    a, p, r = shape.aorta_radius, shape.pa_radius, shape.laa_radius
    pulmonary = valve + np.array([-22.0, 18.0, 13.0])
    fork = pulmonary + np.array([-2.0, -26.0, 34.0])
    ostium = la + shape.la_axes * np.array([-0.72, 0.45, 0.42])
    conus = smooth_path([rv + [0, 6, 14], rv + [-4, 8, 30], pulmonary], [15, 15, p + 1])
    appendage = smooth_path([ostium + [7, -4, -3], *(ostium + shape.laa_path)], [r, r, r * 0.95, r * 0.85, r * 0.5])
    trunk = smooth_path([pulmonary, pulmonary + [-4, -10, 18], fork], [p + 1, p + 1, p])
    right = smooth_path([fork, fork + [24, -9, 2], fork + [52, -15, -4], fork + [72, -19, -11]],
                        [p * 0.85, p * 0.8, p * 0.72, p * 0.55])  # fmt: skip
    left = smooth_path([fork, fork + [-16, -20, 5], fork + [-30, -34, -6], fork + [-38, -42, -16]],
                       [p * 0.85, p * 0.8, p * 0.7, p * 0.5])  # fmt: skip
    course = np.array(
        [[0, 0, 0], [10, 4, 18], [18, 6, 44], [11, -8, 67], [-3, -30, 75], [-12, -52, 63], [-11, -64, 40]]
    )
    aorta = smooth_path([valve + 7 * shape.base_to_apex, *(valve + course)],
                        [a * 0.85, a * 1.05, a * 1.1, a, a * 0.95, a * 0.88, a * 0.8, a * 0.75])  # fmt: skip
    names = (("RV", conus), ("LAA", appendage), ("PA", trunk), ("PA", right), ("PA", left), ("AO", aorta))
    return [(VALUE[name], path) for name, path in names]


def _look_up(tubes: list[tuple[int, np.ndarray]], lattice: Lattice, points: np.ndarray) -> np.ndarray:
    """Values of painted tubes at ``points``."""
    painted = np.zeros(lattice.shape, dtype=np.uint8)
    for value, path in tubes:
        box, mask = inside_tube(lattice, path)
        painted[box][mask] = value
    index = np.rint(lattice.index(points)).astype(np.int32)
    for a in range(3):
        np.clip(index[..., a], 0, lattice.shape[a] - 1, out=index[..., a])
    return painted[index[..., 0], index[..., 1], index[..., 2]]


# --- templates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A whole-heart label map: shares of each class (9, I, J, K; uint8, 255 is all of it) on a 1.5 mm RAS lattice."""

    name: str
    shares: np.ndarray
    lattice: Lattice

    def labels_at(self, points: np.ndarray) -> np.ndarray:
        """Labels (uint8) at points (I, J, K, 3) mm: the largest interpolated share."""
        import torch
        from torch.nn.functional import grid_sample

        size = np.array(self.lattice.shape)
        scaled = (2.0 * self.lattice.index(points) / (size - 1) - 1.0)[..., ::-1]
        grid = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
        shares = torch.from_numpy(self.shares).float()
        sampled = grid_sample(shares[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)
        return sampled[0].argmax(0).to(torch.uint8).numpy()


def template_files(folder: Path) -> list[Path]:
    """The NIfTI label maps of a folder, sorted; raises :class:`AnatomyError` if there is none."""
    files = sorted(p for p in Path(folder).glob("*.nii*") if not p.name.startswith("."))
    if not files:
        raise AnatomyError(f"There is no NIfTI label map (*.nii.gz) in {folder}.")
    return files


@lru_cache(maxsize=16)
def read_template(path: Path) -> Template:
    """Read one label map (values 1 to 8 as in the anatomy table); raises :class:`AnatomyError` with one sentence."""
    try:
        volume = read_volume(path)
    except VolumeError as error:
        raise AnatomyError(f"Template {path.name}: {error}") from error
    present = set(np.unique(volume.array).tolist())
    missing = [name for name in NAMES if VALUE[name] not in present]
    if missing or not present <= set(range(NUM_CLASSES)):
        what = f"{', '.join(missing)} missing" if missing else "values other than 0 to 8 present"
        raise AnatomyError(f"Template {path.name} does not hold the eight structures: {what}.")
    inside = np.argwhere(volume.array > 0)
    world = inside @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    heart = world[volume.array[tuple(inside.T)] != VALUE["AO"]]
    centre = heart.mean(0)
    low, high = world.min(0) - 8.0, world.max(0) + 8.0
    shape = tuple(np.ceil((high - low) / 1.5).astype(int) + 1)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = low
    target = Grid(shape, affine)
    shares = [resample(Volume((volume.array == v).astype(np.uint8), volume.affine), target, float(v == 0)).array
              for v in range(NUM_CLASSES)]  # fmt: skip
    return Template(path.name.split(".")[0], np.rint(np.stack(shares) * 255).astype(np.uint8),
                    Lattice(low - centre, 1.5, shape))  # fmt: skip


# --- deformation and repair ----------------------------------------------------------------------------------------


def draw_deformation(rng: np.random.Generator, strength: float, pools: dict[str, np.ndarray]) -> Deformation:
    """A random invertible map: rotation and scale, smooth bending at two lengths, each chamber larger or smaller.

    ``pools`` gives the centres (mm) about which space is inflated or deflated.
    """
    spacing = 8.0
    side = int(2 * (REACH_MM + 40) / spacing) + 1
    lattice = Lattice(np.full(3, -(REACH_MM + 40)), spacing, (side, side, side))
    velocity = np.zeros((3, side, side, side), dtype=np.float32)
    for length, amplitude in ((40.0, 5.0), (18.0, 1.8)):
        for a in range(3):
            velocity[a] += strength * amplitude * smooth_field(rng, lattice.shape, length / spacing)
    points = lattice.points()
    for centre in pools.values():
        width = rng.uniform(18.0, 30.0)
        offset = points - centre.astype(np.float32)
        bump = np.exp(-np.square(offset).sum(-1) / (2 * width**2)) * strength * rng.normal(0.0, 0.16)
        velocity += np.moveaxis(offset * bump[..., None], -1, 0)
    displacement = exponential(velocity, spacing)
    while smallest_jacobian(displacement, spacing) < 0.05:  # a rare strong draw on this coarse lattice: soften it
        velocity *= 0.8
        displacement = exponential(velocity, spacing)
    scale = rng.uniform(0.86, 1.18) * (1 + strength * rng.uniform(-0.08, 0.08, 3))
    linear = np.diag(1 / scale) @ rotation(strength * rng.normal(0.0, (8.0, 8.0, 11.0)).clip(-22, 22))
    return Deformation(lattice, displacement, linear)


def near(mask: np.ndarray, distance_mm: float, spacing: float) -> np.ndarray:
    """Voxels within ``distance_mm`` of a mask, computed in the mask's box only."""
    out = np.zeros(mask.shape, dtype=bool)
    where = ndimage.find_objects(mask.astype(np.uint8))
    if not where:
        return out
    margin = int(distance_mm / spacing) + 2
    box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in where[0])
    out[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= distance_mm
    return out


def repair(labels: np.ndarray, spacing: float) -> np.ndarray:
    """Mend a drawn heart: wall all around the LV, thin walls between other pools, one piece each, no holes."""
    out = labels.copy()
    lv = out == LV
    for name in ("RV", "RA", "PA", "LAA"):
        out[(out == VALUE[name]) & near(lv, GAP_MM, spacing)] = MYO
    out[(out == 0) & near(lv, 1.01 * spacing, spacing)] = MYO
    separated = [("RA", "LA"), ("RA", "AO"), ("RV", "AO"), ("RV", "LA"), ("LA", "AO"), ("PA", "AO"), ("LA", "PA"),
                 ("LAA", "PA"), ("LAA", "AO"), ("RA", "PA"), ("LAA", "RV"), ("LAA", "RA")]  # fmt: skip
    for first, second in separated:  # the first gives way
        wide = (first, second) in FORBIDDEN_CONTACTS or (second, first) in FORBIDDEN_CONTACTS
        distance = GAP_MM if wide else 1.01 * spacing
        out[(out == VALUE[first]) & near(out == VALUE[second], distance, spacing)] = 0
    kept = np.zeros_like(out)
    for value, box in enumerate(ndimage.find_objects(out, max_label=NUM_CLASSES - 1), start=1):
        if box is None:
            continue
        piece = ndimage.binary_fill_holes(cc3d.largest_k(out[box] == value, k=1, connectivity=6) > 0)
        kept[box][piece & (kept[box] == 0) & ((out[box] == value) | (out[box] == 0))] = value
    return kept


def faults(labels: np.ndarray, spacing: float) -> list[str]:
    """What is wrong with a heart; empty if it is sound: all structures, one piece each, contacts as they should be."""
    found = []
    voxel_ml = spacing**3 / 1000.0
    for name in NAMES:
        mask = labels == VALUE[name]
        if mask.sum() * voxel_ml < SMALLEST_ML[name]:
            found.append(f"{name} too small")
        elif cc3d.connected_components(mask, connectivity=26, return_N=True)[1] != 1:
            found.append(f"{name} in pieces")
    if found:
        return found
    reach = max(CONTACT_MM, 1.01 * spacing)
    around = {name: near(labels == VALUE[name], reach, spacing) for name in {a for a, _ in REQUIRED_CONTACTS} | {"LV"}}
    for a, b in REQUIRED_CONTACTS:
        if not (around[a] & (labels == VALUE[b])).any():
            found.append(f"{a} and {b} apart")
    for a, b in FORBIDDEN_CONTACTS:
        touching = around[a] if a in around else near(labels == VALUE[a], reach, spacing)
        if (touching & (labels == VALUE[b])).any():
            found.append(f"{a} and {b} touch")
    return found


def _draw_once(rng: np.random.Generator, lattice: Lattice, anatomies: Anatomies) -> Heart:
    templates, strength = anatomies.templates, anatomies.deformation
    chosen = bool(templates) and rng.random() < anatomies.template_share
    template = read_template(templates[int(rng.integers(len(templates)))]) if chosen else None
    if template is None:
        shape = draw_shape(rng)
        # From the LV, about which the shapes are placed, to the whole heart's middle.
        centre = np.array([18.0, 0.0, 8.0])
        pools = {"LV": -centre, "RV": np.array([2.0, 28.0, -12.0]), "LA": np.array([20.0, -36, 14]),
                 "RA": np.array([38.0, 12, -10])}  # fmt: skip
        strength *= 0.9
    else:
        inside = template.shares.argmax(0)
        pools = {name: template.lattice.origin + 1.5 * np.argwhere(inside == VALUE[name]).mean(0)
                 for name in ("LV", "RV", "LA", "RA", "MYO")}  # fmt: skip
    deformation = draw_deformation(rng, strength, pools)
    points = deformation(lattice.points())
    labels: np.ndarray
    if template is None:
        labels = parametric_heart(shape, lattice, points + centre.astype(np.float32))
    else:
        labels = template.labels_at(points)
    return Heart(labels, lattice, template.name if template else "parametric")


def draw_heart(
    rng: np.random.Generator,
    spacing: float,
    templates: list[Path] | Anatomies,
    strength: float = 1.0,
    finish: Callable[[Heart], Heart] = lambda heart: heart,
) -> Heart:
    """A sound random heart at ``spacing`` mm: from a template (70 %) if there are any, else parametric.

    ``finish`` may add to the labels (the aorta's course through the body) before they are repaired and judged. An
    unsound draw is thrown away and drawn again; raises :class:`AnatomyError` if twenty in a row fail.
    """
    anatomies = templates if isinstance(templates, Anatomies) else Anatomies(templates, 0.7, strength)
    side = int(2 * REACH_MM / spacing)
    lattice = Lattice(np.full(3, -spacing * (side - 1) / 2), spacing, (side, side, side))
    wrong: list[str] = []
    for _ in range(20):
        drawn = _draw_once(rng, lattice, anatomies)
        heart = replace(drawn, labels=repair(finish(drawn).labels, spacing))
        wrong = faults(heart.labels, spacing)
        if not wrong:
            return heart
    raise AnatomyError(f"No sound heart in twenty draws ({', '.join(wrong)}): are the templates whole hearts?")

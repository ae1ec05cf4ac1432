"""Fit a body to a heart: course of the aorta, curve of the spine, size of the chest.

The spine lies behind the descending aorta, the chest is wide and deep enough for the heart, and the heart rests on the
diaphragm. Coordinates are in mm, RAS, with the heart's centre near the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from CardiacLDMLib.anatomy import HEART, VALUE

from ..heart.anatomy import Heart
from ..shapes import Lattice, perpendicular, smooth_path, tube_mask, unit

#: Least distance from the heart's hindmost point to the middle of the vertebral bodies, mm: room for their radius and
#: the oesophagus.
SPINE_BEHIND_MM = 25.0
#: Least distance of heart and vessels from the middle of a vertebral body, mm.
SPINE_CLEARANCE_MM = 19.0
#: Least height of the lungs' tips above the aortic arch, mm.
LUNG_ABOVE_ARCH_MM = 22.0


@dataclass(frozen=True)
class BodyFrame:
    """The body's geometry around its heart, in mm. Curves are sampled at heights ``z``."""

    sex: str
    spine: np.ndarray  # (2,) x, y of the vertebral bodies behind the heart
    middle: np.ndarray  # (2,) x, y of the thoracic cavity
    half_width: float
    half_depth: float
    fat: float
    muscle: float
    top: float  # z of the lungs' tips
    seat: float  # z on which the heart rests
    aorta: np.ndarray  # (N, 4) course of the aorta below the heart's lattice
    z: np.ndarray  # (M,) heights of the curves
    spine_x: np.ndarray  # (M,)
    spine_y: np.ndarray  # (M,)
    front: np.ndarray  # (M,) foremost y of the cavity
    pitch: float  # height of a vertebra and its disc
    arms_down: bool

    def spine_at(self, z: np.ndarray | float) -> np.ndarray:
        """Return x, y (..., 2) of the vertebral bodies' middle at heights ``z``."""
        return np.stack([np.interp(z, self.z, self.spine_x), np.interp(z, self.z, self.spine_y)], axis=-1)

    def cavity(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return half width, foremost and hindmost y of the thoracic and abdominal cavity at heights ``z``."""
        below = np.clip(self.top - z, 0.0, None)
        apex = np.clip(below / 150.0, 0.0, 1.0)
        waist = 1.0 - (0.09 if self.sex == "female" else 0.03) * np.clip((below - 270.0) / 100.0, 0.0, 1.0)
        width = self.half_width * np.maximum((1.0 - (1.0 - apex) ** 2.2) ** 0.62, 0.02) * waist
        front = np.interp(z, self.z, self.front)
        back = self.spine_at(z)[..., 1] - 40.0 * np.clip(below / 60.0, 0.15, 1.0)
        return width, front, back


class Landmarks:
    """Points of a heart's structures about every 3 mm, and landmarks among them."""

    def __init__(self, heart: Heart) -> None:
        step = max(1, round(3.0 / heart.lattice.spacing))
        self.labels = heart.labels[::step, ::step, ::step]
        self.lattice = Lattice(heart.lattice.origin, heart.lattice.spacing * step, self.labels.shape)
        index = np.argwhere(self.labels > 0)
        value = self.labels[tuple(index.T)]
        points = self.lattice.origin + self.lattice.spacing * index
        self._points = {name: points[value == v] for name, v in VALUE.items()}
        self.sex, self.findings = heart.sex, heart.findings

    def points(self, *names: str) -> np.ndarray:
        """Return the points (N, 3; mm) of some structures."""
        return np.concatenate([self._points[name] for name in names])

    def centre(self, name: str) -> np.ndarray:
        """Return the centre of mass of a structure, mm."""
        return np.asarray(self._points[name].mean(0))

    def extreme(self, name: str, direction: np.ndarray) -> np.ndarray:
        """Return the middle (mm) of the 1.5 % of a structure's points that lie furthest along ``direction``."""
        points = self._points[name]
        along = points @ direction
        return np.asarray(points[along >= np.quantile(along, 0.985)].mean(0))


@dataclass(frozen=True)
class VentricleAxes:
    """Axes of the left ventricle: ``base`` and ``length`` in mm, unit vectors towards apex, septum and front."""

    base: np.ndarray
    apex: np.ndarray
    septum: np.ndarray
    front: np.ndarray
    length: float


def ventricle_axes(marks: Landmarks) -> VentricleAxes:
    """Return the axes of the left ventricle from its labels."""
    cavity, middle = marks.points("LV"), marks.centre("LV")
    apex = unit(middle - marks.centre("LA"))
    along = cavity @ apex
    base = middle + apex * (np.quantile(along, 0.02) - middle @ apex)
    tip = cavity[along >= np.quantile(along, 0.99)].mean(0)
    axis = unit(tip - base)
    septum = perpendicular(marks.centre("RV") - middle, axis)
    front = np.cross(axis, septum)
    return VentricleAxes(
        base, axis, septum, front * np.sign(front @ np.array([-0.2, 0.7, 0.7])), float(np.linalg.norm(tip - base))
    )


# --- course of the aorta ------------------------------------------------------------------------------------


def draw_aorta_course(heart: Heart, rng: np.random.Generator) -> np.ndarray:
    """Draw the aorta's path (N, 4: point and radius in mm) from the end of the heart's labels down to the abdomen.

    Where the labels end with the ascending aorta, an arch is part of the path.
    """
    elongated = "elongated aorta" in heart.findings
    points = heart.lattice.origin + heart.lattice.spacing * np.argwhere(heart.labels == VALUE["AO"])
    behind = points[points[:, 1] < heart.centre("LA")[1] - 6.0]
    slab = 2.0 * heart.lattice.spacing
    if len(behind) * heart.lattice.spacing**3 > 1500.0:
        end = behind[behind[:, 2] < behind[:, 2].min() + slab + 4.0]
        start = end.mean(0)
        radius = float(np.clip(np.sqrt(len(end) * heart.lattice.spacing**3 / ((slab + 4.0) * np.pi)), 8.0, 13.5))
        arch = np.empty((0, 4))
    else:
        top = points[points[:, 2] > points[:, 2].max() - slab]
        above = top.mean(0)
        rise = rng.uniform(10.0, 26.0) + (rng.uniform(6.0, 16.0) if elongated else 0.0)
        course = above + np.array([[0, 0, -6], [-3, -8, rise * 0.8], [-14, -30, rise], [-26, -50, rise * 0.4]])
        start = above + np.array([-27.0, -58.0, -22.0])
        radius = float(rng.uniform(9.5, 13.5))
        arch = np.column_stack([course, np.linspace(1.2, 1.05, 4) * radius])
    bent = rng.random() >= 0.85 or elongated
    drift = rng.normal(0.0, 15.0 if bent else 5.0, 2)
    down = [
        [*start, radius],
        [start[0] + 0.2 * drift[0], start[1] - 2.0, start[2] - 30.0, radius],
        [start[0] + 0.6 * drift[0] + 3.0, start[1] + 0.4 * drift[1], start[2] - 110.0, radius * 0.96],
        [start[0] + drift[0] + 8.0, start[1] + drift[1] + 4.0, start[2] - 260.0, radius * 0.88],
    ]
    knots = np.vstack([arch, down])
    return smooth_path(knots[:, :3], knots[:, 3])


def extend_aorta(heart: Heart, rng: np.random.Generator) -> Heart:
    """Return the heart with its aorta continued to the lower end of its lattice, through background only."""
    labels = heart.labels.copy()
    box, mask = tube_mask(heart.lattice, draw_aorta_course(heart, rng))
    labels[box][mask & (labels[box] == 0)] = VALUE["AO"]
    return replace(heart, labels=labels)


# --- fitting the body ----------------------------------------------------------------------------------------------


def draw_frame(heart: Heart, rng: np.random.Generator) -> BodyFrame:
    """Draw a thorax around the heart's chambers and a spine behind its aorta."""
    marks = Landmarks(heart)
    points = marks.points(*HEART)
    low, high = points.min(0), points.max(0)
    aorta = _lower_aorta(heart)
    spine = aorta[:2] + unit([0.65, -0.76]) * (aorta[3] + rng.uniform(18.0, 24.0))
    spine[1] = min(spine[1], _hindmost_y(marks, spine[0]) - SPINE_BEHIND_MM)
    z = np.arange(low[2] - 420.0, high[2] + 320.0, 5.0)
    spine_x, spine_y = _draw_spine_curve(marks, spine, z, rng)
    front = high[1] + rng.uniform(3.0, 14.0)
    back = spine[1] - 40.0
    half_depth = (front - back) / 2
    middle = np.array([0.6 * spine[0] + 0.4 * (low[0] + high[0]) / 2 + rng.normal(0, 4), (front + back) / 2])
    needed = max(abs(low[0] - middle[0]), abs(high[0] - middle[0])) + 12.0
    sex = heart.sex
    usual = rng.normal(145.0, 9.0) if sex == "male" else rng.normal(130.0, 8.0)
    half_width = max(float(np.clip(usual, half_depth * 1.25, half_depth * 1.7)), needed)
    top = max(high[2] + rng.uniform(75, 115), marks.points("AO")[:, 2].max() + LUNG_ABOVE_ARCH_MM)
    fat = float(np.clip(rng.lognormal(np.log(17 if sex == "female" else 13), 0.45), 4, 38))
    floor = _heart_floor(points)
    last = aorta[2]
    course = np.stack([[aorta[0] + 0.06 * k, 0.0, last + 4 - k] for k in np.linspace(0, 300, 12)])
    behind = np.interp(course[:, 2], z, spine_y)
    course[:, 1] = aorta[1] + (behind - behind[0]) * 0.9
    return BodyFrame(
        sex, spine, middle, half_width, half_depth, fat,
        muscle=float(rng.uniform(9, 20) if sex == "male" else rng.uniform(5, 13)),
        top=float(top), seat=floor,
        aorta=smooth_path(course, np.linspace(aorta[3], max(aorta[3] * 0.8, 7.0), 12)),
        z=z, spine_x=spine_x, spine_y=spine_y, front=_draw_front_curve(marks, z, front, float(top), spine_y, rng),
        pitch=float(rng.uniform(23, 28)), arms_down=bool(rng.random() < 0.12),
    )  # fmt: skip


def _heart_floor(points: np.ndarray) -> float:
    """Return the height (mm) on which the heart rests: the 12 % quantile of its lower surface."""
    column = np.rint(points[:, :2] / 6.0).astype(int)
    _, inverse = np.unique(column, axis=0, return_inverse=True)
    lowest = np.full(inverse.max() + 1, np.inf)
    np.minimum.at(lowest, inverse.ravel(), points[:, 2])
    return float(np.quantile(lowest, 0.12))


def _draw_spine_curve(
    marks: Landmarks, spine: np.ndarray, z: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw x and y of the vertebral bodies at heights ``z`` with kyphosis and scoliosis, clear of the heart."""
    points = marks.points(*HEART, "PA", "AO")
    away = np.abs(z - rng.uniform(-10, 30)) / 100.0
    bend = rng.uniform(5.0, 13.0) * 2.6 * (1.0 - np.exp(-(away**2) / 2.6))
    y = spine[1] + bend - bend[np.abs(z).argmin()]
    x = spine[0] + rng.normal(0, 3.0) * np.sin((z - rng.uniform(-100, 100)) / 90.0)
    offset = points[:, 0] - np.interp(points[:, 2], z, x)
    beside = np.abs(offset) < SPINE_CLEARANCE_MM
    free = points[beside, 1] - np.sqrt(SPINE_CLEARANCE_MM**2 - offset[beside] ** 2)
    limit = np.full(len(z), np.inf)
    np.minimum.at(limit, np.abs(points[beside, 2][:, None] - z[None]).argmin(1), free - 3.0)
    limit = ndimage.minimum_filter1d(limit, 5)
    push = np.where(np.isfinite(limit), np.minimum(limit - y, 0.0), 0.0)
    return x, y + ndimage.gaussian_filter1d(ndimage.minimum_filter1d(push, 9), 4.0)


def _draw_front_curve(
    marks: Landmarks, z: np.ndarray, front: float, top: float, spine_y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the foremost y of the cavity at heights ``z``: it slants backward towards the inlet, before the vessels."""
    depth = front - np.interp(0.0, z, spine_y)
    slant = rng.uniform(0.8, 1.15)
    share = np.interp(top - z, [-60, 0, 25, 60, 120, 180, 260, 400], [0.75, 0.66, 0.5, 0.3, 0.12, 0.03, 0, 0.02])
    y = front - slant * share * depth
    points = marks.points(*HEART, "PA", "AO")
    needed = np.full(len(z), -np.inf)
    np.maximum.at(needed, np.abs(points[:, 2][:, None] - z[None]).argmin(1), points[:, 1] + 6.0)
    push = np.where(np.isfinite(needed), np.maximum(needed - y, 0.0), 0.0)
    y = y + ndimage.gaussian_filter1d(ndimage.maximum_filter1d(push, 7), 3.0)
    return np.asarray(np.maximum(y, spine_y + 24.0))


def _hindmost_y(marks: Landmarks, x: float) -> float:
    """Return the hindmost y (mm) of heart and pulmonary artery in front of a spine at ``x``."""
    points = marks.points(*HEART, "PA")
    return float(points[np.abs(points[:, 0] - x) < 34.0, 1].min(initial=np.inf)) - marks.lattice.spacing


def _lower_aorta(heart: Heart) -> np.ndarray:
    """Return middle and radius (4,; mm) of the aorta at the bottom of the heart's lattice."""
    index = np.argwhere(heart.labels == VALUE["AO"])
    last = index[index[:, 2] == index[:, 2].min()]
    radius = max(np.sqrt(len(last) / np.pi) * heart.lattice.spacing, 7.0)
    return np.append(heart.lattice.origin + heart.lattice.spacing * last.mean(0), radius)

"""Fit a real trunk to a virtual heart and its chest.

Landmarks of heart, aorta, sternum and cage pair the two bodies. An axis-wise affine map and a smooth remainder send
points of the virtual body to the trunk (pull-back); a random deformation makes many trunks of one. Nothing is mirrored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..heart.deform import exponential, smallest_jacobian
from ..shapes import Lattice, sample, smooth_field
from .canvas import Canvas, blur
from .chest import cage_points
from .frame import BodyFrame, Landmarks
from .real_trunk import PARTS, RealTrunk

#: Spacing of the lattice of displacements, mm.
STEP_MM = 12.0
#: Reach of a landmark's pull (mm), and how far the fit may miss landmarks that contradict each other.
REACH_MM, SLACK = 45.0, 0.15
#: Random deformation: length scale and amplitude, mm.
RANDOM_MM = ((55.0, 6.0), (26.0, 2.2))
#: Smallest Jacobian determinant of the smooth part: far above 0, where organs would fold.
SMALLEST_JACOBIAN = 0.25
#: Gaps that lungs close (mm): to the cage, to the diaphragm, and where the trunk's own heart and vessels were.
PLEURA_MM, BASE_MM, VACATED_MM = 10.0, 22.0, 12.0
#: Directions (x, y) in which the outlines of lungs and cage are paired.
DIRECTIONS = ((1.0, -1.2), (1.0, -0.3), (1.0, 0.5))
#: Least section of a lung that is paired with the cage, voxels of the trunk.
LEAST_SECTION = 250
LEFT_LOBES = ("left upper lobe", "left lower lobe")
RIGHT_LOBES = ("right upper lobe", "right middle lobe", "right lower lobe")


@dataclass(frozen=True)
class FittedTrunk:
    """A real trunk in the coordinates of a virtual body.

    ``levels``: level sets (mm) of its parts on the canvas's coarse lattice. ``trachea`` and ``oesophagus``: their axes
    (N, 4: point and radius in mm) from above downward; the trachea's ends at its bifurcation.
    """

    name: str
    levels: dict[str, np.ndarray]
    trachea: np.ndarray
    oesophagus: np.ndarray

    @property
    def lung(self) -> np.ndarray:
        """Return the level set of both lungs."""
        return np.maximum(self.levels["left lung"], self.levels["right lung"])

    def organ(self, name: str, room: np.ndarray, gap_mm: float) -> np.ndarray:
        """Return the level set of an organ within ``room``, up to whose border it closes gaps of ``gap_mm``."""
        return np.minimum(_close_gap(self.levels[name], room, gap_mm), room).astype(np.float32)

    def lungs(self, cage: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Return the level set of the lungs within ``cage`` and ``above`` the diaphragm.

        They close gaps to both, and those that the trunk's own heart and vessels leave.
        """
        vacated = np.clip(self.levels["heart"] + 6.0, 0.0, VACATED_MM)
        level = np.maximum(_close_gap(self.lung, cage, PLEURA_MM), _close_gap(self.lung, above, BASE_MM))
        level = np.maximum(level, self.lung + vacated)
        return np.minimum(level, np.minimum(cage, above)).astype(np.float32)

    def fissures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return level sets that are zero on each fissure, with ones that are positive where it is (mm)."""
        left = self.levels["left upper lobe"] - self.levels["left lower lobe"]
        upper, middle, lower = (self.levels[f"right {n} lobe"] for n in ("upper", "middle", "lower"))
        below = np.maximum(middle, lower)
        return [(0.5 * left, self.levels["left lung"]), (0.5 * (upper - below), self.levels["right lung"]),
                (0.5 * (middle - lower), np.minimum(below - upper, self.levels["right lung"]))]  # fmt: skip


def _close_gap(level: np.ndarray, room: np.ndarray, gap_mm: float) -> np.ndarray:
    """Return a level set grown where the border of ``room`` is near, by ``gap_mm`` at the border."""
    return np.asarray(level + np.clip(gap_mm - room, 0.0, gap_mm))


def diaphragm_heights(canvas: Canvas, frame: BodyFrame, real: FittedTrunk) -> np.ndarray:
    """Return the heights (I, J, 1; mm) between the trunk's lungs and its liver, stomach and spleen."""
    z = canvas.z.ravel()
    organs = np.max([real.levels[n] for n in ("liver", "stomach", "spleen")], axis=0) > 0
    lungs = real.lung > 0
    top = np.where(organs.any(2), z[-1 - organs[..., ::-1].argmax(2)] + 0.6 * canvas.coarse.spacing, np.nan)
    bottom = np.where(lungs.any(2), z[lungs.argmax(2)] - 0.5 * canvas.coarse.spacing, np.nan)
    bottom[lungs[..., 0]] = z[0] - 20.0  # further down than the canvas
    bottom[bottom > frame.seat + 70.0] = np.nan  # above heart or vessels
    between = np.where(np.abs(bottom - top) < 50.0, 0.5 * (top + bottom), top)
    heights = np.where(np.isnan(top), bottom, between)
    known = ~np.isnan(heights)
    if not known.any():
        return np.full((*heights.shape, 1), frame.seat)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = ndimage.median_filter(heights[tuple(nearest)], 5)  # without pits, in which lung would lie in the liver
    return blur(filled, 4.5, canvas.coarse.spacing)[..., None]


def fit_trunk(
    trunk: RealTrunk, canvas: Canvas, marks: Landmarks, frame: BodyFrame, rng: np.random.Generator
) -> FittedTrunk:
    """Fit ``trunk`` to a heart and its frame, and deform it at random."""
    here, there = _pair_landmarks(trunk, marks, frame)
    scale, shift = np.array([np.polyfit(here[:, a], there[:, a], 1) for a in range(3)]).T
    goal = (there - shift) / scale  # the trunk's landmarks after the affine map
    lattice = _lattice_around(canvas, here)
    displacement = _fit_displacement(here, goal - here, lattice)
    velocity = np.stack(
        [sum(mm * smooth_field(rng, lattice.shape, length / STEP_MM) for length, mm in RANDOM_MM) for _ in range(3)]
    )
    moved = lattice.points()
    chance = exponential(velocity.astype(np.float32), lattice)
    displacement = chance + sample(displacement, lattice, moved + np.moveaxis(chance, 0, -1))
    while smallest_jacobian(displacement, STEP_MM) < SMALLEST_JACOBIAN:
        displacement *= np.float32(0.85)
    points = canvas.coarse.points()
    points = points + np.moveaxis(sample(displacement, lattice, points), 0, -1)
    points = points * scale.astype(np.float32) + shift.astype(np.float32)
    levels = sample(trunk.levels, trunk.lattice, points) / np.float32(scale.mean())

    def bring(axis: np.ndarray) -> np.ndarray:
        wanted = (axis[:, :3] - shift) / scale
        at = wanted.copy()
        for _ in range(12):
            at = wanted - sample(displacement, lattice, at[:, None, None])[..., 0, 0].T
        return np.column_stack([at, axis[:, 3] / scale.mean()])

    return FittedTrunk(
        trunk.name, dict(zip(PARTS, levels, strict=True)), bring(_tracheal_axis(trunk)),
        bring(_axis(trunk.points("oesophagus"))),
    )  # fmt: skip


# --- landmarks -----------------------------------------------------------------------------------------------------


def _box_points(points: np.ndarray) -> np.ndarray:
    """Return the middle (3,; mm) of points' box, and the middles of its six faces: (7, 3)."""
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    middle = 0.5 * (low + high)
    out = np.tile(middle, (7, 1))
    for a in range(3):
        out[1 + a, a], out[4 + a, a] = low[a], high[a]
    return out


def _pair_landmarks(trunk: RealTrunk, marks: Landmarks, frame: BodyFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the same landmarks of the virtual body and of the trunk, (N, 3; mm) each."""
    heart, real_heart = marks.points("LA", "LV", "RA", "RV", "MYO", "PA", "LAA"), trunk.points("heart", "appendage")
    aorta, real_aorta = marks.points("AO"), trunk.points("aorta")
    aorta = np.vstack([aorta, frame.aorta[:, :3]])
    lungs = trunk.points(*LEFT_LOBES, *RIGHT_LOBES)
    pairs = [*zip(_box_points(heart), _box_points(real_heart), strict=True)]
    low, high, real_low, real_high = (p[k, 2] for p in map(_box_points, (heart, real_heart)) for k in (3, 6))
    heights = [low - 60.0, low, high, frame.top]
    real_heights = [real_low - 60.0, real_low, real_high, lungs[:, 2].max()]

    def real_z(z: float) -> float:
        return float(np.interp(z, heights, real_heights))

    for share in (-0.2, 0.2, 0.5):
        z = low + share * (high - low)
        ours, theirs = (_section(p[p[:, 1] < at[:, 1].mean()], height) for p, at, height in
                        ((aorta, heart, z), (real_aorta, real_heart, real_z(z))))  # fmt: skip
        if ours is not None and theirs is not None:
            pairs.append((ours, theirs))
    for side, names in ((1.0, RIGHT_LOBES), (-1.0, LEFT_LOBES)):
        pairs += _pair_cage(trunk.points(*names), frame, side, real_z, np.linspace(low - 20.0, frame.top - 25.0, 7))
    pairs += _pair_sternum(trunk.points("sternum"), frame)
    here, there = (np.array(side) for side in zip(*pairs, strict=True))
    return here, there


def _section(points: np.ndarray, z: float) -> np.ndarray | None:
    """Return the middle of points within 6 mm of a height, None if there are none."""
    near = points[np.abs(points[:, 2] - z) < 6.0]
    return np.append(near[:, :2].mean(0), z) if len(near) else None


def _pair_cage(
    lung: np.ndarray, frame: BodyFrame, side: float, real_z: Callable[[float], float], heights: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of landmarks of the cage's inside and a lung's points, at some heights and the lung's tip."""
    pairs = []
    for z in heights:
        outline = cage_points(frame, np.linspace(-90, 90, 61), np.full(61, z), side, -1.0)
        near = lung[np.abs(lung[:, 2] - real_z(z)) < 3.0]
        if len(near) < LEAST_SECTION:
            continue
        for across, ahead in DIRECTIONS:
            if ahead < 0 or len(near) > 2 * LEAST_SECTION:  # low sections lie at the back only
                d = np.array([side * across, ahead])
                ours, theirs = (p[(p[:, :2] @ d).argmax(), :2] for p in (outline, near))
                pairs.append((np.append(ours, z), np.append(theirs, real_z(z))))
    _, front, back = frame.cavity(np.array([frame.top - 8.0]))
    apex = [frame.middle[0] + side * 0.26 * frame.half_width, 0.5 * (front[0] + back[0]), frame.top - 5.0]
    pairs.append((np.array(apex), lung[lung[:, 2] > lung[:, 2].max() - 8.0].mean(0)))
    return pairs


def _pair_sternum(bone: np.ndarray, frame: BodyFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of landmarks along the sternum."""
    pairs = []
    top, bottom = bone[:, 2].max(), bone[:, 2].min()
    length = 178.0 if frame.sex == "male" else 160.0
    for share in (0.05, 0.3, 0.6, 0.9):
        z = frame.top - 38.0 - share * length
        _, front, _ = frame.cavity(np.array([z]))
        theirs = _section(bone, top - share * (top - bottom))
        if theirs is not None:
            pairs.append((np.array([frame.middle[0], front[0] + 6.5, z]), theirs))
    return pairs


# --- maps ----------------------------------------------------------------------------------------------------------


def _lattice_around(canvas: Canvas, landmarks: np.ndarray) -> Lattice:
    """Return the lattice of displacements, around canvas and landmarks."""
    last = canvas.coarse.origin + canvas.coarse.spacing * np.array(canvas.coarse.shape)
    low = np.minimum(canvas.coarse.origin, landmarks.min(0)) - STEP_MM
    high = np.maximum(last, landmarks.max(0)) + STEP_MM
    return Lattice(low, STEP_MM, tuple(int(n) + 1 for n in np.ceil((high - low) / STEP_MM)))


def _fit_displacement(at: np.ndarray, wanted: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Return the displacement (3, I, J, K; mm) that is about ``wanted`` (N, 3) at points ``at`` and fades elsewhere."""

    def kernel(points: np.ndarray) -> np.ndarray:
        squared = np.square(points[:, None] - at[None]).sum(-1)
        return np.asarray(np.exp(-squared / (2 * REACH_MM**2)))

    weights = np.linalg.solve(kernel(at) + SLACK * np.eye(len(at)), wanted)
    everywhere = lattice.points().reshape(-1, 3)
    out = kernel(everywhere) @ weights
    return np.moveaxis(out.reshape(*lattice.shape, 3), -1, 0).astype(np.float32)


# --- axes of airways and oesophagus --------------------------------------------------------------------------------


def _axis(points: np.ndarray, step: float = 12.0) -> np.ndarray:
    """Return the axis (N, 4: point and radius in mm) of a tube's points (M, 3; 3 mm apart) from above downward."""
    out = []
    for z in np.arange(points[:, 2].max() - step / 2, points[:, 2].min(), -step):
        near = points[np.abs(points[:, 2] - z) <= step / 2]
        if len(near) > 3:
            area = len(near) * 27.0 / step
            out.append([*near.mean(0), float(np.sqrt(area / np.pi))])
    return np.array(out)


def _tracheal_axis(trunk: RealTrunk) -> np.ndarray:
    """Return the axis of the trachea down to its bifurcation, where it becomes twice as wide."""
    points = trunk.points("trachea")
    heights = np.unique(points[:, 2])[::-1]
    width = np.array([np.ptp(points[points[:, 2] == z, 0]) for z in heights])
    wide = np.flatnonzero(width > 1.8 * np.median(width[: max(len(width) // 2, 1)]))
    end = heights[wide[0]] if len(wide) else heights[-1]
    return _axis(points[points[:, 2] >= end], 9.0)

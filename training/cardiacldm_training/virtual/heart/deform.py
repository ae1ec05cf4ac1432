"""Smooth invertible maps of space: random bending, turning the heart's axis, and growing structures to a volume.

A map takes points of the new anatomy to points of the old one (a pull-back), so that shapes are carried along by
looking them up. All displacement fields live on one coarse lattice; full-size points only ever interpolate them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..shapes import Lattice, rotation, sample, smooth_field

#: Spacing and side of the lattice of displacements: 4 mm carries bends down to about a centimetre, 252 mm hold the
#: heart with its vessels and a margin in which the map fades.
COARSE_MM, COARSE_SIDE = 4.0, 64
COARSE = Lattice(np.array([0.0, 0.0, 12.0]) - COARSE_MM * (COARSE_SIDE - 1) / 2, COARSE_MM, (COARSE_SIDE,) * 3)
#: Smallest local change of volume that a drawn map may have: well clear of folding.
SMALLEST_JACOBIAN = 0.05


@cache
def coarse_points() -> np.ndarray:
    """(I, J, K, 3) points of the coarse lattice, float32; not to be written to."""
    points = COARSE.points()
    points.setflags(write=False)
    return points


@dataclass(frozen=True)
class Deformation:
    """``linear`` (3x3) after ``displacement`` (3, I, J, K; mm, on the coarse lattice)."""

    displacement: np.ndarray
    linear: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Where the points (..., 3) of the new anatomy lie in the old one, float32."""
        moved = points + np.moveaxis(sample(self.displacement, COARSE, points), 0, -1)
        return moved @ self.linear.T.astype(np.float32)

    def coarse(self) -> np.ndarray:
        """Where the points of the coarse lattice lie in the old anatomy."""
        return (coarse_points() + np.moveaxis(self.displacement, 0, -1)) @ self.linear.T.astype(np.float32)

    def after(self, velocity: np.ndarray) -> Deformation:
        """The map whose new anatomy has moved on by a small step of ``velocity`` (mm)."""
        return Deformation(compose(self.displacement, -velocity), self.linear)


def compose(first: np.ndarray, second: np.ndarray, lattice: Lattice = COARSE) -> np.ndarray:
    """Displacement of the pull-back that applies ``second``, then ``first``."""
    points = coarse_points() if lattice is COARSE else lattice.points()
    return second + sample(first, lattice, points + np.moveaxis(second, 0, -1))


def exponential(velocity: np.ndarray, lattice: Lattice = COARSE, steps: int = 5) -> np.ndarray:
    """Displacement (3, I, J, K) in mm that follows the stationary ``velocity`` for unit time (scaling and squaring).

    Composing many small steps keeps the map invertible where adding the field at once would fold space.
    """
    displacement = velocity / np.float32(2.0**steps)
    for _ in range(steps):
        displacement = compose(displacement, displacement, lattice)
    return displacement


def smallest_jacobian(displacement: np.ndarray, spacing: float = COARSE_MM) -> float:
    """The smallest local change of volume; above zero nothing folds and topology is kept."""
    j = [[np.gradient(displacement[a], spacing, axis=b) + np.float32(a == b) for b in range(3)] for a in range(3)]
    determinant = (
        j[0][0] * (j[1][1] * j[2][2] - j[1][2] * j[2][1])
        - j[0][1] * (j[1][0] * j[2][2] - j[1][2] * j[2][0])
        + j[0][2] * (j[1][0] * j[2][1] - j[1][1] * j[2][0])
    )
    return float(determinant.min())


# --- random maps ---------------------------------------------------------------------------------------------------


def draw_deformation(rng: np.random.Generator, strength: float, scale: float, bottom: float) -> Deformation:
    """A random invertible map that enlarges by about ``scale``: the axis turned, bent at three lengths, the underside
    flattened.

    ``bottom`` is the z (mm) of the heart's lowest part in the new anatomy: it lies on the diaphragm. ``strength`` 1 is
    the adult range, 0 leaves the shape as it is.
    """
    velocity = strength * (_turning(rng) + _flattening(rng, bottom))
    for length, amplitude in ((45.0, 6.0), (22.0, 2.6), (11.0, 0.9)):
        for a in range(3):
            velocity[a] += strength * amplitude * smooth_field(rng, COARSE.shape, length / COARSE_MM)
    displacement = exponential(velocity)
    while smallest_jacobian(displacement) < SMALLEST_JACOBIAN:  # a rare strong draw on this coarse lattice: soften it
        velocity *= 0.8
        displacement = exponential(velocity)
    stretch = scale * (1 + strength * rng.normal(0.0, 0.045, 3).clip(-0.1, 0.1))
    whole = rotation(strength * rng.normal(0.0, (4.0, 4.0, 5.0)).clip(-10, 10))
    return Deformation(displacement, np.diag(1 / stretch) @ whole)


def _turning(rng: np.random.Generator) -> np.ndarray:
    """Velocity that turns the chambers about the heart's middle (horizontal to vertical, to either side) while the
    great vessels above stay with the mediastinum."""
    angles = np.deg2rad(rng.normal(0.0, (8.0, 11.0, 10.0)).clip(-24, 24))
    points = coarse_points()
    fade = 1.0 / (1.0 + np.exp((points[..., 2:] - 45.0) / 14.0))
    distance = np.linalg.norm(points, axis=-1, keepdims=True)
    fade /= 1.0 + np.exp((distance - 105.0) / 10.0)
    return np.moveaxis(np.cross(angles.astype(np.float32), points) * fade, -1, 0).astype(np.float32)


def _flattening(rng: np.random.Generator, bottom: float) -> np.ndarray:
    """Velocity (of the pull-back) that presses the underside flat on a tilted diaphragm."""
    points = coarse_points()
    height = points[..., 2] - bottom + rng.normal(0.0, 0.12) * points[..., 0] + rng.normal(0.15, 0.12) * points[..., 1]
    velocity = np.zeros((3, *COARSE.shape), dtype=np.float32)
    velocity[2] = -rng.uniform(0.0, 9.0) * np.exp(-np.square(np.clip(height, 0, None) / 13.0))
    return velocity


# --- growing structures --------------------------------------------------------------------------------------------


@cache
def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Angular frequencies (3, I, J, K/2+1; 1/mm) of the coarse lattice and the filter of :func:`potential_flow`."""
    full = 2 * np.pi * np.fft.fftfreq(COARSE_SIDE, COARSE_MM)
    half = 2 * np.pi * np.fft.rfftfreq(COARSE_SIDE, COARSE_MM)
    k = np.stack(np.meshgrid(full, full, half, indexing="ij"))
    square = np.square(k).sum(0)
    square[0, 0, 0] = np.inf
    blur = np.exp(-square * (0.6 * COARSE_MM) ** 2 / 2)
    blur[0, 0, 0] = 0.0
    return k.astype(np.float32), (blur / square).astype(np.float32)


def potential_flow(source: np.ndarray) -> np.ndarray:
    """Velocity (3, I, J, K) whose divergence is ``source`` (slightly smoothed): what has a source grows, and everything
    else gives way without changing its own volume."""
    import torch

    k, weight = _frequencies()
    spectrum = torch.fft.rfftn(torch.from_numpy(source)).numpy() * weight
    return np.stack(
        [torch.fft.irfftn(torch.from_numpy(-1j * k[a] * spectrum), s=source.shape).numpy() for a in range(3)]
    )


def grow(
    deformation: Deformation,
    sources: Callable[[np.ndarray, int], np.ndarray],
    steps: int = 8,
) -> Deformation:
    """Let ``sources(places, steps left)`` grow and shrink what lies there, in ``steps`` small steps.

    ``places`` (I, J, K, 3) is where the coarse lattice's points lie in the old anatomy; the answer is the rate of local
    growth on that lattice, as the logarithm of the volume ratio in this step.
    """
    for step in range(steps):
        rate = sources(deformation.coarse(), steps - step)
        grown = deformation.after(potential_flow(rate))
        while smallest_jacobian(grown.displacement) < SMALLEST_JACOBIAN:
            rate = rate * np.float32(0.5)
            grown = deformation.after(potential_flow(rate))
            if np.abs(rate).max() < 1e-3:
                return deformation
        deformation = grown
    return deformation

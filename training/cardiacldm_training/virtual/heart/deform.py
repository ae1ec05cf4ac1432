"""Smooth invertible deformations: random bending, rotation of the heart's axis, growth of structures to a volume.

A deformation maps points of the new anatomy to points of the model (pull-back), so that labels are obtained by
interpolating the model. Displacement fields are stored on one coarse lattice and interpolated elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..shapes import Lattice, rotation, sample, smooth_field

#: Spacing (mm) and side (points) of the lattice of displacements: 4 mm resolve bends of about a centimetre, 252 mm
#: cover the heart with its vessels and a margin.
COARSE_MM, COARSE_SIDE = 4.0, 64
COARSE = Lattice(np.array([0.0, 0.0, 12.0]) - COARSE_MM * (COARSE_SIDE - 1) / 2, COARSE_MM, (COARSE_SIDE,) * 3)
#: Smallest Jacobian determinant of a deformation: above 0, where space would fold.
SMALLEST_JACOBIAN = 0.05


@cache
def coarse_points() -> np.ndarray:
    """Return the points of the coarse lattice, (I, J, K, 3) float32, read-only."""
    points = COARSE.points()
    points.setflags(write=False)
    return points


@dataclass(frozen=True)
class Deformation:
    """A ``displacement`` (3, I, J, K; mm, on the coarse lattice) followed by a ``linear`` map (3x3)."""

    displacement: np.ndarray
    linear: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 3) of the new anatomy to the model, float32."""
        moved = points + np.moveaxis(sample(self.displacement, COARSE, points), 0, -1)
        return moved @ self.linear.T.astype(np.float32)

    def map_coarse_points(self) -> np.ndarray:
        """Map the points of the coarse lattice to the model, (I, J, K, 3)."""
        return (coarse_points() + np.moveaxis(self.displacement, 0, -1)) @ self.linear.T.astype(np.float32)

    def advance(self, velocity: np.ndarray) -> Deformation:
        """Return the deformation after the new anatomy has moved by a small step ``velocity`` (mm)."""
        return Deformation(compose(self.displacement, -velocity), self.linear)


def compose(first: np.ndarray, second: np.ndarray, lattice: Lattice = COARSE) -> np.ndarray:
    """Return the displacement of the pull-back that applies ``second``, then ``first``."""
    points = coarse_points() if lattice is COARSE else lattice.points()
    return second + sample(first, lattice, points + np.moveaxis(second, 0, -1))


def exponential(velocity: np.ndarray, lattice: Lattice = COARSE, steps: int = 5) -> np.ndarray:
    """Integrate a stationary ``velocity`` (3, I, J, K; mm) over unit time by scaling and ``steps`` squarings.

    Composing small steps keeps the map invertible where adding the whole field at once would fold space.
    """
    displacement = velocity / np.float32(2.0**steps)
    for _ in range(steps):
        displacement = compose(displacement, displacement, lattice)
    return displacement


def smallest_jacobian(displacement: np.ndarray, spacing: float = COARSE_MM) -> float:
    """Return the smallest Jacobian determinant; above zero nothing folds and topology is preserved."""
    j = [[np.gradient(displacement[a], spacing, axis=b) + np.float32(a == b) for b in range(3)] for a in range(3)]
    determinant = (
        j[0][0] * (j[1][1] * j[2][2] - j[1][2] * j[2][1])
        - j[0][1] * (j[1][0] * j[2][2] - j[1][2] * j[2][0])
        + j[0][2] * (j[1][0] * j[2][1] - j[1][1] * j[2][0])
    )
    return float(determinant.min())


# --- random maps ---------------------------------------------------------------------------------------------------


def draw_deformation(rng: np.random.Generator, strength: float, scale: float, bottom: float) -> Deformation:
    """Draw an invertible deformation that enlarges by about ``scale``.

    It turns the heart's axis, bends at three length scales and flattens the underside, which lies on the diaphragm at
    ``bottom``, the z (mm) of the heart's lowest part. ``strength`` 1 covers the range of adults, 0 keeps the shape.
    """
    velocity = strength * (_turning_velocity(rng) + _flattening_velocity(rng, bottom))
    for length, amplitude in ((45.0, 6.0), (22.0, 2.6), (11.0, 0.9)):
        for a in range(3):
            velocity[a] += strength * amplitude * smooth_field(rng, COARSE.shape, length / COARSE_MM)
    displacement = exponential(velocity)
    while (
        smallest_jacobian(displacement) < SMALLEST_JACOBIAN
    ):  # rare: weaken a draw that is too strong for this lattice
        velocity *= 0.8
        displacement = exponential(velocity)
    stretch = scale * (1 + strength * rng.normal(0.0, 0.045, 3).clip(-0.1, 0.1))
    whole = rotation(strength * rng.normal(0.0, (4.0, 4.0, 5.0)).clip(-10, 10))
    return Deformation(displacement, np.diag(1 / stretch) @ whole)


def _turning_velocity(rng: np.random.Generator) -> np.ndarray:
    """Draw a velocity (3, I, J, K) that turns the chambers about the heart's middle but not the great vessels above."""
    angles = np.deg2rad(rng.normal(0.0, (8.0, 11.0, 10.0)).clip(-24, 24))
    points = coarse_points()
    fade = 1.0 / (1.0 + np.exp((points[..., 2:] - 45.0) / 14.0))
    distance = np.linalg.norm(points, axis=-1, keepdims=True)
    fade /= 1.0 + np.exp((distance - 105.0) / 10.0)
    return np.moveaxis(np.cross(angles.astype(np.float32), points) * fade, -1, 0).astype(np.float32)


def _flattening_velocity(rng: np.random.Generator, bottom: float) -> np.ndarray:
    """Draw a velocity (3, I, J, K) of the pull-back that flattens the underside on a tilted diaphragm."""
    points = coarse_points()
    height = points[..., 2] - bottom + rng.normal(0.0, 0.12) * points[..., 0] + rng.normal(0.15, 0.12) * points[..., 1]
    velocity = np.zeros((3, *COARSE.shape), dtype=np.float32)
    velocity[2] = -rng.uniform(0.0, 9.0) * np.exp(-np.square(np.clip(height, 0, None) / 13.0))
    return velocity


# --- growing structures --------------------------------------------------------------------------------------------


@cache
def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Return angular frequencies (3, I, J, K/2+1; 1/mm) of the coarse lattice and the filter of the potential flow."""
    full = 2 * np.pi * np.fft.fftfreq(COARSE_SIDE, COARSE_MM)
    half = 2 * np.pi * np.fft.rfftfreq(COARSE_SIDE, COARSE_MM)
    k = np.stack(np.meshgrid(full, full, half, indexing="ij"))
    square = np.square(k).sum(0)
    square[0, 0, 0] = np.inf
    blur = np.exp(-square * (0.6 * COARSE_MM) ** 2 / 2)
    blur[0, 0, 0] = 0.0
    return k.astype(np.float32), (blur / square).astype(np.float32)


def potential_flow(source: np.ndarray) -> np.ndarray:
    """Return the velocity (3, I, J, K; mm) whose divergence is ``source`` (I, J, K), slightly smoothed.

    Regions with a source grow; the others move aside and keep their volume.
    """
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
    """Grow and shrink structures in ``steps`` small steps, with rates from ``sources(places, steps left)``.

    ``places`` (I, J, K, 3) are the coarse lattice's points in the model; a rate (I, J, K) is the logarithm of the
    volume ratio in the next step.
    """
    for step in range(steps):
        rate = sources(deformation.map_coarse_points(), steps - step)
        candidate = deformation.advance(potential_flow(rate))
        while smallest_jacobian(candidate.displacement) < SMALLEST_JACOBIAN:
            rate = rate * np.float32(0.5)
            candidate = deformation.advance(potential_flow(rate))
            if np.abs(rate).max() < 1e-3:
                return deformation
        deformation = candidate
    return deformation

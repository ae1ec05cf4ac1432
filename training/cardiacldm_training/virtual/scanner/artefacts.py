"""Artefacts of a scanner: projection errors, heartbeat, misaligned slabs, kernel and noise.

Projection errors (beam hardening, moving contrast medium, photon starvation) are computed on coarse parallel
projections; filtered back-projection spreads them over the slice, so that streaks and dark bands lie between dense
objects. ``ctaug`` does the same at full resolution in 36 s for metal in 64x160x160 voxels; the coarse grid with one
sparse matrix for all slices takes a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage, sparse

from ..protocol import ScanProtocol
from ..shapes import Lattice, smooth_field

#: Pixel size of the projections, mm; about the width of streaks after a scanner's kernel.
COARSE_MM = 3.0
#: Attenuation of water at CT energies, per mm.
WATER = 0.0195
#: Number of projection angles over 180 degrees.
ANGLES = 72
#: Attenuation of metal or dense blood along a ray at which the ray's inconsistency saturates.
MISFIT_LIMIT = 0.15


@dataclass(frozen=True)
class Projector:
    """Parallel projections of a square slice of ``side`` pixels as a sparse matrix (rays, pixels)."""

    matrix: sparse.csr_matrix
    side: int
    bins: int

    def project(self, slices: np.ndarray) -> np.ndarray:
        """Return the line sums (angles, bins, slices) of (pixels, slices)."""
        return (self.matrix @ slices).reshape(ANGLES, self.bins, -1)

    def smear(self, rays: np.ndarray) -> np.ndarray:
        """Return the mean (pixels, slices) over the angles of the rays (angles, bins, slices) through each pixel."""
        return (self.matrix.T @ rays.reshape(ANGLES * self.bins, -1)) / ANGLES

    def reconstruct(self, rays: np.ndarray) -> np.ndarray:
        """Return the filtered back-projection (pixels, slices) of (angles, bins, slices)."""
        frequency = fft.rfftfreq(2 * self.bins)
        ramp = frequency * (0.5 + 0.5 * np.cos(2 * np.pi * frequency))
        spectrum = fft.rfft(rays, 2 * self.bins, axis=1) * ramp[None, :, None].astype(np.float32)
        filtered = fft.irfft(spectrum, 2 * self.bins, axis=1)[:, : self.bins]
        return np.pi * self.smear(np.ascontiguousarray(filtered))


@lru_cache(maxsize=8)
def projector(side: int) -> Projector:
    """Return the projector of a slice of ``side`` x ``side`` pixels."""
    bins = int(np.ceil(side * 1.45)) | 1
    grid = np.arange(side, dtype=np.float32) - (side - 1) / 2
    x, y = np.meshgrid(grid, grid, indexing="ij")
    pixel = np.arange(side * side)
    rows, columns, weights = [], [], []
    for k, angle in enumerate(np.pi * (np.arange(ANGLES) + 0.5) / ANGLES):
        at = (x * np.cos(angle) + y * np.sin(angle)).ravel() + (bins - 1) / 2
        below = np.floor(at).astype(np.int32)
        for row, weight in ((below, 1 - (at - below)), (below + 1, at - below)):
            rows.append(row + k * bins)
            columns.append(pixel)
            weights.append(weight.astype(np.float32))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return Projector(sparse.csr_matrix(entries, shape=(ANGLES * bins, side * side)), side, bins)


def projection_errors(
    image: np.ndarray, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the error (HU) and the local noise factor, both float32 on the image's grid.

    The factor is about 1 on average over the body. Rays through more tissue carry fewer photons: the middle of the body
    is noisier, and at the shoulders noise is aligned with the rays.
    """
    coarse, zoom = _downsample(image, lattice.spacing)
    side, depth = coarse.shape[0], coarse.shape[2]
    rays = projector(side)
    flat = coarse.reshape(side * side, depth)
    step = COARSE_MM * WATER / 1000.0
    total = rays.project(np.maximum(flat + 1000.0, 0.0)) * step
    dense = rays.project(np.maximum(flat - 180.0, 0.0)) * step
    heavy = rays.project(np.maximum(flat - 700.0, 0.0)) * step
    scale = 1000.0 / (COARSE_MM * WATER)

    hardening = 0.35 * protocol.streaks * np.sqrt(100.0 / protocol.kv)
    # Projections of moving dense blood and of metal are inconsistent with each other.
    misfit = ndimage.gaussian_filter(rng.standard_normal((ANGLES, 1, depth)), (1.2, 0, 0.7), mode="wrap")
    misfit *= 1.8 * protocol.streaks / misfit.std()
    moving = MISFIT_LIMIT * np.tanh(heavy / MISFIT_LIMIT)  # large volumes of dense blood change only at their rim
    error = -hardening * np.square(dense) + misfit.astype(np.float32) * moving
    photons = np.exp(np.clip(total + 0.8 * np.maximum(dense - 1.0, 0.0), 0.0, 9.0))
    starved = np.sqrt(np.maximum(photons - np.exp(6.0), 0.0)) * (0.0002 * protocol.noise_hu)
    error += starved * rng.standard_normal(error.shape, dtype=np.float32)
    errors_hu = rays.reconstruct(error.astype(np.float32)) * scale
    spread = _normalise_noise(np.sqrt(rays.smear(photons)), flat > -400.0)
    fine = [_upsample(a.reshape(side, side, depth), image.shape, zoom) for a in (errors_hu, spread)]
    return np.clip(fine[0], -400.0, 400.0), np.clip(fine[1], 0.3, 2.2)


def _normalise_noise(spread: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Scale the noise (pixels, slices) to about 1 in the body; modulation of the tube current evens it likewise."""
    inside = np.maximum(body.sum(0), 1)
    level = np.where(body.any(0), (spread * body).sum(0) / inside, spread.mean(0))
    usual = float(np.median(level))
    return spread / np.maximum(level * np.clip(level / max(usual, 1e-6), 0.6, 1.7) ** -0.35, 1e-6)


def _downsample(image: np.ndarray, spacing: float) -> tuple[np.ndarray, float]:
    """Return block means on a grid of about 3 mm, padded with air to square slices, and the zoom factor."""
    import torch
    from torch.nn.functional import interpolate

    zoom = min(spacing / COARSE_MM, 1.0)
    shape = [max(2, round(n * zoom)) for n in image.shape]
    small = interpolate(torch.from_numpy(image)[None, None], size=shape, mode="area")[0, 0].numpy()
    side = max(shape[:2])
    padding = [((side - n) // 2, side - n - (side - n) // 2) for n in shape[:2]]
    return np.pad(small, [*padding, (0, 0)], constant_values=-1000.0), zoom


def _upsample(coarse: np.ndarray, shape: tuple[int, ...], zoom: float) -> np.ndarray:
    """Undo :func:`_downsample`: remove the padding and interpolate to ``shape``."""
    import torch
    from torch.nn.functional import interpolate

    inner = [max(2, round(n * zoom)) for n in shape]
    start = [(coarse.shape[a] - inner[a]) // 2 for a in range(2)]
    cut = coarse[start[0] : start[0] + inner[0], start[1] : start[1] + inner[1]].astype(np.float32)
    return interpolate(torch.from_numpy(np.ascontiguousarray(cut))[None, None], size=shape, mode="trilinear")[
        0, 0
    ].numpy()


# --- movement ------------------------------------------------------------------------------------------------------


def blend_heartbeat(
    image: np.ndarray, heart: np.ndarray, lattice: Lattice, excursion: float, rng: np.random.Generator
) -> None:
    """Blend the heart with itself contracted and expanded, as in ungated scans. In place.

    ``heart`` is its mask, ``excursion`` the motion of its wall in mm. Contraction and expansion are equal, so that the
    mean outline agrees with the labels.
    """
    import torch
    from torch.nn.functional import grid_sample

    points = np.argwhere(heart)
    if not len(points) or excursion <= 0:
        return
    margin = int(np.ceil(3 * excursion / lattice.spacing)) + 2
    low, high = np.maximum(points.min(0) - margin, 0), np.minimum(points.max(0) + margin + 1, image.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    part = image[box]
    size = np.array(part.shape)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing="ij")
    inside = ndimage.gaussian_filter(heart[box].astype(np.float32), 6.0 / lattice.spacing, truncate=2.5)
    reach = 2.0 * excursion / (lattice.spacing * size.astype(np.float32))
    slabs = 0.6 + 0.4 * np.sin(rng.uniform(0.2, 0.7) * lattice.spacing / 3 * np.arange(size[2]) + rng.uniform(0, 6))
    moved = torch.from_numpy(np.ascontiguousarray(part))[None, None]
    blend = 0.4 * part
    shift = rng.normal(0.0, 0.35, 3)
    for sign, weight in ((1.0, 0.3), (-1.0, 0.3)):
        where = [axes[a] + sign * reach[a] * inside * slabs.astype(np.float32) * (1.3 * axes[a] + np.float32(shift[a]))
                 for a in range(3)]  # fmt: skip
        grid = torch.from_numpy(np.stack(where[::-1], axis=-1))[None]
        blend += weight * grid_sample(moved, grid, padding_mode="border", align_corners=True)[0, 0].numpy()
    image[box] = blend


def shift_slabs(image: np.ndarray, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator) -> None:
    """Shift slabs of different heartbeats by up to 1 mm in the plane and change their brightness. In place."""
    spacing, depth = lattice.spacing, image.shape[2]
    edge = int(rng.uniform(0, 25) / spacing)
    while edge < depth:
        stop = min(edge + max(2, int(rng.uniform(16, 40) / spacing)), depth)
        aside = rng.uniform(-1, 1, 2) * protocol.step_mm / spacing
        slab = ndimage.shift(image[:, :, edge:stop], (*aside, 0.0), order=1, mode="nearest")
        image[:, :, edge:stop] = slab + np.float32(rng.normal(0.0, 7.0)) * (slab > 60)
        edge = stop


# --- kernel and noise ----------------------------------------------------------------------------------------------


def slice_matrix(depth: int, spacing: float, slice_mm: float, offset: float) -> np.ndarray:
    """Return the matrix (depth, depth) that averages along z over thick slices and interpolates back to the grid.

    ``offset`` (0 to 1) is the position of the first slice in units of the slice increment.
    """
    at = np.arange(depth) * spacing
    increment = max(spacing, 0.8 * slice_mm)
    centres = np.arange(offset * increment - increment, at[-1] + 2 * increment, increment)
    distance = np.abs(centres[:, None] - at[None, :])
    flat = np.clip(
        (slice_mm + spacing - 2 * distance) / (2 * spacing), 0.0, 1.0
    )  # a box with partial voxels at its ends
    profile = flat + 0.05 * np.exp(-np.square(distance / max(slice_mm, spacing)))
    profile[:, 0] += 1e-6 * (centres < at[0] + spacing)  # slices beyond the ends repeat the last voxels
    profile[:, -1] += 1e-6 * (centres > at[-1] - spacing)
    profile /= np.maximum(profile.sum(1, keepdims=True), 1e-9)
    place = (at - centres[0]) / increment
    below = np.clip(np.floor(place).astype(int), 0, len(centres) - 2)
    share = (place - below)[:, None]
    return ((1 - share) * profile[below] + share * profile[below + 1]).astype(np.float32)


def kernel_spectra(shape: tuple[int, ...], spacing: float, protocol: ScanProtocol) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel's in-plane transfer function and the amplitude of its noise, over (fx, fy) of a real FFT.

    Sharp kernels raise the middle frequencies, which overshoots at edges. Noise of filtered back-projection grows with
    frequency up to the kernel's cut-off; iterative reconstruction keeps its low frequencies.
    """
    fx, fy = fft.fftfreq(shape[0], spacing)[:, None], fft.rfftfreq(shape[1], spacing)[None, :]
    f = np.hypot(fx, fy)
    point = np.hypot(protocol.blur_mm, 0.4 * spacing)  # the second term avoids stair-steps of the voxels
    soft = np.exp(-2 * np.square(np.pi * point * f))
    lift = 1.0 + 2.2 * protocol.edge * np.square(f / 0.3) / (1 + np.square(f / 0.3))
    kernel = np.exp(-2 * np.square(np.pi * protocol.blur_mm * f)) * lift
    grain = np.power(f + 0.08, 1.0 - 0.75 * protocol.iterative) * kernel
    grain *= np.exp(-2 * protocol.iterative * np.square(f / 0.4))
    return (soft * lift).astype(np.float32), grain.astype(np.float32)


def apply_kernel(image: np.ndarray, response: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Filter the image's first two axes, with edges continued to ``size``, the shape of :func:`kernel_spectra`."""
    before = [(n - m) // 2 for n, m in zip(size, image.shape[:2], strict=True)]
    pad = [(b, n - m - b) for b, n, m in zip(before, size, image.shape[:2], strict=True)]
    wide = np.pad(image, [*pad, (0, 0)], mode="edge")
    out = fft.irfft2(fft.rfft2(wide, axes=(0, 1)) * response[:, :, None], s=size, axes=(0, 1))
    return out[before[0] : before[0] + image.shape[0], before[1] : before[1] + image.shape[1]]


def draw_noise(
    shape: tuple[int, ...], grain: np.ndarray, size: tuple[int, int], along: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw noise of unit standard deviation with the spectrum ``grain`` in the plane and slice matrix ``along`` z."""
    white = rng.standard_normal((*size, shape[2]), dtype=np.float32)
    out = fft.irfft2(fft.rfft2(white, axes=(0, 1)) * grain[:, :, None], s=size, axes=(0, 1))
    out = out[: shape[0], : shape[1]] @ along.T
    return out / max(float(out.std()), 1e-9)


def draw_bias(shape: tuple[int, ...], spacing: float, protocol: ScanProtocol, rng: np.random.Generator) -> np.ndarray:
    """Draw a bias that varies slowly over the scan, HU (float32)."""
    return protocol.bias_hu * smooth_field(rng, shape, 60.0 / spacing)


def outside_circle(lattice: Lattice, protocol: ScanProtocol) -> np.ndarray | None:
    """Return the mask (I, J) outside the reconstruction circle; None if the scan is not cut."""
    if not protocol.circle:
        return None
    x, y = (lattice.axis(a)[:, :, 0] for a in range(2))
    radius = max(float(np.ptp(x)), float(np.ptp(y))) / 2
    return np.hypot(x - x.mean(), y - y.mean()) > radius

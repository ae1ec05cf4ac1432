"""Augmentation of training patches, in Hounsfield units and millimetres.

Intensity functions have the form ``f(image, labels, rng, settings, spacing_mm) -> (image, labels)``: ``image``
(I, J, K) float32 in HU, ``labels`` (I, J, K) uint8. ``rng`` is the only source of randomness, so that the same seed
gives the same patch. Inputs are never changed in place. :func:`sample_patch` does all geometry in one interpolation.

MONAI's transforms are too slow here: two cores feed the training, so a patch may take some tens of milliseconds. MONAI
resamples once for the affine and once for the warp unless lazy, its ``Rand3DElasticd`` smooths noise at full
resolution, and none of its transforms knows structures (contrast phases) or reads only a box of a memory-mapped file.
docs/research/training.md has the timings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter
from scipy.spatial.transform import Rotation
from torch.nn.functional import grid_sample

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.image.grid import AIR_HU

from .settings import AugmentConfig

#: Structures that contrast medium reaches at the same time: left heart with the aorta, and right heart.
LEFT_HEART = ("LA", "LV", "LAA", "AO")
RIGHT_HEART = ("RA", "RV")

Arrays = tuple[np.ndarray, np.ndarray]
Intensity = Callable[[np.ndarray, np.ndarray, np.random.Generator, AugmentConfig, float], Arrays]


# --- smooth random fields ------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _spline_basis(length: int, controls: int) -> np.ndarray:
    """(length, controls) float32: cubic B-splines with evenly spaced control points, evaluated on ``length`` voxels."""
    knots = np.arange(-3.0, controls + 1.0)
    places = np.linspace(0.0, controls - 3.0 - 1e-9, length)
    return BSpline.design_matrix(places, knots, 3).toarray().astype(np.float32)


def smooth_field(controls: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the cubic B-spline field of ``controls`` (C, a, b, c), each at least 4, as (C, *shape) float32."""
    field = controls.astype(np.float32)
    for axis in (1, 2, 3):  # one small matrix product per axis is faster than an interpolation of the field
        field = np.moveaxis(np.tensordot(field, _spline_basis(shape[axis - 1], field.shape[axis]), (axis, 1)), -1, axis)
    return field


# --- geometry ------------------------------------------------------------------------------------------------------


def random_affine(rng: np.random.Generator, settings: AugmentConfig) -> np.ndarray:
    """Return a random (3, 3) matrix from patch offsets to source offsets: rotations, scales and flips of each axis."""
    angles = rng.uniform(-settings.rotation_deg, settings.rotation_deg, 3)
    low, high = np.log(settings.scale)
    scale = np.exp(rng.uniform(low, high, 3))
    flips = np.where(rng.random(3) < settings.flip, -1.0, 1.0)
    return np.asarray(Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(flips / scale))


def random_warp(
    rng: np.random.Generator, shape: Sequence[int], settings: AugmentConfig, spacing_mm: float
) -> np.ndarray:
    """Return a smooth displacement (3, *shape) in voxels, of random strength from 0 to ``warp_mm``."""
    controls = [max(4, round(n * spacing_mm / settings.warp_spacing_mm) + 3) for n in shape]
    strength = rng.uniform(0.0, settings.warp_mm) / spacing_mm
    return smooth_field(strength * rng.standard_normal((3, *controls), dtype=np.float32), shape)


def sample_patch(
    image: np.ndarray, labels: np.ndarray, *, centre: np.ndarray, shape: Sequence[int], matrix: np.ndarray,
    warp: np.ndarray | None = None,
) -> Arrays:  # fmt: skip
    """Return a patch of ``shape`` around ``centre`` (source voxels), with air outside the scan.

    The image (HU) is interpolated linearly, labels take the nearest voxel. ``matrix`` (3, 3) maps offsets from the
    patch's centre to offsets in the source; ``warp`` (3, *shape) is added. Only the necessary box is read from
    ``image`` and ``labels``, which may be memory-mapped.
    """
    coordinates = np.empty((3, *shape), dtype=np.float32)
    i, j, k = (np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape)
    matrix = matrix.astype(np.float32)
    for a in range(3):
        plane = (np.float32(centre[a]) + matrix[a, 0] * i)[:, None] + (matrix[a, 1] * j)[None, :]
        np.add(plane[:, :, None], matrix[a, 2] * k, out=coordinates[a])
    if warp is not None:
        coordinates += warp
    low = np.floor(coordinates.min((1, 2, 3))).astype(int)
    high = np.maximum(np.floor(coordinates.max((1, 2, 3))).astype(int) + 2, low + 2)
    image_box = box(image, low, high, AIR_HU).astype(np.float32)
    labels_box = box(labels, low, high, 0)
    grid = torch.empty((*shape, 3), dtype=torch.float32)
    for a in range(3):  # grid_sample wants the last axis first, in -1..1 between voxel centres
        scale = 2.0 / (high[a] - low[a] - 1)
        torch.add(torch.from_numpy(coordinates[a]) * scale, -float(low[a]) * scale - 1.0, out=grid[..., 2 - a])
    patch = grid_sample(torch.from_numpy(image_box)[None, None], grid[None], mode="bilinear", align_corners=True)
    # Nearest voxels by index are faster than a second grid_sample.
    place = np.rint(coordinates - low[:, None, None, None].astype(np.float32)).astype(np.int32)
    _, nj, nk = labels_box.shape
    return patch[0, 0].numpy(), labels_box.ravel().take((place[0] * nj + place[1]) * nk + place[2])


def box(array: np.ndarray, low: np.ndarray, high: np.ndarray, fill: float) -> np.ndarray:
    """Return ``array[low:high]``, with ``fill`` where the box extends beyond the array."""
    out = np.full(tuple(high - low), fill, dtype=array.dtype)
    start, stop = np.clip(low, 0, array.shape), np.clip(high, 0, array.shape)
    if (stop > start).all():
        inside = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
        out[inside] = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return out


# --- intensities, in HU --------------------------------------------------------------------------------------------


def contrast_phase(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Simulate another contrast phase: shift the HU of left heart, right heart, PA and wall independently.

    The shift is averaged over 3 voxels, so that edges keep their partial-volume blur.
    """
    shift = np.zeros(np.iinfo(np.uint8).max + 1, dtype=np.float32)  # for voxels without a label too
    left = rng.uniform(-settings.left_shift_hu, settings.left_shift_hu)
    right = rng.uniform(-settings.right_shift_hu, settings.right_shift_hu)
    for name in LEFT_HEART:
        shift[VALUE[name]] = left + rng.normal(0.0, 10.0)
    for name in RIGHT_HEART:
        shift[VALUE[name]] = right + rng.normal(0.0, 20.0)
    shift[VALUE["PA"]] = rng.uniform(-settings.right_shift_hu, settings.right_shift_hu)
    shift[VALUE["MYO"]] = rng.uniform(-settings.wall_shift_hu, settings.wall_shift_hu)
    return image + uniform_filter(shift[labels], 3), labels


def mixing(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Simulate contrast medium that is not yet mixed with the blood: clouds within the right heart."""
    controls = rng.integers(4, 11, size=3)
    clouds = smooth_field(rng.standard_normal((1, *controls), dtype=np.float32), image.shape)[0]
    inside = uniform_filter(np.isin(labels, [VALUE[name] for name in RIGHT_HEART]).astype(np.float32), 3)
    return image + np.float32(rng.uniform(0.2, 1.0) * settings.mixing_hu) * inside * clouds, labels


def bias_field(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Add smooth dark and bright bands, as scatter and beam hardening cause; the smoothness differs between axes."""
    controls = rng.integers(4, 10, size=3)
    field = smooth_field(rng.standard_normal((1, *controls), dtype=np.float32), image.shape)[0]
    return image + np.float32(rng.uniform(0.2, 1.5) * settings.bias_hu) * field, labels


def blur(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Simulate a softer kernel or motion: Gaussian blur of random width along each axis."""
    sigma = rng.uniform(0.0, settings.blur_mm, 3) / spacing_mm
    return gaussian_filter(image, sigma, truncate=2.5), labels


def thick_slices(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Simulate thick slices along one axis, mostly the body's: average, then interpolate back to the grid."""
    axis = 2 if rng.random() < 0.8 else int(rng.integers(0, 2))
    thickness = rng.uniform(spacing_mm, max(settings.thick_slices_mm, 1.5 * spacing_mm)) / spacing_mm
    n = image.shape[axis]
    centres = np.arange(rng.uniform(0.0, thickness), n - 1 + thickness, thickness).clip(0, n - 1)
    averaged = gaussian_filter1d(image, thickness / 2.5, axis=axis, truncate=2.0)
    slices = np.take(averaged, centres.round().astype(int), axis=axis)
    place = np.interp(np.arange(n), centres, np.arange(len(centres)))
    low = np.minimum(place.astype(int), max(len(centres) - 2, 0))
    weight = (place - low).astype(np.float32).reshape([-1 if d == axis else 1 for d in range(3)])
    first, second = np.take(slices, low, axis=axis), np.take(slices, np.minimum(low + 1, len(centres) - 1), axis=axis)
    return first + weight * (second - first), labels


def noise(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Add Gaussian noise of random strength and correlation length (sharp to soft reconstruction kernels)."""
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    sigma = rng.uniform(0.0, settings.noise_length_mm / 2.0) / spacing_mm
    if sigma > 0.3:  # below that a Gaussian is a single voxel
        grain = gaussian_filter(grain, sigma, truncate=2.5)
        grain /= grain.std() + 1e-6
    return image + np.float32(rng.uniform(0.0, settings.noise_hu)) * grain, labels


def calibration(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Simulate another tube voltage or calibration: scale HU about water and shift them."""
    scale = 1.0 + rng.uniform(-settings.scale_hu, settings.scale_hu)
    return image * np.float32(scale) + np.float32(rng.uniform(-settings.shift_hu, settings.shift_hu)), labels


def field_of_view(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Let the scan end inside the patch, along each axis with the same probability: air and no labels beyond."""
    inside = []
    for n in image.shape:
        if rng.random() < settings.view:
            length = max(round(n * rng.uniform(settings.view_smallest, 1.0)), 1)
            start = int(rng.integers(0, n - length + 1))
            inside.append(slice(start, start + length))
        else:
            inside.append(slice(0, n))
    view, view_labels = np.full_like(image, AIR_HU), np.zeros_like(labels)
    view[tuple(inside)], view_labels[tuple(inside)] = image[tuple(inside)], labels[tuple(inside)]
    return view, view_labels


def vary_intensity(
    image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, settings: AugmentConfig, spacing_mm: float
) -> Arrays:
    """Apply each intensity function with its probability, in the order of a scanner's physics."""
    steps: tuple[tuple[Intensity, float], ...] = (
        (contrast_phase, settings.contrast), (mixing, settings.mixing), (bias_field, settings.bias),
        (blur, settings.blur), (thick_slices, settings.thick_slices), (noise, settings.noise), (calibration, 1.0),
        (field_of_view, 1.0),
    )  # fmt: skip
    for function, probability in steps:
        if rng.random() < probability:
            image, labels = function(image, labels, rng, settings, spacing_mm)
    return image, labels


# --- the network's input -------------------------------------------------------------------------------------------


def gamma(windowed: np.ndarray, rng: np.random.Generator, settings: AugmentConfig) -> np.ndarray:
    """Raise windowed values (0..1) to a random power, with the probability ``settings.gamma``."""
    if rng.random() >= settings.gamma:
        return windowed
    return windowed ** np.float32(np.exp(rng.uniform(-settings.gamma_log, settings.gamma_log)))

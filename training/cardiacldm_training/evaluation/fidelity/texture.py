"""Noise inside tissues: its strength and its power spectrum, measured alike in generated and reference images.

Measured in the interior of a tissue, away from its borders, after a local trend is taken off. A spectrum is that of
the masked residual over the number of its voxels (HU^2 per mode, white noise of variance v gives v), averaged over the
rings of :mod:`CardiacLDMLib.texture`; the mask smears it by the reciprocal of the tissue's width, in both sets alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.postprocess import texture

from .cases import Pair

#: Blood pools in which noise is measured: wide, and well mixed.
POOLS = ("AO", "LA", "LV")
#: Depth below a tissue's surface from which on it is interior: voxels, and mm. Less, and the blurred borders of a
#: smooth image pass for noise; in the thin wall, where there is no more, they do in part.
DEPTH_VOXELS, DEPTH_MM, WALL_DEPTH_VOXELS = 2.5, 4.0, 1.5
#: Width (standard deviation) of the trend that is taken off, after a linear one, mm.
TREND_MM = 10.0
#: Fewer interior voxels than this say nothing.
FEWEST_VOXELS = 150
#: Rings below the Nyquist frequency that two spectra are compared in; the first one went with the trend.
COMPARED = slice(1, 8)


@dataclass(frozen=True)
class Texture:
    """``sd_hu`` by blood pool and by tissue, ``spectra`` (BINS,) in HU^2 by tissue: those with enough interior."""

    sd_hu: dict[str, float]
    spectra: dict[str, np.ndarray]


def measure(pair: Pair) -> Texture:
    """Noise in the blood pools and the tissues of one pair."""
    tissues = texture.tissue_map(pair.hu, pair.labels)
    regions = {name: pair.labels == VALUE[name] for name in POOLS}
    regions |= {name: tissues == n for n, name in enumerate(texture.TISSUES, start=1) if name != "blood"}
    deep = max(DEPTH_VOXELS, DEPTH_MM / pair.view.spacing_mm)
    sd_hu, spectra = {}, {}
    pools: list[tuple[np.ndarray, int]] = []
    for name, region in regions.items():
        found = _residual(pair.hu, region, WALL_DEPTH_VOXELS if name == "wall" else deep, pair.view.spacing_mm)
        if found is None:
            continue
        residual, count = found
        sd_hu[name] = float(np.sqrt((residual**2).sum() / count))
        if name in POOLS:
            pools.append((_rings(residual) / count, count))
        else:
            spectra[name] = _rings(residual) / count
    if pools:
        spectra["blood"] = np.average([rings for rings, _ in pools], axis=0, weights=[count for _, count in pools])
        sd_hu["blood"] = float(np.mean([sd_hu[name] for name in POOLS if name in sd_hu]))
    return Texture(sd_hu, spectra)


def _residual(hu: np.ndarray, region: np.ndarray, depth: float, spacing_mm: float) -> tuple[np.ndarray, int] | None:
    """What is left of the interior's HU without their trend, 0 elsewhere, and the number of interior voxels."""
    tight = ndimage.find_objects(region.view(np.uint8), max_label=1)[0]
    if tight is None:
        return None
    found = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in tight)
    # What the grid cuts goes on beyond it; everything else has a voxel of something else around it by now.
    inside = ndimage.distance_transform_edt(np.pad(region[found], 1, mode="edge")) > depth
    mask = inside[1:-1, 1:-1, 1:-1].astype(np.float32)
    count = int(mask.sum())
    if count < FEWEST_VOXELS:
        return None
    values = hu[found].astype(np.float32) * mask
    places = np.argwhere(mask)
    terms = np.column_stack([places - places.mean(0), np.ones(count)])
    values[mask > 0] -= terms @ np.linalg.lstsq(terms, values[mask > 0], rcond=None)[0]
    width = TREND_MM / spacing_mm
    weight = ndimage.gaussian_filter(mask, width, mode="constant")
    trend = ndimage.gaussian_filter(values, width, mode="constant") / np.maximum(weight, 1e-6)
    return (values - trend) * mask, count


def _rings(residual: np.ndarray) -> np.ndarray:
    """(BINS,) mean power over the modes of each ring."""
    shape = [fft.next_fast_len(max(n, 32), real=True) for n in residual.shape]
    power = np.abs(fft.rfftn(residual, shape)) ** 2
    rings = np.minimum((texture.radii(shape) * texture.BINS).astype(int), texture.BINS - 1).ravel()
    modes = np.full(shape[:-1] + [power.shape[-1]], 2.0)  # all but the first and the last stand for two
    modes[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        modes[..., -1] = 1.0
    sums, counts = (np.bincount(rings, w.ravel(), texture.BINS) for w in (power * modes, modes))
    return sums / np.maximum(counts, 1)


def mean_spectra(textures: Sequence[Texture]) -> dict[str, tuple[float, ...]]:
    """Mean spectrum (HU^2) of each tissue over the cases in which it was measured."""
    stacks = {name: [t.spectra[name] for t in textures if name in t.spectra] for name in texture.TISSUES}
    return {name: tuple(np.mean(stack, axis=0).tolist()) for name, stack in stacks.items() if stack}


def spectrum_distance_db(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square over the compared rings of the difference in dB between two sets' typical spectra (n, BINS)."""
    one, two = (np.log10(np.maximum(rows[:, COMPARED], 1e-6)).mean(0) for rows in (first, second))
    return float(10.0 * np.sqrt(((one - two) ** 2).mean()))


def remedy(generated: Sequence[Texture], reference: Sequence[Texture]) -> Mapping[str, tuple[float, ...]]:
    """Spectra of the noise that generated images lack, for :func:`CardiacLDMLib.texture.add_noise`."""
    return texture.missing_power(mean_spectra(reference), mean_spectra(generated))

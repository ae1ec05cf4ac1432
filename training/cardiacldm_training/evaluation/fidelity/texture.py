"""Noise inside tissues: standard deviation and noise-power spectrum of generated and reference images.

Noise is measured in the interior of a tissue after a local trend is subtracted. A spectrum is that of the masked
residual divided by the number of voxels (HU^2 per mode; white noise of variance v gives v), averaged over the rings of
:mod:`CardiacLDMLib.postprocess.texture`. The mask smooths spectra of both sets equally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.postprocess import texture

from .cases import Pair

#: Cavities in which noise is measured: wide, with well mixed blood.
POOLS = ("AO", "LA", "LV")
#: Depth of a tissue's interior below its surface, in voxels and mm. With less, blurred borders would count as noise;
#: in the thin wall they do in part.
DEPTH_VOXELS, DEPTH_MM, WALL_DEPTH_VOXELS = 2.5, 4.0, 1.5
#: Width (standard deviation) of the trend that is subtracted after a linear one, mm.
TREND_MM = 10.0
#: Fewest interior voxels for a measurement.
FEWEST_VOXELS = 150
#: How many strengths describe the differences between cases.
STRENGTHS = 16
#: Rings below the Nyquist frequency in which spectra are compared; the first one is removed with the trend.
COMPARED = slice(1, 8)


@dataclass(frozen=True)
class Texture:
    """Noise of one case: ``sd_hu`` by cavity and tissue, ``spectra`` (BINS,) in HU^2 by tissue with enough voxels."""

    sd_hu: dict[str, float]
    spectra: dict[str, np.ndarray]


def measure(pair: Pair) -> Texture:
    """Measure the noise in cavities and tissues of one pair."""
    tissues = texture.tissue_map(pair.hu, pair.labels)
    regions = {name: pair.labels == VALUE[name] for name in POOLS}
    regions |= {name: tissues == n for n, name in enumerate(texture.TISSUES, start=1) if name != "blood"}
    deep = max(DEPTH_VOXELS, DEPTH_MM / pair.view.spacing_mm)
    sd_hu, spectra = {}, {}
    pools: list[tuple[np.ndarray, int]] = []
    for name, region in regions.items():
        interior = _residual(pair.hu, region, WALL_DEPTH_VOXELS if name == "wall" else deep, pair.view.spacing_mm)
        if interior is None:
            continue
        residual, count = interior
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
    """Return the interior's HU without their trend (0 elsewhere) and the number of interior voxels.

    Return None for too few voxels.
    """
    tight = ndimage.find_objects(region.view(np.uint8), max_label=1)[0]
    if tight is None:
        return None
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in tight)
    # A region that the grid cuts continues beyond its border; all others have a margin of one voxel.
    inside = ndimage.distance_transform_edt(np.pad(region[box], 1, mode="edge")) > depth
    mask = inside[1:-1, 1:-1, 1:-1].astype(np.float32)
    count = int(mask.sum())
    if count < FEWEST_VOXELS:
        return None
    values = hu[box].astype(np.float32) * mask
    places = np.argwhere(mask)
    terms = np.column_stack([places - places.mean(0), np.ones(count)])
    values[mask > 0] -= terms @ np.linalg.lstsq(terms, values[mask > 0], rcond=None)[0]
    width = TREND_MM / spacing_mm
    weight = ndimage.gaussian_filter(mask, width, mode="constant")
    trend = ndimage.gaussian_filter(values, width, mode="constant") / np.maximum(weight, 1e-6)
    return (values - trend) * mask, count


def _rings(residual: np.ndarray) -> np.ndarray:
    """Return the mean power (BINS,) over the modes of each ring."""
    shape = [fft.next_fast_len(max(n, 32), real=True) for n in residual.shape]
    power = np.abs(fft.rfftn(residual, shape)) ** 2
    rings = np.minimum((texture.radii(shape) * texture.BINS).astype(int), texture.BINS - 1).ravel()
    modes = np.full(shape[:-1] + [power.shape[-1]], 2.0)  # one stored for two conjugate modes
    modes[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        modes[..., -1] = 1.0
    sums, counts = (np.bincount(rings, w.ravel(), texture.BINS) for w in (power * modes, modes))
    return sums / np.maximum(counts, 1)


def mean_spectra(textures: Sequence[Texture]) -> dict[str, tuple[float, ...]]:
    """Return the mean spectrum (HU^2) of each tissue over the cases in which it was measured."""
    stacks = {name: [t.spectra[name] for t in textures if name in t.spectra] for name in texture.TISSUES}
    return {name: tuple(np.mean(stack, axis=0).tolist()) for name, stack in stacks.items() if stack}


def spectrum_distance_db(first: np.ndarray, second: np.ndarray) -> float:
    """Return the RMS difference (dB) over the compared rings of two sets' geometric mean spectra (n, BINS)."""
    one, two = (np.log10(np.maximum(rows[:, COMPARED], 1e-6)).mean(0) for rows in (first, second))
    return float(10.0 * np.sqrt(((one - two) ** 2).mean()))


def missing_noise(generated: Sequence[Texture], reference: Sequence[Texture]) -> Mapping[str, tuple[float, ...]]:
    """Return the spectra of the noise that generated images lack, as ``postprocess.texture.add_noise`` takes them."""
    return texture.missing_power(mean_spectra(reference), mean_spectra(generated))


def noise_strengths(generated: Sequence[Texture], reference: Sequence[Texture]) -> tuple[float, ...]:
    """Return how the noise varies from one reference to another, as ``postprocess.texture.Texture`` takes it.

    Factors of the standard deviation: quantiles of the noise that generated images lack beside each reference, over
    that beside all of them, at the frequencies where it is missing, averaged over the tissues. Their mean square is 1.
    Empty if no noise is missing.
    """
    missing = {name: np.array(values) for name, values in missing_noise(generated, reference).items() if any(values)}
    present = {name: np.array(values) for name, values in mean_spectra(generated).items()}
    ratios = []
    for case in reference:
        own = [
            float((case.spectra[name] - present[name])[missing[name] > 0].clip(0).sum() / missing[name].sum())
            for name in missing if name in case.spectra
        ]  # fmt: skip
        ratios += [float(np.mean(own))] if own else []
    if not ratios:
        return ()
    strengths = np.sqrt(np.quantile(ratios, (np.arange(STRENGTHS) + 0.5) / STRENGTHS))
    strengths /= max(float(np.sqrt(np.mean(strengths**2))), 1e-6)
    return tuple(round(float(strength), 3) for strength in strengths)

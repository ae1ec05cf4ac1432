"""Refine the borders of left ventricle, myocardium and right ventricle by the HU of this very scan.

Networks put these borders where they lay in training: a wall that is too thick takes fat outside and blood inside. Near
a border, the likelihood of a voxel's HU is weighed with the network's probability. HU of the three are taken as normal
distributions, estimated in their insides; those of the background near them as a histogram. Nothing is trained.

The left ventricle only grows: its papillary muscles, which look like wall, belong to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import anatomy
from ..image.grid import Grid
from ..image.resample import dilate, nearest

#: Structures with a distribution of their own, and all between which borders move, the background first.
_STRUCTURES = tuple(anatomy.VALUE[name] for name in ("LV", "MYO", "RV"))
_CLASSES = (anatomy.BACKGROUND, *_STRUCTURES)
#: Voxels of the network's grid: how far a border may move, how far insides lie from it, and the background around.
BAND, CORE, AROUND = 2, 2, 6
#: Fewest voxels of an inside that HU are estimated in.
LEAST_VOXELS = 50
#: Blood and wall whose HU differ by less are not told apart by them.
LEAST_CONTRAST_HU = 50.0
#: Least standard deviation of a structure: its edges are mixed with what lies beside it.
LEAST_SD_HU = 30.0
#: Most that HU weigh against the network, as a difference of logits.
MOST = 6.0
#: Voxels whose centres lie within this distance along an axis are averaged: noise of a small one is no border.
AVERAGE_MM = 1.1
#: The histogram: ends, width of a bin, standard deviation of the smoothing, and what is added to each of its bins as a
#: share of the mean, in case a value was not seen.
_LOW_HU, _HIGH_HU, _BIN_HU, _SMOOTH_HU, _UNSEEN = -1100.0, 1500.0, 10.0, 40.0, 1e-3


@dataclass(frozen=True)
class Borders:
    """``band`` (I, J, K; bool): where borders may move, on the network's grid. ``scores`` (4, bins): what HU weigh."""

    band: np.ndarray
    scores: np.ndarray

    def on(self, grid: Grid, target: Grid) -> Iterator[np.ndarray]:
        """Yield ``band``, which lies on ``grid``, for each slice (I, J) of ``target``."""
        return (slab[..., 0] for _, slab in nearest(self.band, grid.affine, target))

    def move(self, labels: np.ndarray, logits: np.ndarray, hu: np.ndarray, band: np.ndarray) -> None:
        """Change ``labels`` (I, J, K; uint8) within ``band``, by ``logits`` (9, I, J, K) and averaged ``hu`` (I, J, K).

        Voxels of the left ventricle and of other structures stay, and no other structure grows.
        """
        place = np.full(anatomy.NUM_CLASSES, -1)
        place[list(_CLASSES)] = range(len(_CLASSES))
        band = band & (place[labels] >= 0) & (labels != anatomy.VALUE["LV"])
        own = place[labels[band]]
        scores = self.scores[:, _bins(hu[band])]
        scores -= np.take_along_axis(scores, own[None], axis=0)
        scores = scores.clip(-MOST, MOST) + np.stack([logits[value][band] for value in _CLASSES])
        labels[band] = np.array(_CLASSES, dtype=np.uint8)[scores.argmax(axis=0)]


def find_borders(labels: np.ndarray, hu: np.ndarray, weight: float) -> Borders | None:
    """Return the borders of ``labels`` (I, J, K; uint8) with what averaged ``hu`` of the same voxels say about them.

    ``weight``: of the logarithm of the likelihood of HU, where that of the network's probability is 1. None if a
    structure is too small, or if blood and wall have nearly the same HU, as without contrast.
    """
    cores = [inside(labels == value) for value in _STRUCTURES]
    if any(np.count_nonzero(core) < LEAST_VOXELS for core in cores):
        return None
    means = [float(np.median(hu[core])) for core in cores]
    if abs(means[0] - means[1]) < LEAST_CONTRAST_HU:
        return None
    band = np.zeros(labels.shape, dtype=bool)
    for value in _CLASSES:
        others = np.isin(labels, [other for other in _CLASSES if other != value])
        band |= (labels == value) & dilate(others, BAND)
    middle = _LOW_HU + _BIN_HU * (np.arange(round((_HIGH_HU - _LOW_HU) / _BIN_HU)) + 0.5)
    around = dilate(np.isin(labels, _STRUCTURES), AROUND) & (labels == anatomy.BACKGROUND) & ~band
    rows = [_log_histogram(hu[around], len(middle))]
    for mean, core in zip(means, cores, strict=True):
        sd = max(1.4826 * float(np.median(np.abs(hu[core] - mean))), LEAST_SD_HU)  # of a normal distribution
        rows.append(-(((middle - mean) / sd) ** 2) / 2 - np.log(sd * np.sqrt(2 * np.pi)))
    return Borders(band, (weight * np.stack(rows)).astype(np.float32))


def inside(mask: np.ndarray) -> np.ndarray:
    """Return the inside of a structure (I, J, K; bool); of a thin one, the voxels that do not touch its border."""
    core = ~dilate(~mask, CORE)
    return core if np.count_nonzero(core) >= LEAST_VOXELS else ~dilate(~mask, 1)


def _log_histogram(hu: np.ndarray, bins: int) -> np.ndarray:
    """Return the logarithm of the smoothed density of HU (bins,), per HU."""
    counts = np.bincount(_bins(hu), minlength=bins).astype(np.float64)
    reach = round(4 * _SMOOTH_HU / _BIN_HU)
    kernel = np.exp(-((np.arange(-reach, reach + 1) * _BIN_HU / _SMOOTH_HU) ** 2) / 2)
    density = np.convolve(counts, kernel / kernel.sum(), mode="same")
    density += _UNSEEN * max(density.mean(), np.finfo(float).tiny)
    return np.log(density / (density.sum() * _BIN_HU))


def _bins(hu: np.ndarray) -> np.ndarray:
    """Return the bin of each value; values beyond the ends are in the last ones."""
    return ((hu.clip(_LOW_HU, _HIGH_HU - 1.0) - _LOW_HU) / _BIN_HU).astype(np.intp)


def averaged(hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the mean of ``hu`` (I, J, K) over the voxels within ``AVERAGE_MM`` along each axis, edges continued."""
    for axis, reach in enumerate((AVERAGE_MM / spacing).astype(int).tolist()):
        if reach:
            total = hu.astype(np.float32, order="K")
            out, lines = np.moveaxis(total, axis, 0), np.moveaxis(hu, axis, 0)
            for step in range(1, reach + 1):
                out[step:] += lines[:-step]
                out[:step] += lines[:1]
                out[:-step] += lines[step:]
                out[-step:] += lines[-1:]
            total /= 2 * reach + 1
            hu = total
    return hu


def next_slab(slices: Iterator[np.ndarray], count: int) -> np.ndarray:
    """Return the next ``count`` slices (I, J) as one slab (I, J, count)."""
    return np.stack(list(itertools.islice(slices, count)), axis=2)

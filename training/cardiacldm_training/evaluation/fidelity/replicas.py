"""Copies of training cases among generated pairs.

A pair is compared with training cases at about 6 mm, as image and as palette-coloured labels together, heart on heart,
over flips and small shifts: they are 1 less the mean of both correlations apart. What is smooth and typical is near to
many cases and a copy of none, so the distance to the nearest one is taken relative to those of the next ten (Carlini et
al. 2023, "Extracting Training Data from Diffusion Models"): 0 for a copy. How near a training case comes to the others,
to which it is an unseen one, tells how near is too near.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from CardiacLDMLib.anatomy import BACKGROUND, FULL_WINDOW, HEART, NUM_CLASSES, PALETTE, VALUE
from CardiacLDMLib.generation.generator import Pair as Drawn
from CardiacLDMLib.image.grid import AIR_HU
from CardiacLDMLib.image.resample import block_mean
from CardiacLDMLib.segmentation.findings import Finding

from ...cases.augment import box, to_window
from ...errors import EvaluationError
from .cases import Pair, Source
from .compare import Measured, Record, spread

#: Size of a voxel in the comparison, mm, and largest shift in such voxels; they go by half a voxel.
SIZE_MM, SHIFT = 6.0, 1
#: Less far apart than that, two training cases are one scan twice. Fewest and most cases that give a threshold.
SAME, FEWEST, MOST_FOR_THRESHOLD = 0.02, 4, 100
#: A distance is relative to that of so many further cases. Shifts by half voxels are for the most alike, so many.
NEIGHBOURS, CANDIDATES = 10, 64
#: An unseen case comes nearer than the threshold once in a hundred, if distances are lognormal.
DEVIATIONS = 2.33

_HEART = [VALUE[name] for name in HEART]
_COLOURS = np.array([PALETTE[value] for value in range(NUM_CLASSES)], dtype=np.float32)
_COLOURS -= _COLOURS[BACKGROUND]


class Replica(Record):
    """A generated pair that is too near to a training case; the ``distance`` is relative."""

    pair: str
    case: str
    distance: float


class Replicas(Record):
    """``threshold``: relative distance below which a pair counts as a replica; medians of those to the nearest case."""

    rate: Measured
    threshold: float
    median_generated: float
    median_reference: float
    training_cases: int
    found: list[Replica]


@dataclass(frozen=True)
class Nearest:
    """The nearest training case of each pair: its number and its relative distance."""

    case: np.ndarray  # (n,) int
    distance: np.ndarray  # (n,) float


class TrainingCases:
    """Training cases as pairs are compared with them, in memory: some 0.3 MB each.

    Nearer to one than the ``threshold`` a pair is a copy. Raises :class:`EvaluationError` for fewer than ``FEWEST``
    different cases.
    """

    def __init__(self, train: Source) -> None:
        self.view, self.names = train.view, train.names
        self._middles = np.stack([_units(_middle(_signature(train[n]))[None])[0] for n in range(len(train))])
        self.threshold = self._threshold(train)

    def __len__(self) -> int:
        return len(self._middles)

    def _threshold(self, train: Source) -> float:
        """From cases held out in turn, each together with what is the same scan again."""
        found = []
        for n in np.linspace(0, len(train) - 1, min(len(train), MOST_FOR_THRESHOLD)).astype(int):
            others = np.delete(self._apart(train[n]), n)
            others = others[(others > SAME) & np.isfinite(others)]
            if len(others) >= FEWEST - 1:
                found.append(self._relative(others))
        if len(found) < FEWEST:
            raise EvaluationError(f"{train.name} holds too few cases to tell copies: {FEWEST} different ones needed.")
        return round(threshold(np.array(found)), 4)

    def nearest_of_each(self, pairs: Source) -> Nearest:
        """The case nearest to each of ``pairs``."""
        found = [self.nearest(pairs[n]) for n in range(len(pairs))]
        return Nearest(np.array([case for case, _ in found]), np.array([distance for _, distance in found]))

    def nearest(self, pair: Pair) -> tuple[int, float]:
        """Number and relative distance of the case nearest to ``pair``, over flips along R and A and shifts."""
        apart = self._apart(pair)
        return int(apart.argmin()), self._relative(apart)

    def _apart(self, pair: Pair) -> np.ndarray:
        """(cases,) how far apart they and ``pair`` are; infinitely for all but the ``CANDIDATES``."""
        whole, *halves = _offsets(pair)
        coarse = _likeness(pair, whole, self._middles)
        candidates = np.sort(np.argsort(-coarse, kind="stable")[:CANDIDATES])
        fine = [_likeness(pair, offset, self._middles[candidates]) for offset in halves]
        apart = np.full(len(self), np.inf)
        apart[candidates] = np.maximum(1.0 - np.max([coarse[candidates], *fine], axis=0), 0.0)
        return apart

    def _relative(self, apart: np.ndarray) -> float:
        """The least of distances to cases relative to the mean of the next; as many for a case that is held out."""
        nearest, *others = np.sort(apart[np.isfinite(apart)])[: 1 + min(NEIGHBOURS, len(self) - 2)]
        return float(nearest / np.mean(others))


class CopyJudge:
    """Finds fault with pairs that are copies of the training ``cases``, without saying of which."""

    def __init__(self, cases: TrainingCases) -> None:
        self._cases = cases

    def __call__(self, pair: Drawn) -> list[Finding]:
        _, distance = self._cases.nearest(Pair("", pair.image.array, pair.labels.array, self._cases.view))
        threshold = self._cases.threshold
        return [Finding("replica", value=distance, limit=threshold)] if distance < threshold else []

    def record(self) -> dict[str, Any]:
        return {"replicas": {"training_cases": len(self._cases), "threshold": self._cases.threshold}}


def _offsets(pair: Pair) -> list[tuple[int, ...]]:
    """By how many of the pair's voxels a window may lie beside whole voxels of the comparison: none, then halves."""
    half = _factor(pair) // 2
    return list(itertools.product((0, half) if half else (0,), repeat=3))


def _likeness(pair: Pair, offset: Sequence[int], middles: np.ndarray) -> np.ndarray:
    """(cases,) the largest correlation of the ``middles`` with a window of the pair, over flips and whole shifts."""
    whole = _signature(pair, offset)
    shape = _middle(whole).shape
    best = np.full(len(middles), -1.0)
    for axes in ((), (1,), (2,), (1, 2)):
        windows = np.lib.stride_tricks.sliding_window_view(np.flip(whole, axes), shape)
        best = np.maximum(best, (_units(windows.reshape(-1, *shape)) @ middles.T).max(0))
    return best


def _signature(pair: Pair, offset: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """(4, I, J, K) float32 at about ``SIZE_MM``: image, and labels as colours, the heart (moved by ``offset``) amid."""
    grid = np.array(pair.view.grid)
    heart = np.argwhere(np.isin(pair.labels, _HEART))
    middle = (heart.min(0) + heart.max(0)) / 2 if len(heart) else (grid - 1) / 2
    start = np.round(middle - (grid - 1) / 2).astype(int) + offset
    hu, names = box(pair.hu, start, start + grid, AIR_HU), box(pair.labels, start, start + grid, BACKGROUND)
    channels = [to_window(hu, FULL_WINDOW), *np.moveaxis(_COLOURS[names], -1, 0)]
    return np.stack([block_mean(channel, np.full(3, _factor(pair))) for channel in channels])


def _factor(pair: Pair) -> int:
    return max(round(SIZE_MM / pair.view.spacing_mm), 1)


def _middle(whole: np.ndarray) -> np.ndarray:
    """The window without any shift."""
    return whole[:, SHIFT:-SHIFT, SHIFT:-SHIFT, SHIFT:-SHIFT]


def _units(windows: np.ndarray) -> np.ndarray:
    """(N, V) of windows (N, 4, I, J, K): image and labels, each without its mean and of the same length, so that a
    product of two rows is the mean of both correlations."""
    out = windows - windows.mean(axis=(2, 3, 4), keepdims=True)
    for channels in (slice(0, 1), slice(1, None)):
        part = out[:, channels]
        lengths = np.sqrt(np.einsum("ncijk,ncijk->n", part, part))
        out[:, channels] /= np.maximum(lengths, 1e-6).reshape(-1, 1, 1, 1, 1) * np.float32(np.sqrt(2.0))
    return out.reshape(len(out), -1)


def threshold(distances: np.ndarray) -> float:
    """The distance that an unseen case would hardly ever fall below, from those of several (n >= 2)."""
    logs = np.log(np.maximum(distances, 1e-6))
    return float(np.exp(logs.mean() - DEVIATIONS * logs.std(ddof=1)))


def judge(generated: Source, reference: Source, cases: TrainingCases) -> Replicas:
    """Replicas of ``cases`` among the pairs ``generated``, and their rate among the unseen cases ``reference``."""
    found, unseen = cases.nearest_of_each(generated), cases.nearest_of_each(reference)
    limit = cases.threshold
    copies, known = ((each.distance < limit).astype(float) for each in (found, unseen))
    rate = Measured(
        name="replica rate", kind="rate", generated=spread(copies), reference=spread(known),
        cases=len(copies), reference_cases=len(known),
    )  # fmt: skip
    pairs = zip(generated.names, found.case.tolist(), found.distance.tolist(), strict=True)
    listed = [Replica(pair=name, case=cases.names[case], distance=round(d, 4)) for name, case, d in pairs if d < limit]
    return Replicas(
        rate=rate, threshold=limit, median_generated=float(np.median(found.distance)),
        median_reference=float(np.median(unseen.distance)), training_cases=len(cases), found=listed,
    )  # fmt: skip

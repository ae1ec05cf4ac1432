"""Memorisation: generated pairs that reproduce a training case.

A pair is compared with training cases at about 6 mm, aligned at the heart, over flips and small shifts. The distance is
1 minus the mean of two correlations: of the images, and of the labels in palette colours. Smooth, typical pairs are
near many cases without being copies, so the distance to the nearest case is divided by the mean of those to the next
ten (Carlini et al. 2023, "Extracting Training Data from Diffusion Models"); it is 0 for a copy. The threshold comes
from the distances of training cases to each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from CardiacLDMLib.anatomy import BACKGROUND, FULL_WINDOW, HEART, NUM_CLASSES, PALETTE, VALUE
from CardiacLDMLib.generation.generator import Pair as GeneratedPair
from CardiacLDMLib.image.grid import AIR_HU
from CardiacLDMLib.image.resample import block_mean
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.segmentation.findings import Finding
from CardiacLDMLib.segmentation.scan import to_window

from ...cases.augment import box
from ...errors import EvaluationError
from .cases import CaseSet, Pair
from .compare import Comparison, mean_and_sd

#: Voxel size of the comparison, mm, and largest shift in such voxels, in steps of half a voxel.
SIZE_MM, SHIFT = 6.0, 1
#: Distance below which two training cases are the same scan. Fewest and most cases for a threshold.
SAME_SCAN, FEWEST_CASES, MOST_FOR_THRESHOLD = 0.02, 4, 100
#: Further cases that a distance is relative to. Most similar cases for which shifts by half voxels are tried.
NEIGHBOURS, CANDIDATES = 10, 64
#: Standard deviations below the mean: one unseen case in a hundred is nearer, if distances are lognormal.
DEVIATIONS = 2.33

_HEART = [VALUE[name] for name in HEART]
_COLOURS = np.array([PALETTE[value] for value in range(NUM_CLASSES)], dtype=np.float32)
_COLOURS -= _COLOURS[BACKGROUND]


class MemorisedPair(Record):
    """A generated pair nearer to a training case than the threshold; the ``distance`` is relative."""

    pair: str
    case: str
    distance: float


class Memorisation(Record):
    """The memorisation part of report.json; medians are of the relative distance to the nearest case."""

    rate: Comparison
    threshold: float
    median_generated: float
    median_reference: float
    training_cases: int
    found: list[MemorisedPair]


@dataclass(frozen=True)
class Nearest:
    """The nearest training case of each pair, as its index, and the relative distance."""

    case: np.ndarray  # (n,) int
    distance: np.ndarray  # (n,) float


class TrainingCases:
    """Training cases in memory, about 0.3 MB each, for comparison with pairs.

    A pair whose relative distance is below ``threshold`` is memorised. Raises :class:`EvaluationError` for fewer than
    ``FEWEST_CASES`` different cases.
    """

    def __init__(self, train: CaseSet) -> None:
        self.view, self.names = train.view, train.names
        self._fingerprints = np.stack(
            [_normalise(_crop_centre(_fingerprint(train[n]))[None])[0] for n in range(len(train))]
        )
        self.threshold = self._threshold(train)

    def __len__(self) -> int:
        return len(self._fingerprints)

    def _threshold(self, train: CaseSet) -> float:
        """Return the threshold from cases held out one at a time, together with repeats of the same scan."""
        relative = []
        for n in np.linspace(0, len(train) - 1, min(len(train), MOST_FOR_THRESHOLD)).astype(int):
            others = np.delete(self._distances(train[n]), n)
            others = others[(others > SAME_SCAN) & np.isfinite(others)]
            if len(others) >= FEWEST_CASES - 1:
                relative.append(self._relative_distance(others))
        if len(relative) < FEWEST_CASES:
            raise EvaluationError(
                f"{train.name} holds too few cases to detect memorisation: {FEWEST_CASES} different ones are needed."
            )
        return round(threshold(np.array(relative)), 4)

    def nearest_to_each(self, pairs: CaseSet) -> Nearest:
        """Return the case nearest to each of ``pairs``."""
        nearest = [self.nearest(pairs[n]) for n in range(len(pairs))]
        return Nearest(np.array([case for case, _ in nearest]), np.array([distance for _, distance in nearest]))

    def nearest(self, pair: Pair) -> tuple[int, float]:
        """Return index and relative distance of the case nearest to ``pair``, over flips along R and A and shifts."""
        distances = self._distances(pair)
        return int(distances.argmin()), self._relative_distance(distances)

    def _distances(self, pair: Pair) -> np.ndarray:
        """Return the distances (cases,) to ``pair``; infinite for all but the ``CANDIDATES`` most similar cases."""
        whole, *halves = _offsets(pair)
        coarse = _similarity(pair, whole, self._fingerprints)
        candidates = np.sort(np.argsort(-coarse, kind="stable")[:CANDIDATES])
        fine = [_similarity(pair, offset, self._fingerprints[candidates]) for offset in halves]
        distances = np.full(len(self), np.inf)
        distances[candidates] = np.maximum(1.0 - np.max([coarse[candidates], *fine], axis=0), 0.0)
        return distances

    def _relative_distance(self, distances: np.ndarray) -> float:
        """Return the smallest distance divided by the mean of the next ``NEIGHBOURS`` (or all, if there are fewer)."""
        nearest, *others = np.sort(distances[np.isfinite(distances)])[: 1 + min(NEIGHBOURS, len(self) - 2)]
        return float(nearest / np.mean(others))


class MemorisationCheck:
    """Rejects pairs that are memorised from the training ``cases``, without naming a case."""

    def __init__(self, cases: TrainingCases) -> None:
        self._cases = cases

    def __call__(self, pair: GeneratedPair) -> list[Finding]:
        """Return one finding if the pair is memorised, else none."""
        _, distance = self._cases.nearest(Pair("", pair.image.array, pair.labels.array, self._cases.view))
        threshold = self._cases.threshold
        return [Finding("replica", value=distance, limit=threshold)] if distance < threshold else []

    def record(self) -> dict[str, Any]:
        """Return the check's settings for provenance."""
        return {"replicas": {"training_cases": len(self._cases), "threshold": self._cases.threshold}}


def _offsets(pair: Pair) -> list[tuple[int, ...]]:
    """Return shifts of 0 or half a voxel of the comparison along each axis, in the pair's voxels; no shift first."""
    half = _factor(pair) // 2
    return list(itertools.product((0, half) if half else (0,), repeat=3))


def _similarity(pair: Pair, offset: Sequence[int], fingerprints: np.ndarray) -> np.ndarray:
    """Return the largest correlation (cases,) of ``fingerprints`` with windows of the pair over flips and shifts."""
    whole = _fingerprint(pair, offset)
    shape = _crop_centre(whole).shape
    best = np.full(len(fingerprints), -1.0)
    for axes in ((), (1,), (2,), (1, 2)):
        windows = np.lib.stride_tricks.sliding_window_view(np.flip(whole, axes), shape)
        best = np.maximum(best, (_normalise(windows.reshape(-1, *shape)) @ fingerprints.T).max(0))
    return best


def _fingerprint(pair: Pair, offset: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Return image and colours of the labels at about ``SIZE_MM``, centred on the heart: (4, I, J, K) float32.

    ``offset`` shifts the centre by voxels of the pair.
    """
    grid = np.array(pair.view.grid)
    heart = np.argwhere(np.isin(pair.labels, _HEART))
    middle = (heart.min(0) + heart.max(0)) / 2 if len(heart) else (grid - 1) / 2
    start = np.round(middle - (grid - 1) / 2).astype(int) + offset
    hu, names = box(pair.hu, start, start + grid, AIR_HU), box(pair.labels, start, start + grid, BACKGROUND)
    channels = [to_window(hu, FULL_WINDOW), *np.moveaxis(_COLOURS[names], -1, 0)]
    return np.stack([block_mean(channel, np.full(3, _factor(pair))) for channel in channels])


def _factor(pair: Pair) -> int:
    """Return the pair's voxels in one voxel of the comparison, along an axis."""
    return max(round(SIZE_MM / pair.view.spacing_mm), 1)


def _crop_centre(whole: np.ndarray) -> np.ndarray:
    """Return the window without a shift."""
    return whole[:, SHIFT:-SHIFT, SHIFT:-SHIFT, SHIFT:-SHIFT]


def _normalise(windows: np.ndarray) -> np.ndarray:
    """Return rows (N, V) of windows (N, 4, I, J, K); the product of two rows is the mean of both correlations.

    Image and labels are each centred and scaled to the same length.
    """
    out = windows - windows.mean(axis=(2, 3, 4), keepdims=True)
    for channels in (slice(0, 1), slice(1, None)):
        part = out[:, channels]
        lengths = np.sqrt(np.einsum("ncijk,ncijk->n", part, part))
        out[:, channels] /= np.maximum(lengths, 1e-6).reshape(-1, 1, 1, 1, 1) * np.float32(np.sqrt(2.0))
    return out.reshape(len(out), -1)


def threshold(distances: np.ndarray) -> float:
    """Return the distance that one unseen case in a hundred falls below, from the ``distances`` of several (n >= 2)."""
    logs = np.log(np.maximum(distances, 1e-6))
    return float(np.exp(logs.mean() - DEVIATIONS * logs.std(ddof=1)))


def find_memorised(generated: CaseSet, reference: CaseSet, cases: TrainingCases) -> Memorisation:
    """Return the ``generated`` pairs memorised from ``cases``, and their rate beside that of unseen ``reference``s."""
    nearest, unseen = cases.nearest_to_each(generated), cases.nearest_to_each(reference)
    limit = cases.threshold
    memorised, false_alarms = ((each.distance < limit).astype(float) for each in (nearest, unseen))
    rate = Comparison(
        name="replica rate", kind="rate", generated=mean_and_sd(memorised), reference=mean_and_sd(false_alarms),
        cases=len(memorised), reference_cases=len(false_alarms),
    )  # fmt: skip
    pairs = zip(generated.names, nearest.case.tolist(), nearest.distance.tolist(), strict=True)
    listed = [
        MemorisedPair(pair=name, case=cases.names[case], distance=round(d, 4)) for name, case, d in pairs if d < limit
    ]
    return Memorisation(
        rate=rate, threshold=limit, median_generated=float(np.median(nearest.distance)),
        median_reference=float(np.median(unseen.distance)), training_cases=len(cases), found=listed,
    )  # fmt: skip

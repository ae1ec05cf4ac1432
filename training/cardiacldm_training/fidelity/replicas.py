"""Copies of training cases among generated pairs.

A pair is compared with every training case at about 6 mm, as image and as palette-coloured labels together, over flips
and small shifts: the distance is 1 less the mean of both correlations, 0 for a copy. How near an unseen case comes to
its nearest training case tells how near is too near.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from CardiacLDMLib.anatomy import BACKGROUND, NUM_CLASSES, PALETTE
from CardiacLDMLib.volume import block_mean

from ..augment import to_window
from .cases import Pair, Source
from .compare import SPLITS, Measured, Record, spread

#: Size of a voxel in the comparison, mm, and largest shift in such voxels.
SIZE_MM, SHIFT = 6.0, 2
WINDOW_HU = (-1000.0, 1000.0)
#: An unseen case comes nearer than the threshold once in a hundred, if distances are lognormal.
DEVIATIONS = 2.33

_COLOURS = np.array([PALETTE[value] for value in range(NUM_CLASSES)], dtype=np.float32)
_COLOURS -= _COLOURS[BACKGROUND]


class Replica(Record):
    """A generated pair that is too near to a training case."""

    pair: str
    case: str
    distance: float


class Replicas(Record):
    """``threshold``: distance below which a pair counts as a replica; medians of distances to the nearest case."""

    rate: Measured
    threshold: float
    median_generated: float
    median_reference: float
    training_cases: int
    found: list[Replica]


@dataclass(frozen=True)
class Nearest:
    """The nearest training case of each pair: its number and its distance."""

    case: np.ndarray  # (n,) int
    distance: np.ndarray  # (n,) float


def signature(pair: Pair) -> np.ndarray:
    """(4, I, J, K) float32 at about ``SIZE_MM``: the image, and the labels as colours."""
    factor = np.full(3, max(round(SIZE_MM / pair.view.spacing_mm), 1))
    channels = [to_window(pair.hu, WINDOW_HU), *np.moveaxis(_COLOURS[pair.labels], -1, 0)]
    return np.stack([block_mean(channel, factor) for channel in channels])


def nearest(pairs: Source, train: Source, done: Callable[[int], None] = lambda n: None) -> Nearest:
    """The nearest case of ``train`` for each of ``pairs``, over flips along R and A and shifts."""
    middles = np.stack([_unit(_window(signature(train[n]), (0, 0, 0))) for n in range(len(train))])
    cases, distances = [], []
    for n in range(len(pairs)):
        likeness = (_views(signature(pairs[n])) @ middles.T).max(0)
        cases.append(int(likeness.argmax()))
        distances.append(1.0 - float(likeness.max()))
        done(n + 1)
    return Nearest(np.array(cases), np.array(distances))


def _views(whole: np.ndarray) -> np.ndarray:
    """(flips x shifts, V): every window of a signature, as unit vectors."""
    shifts = list(itertools.product(range(-SHIFT, SHIFT + 1), repeat=3))
    flipped = [np.flip(whole, axes) for axes in ((), (1,), (2,), (1, 2))]
    return np.stack([_unit(_window(one, shift)) for one in flipped for shift in shifts])


def _window(whole: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    inner = [slice(SHIFT + s, n - SHIFT + s) for s, n in zip(shift, whole.shape[1:], strict=True)]
    return whole[:, inner[0], inner[1], inner[2]]


def _unit(window: np.ndarray) -> np.ndarray:
    """(V,): image and labels, each without its mean, so that a product of two is the mean of both correlations."""
    parts = []
    for part in (window[:1], window[1:]):
        flat = (part - part.mean(axis=(1, 2, 3), keepdims=True)).ravel()
        parts.append(flat / max(float(np.linalg.norm(flat)), 1e-6))
    return np.concatenate(parts) / np.float32(np.sqrt(2.0))


def threshold(distances: np.ndarray) -> float:
    """The distance that an unseen case would hardly ever fall below, from those of several (n >= 2)."""
    logs = np.log(np.maximum(distances, 1e-6))
    return float(np.exp(logs.mean() - DEVIATIONS * logs.std(ddof=1)))


def judge(
    generated: Nearest, reference: Nearest, names: Sequence[str], train: Sequence[str], seed: int = 0
) -> Replicas:
    """Replicas among pairs called ``names``; the reference rate is that of half of the unseen cases, the threshold
    being taken from the other half. Needs four unseen cases."""
    limit = threshold(reference.distance)
    is_copy = generated.distance < limit
    rng, unseen = np.random.default_rng(seed), reference.distance
    rates = []
    for _ in range(SPLITS):
        order = rng.permutation(len(unseen))
        first, second = unseen[order[: len(unseen) // 2]], unseen[order[len(unseen) // 2 :]]
        rates.append(float((second < threshold(first)).mean()))
    rate = Measured(
        name="replica rate", kind="rate", generated=spread(is_copy.astype(float)), reference=spread(rates),
        cases=len(is_copy), reference_cases=len(unseen) // 2,
    )  # fmt: skip
    pairs = zip(names, generated.case.tolist(), generated.distance.tolist(), strict=True)
    found = [Replica(pair=name, case=train[case], distance=round(d, 4)) for name, case, d in pairs if d < limit]
    return Replicas(
        rate=rate, threshold=limit, median_generated=float(np.median(generated.distance)),
        median_reference=float(np.median(unseen)), training_cases=len(train), found=found,
    )  # fmt: skip

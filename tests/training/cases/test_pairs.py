"""Training pairs: the box around the heart, and its augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cardiacldm_training.cases import pairs, store
from cardiacldm_training.cases.settings import PAPER_AUGMENT, PairAugmentConfig
from CardiacLDMLib import anatomy

GRID = (16, 16, 16)
SPACING_MM = 8.0
WINDOW = (-1000.0, 1000.0)


def test_a_pair_is_the_box_around_the_heart(prepared: store.Prepared) -> None:
    case = prepared.cases[0]
    image, labels = pairs.pair(case, (12, 16, 8), WINDOW)
    assert image.shape == labels.shape == (1, 12, 16, 8)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    heart = np.argwhere(np.isin(case.labels, [anatomy.VALUE[name] for name in anatomy.HEART]))
    assert np.abs(pairs.heart_centre(case) - (heart.min(0) + heart.max(0)) / 2).max() <= 0.5
    inside = np.argwhere(np.isin(labels[0], [anatomy.VALUE[name] for name in anatomy.HEART]))
    offset = (inside.min(0) + inside.max(0)) / 2 - (np.array(labels.shape[1:]) - 1) / 2
    assert np.abs(offset[:2]).max() <= 1


def test_a_grid_larger_than_the_scan_is_filled_with_air(prepared: store.Prepared) -> None:
    case = prepared.cases[0]
    image, labels = pairs.pair(case, (48, 48, 48), WINDOW)
    assert (image[0, 0], labels[0, 0]) == (pytest.approx(0), pytest.approx(0))
    assert np.bincount(labels.ravel(), minlength=9)[1:].tolist() == np.bincount(
        case.labels.ravel(), minlength=9)[1:].tolist()  # fmt: skip


def test_augmentation_depends_on_the_seed_alone(prepared: store.Prepared) -> None:
    case, settings = prepared.cases[0], PAPER_AUGMENT

    def augment(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return pairs.pair(case, GRID, WINDOW, rng=np.random.default_rng(seed), settings=settings)

    assert all(np.array_equal(a, b) for a, b in zip(augment(1), augment(1), strict=True))
    assert not np.array_equal(augment(1)[0], augment(2)[0])


def test_each_augmentation_does_what_its_name_says(prepared: store.Prepared) -> None:
    case, still = prepared.cases[0], PairAugmentConfig(jitter=0, crop=0, boost=0)

    def augment(**changes: float) -> tuple[np.ndarray, np.ndarray]:
        settings = still.model_copy(update=changes)
        return pairs.pair(case, GRID, WINDOW, rng=np.random.default_rng(0), settings=settings)

    image, labels = pairs.pair(case, GRID, WINDOW)
    assert np.array_equal(augment()[0], image)
    for name, axis in (("horizontal_flip", 1), ("vertical_flip", 2)):
        flipped = augment(**{name: 1.0})
        assert np.array_equal(flipped[0], np.flip(image, axis))
        assert np.array_equal(flipped[1], np.flip(labels, axis))
    brighter = augment(boost=1.0)[0]
    inside = (image > 0.1) & (image < 0.9)
    assert np.allclose((brighter - image)[inside], 50 / 2000, atol=1e-5)
    larger = augment(crop=1.0, crop_smallest=0.7)[1]
    assert np.count_nonzero(larger) > 1.1 * np.count_nonzero(labels)
    assert set(np.unique(larger)) <= set(np.unique(labels))
    assert not np.array_equal(augment(jitter=0.2)[1], labels)


def test_a_class_that_no_case_has_is_named(prepared: store.Prepared, tmp_path: Path) -> None:
    assert pairs.missing_structures(prepared.cases) == []
    points = prepared.cases[0].points.copy()
    points[anatomy.VALUE["LAA"] - 1] = -1
    np.save(tmp_path / "points.npy", points)
    assert pairs.missing_structures([store.PreparedCase("without", tmp_path, "", SPACING_MM)]) == ["LAA"]

"""Scores against values worked out by hand; missed and extra structures; MONAI on whole arrays."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from cardiacldm_training.evaluation.metrics import score_labels, surface_scores
from CardiacLDMLib.anatomy import VALUE


def block(start: tuple[int, int, int], size: tuple[int, int, int], shape: int = 40) -> np.ndarray:
    mask = np.zeros((shape,) * 3, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def test_equal_masks_are_perfect() -> None:
    mask = block((5, 6, 7), (10, 12, 9))
    assert surface_scores(mask, mask, np.array([0.7, 0.7, 2.5])) == (0.0, 1.0)


def test_warnings_of_monai_about_itself_are_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    mask = block((5, 6, 7), (10, 12, 9))
    surface_scores(mask, mask, np.array([1.0, 1.0, 1.0]))
    assert not recwarn.list


def test_a_cube_moved_by_two_slices() -> None:
    """1000 voxels of 1 x 1 x 1.5 mm moved by two along k: 800 in common; a fifth of each surface is 3 mm off."""
    spacing = np.array([1.0, 1.0, 1.5])
    cubes = [block((10, 10, k), (10,) * 3).astype(np.uint8) * VALUE["RV"] for k in (10, 12)]
    (score,) = score_labels(cubes[0], cubes[1], spacing)
    assert (score.structure, score.outcome) == ("RV", "found")
    assert score.dice == pytest.approx(0.8)
    assert score.hd95_mm == pytest.approx(3.0)
    assert 0.6 < score.nsd < 1.0


def test_spacing_counts_along_its_own_axis() -> None:
    """A plate one voxel thick moved by 4 voxels across it: every distance is 4 times the spacing of that axis."""
    for axis, spacing in enumerate((0.5, 1.0, 2.0)):
        size, moved = [30, 30, 30], [5, 5, 5]
        size[axis], moved[axis] = 1, 9
        hd95, nsd = surface_scores(
            block((5, 5, 5), tuple(size)), block(tuple(moved), tuple(size)), np.array([0.5, 1.0, 2.0])
        )
        assert hd95 == pytest.approx(4 * spacing)
        assert nsd == (1.0 if 4 * spacing <= 2.0 else 0.0)


def test_the_box_around_the_masks_changes_nothing() -> None:
    """MONAI on the whole arrays gives what it gives on the cropped ones."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(0)
    one, two = block((8, 9, 10), (14, 9, 11)), block((10, 8, 9), (13, 12, 11))
    one &= rng.random(one.shape) < 0.9
    spacing = [0.8, 0.9, 1.5]
    pair = [torch.from_numpy(mask)[None, None] for mask in (one, two)]
    hd95, nsd = surface_scores(one, two, np.array(spacing))
    assert hd95 == pytest.approx(
        float(compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing))
    )
    assert nsd == pytest.approx(
        float(compute_surface_dice(*pair, [2.0], include_background=True, spacing=spacing, use_subvoxels=True))
    )


def test_missed_and_extra_structures_get_the_worst_scores() -> None:
    reference, prediction = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    reference[2:8, 2:8, 2:8] = VALUE["LA"]
    reference[10:15, 2:8, 2:8] = VALUE["LV"]
    prediction[2:8, 2:8, 2:8] = VALUE["LA"]
    prediction[2:8, 12:16, 2:8] = VALUE["PA"]
    scores = {s.structure: s for s in score_labels(prediction, reference, np.array([1.0, 2.0, 2.0]))}
    assert {name: s.outcome for name, s in scores.items()} == {"LA": "found", "LV": "missed", "PA": "extra"}
    assert scores["LA"].dice == 1.0
    for name in ("LV", "PA"):
        assert (scores[name].dice, scores[name].nsd) == (0.0, 0.0)
        assert scores[name].hd95_mm == pytest.approx(60.0)  # 20 x 40 x 40 mm

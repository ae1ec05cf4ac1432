"""Masks of pre-training: the shares they hide, and that a seed gives the same mask."""

from __future__ import annotations

import numpy as np
import pytest

from cardiacldm_training.stages.masking import MASKS, BlockMask, BoxMask, hidden_share


@pytest.mark.parametrize(("shape", "share"), [((48,) * 3, 0.30), ((96,) * 3, 0.047), ((256, 256, 160), 0.004)])
def test_the_paper_hides_little(shape: tuple[int, int, int], share: float) -> None:
    assert hidden_share(BoxMask(), shape) == pytest.approx(share, rel=0.08)


def test_boxes_are_drawn_with_their_probability_sides_and_number() -> None:
    rng = np.random.default_rng(1)
    masks = [BoxMask(count=1).draw(rng, (64, 64, 40)) for _ in range(400)]
    drawn = [mask for mask in masks if mask.any()]
    assert len(drawn) / len(masks) == pytest.approx(0.8, abs=0.06)
    sides = [np.ptp(np.argwhere(mask), axis=0) + 1 for mask in drawn]
    assert all({int(side[axis]) for side in sides} == set(range(8, 17)) for axis in range(3))
    places = np.array([np.argwhere(mask).min(0) for mask in drawn])
    assert (places.min(0) == 0).all()


def test_columns_run_through_all_slices() -> None:
    mask = BoxMask(columns=True, probability=1.0).draw(np.random.default_rng(0), (64, 64, 40))
    assert (mask.all(axis=2) == mask.any(axis=2)).all()


@pytest.mark.parametrize("shape", [(64, 64, 64), (48, 40, 50)])
def test_blocks_hide_three_quarters(shape: tuple[int, int, int]) -> None:
    mask = BlockMask().draw(np.random.default_rng(0), shape)
    assert mask.shape == shape
    assert mask.mean() == pytest.approx(0.75, abs=0.06)
    corner = mask[:16, :16, :16]
    assert corner.all() or not corner.any()


@pytest.mark.parametrize("kind", MASKS)
def test_a_seed_gives_the_same_mask_also_on_small_patches(kind: str) -> None:
    mask = MASKS[kind]
    for shape in ((48, 48, 48), (12, 20, 9)):
        one, two = (mask.draw(np.random.default_rng(5), shape) for _ in range(2))
        assert np.array_equal(one, two)
        assert not one.all() or kind == "paper"

"""Two label maps of a case: Dice, the largest difference and its place."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.review.compare import compare, on_grid
from tests.support.box_heart import box_pair, without


def test_the_largest_difference_is_in_the_slice_with_most_of_it() -> None:
    labels = box_pair().labels
    array = labels.array.copy()
    box = np.argwhere(array == anatomy.VALUE["LV"])
    low, high = box.min(0), box.max(0)
    array[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2]] = 0
    array[low[0], low[1], low[2] + 1] = 0  # a little of the next slice
    array[high[0], high[1], high[2]] = 0  # another part
    found = {each.structure: each for each in compare(labels, Volume(array, labels.affine))}
    voxel_ml = float(np.prod(labels.spacing)) / 1000.0
    lv = found["LV"]
    side = high - low + 1
    assert lv.largest_ml == pytest.approx((side[0] * side[1] + 1) * voxel_ml)
    assert lv.place is not None
    k = (np.linalg.inv(labels.affine) @ [*lv.place, 1.0])[2]
    assert round(k) == low[2]
    assert found["RV"].dice == 1.0
    assert found["RV"].place is None


def test_a_structure_that_one_lacks_comes_first_and_empty_maps_agree() -> None:
    labels = box_pair().labels
    others = Volume(without("PA"), labels.affine)
    found = compare(labels, others)
    assert (found[0].structure, found[0].dice) == ("PA", 0.0)
    assert len(found) == 8
    nothing = Volume(np.zeros_like(labels.array), labels.affine)
    assert compare(nothing, nothing) == []


def test_labels_on_another_grid_are_brought_to_the_first_one() -> None:
    labels = box_pair().labels
    affine = labels.affine.copy()
    affine[:3, :3] *= 2
    coarse = on_grid(labels, Grid((30, 33, 30), affine))
    assert coarse.array.shape == (30, 33, 30)
    back = on_grid(coarse, labels.grid)
    dice = {each.structure: each.dice for each in compare(labels, back)}
    assert dice["LV"] > 0.8

"""Stray parts of a scan's labels: an aorta where none can be, and drops on a thread; true parts stay."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest

from cardiacldm_training.virtual.cohort import CohortSettings, make_case
from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.image.grid import Grid
from CardiacLDMLib.segmentation.cleanup import MIN_SECOND_PIECE_ML
from CardiacLDMLib.segmentation.strays import clean_scan
from tests.support.grids import AXIS_ORDERS, oriented, places

AO, LV, RV = (VALUE[name] for name in ("AO", "LV", "RV"))
ORDERS = [AXIS_ORDERS[0], AXIS_ORDERS[29], AXIS_ORDERS[46]]
TURNS = [(0.0, 0.0, 0.0), (15.0, -20.0, 30.0)]
HEART_RADIUS_MM = 40.0
#: Offsets from the heart's centre and half sides, mm: right, front, top.
ARCH = ((15.0, -5.0, 70.0), (12.0, 12.0, 40.0))
DESCENDING = ((8.0, -60.0, -10.0), (11.0, 11.0, 50.0))
BELOW_HEART = ((12.0, -30.0, -85.0), (11.0, 11.0, 24.0))
ABDOMEN = ((-38.0, 20.0, -85.0), (10.0, 10.0, 20.0))
SPLEEN = ((-80.0, -60.0, -60.0), (10.0, 10.0, 20.0))


def chest(order: tuple, turn_deg: tuple[float, ...], *vessels: tuple) -> tuple[np.ndarray, Grid]:
    """Return labels of a ball of ventricle and boxes of aorta, on a grid of 3 mm with its axes in any order, turned."""
    grid = oriented((90, 90, 90), (3.0, 3.0, 3.0), order, turn_deg)
    offset = places(grid) - grid.bounds_ras().mean(axis=0)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for centre, half in vessels:
        labels[(np.abs(offset - centre) <= half).all(axis=-1)] = AO
    labels[np.linalg.norm(offset, axis=-1) <= HEART_RADIUS_MM] = LV
    return labels, grid


def test_the_boxes_of_aorta_are_large_enough_to_stay() -> None:
    for _, half in (ARCH, DESCENDING, BELOW_HEART, ABDOMEN, SPLEEN):
        assert np.prod(2 * np.array(half)) / 1000 > 2 * MIN_SECOND_PIECE_ML


@pytest.mark.parametrize("turn", TURNS, ids=["straight", "oblique"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stray", [ABDOMEN, SPLEEN], ids=["abdomen", "spleen"])
def test_a_second_piece_of_aorta_where_none_can_be_is_removed(stray: tuple, order: tuple, turn: tuple) -> None:
    labels, grid = chest(order, turn, DESCENDING, stray)
    expected, _ = chest(order, turn, DESCENDING)
    np.testing.assert_array_equal(clean_scan(labels, grid), expected)


def test_below_the_heart_there_is_one_aorta_at_a_level() -> None:
    beside = ((-32.0, -30.0, -85.0), (10.0, 10.0, 20.0))
    whole = ((12.0, -45.0, -50.0), (11.0, 20.0, 65.0))
    labels, grid = chest(ORDERS[1], TURNS[1], whole, beside)
    np.testing.assert_array_equal(clean_scan(labels, grid), chest(ORDERS[1], TURNS[1], whole)[0])


@pytest.mark.parametrize("turn", TURNS, ids=["straight", "oblique"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "pieces",
    [
        (ARCH, DESCENDING),
        (DESCENDING, BELOW_HEART),
        ((ARCH[0], (25.0, 25.0, 40.0)), DESCENDING),
        (((12.0, -60.0, -40.0), (14.0, 14.0, 70.0)), ((-18.0, -60.0, -60.0), (13.0, 14.0, 40.0))),
    ],
    ids=["below the arch", "broken behind the heart", "dilated", "dissected"],
)
def test_two_true_pieces_of_aorta_stay(pieces: tuple, order: tuple, turn: tuple) -> None:
    labels, grid = chest(order, turn, *pieces)
    assert cc3d.connected_components(labels == AO, connectivity=6, return_N=True)[1] == 2
    np.testing.assert_array_equal(clean_scan(labels, grid), labels)


def blob(grid: Grid, centre: tuple[float, ...], radius_mm: float) -> np.ndarray:
    return np.linalg.norm(places(grid) - grid.bounds_ras().mean(axis=0) - centre, axis=-1) <= radius_mm


def ventricle(*drops: tuple[tuple[float, ...], float], neck_mm: float = 1.0) -> tuple[np.ndarray, Grid]:
    """Return a ball of 24 mm with smaller balls (centre, radius) on necks down to them, on a CT's grid."""
    grid = oriented((110, 110, 32), (0.8, 0.8, 2.5), AXIS_ORDERS[5], (0.0, 0.0, 0.0))
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[blob(grid, (0.0, 0.0, 8.0), 24.0)] = RV
    offset = places(grid) - grid.bounds_ras().mean(axis=0)
    for centre, radius in drops:
        labels[blob(grid, centre, radius)] = RV
        beside = np.linalg.norm(offset[..., :2] - centre[:2], axis=-1) <= neck_mm
        labels[beside & (offset[..., 2] > centre[2]) & (offset[..., 2] < 8.0)] = RV
    return labels, grid


def test_a_drop_on_a_thread_is_removed() -> None:
    drop = ((0.0, 0.0, -30.0), 6.0)
    labels, grid = ventricle(drop)
    assert cc3d.connected_components(labels == RV, connectivity=6, return_N=True)[1] == 1
    cleaned = clean_scan(labels, grid)
    assert not cleaned[blob(grid, *drop)].any()
    body, _ = ventricle()
    assert (cleaned[body > 0] == RV).all()
    assert np.count_nonzero((cleaned > 0) & (body == 0)) * grid.voxel_ml < 0.05  # a stump of the thread


@pytest.mark.parametrize(
    ("drop", "neck_mm"),
    [(((0.0, 0.0, -30.0), 6.0), 5.0), (((0.0, 0.0, -28.0), 11.5), 1.0)],
    ids=["thick neck", "large"],
)
def test_true_parts_on_a_neck_stay(drop: tuple, neck_mm: float) -> None:
    labels, grid = ventricle(drop, neck_mm=neck_mm)
    np.testing.assert_array_equal(clean_scan(labels, grid), labels)


@pytest.mark.parametrize("index", range(2))
def test_a_virtual_heart_stays_as_it_is(index: int) -> None:
    labels = make_case(CohortSettings(seed=41, spacing_mm=2.0), index).labels
    changed = clean_scan(labels.array, labels.grid) != labels.array
    for value in VALUE.values():
        mine = labels.array == value
        assert np.count_nonzero(changed & mine) <= 0.003 * np.count_nonzero(mine)

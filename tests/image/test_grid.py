"""Grids and volumes: boxes, and geometry that is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.grid import Grid, Volume, in_ras_order, index_bounds, lattice_grid, ras_grid
from tests.support.grids import AXIS_ORDERS, grids, oriented, places


@settings(max_examples=60, deadline=None)
@given(grids, hnp.arrays(np.float64, (2, 3), elements=st.floats(-40.0, 60.0)))
def test_index_bounds_hold_every_voxel_in_the_box(grid: Grid, corners: np.ndarray) -> None:
    box = np.sort(corners, axis=0)
    start, stop = index_bounds(grid, box)
    assert (start >= 0).all()
    assert (stop <= grid.shape).all()
    index = np.argwhere(((places(grid) >= box[0]) & (places(grid) <= box[1])).all(-1))
    assert ((index >= start) & (index < stop)).all()


@settings(max_examples=60, deadline=None)
@given(grids, st.floats(0.6, 9.0))
def test_ras_grid_covers_its_bounds(grid: Grid, spacing: float) -> None:
    bounds = grid.bounds_ras()
    covered = ras_grid(bounds, spacing).bounds_ras()
    assert (covered[0] <= bounds[0] + 1e-4).all()
    assert (covered[1] >= bounds[1] - 1e-4).all()
    assert (covered[1] - covered[0] < bounds[1] - bounds[0] + 1.001 * spacing).all()
    np.testing.assert_allclose(covered.mean(0), bounds.mean(0), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(grids, st.floats(0.6, 9.0), st.integers(1, 5))
def test_lattice_grids_of_all_boxes_share_their_voxels(grid: Grid, spacing: float, step: int) -> None:
    bounds = grid.bounds_ras()
    lattice = lattice_grid(bounds, spacing, step)
    covered = lattice.bounds_ras()
    assert (covered[0] <= bounds[0] + 2e-3 * spacing).all()
    assert (covered[1] >= bounds[1] - 2e-3 * spacing).all()
    np.testing.assert_allclose(covered, np.rint(covered / (spacing * step)) * spacing * step, atol=1e-6)
    on_faces = lattice_grid(covered + [[-1e-5], [1e-5]], spacing, step)  # origins are rounded in files
    assert on_faces.same_as(lattice)


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (10.0, -25.0, 40.0), (0.0, 0.0, 45.0)])
def test_all_48_axis_orders_have_one_ras_order(turn: tuple[float, float, float]) -> None:
    first = None
    for order in AXIS_ORDERS:
        permutation = list(order[0])
        shape, spacing = np.array([8, 9, 10])[permutation], np.array([1.0, 2.0, 3.0])[permutation]
        grid = oriented(tuple(shape), tuple(spacing), order, turn)
        array = np.arange(720, dtype=np.int16).reshape(8, 9, 10).transpose(permutation)
        for axis in np.flatnonzero(np.array(order[1]) < 0):
            array = np.flip(array, axis)
        volume = in_ras_order(Volume(array, grid.affine))
        first = first or volume
        assert volume.grid.same_as(first.grid)
        np.testing.assert_array_equal(volume.array, first.array)


def make_affine(**entries: float) -> np.ndarray:
    affine = np.eye(4)
    for name, value in entries.items():
        affine[int(name[1]), int(name[2])] = value
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "fact"),
    [
        ((4, 4, 4), make_affine(a12=0.2), "sheared"),
        ((4, 4, 4), make_affine(a22=0.0), "spacing is zero"),
        ((4, 4, 4), make_affine(a03=np.nan), "not numbers"),
        ((4, 4), np.eye(4), "3D volume"),
        ((4, 4, 4, 3), np.eye(4), "3D volume"),
        ((4, 0, 4), np.eye(4), "empty"),
    ],
)
def test_invalid_geometry_is_refused(shape: tuple[int, ...], affine: np.ndarray, fact: str) -> None:
    with pytest.raises(VolumeError, match=fact):
        Volume(np.zeros(shape, dtype=np.int16), affine)


def test_voxels_must_be_numbers() -> None:
    with pytest.raises(VolumeError, match="numbers"):
        Volume(np.zeros((4, 4, 4), dtype=complex), np.eye(4))


def test_values_of_all_structures_fit_the_labels() -> None:
    assert max(anatomy.VALUE.values()) < anatomy.NUM_CLASSES <= np.iinfo(np.uint8).max

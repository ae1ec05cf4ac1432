"""Resampling as properties: whatever the axes, the same values lie at the same places in the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import map_coordinates, maximum_filter

from CardiacLDMLib.image.grid import AIR_HU, Grid, Volume, ras_grid
from CardiacLDMLib.image.resample import (
    block_mean,
    dilate,
    fill_outside,
    interpolate,
    largest,
    nearest,
    resample,
    resample_labels,
)
from tests.support.grids import AXIS_ORDERS, grids, oriented, places, shapes

SLOPE = np.array([1.0, 3.0, -2.0])


def blob(grid: Grid, centre: np.ndarray, sigma_mm: float) -> np.ndarray:
    return np.exp(-(((places(grid) - centre) / sigma_mm) ** 2).sum(-1) / 2).astype(np.float32)


def centroid(volume: Volume) -> np.ndarray:
    weights = np.maximum(volume.array, 0.0).astype(np.float64)
    return (places(volume.grid) * weights[..., None]).sum((0, 1, 2)) / weights.sum()


def _assert_linear_world_survives(grid: Grid, target: Grid) -> int:
    """A linear function of the place is reproduced exactly inside the scan, since averaging and blending keep it."""
    source = Volume((places(grid) @ SLOPE).astype(np.float32), grid.affine)
    out = resample(source, target)
    assert out.grid.same_as(target)
    index = (places(target) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    reach = (target.spacing.max() / grid.spacing + 1.0) * np.ones(3)  # where a block's centre may lie outside the scan
    inside = ((index >= reach) & (index <= np.array(grid.shape) - 1 - reach)).all(-1)
    np.testing.assert_allclose(out.array[inside], (places(target) @ SLOPE)[inside], atol=2e-3)
    outside = ((index < -0.51) | (index > np.array(grid.shape) - 0.49)).any(-1)
    assert (out.array[outside] == AIR_HU).all()
    return int(inside.sum())


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (10.0, -25.0, 40.0)], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", AXIS_ORDERS)
def test_all_48_axis_orders_keep_places(order: tuple, turn: tuple[float, float, float]) -> None:
    grid = oriented((22, 26, 18), (1.1, 0.7, 2.3), order, turn)
    assert _assert_linear_world_survives(grid, ras_grid(grid.bounds_ras(), 1.7)) > 100


@settings(max_examples=80, deadline=None)
@given(grids, grids)
def test_any_two_grids_agree_on_places(grid: Grid, target: Grid) -> None:
    _assert_linear_world_survives(grid, target)


@pytest.mark.parametrize("order", AXIS_ORDERS[::5])
@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (5.0, 20.0, -30.0)], ids=["straight", "oblique"])
def test_a_blob_stays_within_a_tenth_of_a_millimetre_through_reduction_and_back(
    order: tuple, turn: tuple[float, float, float]
) -> None:
    grid = oriented((80, 70, 60), (0.7, 0.8, 1.0), order, turn)
    centre = np.array([14.3, -5.1, 29.6])
    scan = Volume(blob(grid, centre, 5.0), grid.affine)
    small = resample(scan, ras_grid(grid.bounds_ras(), 3.0), fill=0.0)
    back = np.zeros(grid.shape, dtype=np.float32)
    for k, values in interpolate(small.array[None], small.affine, grid):
        back[:, :, k : k + values.shape[3]] = values[0]
    assert np.abs(centroid(small) - centre).max() < 0.1
    assert np.abs(centroid(Volume(back, grid.affine)) - centre).max() < 0.1


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (5.0, 20.0, -30.0)], ids=["straight", "oblique"])
def test_a_crop_is_averaged_over_the_same_blocks(turn: tuple[float, float, float]) -> None:
    grid = oriented((40, 36, 30), (0.7, 0.8, 1.0), AXIS_ORDERS[21], turn)
    noise = np.random.default_rng(0).normal(0, 100, grid.shape).astype(np.int16)
    middle = grid.bounds_ras().mean(0)
    target = ras_grid(np.stack([middle - 5.0, middle + 5.0]), 2.5)
    whole = resample(Volume(noise, grid.affine), target).array
    for start, stop in (((1, 0, 0), (40, 36, 30)), ((2, 3, 1), (39, 33, 29)), ((4, 2, 3), (38, 35, 30))):
        crop = Volume(
            noise[tuple(slice(*ends) for ends in zip(start, stop, strict=True))], grid.crop(start, stop).affine
        )
        np.testing.assert_allclose(resample(crop, target).array, whole, atol=0.01)


def test_a_scan_continues_at_its_border_without_fill() -> None:
    scan = Volume(np.full((8, 8, 8), 40, dtype=np.int16), np.eye(4))
    target = ras_grid(np.array([[-9.0] * 3, [17.0] * 3]), 2.0)
    assert (resample(scan, target, fill=None).array == 40.0).all()
    assert (resample(scan, target).array == AIR_HU).any()


@settings(max_examples=60, deadline=None)
@given(grids, grids, st.integers(1, 4))
def test_interpolation_matches_scipy(grid: Grid, target: Grid, channels: int) -> None:
    source = np.random.default_rng(0).normal(size=(channels, *grid.shape)).astype(np.float32)
    index = np.moveaxis((places(target) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T, -1, 0)
    out = np.concatenate([values for _, values in interpolate(source, grid.affine, target)], axis=3)
    expected = [map_coordinates(channel, index, order=1, mode="nearest") for channel in source]
    np.testing.assert_allclose(out, expected, atol=5e-5)


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (10.0, 0.0, 30.0)], ids=["straight", "oblique"])
def test_labels_keep_place_and_size(turn: tuple[float, float, float]) -> None:
    grid = oriented((60, 60, 40), (1.0, 1.0, 1.5), AXIS_ORDERS[13], turn)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    centres = {3: np.array([2.0, -7.0, 31.0]), 8: np.array([20.0, -4.0, 35.0])}
    for value, centre in centres.items():
        labels[(((places(grid) - centre) ** 2).sum(-1)) < 9.0**2] = value
    out = resample_labels(Volume(labels, grid.affine), ras_grid(grid.bounds_ras(), 1.25))
    assert set(np.unique(out.array)) == {0, 3, 8}
    for value, centre in centres.items():
        assert np.abs(centroid(Volume(out.array == value, out.affine)) - centre).max() < 0.2
        volume_ml = (out.array == value).sum() * out.grid.voxel_ml
        assert volume_ml == pytest.approx((labels == value).sum() * grid.voxel_ml, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(grids, grids)
def test_fill_outside_matches_its_definition(grid: Grid, target: Grid) -> None:
    out = np.zeros(target.shape, dtype=np.uint8)
    fill_outside(out, target, grid, 1)
    index = (places(target) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    distance = np.abs(index - (np.array(grid.shape) - 1) / 2) - np.array(grid.shape) / 2
    clear = np.abs(distance).min(-1) > 1e-5  # a centre right on a face may fall either way
    assert ((out == 1) == (distance > 0).any(-1))[clear].all()


@settings(max_examples=60, deadline=None)
@given(shapes, st.tuples(*[st.integers(1, 5)] * 3), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_block_mean_whatever_the_memory_order(
    shape: tuple[int, ...], factors: tuple[int, ...], order: list[int], flipped: tuple[bool, ...]
) -> None:
    array = np.random.default_rng(1).integers(-1024, 3071, shape).astype(np.int16)
    view = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
    view.flags.writeable = False
    whole = [n // f for n, f in zip(view.shape, factors, strict=True)]
    cut = view[tuple(slice(n * f) for n, f in zip(whole, factors, strict=True))].astype(np.float64)
    parts = [n for pair in zip(whole, factors, strict=True) for n in pair]
    out = block_mean(view, np.array(factors))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, cut.reshape(parts).mean(axis=(1, 3, 5)), rtol=1e-5, atol=1e-2)


@given(hnp.arrays(np.float32, (9, 4, 3, 2), elements=st.sampled_from([-1.5, 0.0, 0.25, 7.0])))
def test_largest_is_argmax(values: np.ndarray) -> None:
    np.testing.assert_array_equal(largest(values), values.argmax(0))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(AXIS_ORDERS),
    st.tuples(*[st.sampled_from([0.0, 20.0])] * 3),
    st.tuples(*[st.floats(0.6, 3.0)] * 3),
)
def test_nearest_is_the_nearest_voxel_whatever_the_axes(order: tuple, turn: tuple, spacing: tuple) -> None:
    source = np.random.default_rng(0).integers(0, 9, (6, 7, 8)).astype(np.uint8)
    affine = np.diag([1.7, 1.3, 2.1, 1.0])
    target = oriented((5, 6, 4), spacing, order, turn)
    out = np.concatenate([values for _, values in nearest(source, affine, target)], axis=2)
    assert out.shape == target.shape
    index = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), axis=-1)
    matrix = np.linalg.inv(affine) @ target.affine
    places = index @ matrix[:3, :3].T + matrix[:3, 3]
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-6).all(axis=-1)  # not half-way between two
    voxels = np.clip(np.rint(places), 0, np.array(source.shape) - 1).astype(int)
    np.testing.assert_array_equal(out[clear], source[tuple(np.moveaxis(voxels, -1, 0))][clear])


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12)), st.integers(0, 14))
@settings(max_examples=60, deadline=None)
def test_dilation_is_the_maximum_over_a_cube(mask: np.ndarray, voxels: int) -> None:
    expected = maximum_filter(mask.astype(np.uint8), 2 * voxels + 1, mode="constant") > 0
    assert np.array_equal(dilate(mask, voxels), expected)

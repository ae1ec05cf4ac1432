"""Geometry as properties: whatever the axes, the same values lie at the same places in the world."""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import map_coordinates, maximum_filter
from scipy.spatial.transform import Rotation

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError, VolumeError
from CardiacLDMLib.image.files import from_sitk, read_volume, to_sitk, write_volume
from CardiacLDMLib.image.grid import AIR_HU, Grid, Volume, index_bounds, ras_grid
from CardiacLDMLib.image.resample import (
    block_mean,
    dilated,
    fill_outside,
    interpolate,
    largest,
    nearest,
    resample,
    resample_labels,
)

AXIS_ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
SLOPE = np.array([1.0, 3.0, -2.0])


def oriented(shape: tuple[int, ...], spacing: tuple[float, ...], order: tuple, turn_deg: tuple[float, ...]) -> Grid:
    """A grid whose axes run along the world's in the given order and direction, then turned, somewhere off centre."""
    permutation, signs = order
    linear = np.zeros((3, 3))
    linear[list(permutation), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix() @ linear @ np.diag(spacing)
    affine[:3, 3] = np.array([12.0, -7.0, 31.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def places(grid: Grid) -> np.ndarray:
    """(I, J, K, 3): RAS mm of every voxel centre."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def blob(grid: Grid, centre: np.ndarray, sigma_mm: float) -> np.ndarray:
    return np.exp(-(((places(grid) - centre) / sigma_mm) ** 2).sum(-1) / 2).astype(np.float32)


def centroid(volume: Volume) -> np.ndarray:
    weights = np.maximum(volume.array, 0.0).astype(np.float64)
    return (places(volume.grid) * weights[..., None]).sum((0, 1, 2)) / weights.sum()


orders = st.sampled_from(AXIS_ORDERS)
spacings = st.tuples(*[st.floats(0.5, 4.0)] * 3)
turns = st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-60.0, 60.0)] * 3))
shapes = st.tuples(*[st.integers(6, 24)] * 3)
grids = st.builds(oriented, shapes, spacings, orders, turns)


# --- places --------------------------------------------------------------------------------------------------------


def _assert_linear_world_survives(grid: Grid, target: Grid) -> int:
    """A linear function of the place is reproduced exactly inside the scan, since averaging and blending keep it."""
    source = Volume((places(grid) @ SLOPE).astype(np.float32), grid.affine)
    out = resample(source, target)
    assert out.grid.same_as(target)
    index = (places(target) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    reach = (target.spacing.max() / grid.spacing + 1.0) * np.ones(3)  # where a block's centre may lie beyond the edge
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


@settings(max_examples=60, deadline=None)
@given(grids, hnp.arrays(np.float64, (2, 3), elements=st.floats(-40.0, 60.0)))
def test_index_bounds_hold_every_voxel_in_the_box(grid: Grid, corners: np.ndarray) -> None:
    box = np.sort(corners, axis=0)
    start, stop = index_bounds(grid, box)
    assert (start >= 0).all()
    assert (stop <= grid.shape).all()
    index = np.argwhere(((places(grid) >= box[0]) & (places(grid) <= box[1])).all(-1))
    assert ((index >= start) & (index < stop)).all()


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
@given(grids, st.floats(0.6, 9.0))
def test_ras_grid_covers_its_bounds(grid: Grid, spacing: float) -> None:
    bounds = grid.bounds_ras()
    covered = ras_grid(bounds, spacing).bounds_ras()
    assert (covered[0] <= bounds[0] + 1e-4).all()
    assert (covered[1] >= bounds[1] - 1e-4).all()
    assert (covered[1] - covered[0] < bounds[1] - bounds[0] + 1.001 * spacing).all()
    np.testing.assert_allclose(covered.mean(0), bounds.mean(0), atol=1e-9)


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


# --- what is refused -----------------------------------------------------------------------------------------------


def _affine(**entries: float) -> np.ndarray:
    affine = np.eye(4)
    for name, value in entries.items():
        affine[int(name[1]), int(name[2])] = value
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "sentence"),
    [
        ((4, 4, 4), _affine(a12=0.2), "sheared"),
        ((4, 4, 4), _affine(a22=0.0), "spacing is zero"),
        ((4, 4, 4), _affine(a03=np.nan), "not numbers"),
        ((4, 4), np.eye(4), "3D volume"),
        ((4, 4, 4, 3), np.eye(4), "3D volume"),
        ((4, 0, 4), np.eye(4), "empty"),
    ],
)
def test_unsound_geometry_is_refused(shape: tuple[int, ...], affine: np.ndarray, sentence: str) -> None:
    with pytest.raises(VolumeError, match=sentence):
        Volume(np.zeros(shape, dtype=np.int16), affine)


def test_voxels_must_be_numbers() -> None:
    with pytest.raises(VolumeError, match="numbers"):
        Volume(np.zeros((4, 4, 4), dtype=complex), np.eye(4))


# --- files ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(grids, st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]),
       st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]))  # fmt: skip
def test_files_keep_places_and_values(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, ending: str, kind: type
) -> None:
    path = tmp_path_factory.mktemp("files") / f"scan{ending}"
    array = np.random.default_rng(2).integers(0, 200, grid.shape).astype(kind)
    write_volume(Volume(array, grid.affine), path)
    back = read_volume(path)
    assert back.array.dtype == kind
    np.testing.assert_array_equal(back.array, array)
    assert back.grid.same_as(grid, tolerance_mm=2e-3)  # NIfTI keeps its geometry in single precision
    assert list(path.parent.iterdir()) == [path]
    if ".nii" in ending:
        other = nib.load(path)
        np.testing.assert_array_equal(np.asarray(other.dataobj), array)
        np.testing.assert_allclose(other.affine, grid.affine, atol=2e-3)


@pytest.mark.parametrize("order", AXIS_ORDERS)
def test_nibabel_files_are_read_where_nibabel_puts_them(tmp_path: Path, order: tuple) -> None:
    grid = oriented((7, 9, 8), (0.7, 0.9, 2.5), order, (0.0, 0.0, 0.0))
    array = np.random.default_rng(3).integers(-1024, 2000, grid.shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, grid.affine), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, grid.affine, atol=1e-4)


def test_a_series_of_one_frame_is_a_volume(tmp_path: Path) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6, 1)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii").array, array[..., 0])


def test_a_nifti_file_in_several_gzip_parts_or_with_more_behind_is_whole(tmp_path: Path) -> None:
    array = np.random.default_rng(5).integers(0, 9, (12, 13, 14)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    data = (tmp_path / "scan.nii").read_bytes()
    (tmp_path / "parts.nii.gz").write_bytes(gzip.compress(data[:900]) + gzip.compress(data[900:]))
    (tmp_path / "more.nii.gz").write_bytes(gzip.compress(data + b"more"))
    for name in ("parts.nii.gz", "more.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, array)


def test_shared_memory_outlives_the_image() -> None:
    image = sitk.GetImageFromArray(np.full((40, 50, 60), 7, dtype=np.int16))
    volume = from_sitk(image)
    del image
    filler = [np.ones(40 * 50 * 60, dtype=np.int16) for _ in range(4)]  # would take the memory if it were free
    assert len(filler) == 4
    assert (volume.array == 7).all()


def test_truth_values_become_bytes() -> None:
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1] = True
    np.testing.assert_array_equal(from_sitk(to_sitk(Volume(mask, np.eye(4)))).array, mask.astype(np.uint8))


def _damaged(folder: Path, name: str) -> Path:
    path = folder / name
    good = nib.Nifti1Image(np.random.default_rng(4).integers(0, 9, (20, 20, 20)).astype(np.int16), np.eye(4))
    if name == "sheared.nii":
        nib.save(nib.Nifti1Image(np.asarray(good.dataobj), _affine(a12=0.3)), path)
    elif name == "series.nii":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), dtype=np.int16), np.eye(4)), path)
    elif name == "colour.mha":
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), dtype=np.uint8), isVector=True), str(path))
    elif name == "flat.mha":
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4), dtype=np.uint8)), str(path))
    elif name == "short.nii":
        nib.save(good, path)
        path.write_bytes(path.read_bytes()[:-1])
    elif name.startswith("short"):
        write_volume(Volume(np.asarray(good.dataobj), np.eye(4)), path)
        path.write_bytes(path.read_bytes()[:-600])
    elif name == "empty.nii.gz":
        path.write_bytes(b"")
    elif name == "text.nii":
        path.write_text("not a scan")
    return path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sheared.nii", "sheared"),
        ("series.nii", "3D volume"),
        ("colour.mha", "colour"),
        ("flat.mha", "3D volume"),
        ("short.nii.gz", "damaged or cut short"),
        ("short.nii", "damaged or cut short"),
        ("short.mha", "damaged or cut short"),
        ("short.nrrd", "damaged or cut short"),
        ("empty.nii.gz", "empty file"),
        ("text.nii", "not a NIfTI"),
        ("missing.nii", "no file"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(VolumeError, match=sentence) as refused:
        read_volume(_damaged(tmp_path, name))
    assert str(tmp_path) not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"labels\.nii\.gz"):
        write_volume(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "file" / "labels.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_disk_that_is_full_is_noticed(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sitk.WriteImage

    def cut_short(image: sitk.Image, path: str, compress: bool) -> None:  # ITK's NIfTI writer does not look
        write(image, path, compress)
        os.truncate(path, os.path.getsize(path) - 9)

    monkeypatch.setattr(sitk, "WriteImage", cut_short)
    with pytest.raises(OutputError, match=f"ct{ending}"):
        write_volume(Volume(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / f"ct{ending}")
    assert not list(tmp_path.iterdir())


def test_values_of_all_structures_fit_the_labels() -> None:
    assert max(anatomy.VALUE.values()) < anatomy.NUM_CLASSES <= np.iinfo(np.uint8).max


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_is_no_number_in_nifti_stays_no_number(tmp_path: Path, kind: str, ending: str) -> None:
    """ITK alone reads NaN and infinity as 0 HU, so that a damaged scan looks like water."""
    array = np.arange(6 * 7 * 8, dtype=np.float64).reshape(6, 7, 8) - 100.0
    array[1, 2, 3], array[5, 6, 7], array[0, 0, 0] = np.nan, np.inf, -np.inf
    header = nib.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(kind)
    nib.save(nib.Nifti1Image(array.astype(kind), np.diag([-1.0, 2.0, 3.0, 1.0]), header), tmp_path / f"x{ending}")
    read = read_volume(tmp_path / f"x{ending}").array
    assert np.array_equal(np.isfinite(read), np.isfinite(array))
    assert np.allclose(read[np.isfinite(read)], array[np.isfinite(array)])


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
def test_dilated_is_the_maximum_over_a_cube(mask: np.ndarray, voxels: int) -> None:
    expected = maximum_filter(mask.astype(np.uint8), 2 * voxels + 1, mode="constant") > 0
    assert np.array_equal(dilated(mask, voxels), expected)

"""From a scan to its labels, with networks that recognise the structures of a phantom by their HU."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import SegmenterError
from CardiacLDMLib.image.grid import Grid, Volume, in_ras_order, ras_grid
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.progress import Cancelled, Progress
from CardiacLDMLib.segmentation import run, segmenter
from CardiacLDMLib.segmentation.findings import Finding, cut_off, sentence
from CardiacLDMLib.segmentation.run import Run
from CardiacLDMLib.segmentation.segmenter import Prediction, Segmentation, Segmenter
from CardiacLDMLib.segmentation.windows import window_places
from tests.support.box_heart import box_pair
from tests.support.gpus import Card, pretend_gpus
from tests.support.package import write_tiny_package
from tests.support.phantom import CENTRES, RADIUS_MM, STRUCTURE_HU, ByIntensity, phantom, phantom_package

HEART = np.array([5.0, -8.0, 11.0])
AXIS_ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The phantom is so small that threads waiting for each other would take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, ByIntensity]:
    """What the next Segmenter loads."""
    both = {"locator": ByIntensity(), "segmenter": ByIntensity()}
    monkeypatch.setattr(segmenter, "load_networks", lambda package: dict(both))
    return both


@pytest.fixture
def by_intensity(networks: dict[str, ByIntensity]) -> Segmenter:
    return Segmenter(phantom_package(), "cpu")


def scan_grid(
    order: Any = ((0, 1, 2), (1, 1, 1)),
    spacing: tuple[float, ...] = (1.9, 2.3, 2.6),
    turn_deg: tuple[float, ...] = (0.0, 0.0, 0.0),
    box: tuple[tuple[float, ...], tuple[float, ...]] = ((-70.0,) * 3, (70.0,) * 3),
) -> Grid:
    """A grid over ``box`` (mm from the heart's centre) with its axes in any order and direction, turned."""
    permutation, signs = order
    linear = np.zeros((3, 3))
    linear[list(permutation), range(3)] = signs
    turned = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix() @ linear
    size = (np.array(box[1]) - np.array(box[0]))[list(permutation)]
    shape = np.round(size / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.diag(spacing)
    affine[:3, 3] = HEART + np.mean(box, axis=0) - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid(tuple(shape), affine)


def centroid(labels: Volume, value: int) -> np.ndarray:
    return np.argwhere(labels.array == value).mean(0) @ labels.affine[:3, :3].T + labels.affine[:3, 3]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def assert_labelled(result: Segmentation, truth: Volume) -> None:
    assert result.heart_found
    assert result.labels.array.dtype == np.uint8
    assert result.labels.grid.same_as(truth.grid)
    off = {value: centroid(result.labels, value) - centroid(truth, value) for value in anatomy.BY_VALUE}
    # The mean over the structures is a shift of the whole heart: less than a fifth of a voxel, in mm.
    assert np.abs(np.mean(list(off.values()), axis=0)).max() < 0.4
    for structure in anatomy.STRUCTURES:
        value = structure.value
        assert dice(result.labels.array == value, truth.array == value) > 0.8, structure.name
        assert np.abs(off[value]).max() < 1.0, structure.name
        measured = np.count_nonzero(result.labels.array == value) * truth.grid.voxel_ml
        assert result.volumes_ml[structure.name] == pytest.approx(measured)


# --- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", AXIS_ORDERS)
def test_all_48_axis_orders_get_the_same_labels_at_the_same_places(by_intensity: Segmenter, order: Any) -> None:
    ct, truth = phantom(scan_grid(order))
    result = by_intensity.segment(ct)
    assert_labelled(result, truth)
    alike = by_intensity.segment(in_ras_order(ct)).labels.array
    np.testing.assert_array_equal(in_ras_order(result.labels).array, alike)


@pytest.mark.parametrize("turn", [(20.0, 0.0, 0.0), (-12.0, 25.0, 45.0)])
def test_oblique_scans(by_intensity: Segmenter, turn: tuple[float, ...]) -> None:
    ct, truth = phantom(scan_grid(AXIS_ORDERS[21], turn_deg=turn))
    assert_labelled(by_intensity.segment(ct), truth)


@pytest.mark.parametrize("spacing", [(0.9, 0.9, 4.0), (3.0, 0.8, 1.6)])
def test_anisotropic_scans(by_intensity: Segmenter, spacing: tuple[float, ...]) -> None:
    ct, truth = phantom(scan_grid(spacing=spacing))
    assert_labelled(by_intensity.segment(ct), truth)


@pytest.mark.parametrize(
    "changed",
    [
        lambda a: a.astype(np.float32),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">i2"),
        np.asfortranarray,
        lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    ],
    ids=["float32", "float64", "big-endian", "fortran", "negative strides", "gaps"],
)
def test_any_type_and_memory_order(by_intensity: Segmenter, changed: Callable[[np.ndarray], np.ndarray]) -> None:
    ct, _ = phantom(scan_grid())
    array = changed(ct.array)
    array.flags.writeable = False
    before = array.copy()
    result = by_intensity.segment(Volume(array, ct.affine))
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(result.labels.array, by_intensity.segment(ct).labels.array)


# --- no heart, or part of one ----------------------------------------------------------------------------------------


def test_a_scan_without_heart_gets_no_labels(by_intensity: Segmenter) -> None:
    ct, _ = phantom(scan_grid())
    result = by_intensity.segment(Volume(np.minimum(ct.array, np.int16(0)), ct.affine))
    assert not result.heart_found
    assert not result.labels.array.any()
    assert result.labels.array.shape == ct.array.shape
    assert set(result.volumes_ml.values()) == {0.0}
    assert result.warnings[0].startswith("No heart ")


def test_too_little_to_be_a_heart_gets_no_labels(by_intensity: Segmenter) -> None:
    ct, truth = phantom(scan_grid())
    corner = ct.array.copy()
    corner[truth.array != anatomy.VALUE["LA"]] = np.minimum(corner[truth.array != anatomy.VALUE["LA"]], 0)
    corner[: np.argwhere(truth.array == anatomy.VALUE["LA"]).mean(0).astype(int)[0]] = 0  # half of 74 mL
    corner[:5] = -900
    result = by_intensity.segment(Volume(corner, ct.affine))
    assert not result.heart_found
    assert not result.labels.array.any()


def test_balls_without_lungs_around_them_get_no_labels(by_intensity: Segmenter) -> None:
    ct, _ = phantom(scan_grid())
    lung = ct.array < -200
    lung[:4] = False  # far away there is air
    result = by_intensity.segment(Volume(np.where(lung, np.int16(-60), ct.array), ct.affine))
    assert not result.heart_found
    assert not result.labels.array.any()
    assert result.warnings[0].startswith("No heart ")


def test_a_scan_clipped_above_lung_gets_the_labels_of_the_whole_one(by_intensity: Segmenter) -> None:
    ct, _ = phantom(scan_grid())
    whole = by_intensity.segment(ct)
    clipped = by_intensity.segment(Volume(np.clip(ct.array, -200, 600), ct.affine))
    assert clipped.heart_found
    assert np.array_equal(clipped.labels.array, whole.labels.array)
    assert "-200 HU" in clipped.warnings[0]


def test_a_whole_heart_without_lungs_is_labelled_with_a_warning(by_intensity: Segmenter) -> None:
    scan = box_pair(spacing_mm=2.0).image
    between_lungs = by_intensity.segment(scan)
    assert not any("lung" in warning for warning in between_lungs.warnings)
    scan.array[scan.array < -200] = -60
    scan.array[:, :4] = -900  # far away there is air
    result = by_intensity.segment(scan)
    assert result.heart_found
    assert "lung" in result.warnings[0]
    np.testing.assert_array_equal(result.labels.array, between_lungs.labels.array)


def test_a_mirrored_heart_is_labelled_with_a_warning(by_intensity: Segmenter) -> None:
    scan = box_pair(spacing_mm=2.0).image
    result = by_intensity.segment(Volume(scan.array[:, :, ::-1], scan.affine))
    assert result.heart_found
    assert "mirrored" in result.warnings[0]


def test_a_scan_with_part_of_a_heart_gets_a_warning(by_intensity: Segmenter) -> None:
    ct, truth = phantom(scan_grid(box=((-70.0, -70.0, -20.0), (70.0, 70.0, 70.0))))
    for name in ("LV", "MYO"):
        ct.array[truth.array == anatomy.VALUE[name]] = 0
    result = by_intensity.segment(ct)
    assert not result.heart_found
    assert "inferior edge" in result.warnings[0]


def test_a_part_of_a_heart_too_small_for_the_coarse_pass_is_mentioned(by_intensity: Segmenter) -> None:
    ct, _ = phantom(scan_grid(box=((-70.0, -70.0, -70.0), (70.0, 70.0, -30.0))))
    result = by_intensity.segment(Volume(ct.array[:, :, :12], ct.affine))
    assert not result.heart_found
    assert "superior edge" in result.warnings[0]


def test_a_heart_that_only_the_coarse_pass_finds_gets_no_labels(networks: dict[str, Any]) -> None:
    class Blind(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            background = torch.zeros(len(windows), anatomy.NUM_CLASSES, *windows.shape[2:])
            background[:, 0] = 1.0
            return background

    networks["segmenter"] = Blind()
    result = Segmenter(phantom_package(), "cpu").segment(phantom(scan_grid())[0])
    assert not result.heart_found
    assert not result.labels.array.any()


@pytest.mark.parametrize("order", [AXIS_ORDERS[0], AXIS_ORDERS[29], AXIS_ORDERS[46]])
@pytest.mark.parametrize(
    ("axis", "upper", "side"),
    [(0, 0, "left"), (0, 1, "right"), (1, 0, "posterior"), (1, 1, "anterior"), (2, 0, "inferior"), (2, 1, "superior")],
)
def test_a_heart_that_the_scan_cuts_gets_a_warning_with_the_side(
    by_intensity: Segmenter, order: Any, axis: int, upper: int, side: str
) -> None:
    box = np.array([[-70.0] * 3, [70.0] * 3])
    box[upper, axis] = (-20.0, 20.0)[upper]
    result = by_intensity.segment(phantom(scan_grid(order, box=tuple(map(tuple, box))))[0])
    assert result.heart_found
    cut = [name for name, value in anatomy.VALUE.items()
           if name in anatomy.HEART and (CENTRES[value][axis] > 0) == bool(upper)]  # fmt: skip
    assert result.warnings == [sentence(Finding("cut off", tuple(cut), where=side))]  # and no remark on volumes


def test_a_slightly_padded_heart_is_whole(by_intensity: Segmenter) -> None:
    result = by_intensity.segment(phantom(scan_grid(box=((-52.0,) * 3, (52.0,) * 3)))[0])
    assert cut_off(result.labels) == {}


# --- progress, cancellation, memory --------------------------------------------------------------------------------


def test_progress_rises_to_the_end_through_all_stages(by_intensity: Segmenter) -> None:
    seen: list[Progress] = []
    result = by_intensity.segment(phantom(scan_grid())[0], progress=seen.append)
    steps = [p.step for p in seen]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 100)
    assert {p.total for p in seen} == {100}
    assert list(dict.fromkeys(p.stage for p in seen)) == ["prepare", "locate", "segment", "resample", "clean"]
    assert list(result.seconds) == ["prepare", "locate", "segment", "resample", "clean"]
    assert all(s >= 0 for s in result.seconds.values())
    assert seen[-1].seconds >= sum(result.seconds.values()) - 0.05
    assert sum(p.stage == "segment" for p in seen) > 8  # each window reports a step


def test_progress_of_a_scan_without_heart_reaches_the_end(by_intensity: Segmenter) -> None:
    ct, _ = phantom(scan_grid())
    seen: list[Progress] = []
    by_intensity.segment(Volume(np.minimum(ct.array, np.int16(0)), ct.affine), progress=seen.append)
    assert seen[-1].step == 100


@pytest.mark.parametrize("after", [0, 1, 3, 5, 12])
def test_cancellation_stops_before_the_next_window(
    by_intensity: Segmenter, networks: dict[str, ByIntensity], after: int
) -> None:
    asked = 0
    calls_then = -1

    def calls() -> int:
        return sum(network.calls for network in networks.values())

    def cancelled() -> bool:
        nonlocal asked, calls_then
        asked += 1
        if asked > after:
            calls_then = calls()
        return asked > after

    with pytest.raises(Cancelled):
        by_intensity.segment(phantom(scan_grid())[0], cancelled=cancelled)
    assert calls() == calls_then
    assert asked == after + 1


class _Greedy(ByIntensity):
    """Runs out of GPU memory with more than ``fits`` windows at once."""

    fits = 2

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.fits:
            raise self.error
        return super().forward(windows)


#: How a full GPU shows: torch's own class, and cuDNN's and cuBLAS's words.
FULL = (
    torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)  # fmt: skip


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_full_gpu_memory_takes_fewer_windows(
    monkeypatch: pytest.MonkeyPatch, networks: dict[str, Any], error: Exception
) -> None:
    ct, _ = phantom(scan_grid())
    expected = Segmenter(phantom_package(), "cpu").segment(ct)
    networks["segmenter"] = _Greedy(error)
    monkeypatch.setitem(run.WINDOWS_PER_BATCH, "cpu", 8)
    result = Segmenter(phantom_package(), "cpu").segment(ct)
    np.testing.assert_array_equal(result.labels.array, expected.labels.array)
    assert "fewer windows" in result.warnings[0]


def test_full_gpu_memory_at_one_window_takes_the_cpu(monkeypatch: pytest.MonkeyPatch, by_intensity: Segmenter) -> None:
    real = Segmenter._windows
    batches = []

    def windows(self: Segmenter, name: str, source: Any, patch: Any, job: Any) -> torch.Tensor:
        batches.append((job.device, job.batch))
        if job.device != "cpu":
            raise FULL[3]
        return real(self, name, source, patch, job)

    ct, truth = phantom(scan_grid())
    monkeypatch.setattr(Segmenter, "_windows", windows)
    by_intensity.device = "cuda:0"
    result = by_intensity.segment(ct)
    assert batches == [("cuda:0", 8), ("cuda:0", 4), ("cuda:0", 2), ("cuda:0", 1), ("cpu", 1), ("cpu", 1), ("cpu", 1)]
    assert result.device == "cpu"
    assert any("CPU" in warning for warning in result.warnings)
    assert_labelled(result, truth)


def test_other_errors_of_the_gpu_are_raised(by_intensity: Segmenter) -> None:
    class Broken(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("illegal memory access")

    by_intensity._networks["segmenter"] = Broken()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        by_intensity.segment(phantom(scan_grid())[0])


def test_a_gpu_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, networks: dict[str, Any]) -> None:
    pretend_gpus(monkeypatch, Card("Tesla M40", computes=False))
    result = Segmenter(phantom_package(), "auto").segment(phantom(scan_grid())[0])
    assert result.device == "cpu"
    assert result.heart_found
    assert "Tesla M40" in result.warnings[0]
    assert "CPU" in result.warnings[0]


# --- qualities -----------------------------------------------------------------------------------------------------


def test_flips_do_four_times_the_work_and_leave_a_symmetric_networks_labels(
    by_intensity: Segmenter, networks: dict[str, ByIntensity]
) -> None:
    ct, _ = phantom(scan_grid())
    plain = by_intensity.segment(ct)
    calls = {name: network.calls for name, network in networks.items()}
    flipped = by_intensity.segment(ct, quality="flips")
    np.testing.assert_array_equal(flipped.labels.array, plain.labels.array)
    assert networks["locator"].calls == 2 * calls["locator"]
    assert networks["segmenter"].calls == 5 * calls["segmenter"]


def test_fast_takes_fewer_windows_and_agrees_except_at_edges(
    by_intensity: Segmenter,
) -> None:
    ct, truth = phantom(scan_grid(spacing=(1.0, 1.0, 1.5)))
    full = by_intensity.segment(ct)
    fast = by_intensity.segment(ct, quality="fast")
    assert_labelled(fast, truth)
    heart = ((100, 100, 120), (64, 64, 64))
    overlaps = segmenter.OVERLAP["fast"], segmenter.OVERLAP["full"]
    fewer, more = (len(window_places(*heart, overlap)) for overlap in overlaps)
    assert fewer < more
    assert 0.97 < (fast.labels.array == full.labels.array).mean() < 1.0
    assert 0.0 < fast.network_seconds < sum(fast.seconds.values())


def test_an_unknown_quality_is_refused(by_intensity: Segmenter) -> None:
    with pytest.raises(SegmenterError, match="best"):
        by_intensity.segment(phantom(scan_grid())[0], quality="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["_predict_box", "_label"])
def test_full_gpu_memory_outside_the_networks_takes_the_cpu(
    monkeypatch: pytest.MonkeyPatch, by_intensity: Segmenter, part: str
) -> None:
    """A GPU is only named: nothing is moved to it. What fails on it, before or after the networks, is done again."""
    predict_box, work = Segmenter._predict_box, getattr(Segmenter, part)
    devices = []

    def predicted(self: Segmenter, volume: Volume, run: Run) -> Prediction:
        named, run.device = run.device, "cpu"
        prediction = predict_box(self, volume, run)
        run.device = named
        return prediction

    def full(self: Segmenter, *arguments: Any) -> Any:
        run = arguments[-1] if part == "_predict_box" else arguments[0].run
        devices.append(run.device)
        if run.device != "cpu":
            raise FULL[2]
        return work(self, *arguments)

    ct, truth = phantom(scan_grid())
    monkeypatch.setattr(Segmenter, "_predict_box", predicted)
    monkeypatch.setattr(Segmenter, part, full)
    by_intensity.device = "cuda:0"
    result = by_intensity.segment(ct)
    assert devices == ["cuda:0", "cpu"]
    assert any("CPU" in warning for warning in result.warnings)
    assert_labelled(result, truth)


# --- with a real package -------------------------------------------------------------------------------------------


def test_a_package_with_random_weights_runs(tmp_path: Path) -> None:
    package = open_package(write_tiny_package(tmp_path / "tiny"))
    ct, _ = phantom(scan_grid(AXIS_ORDERS[30]))
    result = Segmenter(package, "cpu").segment(ct, quality="flips")
    assert result.labels.grid.same_as(ct.grid)
    assert result.labels.array.max() < anatomy.NUM_CLASSES
    assert result.heart_found == bool(result.labels.array.any())
    assert dataclasses.asdict(result).keys() == {
        "labels", "warnings", "seconds", "network_seconds", "device", "heart_found", "volumes_ml", "expected_dice",
    }  # fmt: skip


def test_the_phantom_has_its_hu_and_volumes() -> None:
    ct, truth = phantom(ras_grid(np.stack([HEART - 70, HEART + 70]), 2.0))
    for value, hu in STRUCTURE_HU.items():
        assert (ct.array[truth.array == value] == hu).all()
        volume_ml = np.count_nonzero(truth.array == value) * truth.grid.voxel_ml
        assert volume_ml == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3 / 1000, rel=0.02)

"""Scans that are refused or mentioned, and voxels that hold no number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from CardiacLDMLib.errors import SegmenterError
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.scan import check_scan


def ct(shape: tuple[int, ...] = (40, 40, 40), spacing: float | tuple[float, ...] = 3.0) -> Volume:
    array = np.full(shape, -800, dtype=np.float32)
    array[10:] = 40.0
    return Volume(array, np.diag([*np.broadcast_to(spacing, 3), 1.0]))


def tissues(seed: int = 0, shape: tuple[int, ...] = (40, 40, 40)) -> np.ndarray:
    """Return lung, fat, muscle, blood with contrast and some bone, in HU with noise (float32)."""
    rng = np.random.default_rng(seed)
    hu = np.repeat([-850.0, -100.0, 50.0, 300.0], [14, 6, 16, 4])[:, None, None] + rng.normal(0.0, 15.0, shape)
    hu[30, :6] += 1000.0
    return hu.astype(np.float32)


def magnetic_resonance(noise: float) -> np.ndarray:
    """Return MR values: a background that is 0, or noise about 0; muscle, blood and bright fat."""
    rng = np.random.default_rng(5)
    signal = np.repeat([0.0, 130.0, 300.0, 800.0], [20, 10, 7, 3])[:, None, None] * rng.normal(1.0, 0.2, (40, 40, 40))
    signal[38:, :3] *= 2.5
    return np.round(np.abs(signal + rng.normal(0.0, noise, signal.shape)))


def with_values(change: Callable[[np.ndarray], np.ndarray]) -> Volume:
    scan = ct()
    return Volume(change(scan.array), scan.affine)


@pytest.mark.parametrize(
    ("volume", "fact"),
    [
        (ct((40, 40, 3)), "3 slices"),
        (ct((40, 40, 1)), "1 slice:"),
        (ct((40, 40, 30), (1.0, 1.0, 0.5)), "15 mm"),
        (ct((40, 40, 40), 700.0), "28.0 m"),
        (with_values(lambda a: np.full_like(a, np.nan)), "no numbers"),
        (with_values(lambda a: np.full_like(a, 7.0)), "same value"),
        (with_values(lambda a: a + 1024.0), "offset of 1024"),
        (with_values(lambda a: (a - a.min()) / np.ptp(a)), "Hounsfield"),
        (with_values(lambda a: a / 1000.0), "Hounsfield"),
        (with_values(lambda a: np.abs(np.random.default_rng(0).normal(300, 200, a.shape))), "Hounsfield"),
        (with_values(lambda a: np.where(a < 0, -32768, 500 + a)), "Hounsfield"),
        (with_values(lambda a: np.random.default_rng(0).uniform(-1000, -700, a.shape)), "Hounsfield"),
        (with_values(lambda a: a > 0), "Hounsfield"),
        (with_values(lambda a: (a > 0).astype(np.uint8)), "Hounsfield"),
        (with_values(lambda a: (a + 1024.0).astype(np.uint16)), "offset of 1024"),
        (with_values(lambda a: (a + 32768.0).astype(np.uint16)), "offset of 32768"),
        (with_values(lambda a: np.where(a < 0, -2000.0, a + 1024.0)), "Hounsfield"),
        (with_values(lambda a: tissues(1) * 0.255 + 102), "Hounsfield"),
        (with_values(lambda a: magnetic_resonance(0.0)), "Hounsfield"),
        (with_values(lambda a: magnetic_resonance(20.0)), "Hounsfield"),
        (with_values(lambda a: (np.clip(tissues(2), -160, 240) + 160) * 255 / 400), "Hounsfield"),
        (with_values(lambda a: np.clip(tissues(3), -128, 127).astype(np.int8)), "Hounsfield"),
    ],
    ids=lambda v: v.replace(" ", "-") if isinstance(v, str) else "",
)
def test_unusable_scans_are_refused(volume: Volume, fact: str) -> None:
    with pytest.raises(SegmenterError, match=fact):
        check_scan(volume)


def test_missing_numbers_become_air_and_are_counted() -> None:
    scan = ct()
    scan.array[20, 20, :2] = np.nan
    scan.array[20, 21, 0] = np.inf
    scan.array[20, 21, 1] = -np.inf
    out, warnings = check_scan(scan)
    assert len(warnings) == 1
    assert warnings[0].startswith("4 voxels (0.0063 %)")
    assert (out.array[20, 20:22, :2] == -1024.0).all()
    assert np.isnan(scan.array[20, 20, 0])
    rest = np.isfinite(scan.array)
    np.testing.assert_array_equal(out.array[rest], scan.array[rest])


def test_thick_slices_are_mentioned() -> None:
    _, warnings = check_scan(ct((40, 40, 20), (1.0, 1.0, 7.5)))
    assert len(warnings) == 1
    assert "7.5 mm" in warnings[0]


def test_slices_that_rounding_makes_a_little_thicker_are_not_mentioned() -> None:
    assert check_scan(ct((40, 40, 20), (1.0, 1.0, 5.0006)))[1] == check_scan(ct((40, 40, 20), (1.0, 1.0, 5.0)))[1]


@pytest.mark.parametrize(
    "limits", [(-200, 300), (-160, 240), (-100, 3000), (-500, 400), (-50, 350), (0, 3000), (0, 400)]
)
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_clipped_scans_are_used_with_lung_in_place_of_their_lowest_value(limits: tuple[int, int], kind: type) -> None:
    array = np.clip(tissues(), *limits).astype(kind)
    array[:, :2] = -1024  # air beyond the field of view
    array[:, 2, ::2] = -700  # between both, as in a resampled scan
    out, warnings = check_scan(Volume(array, np.diag([3.0, 3.0, 3.0, 1.0])))
    assert len(warnings) == 1
    assert f"{limits[0]} HU" in warnings[0]
    assert (out.array[1:13, 4:] < -600).all()
    assert (out.array[:, 0] == -1024).all()
    np.testing.assert_array_equal(out.array[22:, 4:], array[22:, 4:])
    assert array[5, 5, 5] == limits[0]


@pytest.mark.parametrize("low", [-3024, -1024, -1000, -700])
def test_values_that_end_below_lung_need_no_warning(low: int) -> None:
    scan = Volume(np.maximum(tissues(), low), np.diag([3.0, 3.0, 3.0, 1.0]))
    out, warnings = check_scan(scan)
    assert warnings == []
    assert out is scan


def test_noise_about_bone_is_not_taken_for_an_offset() -> None:
    """As an untrained generator draws it; its pairs serve as training cases."""
    noise = np.clip(np.random.default_rng(0).normal(300.0, 700.0, (40, 40, 40)), -1000.0, 1000.0)
    noise[::2] = np.where(noise[::2] > 300.0, 1000.0, 0.0)
    out, _ = check_scan(Volume(noise, np.diag([3.0, 3.0, 3.0, 1.0])))
    assert out.array is noise

"""Finding the heart in coarse labels: its box, and the lung around it."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Grid
from CardiacLDMLib.segmentation.heart import (
    BOX_STEP,
    MARGIN_MM,
    VESSELS_ABOVE,
    VESSELS_BEHIND,
    grow_box,
    heart_box,
    lung_share,
)


def test_lung_share_ignores_the_heart_and_the_outside_of_the_scan() -> None:
    image = np.full((40, 40, 40), 40.0, dtype=np.float32)
    heart = np.zeros((40, 40, 40), dtype=bool)
    heart[16:24, 16:24, 16:24] = True
    image[heart] = -800.0  # in the heart, not around it
    assert lung_share(image, heart, 3.0) == 0.0
    image[:20] = -800.0
    assert lung_share(image, heart, 3.0) == pytest.approx(0.5)
    image[:, :20] = -1024.0
    assert lung_share(image, heart, 3.0) == pytest.approx(0.5)
    assert lung_share(image, np.zeros_like(heart), 3.0) == 0.0


def with_vessels(heart: Grid, voxels: int) -> np.ndarray:
    """Return the box around ``heart``, which has so many voxels, and around its great vessels."""
    radius = (3.0 * voxels * heart.voxel_ml * 1000.0 / (4.0 * np.pi)) ** (1 / 3)
    return heart.bounds_ras() + radius * np.array([[0.0, -VESSELS_BEHIND, 0.0], [0.0, 0.0, VESSELS_ABOVE]])


def test_heart_box_joins_near_pieces_and_ignores_small_ones() -> None:
    grid = Grid((30, 30, 30), np.diag([5.0, 5.0, 5.0, 1.0]))
    shares = np.zeros((anatomy.NUM_CLASSES, 30, 30, 30), dtype=np.float32)
    shares[anatomy.VALUE["LV"], 8:12, 8:12, 8:12] = 1.0  # 8 mL
    shares[anatomy.VALUE["RV"], 13:20, 8:14, 8:19] = 1.0  # 58 mL, 5 mm from it
    shares[anatomy.VALUE["LA"], 27:30, 27:30, 27:30] = 1.0  # far away
    shares[0] = 1.0 - shares[1:].sum(0)
    box = heart_box(shares, grid)
    assert box is not None
    held = with_vessels(grid.crop(np.array([8, 8, 8]), np.array([20, 14, 19])), 4**3 + 7 * 6 * 11)
    np.testing.assert_allclose(box, held, atol=5.0)  # a voxel
    shares[anatomy.VALUE["RV"]], shares[0] = 0.0, 1.0 - shares[[anatomy.VALUE["LV"], anatomy.VALUE["LA"]]].sum(0)
    assert heart_box(shares, grid) is None


def test_heart_box_takes_unsure_voxels_only_where_sure_ones_are_too_few() -> None:
    grid = Grid((30, 30, 30), np.diag([5.0, 5.0, 5.0, 1.0]))
    shares = np.zeros((anatomy.NUM_CLASSES, 30, 30, 30), dtype=np.float32)
    shares[anatomy.VALUE["LV"], 8:18, 8:18, 8:18] = 0.35  # 125 mL
    shares[0] = 1.0 - shares[1:].sum(0)
    box = heart_box(shares, grid)
    assert box is not None
    np.testing.assert_allclose(box, with_vessels(grid.crop(np.full(3, 8), np.full(3, 18)), 1000), atol=1.0)
    shares[anatomy.VALUE["RV"], 20:28, 20:28, 20:28] = 0.9  # 64 mL
    shares[0] = 1.0 - shares[1:].sum(0)
    box = heart_box(shares, grid)
    assert box is not None
    np.testing.assert_allclose(box, with_vessels(grid.crop(np.full(3, 20), np.full(3, 28)), 512), atol=1.0)
    shares[1:] *= 0.25
    shares[0] = 1.0 - shares[1:].sum(0)
    assert heart_box(shares, grid) is None


def test_heart_box_hardly_moves_when_a_voxel_or_an_aorta_below_comes_and_goes() -> None:
    grid = Grid((30, 30, 30), np.diag([6.0, 6.0, 6.0, 1.0]))
    shares = np.zeros((anatomy.NUM_CLASSES, 30, 30, 30), dtype=np.float32)
    shares[anatomy.VALUE["LV"], 8:20, 9:21, 10:22] = 0.9
    shares[0] = 1.0 - shares[1:].sum(0)
    changed = shares.copy()
    for voxel in ((7, 15, 15), (20, 15, 15), (15, 8, 15), (15, 15, 22)):
        changed[(anatomy.VALUE["LV"], *voxel)], changed[(0, *voxel)] = 0.5001, 0.4999
    changed[anatomy.VALUE["AO"], 14, 14, 4:10], changed[0, 14, 14, 4:10] = 0.9, 0.1
    box, other = heart_box(shares, grid), heart_box(changed, grid)
    assert box is not None
    assert other is not None
    assert np.abs(box - other).max() < 0.3


def test_grown_box_has_a_margin_and_room_for_a_window_within_the_scan() -> None:
    box, scan = np.array([[0.0] * 3, [10.0, 100.0, 10.0]]), np.array([[-5.0, -200.0, -200.0], [200.0] * 3])
    spacing, step = 1.5, 1.5 * BOX_STEP
    low, high = grow_box(box, (60, 60, 60), spacing, scan)
    np.testing.assert_allclose(np.stack([low, high]) / step, np.rint(np.stack([low, high]) / step), atol=1e-9)
    assert low[0] == -step  # the first multiple beyond the scan
    assert np.abs([low[1] + MARGIN_MM, high[1] - 100.0 - MARGIN_MM]).max() <= step / 2
    assert (high[2] - low[2]) / spacing == 64
    assert abs(high[2] + low[2] - 10.0) <= 2 * step


def test_grown_box_stays_when_the_coarse_box_moves_a_little() -> None:
    scan = np.array([[-200.0] * 3, [200.0] * 3])
    box = np.array([[-40.0, -60.0, -52.0], [41.0, 33.0, 54.0]])
    boxes = [grow_box(box + shift, (64, 64, 64), 2.5, scan) for shift in np.linspace(-2.0, 2.0, 9)]
    assert all((other == boxes[0]).all() for other in boxes)

"""Finding the heart in coarse labels: its box, and the lung around it."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Grid
from CardiacLDMLib.segmentation.heart import MARGIN_MM, grow_box, heart_box, lung_share


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


def test_heart_box_joins_near_pieces_and_ignores_small_ones() -> None:
    grid = Grid((30, 30, 30), np.diag([5.0, 5.0, 5.0, 1.0]))
    shares = np.zeros((anatomy.NUM_CLASSES, 30, 30, 30), dtype=np.float32)
    shares[anatomy.VALUE["LV"], 8:12, 8:12, 8:12] = 1.0  # 8 mL
    shares[anatomy.VALUE["RV"], 13:20, 8:14, 8:19] = 1.0  # 58 mL, 5 mm from it
    shares[anatomy.VALUE["LA"], 27:30, 27:30, 27:30] = 1.0  # far away
    shares[0] = 1.0 - shares[1:].sum(0)
    box = heart_box(shares, grid)
    assert box is not None
    np.testing.assert_allclose(box, grid.crop(np.array([8, 8, 8]), np.array([20, 14, 19])).bounds_ras())
    shares[anatomy.VALUE["RV"]], shares[0] = 0.0, 1.0 - shares[[anatomy.VALUE["LV"], anatomy.VALUE["LA"]]].sum(0)
    assert heart_box(shares, grid) is None


def test_heart_box_takes_unsure_voxels_only_where_sure_ones_are_too_few() -> None:
    grid = Grid((30, 30, 30), np.diag([5.0, 5.0, 5.0, 1.0]))
    shares = np.zeros((anatomy.NUM_CLASSES, 30, 30, 30), dtype=np.float32)
    shares[anatomy.VALUE["LV"], 8:18, 8:18, 8:18] = 0.35  # 125 mL
    shares[0] = 1.0 - shares[1:].sum(0)
    box = heart_box(shares, grid)
    assert box is not None
    np.testing.assert_allclose(box, grid.crop(np.full(3, 8), np.full(3, 18)).bounds_ras())
    shares[anatomy.VALUE["RV"], 20:28, 20:28, 20:28] = 0.9  # 64 mL
    shares[0] = 1.0 - shares[1:].sum(0)
    box = heart_box(shares, grid)
    assert box is not None
    np.testing.assert_allclose(box, grid.crop(np.full(3, 20), np.full(3, 28)).bounds_ras())
    shares[1:] *= 0.25
    shares[0] = 1.0 - shares[1:].sum(0)
    assert heart_box(shares, grid) is None


def test_grown_box_has_a_margin_and_room_for_a_window_within_the_scan() -> None:
    box, scan = np.array([[0.0] * 3, [10.0, 100.0, 10.0]]), np.array([[-5.0, -200.0, -200.0], [200.0] * 3])
    low, high = grow_box(box, np.array([60.0] * 3), scan)
    assert low.tolist() == [-5.0, -MARGIN_MM, -25.0]
    assert high.tolist() == [35.0, 100.0 + MARGIN_MM, 35.0]

"""Grids of any orientation, for property tests."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from CardiacLDMLib.image.grid import Grid

AXIS_ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def oriented(shape: tuple[int, ...], spacing: tuple[float, ...], order: tuple, turn_deg: tuple[float, ...]) -> Grid:
    """Return a grid off centre whose axes follow the world's in the given order and direction, then are turned."""
    permutation, signs = order
    linear = np.zeros((3, 3))
    linear[list(permutation), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix() @ linear @ np.diag(spacing)
    affine[:3, 3] = np.array([12.0, -7.0, 31.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def places(grid: Grid) -> np.ndarray:
    """Return the voxel centres, (I, J, K, 3) in RAS mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


orders = st.sampled_from(AXIS_ORDERS)
spacings = st.tuples(*[st.floats(0.5, 4.0)] * 3)
turns = st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-60.0, 60.0)] * 3))
shapes = st.tuples(*[st.integers(6, 24)] * 3)
grids = st.builds(oriented, shapes, spacings, orders, turns)

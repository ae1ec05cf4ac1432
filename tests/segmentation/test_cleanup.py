"""Label repair: one piece per structure, no holes, nothing else changed."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from CardiacLDMLib import anatomy
from CardiacLDMLib.segmentation.cleanup import MAX_GAP_ML, MIN_SECOND_PIECE_ML, clean

LA, LV, RV, MYO, AO = (anatomy.VALUE[name] for name in ("LA", "LV", "RV", "MYO", "AO"))
VOXEL_ML = 0.001


def blocks(*boxes: tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """Return labels of 40^3 voxels of 1 mm with boxes (value, spans); later ones cover earlier ones."""
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    for value, *spans in boxes:
        labels[tuple(slice(*span) for span in spans)] = value
    return labels


VENTRICLE = (LV, (5, 25), (5, 25), (5, 25))


def test_clean_labels_stay_as_they_are() -> None:
    labels = blocks(VENTRICLE, (MYO, (25, 30), (5, 25), (5, 25)), (RV, (30, 38), (5, 25), (5, 25)))
    np.testing.assert_array_equal(clean(labels, VOXEL_ML), labels)


def test_the_input_is_not_changed() -> None:
    labels = blocks(VENTRICLE, (LV, (35, 37), (35, 37), (35, 37)))
    before = labels.copy()
    labels.flags.writeable = False
    clean(labels, VOXEL_ML)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize(
    ("island", "surroundings", "becomes"),
    [
        ((LV, (33, 36), (33, 36), (33, 36)), (), 0),  # far away
        ((RV, (12, 15), (12, 15), (12, 15)), (), LV),  # inside another structure
        ((RV, (12, 15), (12, 15), (24, 25)), (), LV),  # on its surface: five of six sides are LV
        ((LV, (30, 32), (10, 12), (10, 12)), ((LA, (29, 36), (5, 25), (5, 25)),), LA),
    ],
)
def test_islands_become_what_surrounds_them(island: tuple, surroundings: tuple, becomes: int) -> None:
    right_ventricle = (RV, (5, 25), (30, 39), (5, 25))
    clean_labels = blocks(VENTRICLE, right_ventricle, *surroundings)
    expected = clean_labels.copy()
    expected[tuple(slice(*span) for span in island[1:])] = becomes
    np.testing.assert_array_equal(clean(blocks(VENTRICLE, right_ventricle, *surroundings, island), VOXEL_ML), expected)


def test_a_cut_aorta_keeps_two_pieces_but_not_three_and_no_small_ones() -> None:
    ascending, descending = (AO, (2, 22), (2, 22), (5, 35)), (AO, (26, 39), (26, 39), (0, 40))
    assert 13 * 13 * 40 * VOXEL_ML > MIN_SECOND_PIECE_ML
    clean_labels = blocks(ascending, descending)
    np.testing.assert_array_equal(
        clean(blocks(ascending, descending, (AO, (30, 38), (2, 10), (2, 9))), VOXEL_ML), clean_labels
    )
    np.testing.assert_array_equal(
        clean(blocks(ascending, (AO, (30, 38), (2, 10), (2, 9))), VOXEL_ML), blocks(ascending)
    )


def test_holes_inside_one_structure_are_filled_walls_between_several_stay() -> None:
    hole = (0, (10, 13), (10, 13), (10, 13))
    np.testing.assert_array_equal(clean(blocks(VENTRICLE, hole), VOXEL_ML), blocks(VENTRICLE))
    wall = blocks((LV, (5, 15), (5, 25), (5, 25)), (RV, (15, 25), (5, 25), (5, 25)), (0, (11, 19), (10, 20), (10, 20)))
    np.testing.assert_array_equal(clean(wall, VOXEL_ML), wall)
    gap = blocks((LV, (5, 15), (5, 25), (5, 25)), (RV, (15, 25), (5, 25), (5, 25)), (0, (14, 16), (14, 18), (14, 18)))
    assert 2 * 4 * 4 * VOXEL_ML <= MAX_GAP_ML
    assert (clean(gap, VOXEL_ML)[5:25, 5:25, 5:25] > 0).all()


def test_an_island_in_a_hole_leaves_no_hole() -> None:
    nested = blocks(VENTRICLE, (0, (9, 16), (9, 16), (9, 16)), (LA, (11, 14), (11, 14), (11, 14)),
                    (LA, (27, 39), (5, 25), (5, 25)))  # fmt: skip
    np.testing.assert_array_equal(clean(nested, VOXEL_ML), blocks(VENTRICLE, (LA, (27, 39), (5, 25), (5, 25))))


def test_a_gap_that_opens_at_the_edge_of_the_array_is_no_hole() -> None:
    labels = blocks((LV, (0, 20), (5, 25), (5, 25)), (0, (0, 10), (10, 15), (10, 15)))
    np.testing.assert_array_equal(clean(labels, VOXEL_ML), labels)


def test_empty_labels_stay_empty() -> None:
    empty = np.zeros((5, 6, 7), dtype=np.uint8)
    np.testing.assert_array_equal(clean(empty, VOXEL_ML), empty)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, (9, 8, 10), elements=st.integers(0, 8)), st.booleans())
def test_noise_becomes_one_piece_per_structure(labels: np.ndarray, fortran: bool) -> None:
    out = clean(np.asfortranarray(labels) if fortran else labels, VOXEL_ML)
    assert out.dtype == np.uint8
    assert out.shape == labels.shape
    for value in anatomy.BY_VALUE:
        pieces = cc3d.connected_components(out == value, connectivity=6, return_N=True)[1]
        assert pieces <= 1
    if fortran:
        np.testing.assert_array_equal(out, clean(labels, VOXEL_ML))

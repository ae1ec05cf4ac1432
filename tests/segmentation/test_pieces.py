"""Which pieces of a structure the networks are unsure of."""

from __future__ import annotations

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.segmentation.pieces import SURE, unsure_pieces


def test_larger_pieces_than_the_surest_one_are_unsure() -> None:
    labels = np.zeros((30, 10, 10), dtype=np.uint8)
    probability = np.full(labels.shape, 0.7)
    large, sure, small = np.s_[0:10], np.s_[12:18], np.s_[20:22]
    for place in (large, sure, small):
        labels[place] = anatomy.VALUE["LV"]
    assert not unsure_pieces(labels, probability).any()  # none is sure, so the largest stays
    probability[sure] = SURE
    probability[0, 0, 0] = SURE
    unsure = unsure_pieces(labels, probability)
    assert unsure[large].all()
    assert not unsure[10:].any()


def test_the_largest_piece_stays_if_it_is_the_surest_and_the_aorta_always() -> None:
    labels = np.zeros((30, 10, 10), dtype=np.uint8)
    labels[:10] = anatomy.VALUE["RV"]
    labels[12:18] = anatomy.VALUE["RV"]
    assert not unsure_pieces(labels, np.full(labels.shape, 0.95)).any()
    probability = np.full(labels.shape, 0.7)
    probability[12:18] = 0.95
    assert unsure_pieces(labels, probability)[:10].all()
    labels[labels > 0] = anatomy.VALUE["AO"]
    assert not unsure_pieces(labels, probability).any()

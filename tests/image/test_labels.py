"""The check of label values, and Dice of two label maps against values worked out by hand."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from CardiacLDMLib.anatomy import NAMES, VALUE
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.labels import (
    agreement,
    check_labels,
    dice_per_structure,
    mean_agreement,
    values_of_pieces,
)


def test_agreement_is_dice_of_structures_in_either_map() -> None:
    labels, others = np.zeros((2, 6, 5, 4), np.uint8)
    labels[:2], others[1:3] = VALUE["LA"], VALUE["LA"]
    labels[3], others[4] = VALUE["MYO"], VALUE["AO"]
    assert agreement(labels, others) == {"LA": 0.5, "MYO": 0.0, "AO": 0.0}
    assert mean_agreement(labels, others) == pytest.approx(0.5 / 3)
    assert agreement(labels, labels) == {"LA": 1.0, "MYO": 1.0}
    assert agreement(others * 0, others * 0) == {}
    assert mean_agreement(others * 0, others * 0) == 0.0
    with pytest.raises(ValueError, match="6, 5, 4"):
        agreement(labels, others[1:])


def test_agreement_does_not_depend_on_the_memory_layout() -> None:
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, 9, (2, 7, 6, 5)).astype(np.uint8)
    expected = dice_per_structure(labels, others)
    found = agreement(np.asfortranarray(labels), others)
    assert [found[name] for name in NAMES] == pytest.approx(expected.tolist())


def test_dice_per_structure_against_hand_counts() -> None:
    labels = np.array([0, 1, 2, 2, 2, 3], dtype=np.uint8)
    others = np.array([0, 1, 1, 2, 2, 2], dtype=np.uint8)
    dice = dice_per_structure(labels, others)
    assert dice[:3].tolist() == pytest.approx([2 * 1 / 3, 2 * 2 / 6, 0.0])
    assert np.isnan(dice[3:]).all()


@pytest.mark.parametrize(
    ("value", "kind", "name"),
    [(-1, np.int16, "-1"), (9, np.uint8, "9"), (255, np.uint8, "255"), (-1, np.float32, "-1"), (2.5, np.float64, "2.5"),
     (np.nan, np.float32, "nan"), (np.inf, np.float32, "inf"), (300, np.int32, "300")],
)  # fmt: skip
def test_the_wrong_value_is_named(value: float, kind: type, name: str) -> None:
    labels = np.arange(9 * 8 * 7).reshape(9, 8, 7).astype(kind) % 9
    check_labels(labels)
    labels[1, 2, 3] = value
    with pytest.raises(VolumeError, match=f"the value {name}:"):
        check_labels(labels)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_every_piece_has_the_value_of_its_voxels(layout: Literal["C", "F"]) -> None:
    rng = np.random.default_rng(0)
    pieces = rng.integers(0, 40, (7, 6, 5)).astype(np.uint16, order=layout)
    pieces[pieces == 9] = 10
    values = rng.integers(1, 9, 42).astype(np.uint8)
    found = values_of_pieces(pieces, values[pieces], 42)
    assert found.tolist() == [value if (pieces == n).any() else 0 for n, value in enumerate(values)]
    assert found[9] == found[41] == 0

"""The words for an expected Dice, and its text in a table."""

from __future__ import annotations

import pytest

from CardiacLDMLib.results.trust import RELIABLE_FROM, WRONG_BELOW, ExpectedDice, read_text


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (RELIABLE_FROM, 0.95, "reliable"),
        (RELIABLE_FROM - 0.001, 0.95, "look"),
        (0.3, WRONG_BELOW, "look"),
        (0.3, WRONG_BELOW - 0.001, "wrong"),
        (0.1, 0.9, "look"),
    ],
)
def test_the_word_follows_from_the_interval(low: float, high: float, word: str) -> None:
    assert ExpectedDice((low + high) / 2, low, high).word == word


def test_a_table_keeps_three_digits() -> None:
    expected = ExpectedDice(0.862, 0.781, 0.912)
    assert expected.text() == "0.86 (0.78 to 0.91)"
    assert read_text(expected.text(digits=3)) == expected
    for text in ("", "0.9", "none", "0.862 (0.781 to 0.912) and more"):
        assert read_text(text) is None

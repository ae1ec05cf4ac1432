"""The expected Dice of a structure's labels, and the word for it. Only the standard library.

docs/research/review.md says how it was fitted and tested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Word = Literal["reliable", "look", "wrong"]

#: Reliable: the interval begins at this Dice or above. Wrong: it ends below that Dice. Look: anything else.
RELIABLE_FROM, WRONG_BELOW = 0.8, 0.6

_TEXT = re.compile(r"(\d\.\d+) \((\d\.\d+) to (\d\.\d+)\)")


@dataclass(frozen=True)
class ExpectedDice:
    """The Dice that labels are expected to have, and its 90 % interval."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": False, "extra": "forbid"}  # comes in messages

    dice: float
    low: float
    high: float

    @property
    def word(self) -> Word:
        """Return what to do about the labels, in a word for a narrow column."""
        if self.low >= RELIABLE_FROM:
            return "reliable"
        return "wrong" if self.high < WRONG_BELOW else "look"

    def text(self, digits: int = 2) -> str:
        """Return ``0.86 (0.78 to 0.91)``; three digits say all that :func:`read_text` needs."""
        return f"{self.dice:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def read_text(text: str) -> ExpectedDice | None:
    """Return what :meth:`ExpectedDice.text` wrote; None for other text."""
    found = _TEXT.fullmatch(text)
    return ExpectedDice(*map(float, found.groups())) if found else None

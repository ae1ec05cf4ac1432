"""The record by which a package foretells how good its own labels are."""

from __future__ import annotations

import datetime
from typing import Annotated

from pydantic import Field, FiniteFloat, field_validator, model_validator

from ..anatomy import NAMES
from ..progress import Quality
from .fields import Record, Text

Logits = Annotated[FiniteFloat, Field(ge=-20, le=20)]


class DiceLine(Record):
    """For one quality, the line from the Dice that probabilities promise to the expected Dice, both as logits.

    Expected = slope x promised + the structure's constant. The true Dice lies between ``low`` and ``high`` from it in
    nine of ten cases.
    """

    slope: Annotated[FiniteFloat, Field(gt=0, le=20)]
    constants: Annotated[dict[str, Logits], Field(description="One for each structure, by its name.")]
    low: Annotated[Logits, Field(description="Lower end of the 90 % interval, from the expected value.")]
    high: Annotated[Logits, Field(description="Upper end of the 90 % interval, from the expected value.")]

    @field_validator("constants")
    @classmethod
    def _has_every_structure(cls, constants: dict[str, float]) -> dict[str, float]:
        if set(constants) != set(NAMES):
            raise ValueError(f"there must be one constant for each of {', '.join(NAMES)}")
        return constants

    @model_validator(mode="after")
    def _is_an_interval(self) -> DiceLine:
        if not self.low < 0.0 < self.high:
            raise ValueError("low must be below 0 and high above 0")
        return self


class DiceRecord(Record):
    """Lines for the qualities at which they were fitted, and what they were fitted and tested on."""

    qualities: Annotated[dict[Quality, DiceLine], Field(min_length=1, description="At other qualities none is shown.")]
    fitted_on: Text
    tested_on: Text
    date: datetime.date

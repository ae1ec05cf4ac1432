"""The measures of one case as ``report.json`` holds them."""

from __future__ import annotations

from pydantic import Field

from CardiacLDMLib.packages.fields import Record


class CaseRecord(Record):
    """One pair or reference case. ``dice``: between its labels and the segmenter's labels of its image."""

    case: str
    volumes_ml: dict[str, float]
    cut: list[str]
    broken: list[str]
    speckle: float
    sd_hu: dict[str, float]
    dice: dict[str, float] | None
    blood_hu: dict[str, float] = Field(default={})
    brightest_hu: float = 0.0

"""The base of records in files, and types of fields that several of them share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

#: Text for terminals and panels: no control characters, nothing that reorders text.
PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$"
Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=PLAIN)]


class Record(BaseModel):
    """An immutable record that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

"""Text for messages: names from outside made fit to show, and validation errors as part of a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import (
    ValidationError,
)

if TYPE_CHECKING:
    pass


#: Findings of pydantic that are not fit for a reader.
_IN_WORDS = {
    "string_pattern_mismatch": "it is not written as it must be",
    "extra_forbidden": "there is no such entry",
    "missing": "it is missing",
}


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's findings as part of a sentence: where, and what is wrong."""
    finding = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = _IN_WORDS.get(finding["type"], finding["msg"])
    message = message.removeprefix("Value error, ").replace("Input should", "it should")
    where = ".".join(str(part) for part in finding["loc"])
    return f"{shown(where)}: {message}" if where else message


def called_as(path: Path) -> str:
    """What a message calls a file or folder: its name alone, also for "." """
    return path.absolute().name or str(path)


def shown(name: str) -> str:
    """A name from outside, fit for a message: short and printable."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= 80 else text[:77] + "..."

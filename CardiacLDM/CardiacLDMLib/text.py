"""Text for messages: printable and unique names, counts, sizes, durations, lists. Only the standard library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

#: Longest name from outside that a message shows, in characters.
MAX_CHARACTERS = 80

#: Plain words for problems that pydantic describes in its own terms, by pydantic's type of the problem.
_PROBLEMS = {
    "string_pattern_mismatch": "it is not written as it must be",
    "extra_forbidden": "there is no such entry",
    "missing": "it is missing",
}


def printable(name: str) -> str:
    """Return ``name`` with unprintable characters as question marks, cut to :data:`MAX_CHARACTERS`."""
    text = printable_line(name)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."


def printable_line(text: str) -> str:
    """Return ``text`` with a question mark for every character that cannot be shown in a line, as names may hold."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def base_name(path: Path) -> str:
    """Return the name of a file or folder without its parents, also for "."."""
    return path.absolute().name or str(path)


def folder_name(folder: Path) -> str:
    """Return the name of a folder for messages and records: printable, and of the folder that a link leads to."""
    return printable_line(os.path.basename(os.path.realpath(folder)))


def plural(count: int, noun: str) -> str:
    """Return "1 slice" or "3 slices": a number with its noun, which forms its plural with s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def join_words(words: Sequence[str]) -> str:
    """Return "LA", "LA and LV" or "LA, LV and RA"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def unique_name(name: str, taken: set[str]) -> str:
    """Return ``name``, or ``name-2``, ``name-3``, ... if taken, and add it to ``taken``, in folded case.

    Some file systems ignore case, so this does too.
    """
    unique, count = name, 1
    while unique.casefold() in taken:
        count += 1
        unique = f"{name}-{count}"
    taken.add(unique.casefold())
    return unique


def size_text(size_bytes: float) -> str:
    """Return a size as file managers write it: "9.6 MB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= size:
            return f"{size_bytes / size:,.1f} {unit}"
    return f"{size_bytes / 1e3:.0f} kB"


def rounded_volume(volume_ml: float) -> float:
    """Return a volume in mL rounded for reading: 123, 9.4 or 0.03. Only an empty one becomes 0."""
    if volume_ml >= 10.0:
        return float(round(volume_ml))
    return round(volume_ml, 1) if volume_ml >= 0.1 else float(f"{volume_ml:.1g}")


def volume_text(volume_ml: float) -> str:
    """Return a volume as "123 mL", "9.4 mL" or "0.03 mL"."""
    return f"{rounded_volume(volume_ml):g} mL"


def duration_text(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two: "90 s", "2 minutes", "3 days"."""
    for unit, length in (("years", 365 * 86400.0), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's problems as part of a sentence, as in "networks.locator: it is missing"."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = _PROBLEMS.get(problem["type"], problem["msg"])
    message = message.removeprefix("Value error, ").replace("Input should", "it should")
    where = ".".join(str(part) for part in problem["loc"])
    return f"{printable(where)}: {message}" if where else message

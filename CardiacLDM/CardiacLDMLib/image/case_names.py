"""Names of cases, from the names of folders and files: unique, printable, and short enough for a file system.

Headers give no part of a name, since they may identify a patient.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Longest name of a case in bytes. The longest ending of a result and a number that makes it unique fit in 255 with it.
MAX_BYTES = 232
#: Longest share of a folder in a name of several parts, in characters, and what is left of a longer one.
MAX_PART, KEPT = 60, 48
#: Last digits of a UID that stand for it.
UID_DIGITS = 8

_UID = re.compile(r"\d+(?:\.\d+){4,}")
#: Names of folders that say nothing by themselves: those of CDs and archives, dates, UIDs.
_GENERIC = re.compile(
    r"(?:dicom(?:dat)?|dcm|img|images?|scans?|series|study|studies|exports?|data|pa|st|std|se|ser)[-_ ]?\d*"
    r"|(?:19|20)\d{6}\b.*|\d{1,4}[-_.]\d{1,2}[-_.]\d{1,4}\b.*|\d[\d.]{9,}",
    re.IGNORECASE,
)


def case_name(text: str) -> str:
    """Return ``text`` as the name of a case: printable, without spaces and dots at its ends, and not too long."""
    name = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in text).strip(" .") or "case"
    if len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    return f"{name.encode()[: MAX_BYTES - 9].decode(errors='ignore').strip(' .')}-{digest}"


@dataclass(frozen=True)
class Place:
    """Where a case lies in a folder: the sub-folders down to it, and for a volume file its name without the ending."""

    folders: tuple[str, ...]
    file: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        return self.folders if self.file is None else (*self.folders, self.file)

    def says_nothing(self, part: int) -> bool:
        """Return whether a part of the place says nothing by itself: a folder called DICOM, ST0 or by a date."""
        return part < len(self.folders) and _GENERIC.fullmatch(self.folders[part]) is not None


def names_in_tree(root: str, places: Sequence[Place]) -> list[str]:
    """Return a name for each case of a folder ``root``. They may be equal where ``places`` are.

    A name has as many parts of the place as tell the case from the others. If they say nothing by themselves, the
    folder above comes first, but not ``root`` where another case beside it has a telling name.
    """
    if len(places) == 1:
        return [_only_name(root, places[0])]
    parts = [place.parts for place in places]
    above = 0
    while len({each[: above + 1] for each in parts}) == 1 and len(parts[0]) > above:
        above += 1
    with_root = above > 0 or all(place.says_nothing(0) for place in places if place.parts)
    return [_name(root, place, above, _telling(place.parts, parts, above), with_root) for place in places]


def _only_name(root: str, place: Place) -> str:
    """Return the name of the only case of a folder: that of the patient's folder, as far as the depth shows it."""
    level = max(0, len(place.parts) - 3)  # above a study and a series
    while level >= 0 and (level >= len(place.parts) or place.says_nothing(level)):
        level -= 1
    return case_name(_short(place.parts[level]) if level >= 0 else root)


def _telling(place: tuple[str, ...], places: Sequence[tuple[str, ...]], above: int) -> int:
    """Return how many parts of ``place`` tell it from the others."""
    for count in range(above + 1, len(place)):
        if sum(other[:count] == place[:count] for other in places) == 1:
            return count
    return len(place)


def _name(root: str, place: Place, first: int, end: int, with_root: bool) -> str:
    """Return the name made of the parts from ``first`` to before ``end``, with one above if they say nothing."""
    parts = list(place.parts[first:end])
    if all(place.says_nothing(level) for level in range(first, end)):
        level = first - 1
        while level >= 0 and place.says_nothing(level):
            level -= 1
        if level >= 0 or with_root or not parts:
            parts.insert(0, place.parts[level] if level >= 0 else root)
    return case_name("-".join(_short(part) for part in parts) if len(parts) > 1 else parts[0])


def _short(part: str) -> str:
    """Return a part of a name: of a UID its last digits, of a long text its beginning."""
    if _UID.fullmatch(part):
        return part.replace(".", "")[-UID_DIGITS:]
    if len(part) <= MAX_PART:
        return part
    return f"{part[:KEPT]}-{hashlib.sha256(os.fsencode(part)).hexdigest()[:8]}"

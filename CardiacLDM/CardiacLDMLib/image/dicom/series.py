"""Sort DICOM files into series."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ...text import unique_name
from .headers import Header, read_header
from .stacks import Series, make_series


def find_series(files: Iterable[Path]) -> tuple[list[Series], int]:
    """Return the series in DICOM files, sorted by number, and the number of files without a readable image."""
    groups: dict[tuple[object, ...], list[Header]] = {}
    unread = 0
    for file in files:
        header = read_header(file)
        if header is None:
            unread += 1
        else:
            groups.setdefault(header.key, []).append(header)
    candidates = [make_series(slices) for slices in groups.values()]
    candidates.sort(key=_number_order)
    return _make_numbers_unique(candidates), unread


def _number_order(series: Series) -> tuple[bool, int, int, str]:
    """Return the key that sorts by number, then by falling number of slices; series without a number come last."""
    number = int(series.number) if series.number.isdigit() else 0
    return not series.number.isdigit(), number, -series.shape[2], series.uid


def _make_numbers_unique(candidates: list[Series]) -> list[Series]:
    """Return the series with unique numbers: scanners and copies may use a number twice, or none."""
    taken: set[str] = set()
    return [replace(series, number=unique_name(series.number or "unnumbered", taken)) for series in candidates]

"""Sort DICOM files into series."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...text import unique_name
from .headers import Header
from .splits import split_series
from .stacks import Series, is_even, is_placed, wrong_kind

#: Largest difference between the direction cosines of two slices of a stack: headers are rounded.
MAX_TURN = 5e-3
#: Largest difference between the pixel spacings of two slices of a stack, as a share.
MAX_STRETCH = 1e-3


def find_series(headers: Sequence[Header]) -> list[Series]:
    """Return the series that DICOM images form, sorted by number."""
    candidates = [series for slices in _alike(headers) for part in _by_uid(slices) for series in split_series(part)]
    candidates.sort(key=_number_order)
    return _make_numbers_unique(candidates)


def _number_order(series: Series) -> tuple[bool, int, int, str]:
    """Return the key that sorts by number, then by falling number of slices; series without a number come last."""
    number = int(series.number) if series.number.isdigit() else 0
    return not series.number.isdigit(), number, -series.shape[2], series.uid


def _make_numbers_unique(candidates: list[Series]) -> list[Series]:
    """Return the series with unique numbers: scanners and copies may use a number twice, or none."""
    taken: set[str] = set()
    return [replace(series, number=unique_name(series.number or "unnumbered", taken)) for series in candidates]


def _alike(headers: Sequence[Header]) -> list[list[Header]]:
    """Return the images in groups of which each could form a volume, apart from the UIDs of the series."""
    groups: dict[tuple[object, ...], list[Header]] = {}
    for header in headers:
        key = (header.study, header.number, header.kind, header.size, header.colour, header.frames > 1)
        placed = (header.axes is None, header.position is None, header.spacing is None)
        groups.setdefault((*key, *placed), []).append(header)
    return [turned for group in groups.values() for turned in _near(group)]


def _near(group: list[Header]) -> list[list[Header]]:
    """Return images in groups of nearly the same orientation and pixel spacing."""
    clusters: list[list[Header]] = []
    for header in group:
        for cluster in clusters:
            if _is_near(header, cluster[0]):
                cluster.append(header)
                break
        else:
            clusters.append([header])
    return clusters


def _is_near(header: Header, other: Header) -> bool:
    if header.axes and other.axes and max(abs(a - b) for a, b in zip(header.axes, other.axes, strict=True)) > MAX_TURN:
        return False
    if header.spacing and other.spacing:
        return all(abs(a - b) <= MAX_STRETCH * abs(b) for a, b in zip(header.spacing, other.spacing, strict=True))
    return True


def _by_uid(slices: list[Header]) -> list[list[Header]]:
    """Return the slices of each series UID; all together if the UIDs cut one stack in pieces, as some tools do."""
    groups: dict[str, list[Header]] = {}
    for header in slices:
        groups.setdefault(header.uid, []).append(header)
    parts = list(groups.values())
    return [slices] if len(parts) > 1 and _is_cut(parts) else parts


def _is_cut(parts: list[list[Header]]) -> bool:
    slices = [header for part in parts for header in part]
    if wrong_kind(slices[0]) or not is_placed(slices):
        return False
    if len(parts) > 2 and all(len(part) == 1 for part in parts):
        return True
    settings = {tuple(h.marks.get(name) for name in ("kernel", "slice thickness", "tube voltage")) for h in slices}
    if len(settings) > 1 or not slices[0].number or not is_even(slices):
        return False
    normal = np.cross(*np.array(slices[0].axes).reshape(2, 3))
    places = [np.array([s.position for s in part]) @ normal for part in parts]
    ends = sorted((float(p.min()), float(p.max())) for p in places)
    return all(below[1] < above[0] for below, above in itertools.pairwise(ends))

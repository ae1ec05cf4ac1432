"""Tell apart the stacks that scanners write under one series: acquisitions, phases of the heart beat, kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...text import plural
from .copies import drop_copies
from .headers import MARKS, Header
from .stacks import SAME_PLACE_MM, Series, along_normal, count_missing, is_even, is_placed, make_series, wrong_kind

#: Marks that may differ from slice to slice in one ordinary stack, and are equal or close in each of several stacks.
TIMES = ("trigger time", "acquisition time", "content time")
#: Marks that never tell apart slices which are evenly spaced together.
WEAK_MARKS = ("slice thickness", "patient position", "image type")
#: Fewest slices of a stack that counts.
MIN_SLICES = 3
#: Most stacks of one series, and most marks that together tell them apart.
MAX_STACKS, MAX_MARKS = 64, 3
#: Worth of a slice in a stack that lacks others, of one in a whole stack.
INCOMPLETE_WORTH = 0.6
#: A pause between two stacks is at least this many times as long as any within one.
MIN_PAUSE = 5.0


@dataclass(frozen=True)
class Stack:
    """Slices in any order, and what tells them apart from the other stacks of the series."""

    slices: list[Header]
    mark: str = ""


def split_series(slices: Sequence[Header]) -> list[Series]:
    """Return the series in slices that share all of the header that slices of one volume must share."""
    if wrong_kind(slices[0]) or not is_placed(slices):
        return [make_series(slices)]
    slices, copies = drop_copies(slices)
    notes = (f"{plural(copies, 'file')} left out: copies of other images.",) if copies else ()
    return [make_series(stack.slices, stack.mark, notes) for stack in _stacks(slices)]


def _stacks(slices: Sequence[Header], used: tuple[str, ...] = ()) -> list[Stack]:
    """Return the stacks in ``slices``: one, unless a mark in the headers gives better ones."""
    whole = [Stack(list(slices))]
    if len(slices) < 2 * MIN_SLICES or len(used) >= MAX_MARKS:
        return whole
    if is_even(slices):
        return next((stacks for name, stacks in _partitions(slices, used) if _interleaved(name, stacks)), whole)
    best, quality = whole, max(0.5, _quality(whole))
    for name, stacks in _partitions(slices, used):
        if not _entangled(stacks, slices):
            continue
        parts = [
            Stack(part.slices, ", ".join(filter(None, (stack.mark, part.mark))))
            for stack in stacks
            for part in _stacks(stack.slices, (*used, name))
        ]
        if _quality(parts) > quality:
            best, quality = parts, _quality(parts)
        if quality == 1.0:
            break
    return best


def _quality(stacks: Sequence[Stack]) -> float:
    """Return the share of the slices that are in evenly spaced stacks; stacks that only lack slices count less."""
    sizes = {True: 0, False: 0}
    for stack in stacks:
        missing = count_missing(stack.slices) if len(stack.slices) >= MIN_SLICES else None
        if missing is not None:
            sizes[missing == 0] += len(stack.slices)
    return (sizes[True] + INCOMPLETE_WORTH * sizes[False]) / sum(len(stack.slices) for stack in stacks)


def _interleaved(name: str, stacks: list[Stack]) -> bool:
    """Return whether stacks that together are evenly spaced are stacks of their own: each spans the whole length."""
    if name in WEAK_MARKS or any(len(stack.slices) < MIN_SLICES for stack in stacks):
        return False
    places = along_normal([header for stack in stacks for header in stack.slices])
    length = float(np.ptp(places))
    for stack in stacks:
        extent = float(np.ptp(along_normal(stack.slices)))
        if extent + 2 * extent / (len(stack.slices) - 1) < length or not is_even(stack.slices):
            return False
    return True


def _entangled(stacks: list[Stack], slices: Sequence[Header]) -> bool:
    """Return whether stacks overlap; else they are parts of one that lacks slices, unless their spacings differ."""
    normal = np.cross(*np.array(slices[0].axes).reshape(2, 3))
    places = [np.sort(np.array([s.position for s in stack.slices]) @ normal) for stack in stacks]
    places.sort(key=lambda p: float(p[0]))
    top = places[0][-1]
    for following in places[1:]:
        if following[0] <= top + SAME_PLACE_MM:
            return True
        top = max(top, following[-1])
    gaps = [float(np.median(np.diff(p))) for p in places if len(p) >= MIN_SLICES]
    longest = max(float(np.ptp(p)) for p in places)
    return len(gaps) > 1 and max(gaps) > 1.1 * min(gaps) and longest >= (top - places[0][0]) / 2


# --- ways to part slices -------------------------------------------------------------------------------------------


def _partitions(slices: Sequence[Header], used: tuple[str, ...]) -> Iterator[tuple[str, list[Stack]]]:
    """Yield ways to part ``slices`` in two or more stacks, the surest first, with the name of the mark."""
    for name in MARKS:
        values = [header.marks.get(name, "") for header in slices]
        if name in used or len(set(values)) < 2:
            continue
        if 2 * len(set(values)) <= len(slices) and len(set(values)) <= MAX_STACKS:
            yield name, _by_value(slices, values, name)
        if name in TIMES:
            yield from ((name, stacks) for stacks in _by_pause(slices, values, name))
    folders = [str(header.path.parent) for header in slices]
    if 1 < len(set(folders)) <= MAX_STACKS and "folder" not in used:
        yield "folder", _by_value(slices, folders, "folder")
    if "instance" not in used and (stacks := _by_instance(slices)):
        yield "instance", stacks


def _by_value(slices: Sequence[Header], values: Sequence[str], name: str) -> list[Stack]:
    groups: dict[str, list[Header]] = {}
    for value, header in zip(values, slices, strict=True):
        groups.setdefault(value, []).append(header)
    ordered = sorted(groups, key=_value_order)
    shown = all(_is_number(value) for value in ordered) and name not in ("acquisition time", "content time")
    return [
        Stack(groups[value], f"{name} {value}" if shown else f"{name} {n} of {len(ordered)}")
        for n, value in enumerate(ordered, start=1)
    ]


def _value_order(value: str) -> tuple[bool, float, str]:
    return (False, float(value), "") if _is_number(value) else (True, 0.0, value)


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def _by_pause(slices: Sequence[Header], values: Sequence[str], name: str) -> Iterator[list[Stack]]:
    """Yield the slices parted at the longest pauses, if those are clearly longer than the others."""
    if not all(map(_is_number, values)):
        return
    seconds = np.array([_seconds(float(value)) if name != "trigger time" else float(value) for value in values])
    order = np.argsort(seconds, kind="stable")
    pauses = np.diff(seconds[order])
    ranked = np.sort(pauses)[::-1]
    for count in range(2, min(MAX_STACKS, len(slices) // MIN_SLICES) + 1):
        if ranked[count - 2] <= MIN_PAUSE * ranked[count - 1] or ranked[count - 1] == 0:
            continue  # without a pause within the stacks each has one value
        parts = np.split(order, np.flatnonzero(pauses >= ranked[count - 2]) + 1)
        yield [Stack([slices[i] for i in part], f"{name} {n} of {count}") for n, part in enumerate(parts, start=1)]


def _seconds(clock: float) -> float:
    """Return a time of day of DICOM (HHMMSS.F as a number) in seconds."""
    return clock // 10000 * 3600 + clock // 100 % 100 * 60 + clock % 100


def _by_instance(slices: Sequence[Header]) -> list[Stack]:
    """Return the slices parted by their instance numbers; none if those are no guide.

    They are one if each stack was numbered from end to end before the next, or place by place.
    """
    numbers = [header.instance for header in slices]
    if None in numbers or len(set(numbers)) < len(numbers):
        return []
    ordered = sorted(slices, key=lambda header: header.instance or 0)
    steps = np.diff(along_normal(ordered))
    same = np.abs(steps) < SAME_PLACE_MM
    if same.sum() > len(slices) / 3:
        return _by_rank(ordered, same)
    usual = np.sign(np.median(steps))
    starts = np.flatnonzero(np.sign(steps) != usual) + 1
    groups = np.split(np.arange(len(ordered)), starts)
    if not 1 < len(groups) <= MAX_STACKS:
        return []
    return [Stack([ordered[i] for i in group], f"part {n} of {len(groups)}") for n, group in enumerate(groups, start=1)]


def _by_rank(ordered: list[Header], same: np.ndarray) -> list[Stack]:
    """Return the first, second, ... images of each place; none unless each place has equally many."""
    groups = np.split(np.arange(len(ordered)), np.flatnonzero(~same) + 1)
    count = len(groups[0])
    if any(len(group) != count for group in groups) or count > MAX_STACKS:
        return []
    return [Stack([ordered[group[n]] for group in groups], f"part {n + 1} of {count}") for n in range(count)]

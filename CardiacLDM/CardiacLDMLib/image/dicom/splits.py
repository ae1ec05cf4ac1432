"""Tell apart the stacks that scanners write under one series: acquisitions, phases of the heart beat, kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...text import plural
from .copies import drop_copies
from .headers import MARKS, Header
from .stacks import (
    MAX_UNEVENNESS,
    SAME_PLACE_MM,
    Series,
    along_normal,
    count_missing,
    in_order,
    is_even,
    is_placed,
    make_series,
    wrong_kind,
)

#: Marks that may differ from slice to slice in one ordinary stack, and are equal or close in each of several stacks.
TIMES = ("trigger time", "acquisition time", "acquisition moment", "content time", "series time", "creation time")
#: Marks whose values are not for the user.
UNNAMED = (*TIMES[1:], "frame of reference")
#: Marks that never tell apart slices which are evenly spaced together.
WEAK_MARKS = ("slice thickness", "patient position", "image type", "interleaf")
#: Fewest slices of a stack that counts.
MIN_SLICES = 3
#: Most stacks of one series, and most marks that together tell them apart.
MAX_STACKS, MAX_MARKS = 64, 3
#: Most stacks that lie evenly between each other without a mark, and the largest slice distance in mm of those that do.
MAX_INTERLEAVED, MAX_GAP_MM = 3, 10.0
#: Most slices of the overlap of two parts of one stack: scanners that take a heart in steps let them overlap so.
MAX_SEAM = 3
#: Least share of the slices in a stack beside which far others are stray images, and how many gaps away those are.
MAIN_SHARE, STRAY_GAPS = 0.8, 3.0
#: Worth of a slice in a stack that lacks others, of one in a whole stack.
INCOMPLETE_WORTH = 0.6
#: A pause between two stacks is at least this many times as long as any within one.
MIN_PAUSE = 5.0


@dataclass(frozen=True)
class Stack:
    """Slices in any order, and what tells them apart from the other stacks of the series."""

    slices: list[Header]
    mark: str = ""
    doubles: int = 0  # images left out because another part of the stack shows the same place


def split_series(slices: Sequence[Header]) -> list[Series]:
    """Return the series in slices that share all of the header that slices of one volume must share."""
    if wrong_kind(slices[0]) or not is_placed(slices):
        return [make_series(slices)]
    slices, copies = drop_copies(slices)
    notes = (f"{plural(copies, 'file')} left out: copies of other images.",) if copies else ()
    return [make_series(stack.slices, stack.mark, (*notes, *_note(stack))) for stack in _stacks(slices)]


def _note(stack: Stack) -> tuple[str, ...]:
    if not stack.doubles:
        return ()
    return (f"{plural(stack.doubles, 'image')} left out where parts of the stack overlap: check the seams.",)


def _stacks(slices: Sequence[Header], used: tuple[str, ...] = ()) -> list[Stack]:
    """Return the stacks in ``slices``: one, unless a mark in the headers gives better ones."""
    if used and np.ptp(along_normal(slices)) and count_missing(slices) is None:
        slices = drop_copies(slices)[0]  # those that phases of the heart beat hid before
    whole = [Stack(list(slices))]
    if len(slices) < 2 * MIN_SLICES or len(used) >= MAX_MARKS:
        return whole
    if is_even(slices):
        if used:
            return whole
        return next((stacks for name, stacks in _partitions(slices, used) if _interleaved(name, stacks)), whole)
    best, quality = whole, max(0.5, _quality(whole))
    for name, stacks in _partitions(slices, used):
        if joined := _joined(stacks):
            return [joined]
        if not _tell_apart(stacks):
            continue
        parts = [
            Stack(part.slices, ", ".join(filter(None, (stack.mark, part.mark))), part.doubles)
            for stack in stacks
            for part in _stacks(stack.slices, (*used, name))
        ]
        found = _quality(parts)
        if found > quality or (found == quality and 1 < len(parts) < len(best)):
            best, quality = parts, found
    return best


def _joined(stacks: list[Stack]) -> Stack | None:
    """Return one even stack of parts that overlap by few slices, or None if they form none."""
    parts = sorted((_Places(stack) for stack in stacks), key=lambda places: places.low)
    slices, doubles, top = list(parts[0].stack.slices), 0, parts[0].high
    for part in parts[1:]:
        new = [s for s, place in zip(part.stack.slices, part.places, strict=True) if place > top + SAME_PLACE_MM]
        shared = len(part.places) - len(new)
        if shared > MAX_SEAM or not new:
            return None
        slices, doubles, top = slices + new, doubles + shared, part.high
    return Stack(slices, doubles=doubles) if doubles and is_even(slices) else None


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
        gap = extent / (len(stack.slices) - 1)
        if gap > MAX_GAP_MM or extent + 2 * gap < length or not is_even(stack.slices):
            return False
    return True


class _Places:
    """The places in mm of a stack's slices along the normal, in the order of the slices."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.places = along_normal(stack.slices)
        self.low, self.high = float(self.places.min()), float(self.places.max())
        self.gap = float(np.median(np.diff(np.sort(self.places)))) if len(self.places) > 1 else 0.0


def _tell_apart(stacks: list[Stack]) -> bool:
    """Return whether stacks are more than parts of one that lacks slices: they overlap, differ, or lie far apart."""
    parts = sorted((_Places(stack) for stack in stacks), key=lambda places: places.low)
    length = max(part.high for part in parts) - parts[0].low
    main = max(parts, key=lambda part: len(part.places))
    if any(part.low <= max(p.high for p in parts[:n]) + SAME_PLACE_MM for n, part in enumerate(parts) if n):
        return True
    gaps = [part.gap for part in parts if len(part.places) >= MIN_SLICES]
    if len(gaps) > 1 and max(gaps) > 1.1 * min(gaps):
        return max(part.high - part.low for part in parts) >= length / 2
    away = min(max(part.low - main.high, main.low - part.high) for part in parts if part is not main)
    images = sum(len(part.places) for part in parts)
    return len(main.places) >= MAIN_SHARE * images and away > STRAY_GAPS * main.gap


# --- ways to part slices -------------------------------------------------------------------------------------------


def _partitions(slices: Sequence[Header], used: tuple[str, ...]) -> Iterator[tuple[str, list[Stack]]]:
    """Yield ways to part ``slices`` in two or more stacks, the surest first, with the name of the mark."""
    for name in MARKS:
        values = [header.marks.get(name, "") for header in slices]
        if name in used or len(set(values)) < 2:
            continue
        if 2 * len(set(values)) <= len(slices) and len(set(values)) <= MAX_STACKS:
            yield name, (stacks := _by_value(slices, values, name))
            if 1 < len(runs := _continued(stacks, name)) < len(stacks):
                yield name, runs
        if name in TIMES:
            yield from ((name, stacks) for stacks in _by_pause(slices, values, name))
    folders = [str(header.path.parent) for header in slices]
    if 1 < len(set(folders)) <= MAX_STACKS and "folder" not in used:
        yield "folder", _by_value(slices, folders, "folder")
    for name in ("instance", "acquisition", "content time", "acquisition time", "creation time"):
        if name not in used and (stacks := _by_order(slices, name)):
            yield name, stacks
    if "interleaf" not in used:
        yield from (("interleaf", stacks) for stacks in _by_interleaf(slices))


def _by_value(slices: Sequence[Header], values: Sequence[str], name: str) -> list[Stack]:
    groups: dict[str, list[Header]] = {}
    for value, header in zip(values, slices, strict=True):
        groups.setdefault(value, []).append(header)
    ordered = sorted(groups, key=_value_order)
    shown = name not in UNNAMED and all(map(_is_number, ordered))
    return [
        Stack(groups[value], f"{name} {value}" if shown else f"{name} {n} of {len(ordered)}")
        for n, value in enumerate(ordered, start=1)
    ]


def _continued(stacks: list[Stack], name: str) -> list[Stack]:
    """Return stacks, in the order of their values, with those together that continue each other: slabs of one scan."""
    runs: list[list[_Places]] = []
    for part in map(_Places, stacks):
        run = runs[-1] if runs else [part]
        reach = 1.5 * max(part.gap, run[-1].gap)
        above, below = part.low - max(p.high for p in run), min(p.low for p in run) - part.high
        if 0 < above <= reach or 0 < below <= reach:
            run.append(part)
        else:
            runs.append([part])
    slices = [[header for part in run for header in part.stack.slices] for run in runs]
    return [Stack(run, f"{name} {n} of {len(runs)}") for n, run in enumerate(slices, start=1)]


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
    return clock // 10000 % 100 * 3600 + clock // 100 % 100 * 60 + clock % 100


def _by_interleaf(slices: Sequence[Header]) -> Iterator[list[Stack]]:
    """Yield every second or third slice, if the distances between slices repeat with that period."""
    ordered = in_order(slices)
    gaps = np.diff(along_normal(ordered))
    for count in range(2, MAX_INTERLEAVED + 1):
        if gaps.min() < SAME_PLACE_MM or len(gaps) < 2 * count:
            continue
        if np.abs(gaps[count:] - gaps[:-count]).max() <= MAX_UNEVENNESS * gaps.min():
            yield [Stack(ordered[n::count], f"part {n + 1} of {count}") for n in range(count)]


def _by_order(slices: Sequence[Header], name: str) -> list[Stack]:
    """Return the slices parted by the order of their instance numbers or times; none if that is no guide.

    It is one if the stacks were made one after the other, each from end to end, or all of them place by place.
    """
    texts = [str(header.instance) if name == "instance" else header.marks.get(name, "") for header in slices]
    if len(set(texts)) < len(texts) or not all(map(_is_number, texts)):
        return []
    ordered = [slices[i] for i in np.argsort([_seconds(float(t)) if name in TIMES else float(t) for t in texts])]
    steps = np.diff(along_normal(ordered))
    same = np.abs(steps) < SAME_PLACE_MM
    if same.sum() > len(slices) / 3:
        return _by_rank(ordered, same)
    starts, usual = [0], float(steps[0])
    for n in range(1, len(ordered)):
        if n > starts[-1] + 1 and abs(steps[n - 1] - usual) > MAX_UNEVENNESS * abs(usual):
            starts.append(n)
        elif n == starts[-1] + 1:
            usual = float(steps[n - 1])
    if not 1 < len(starts) <= MAX_STACKS:
        return []
    groups = np.split(np.arange(len(ordered)), starts[1:])
    return [Stack([ordered[i] for i in group], f"part {n} of {len(groups)}") for n, group in enumerate(groups, start=1)]


def _by_rank(ordered: list[Header], same: np.ndarray) -> list[Stack]:
    """Return the first, second, ... images of each place; none unless each place has equally many."""
    groups = np.split(np.arange(len(ordered)), np.flatnonzero(~same) + 1)
    count = len(groups[0])
    if any(len(group) != count for group in groups) or count > MAX_STACKS:
        return []
    return [Stack([ordered[group[n]] for group in groups], f"part {n + 1} of {count}") for n in range(count)]

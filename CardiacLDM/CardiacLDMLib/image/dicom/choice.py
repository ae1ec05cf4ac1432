"""Choose the DICOM series to segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import VolumeError
from .stacks import Series

#: A series with at least this share of the best one's slices is a likely choice too.
RIVAL_SHARE = 0.5
#: Length in mm below which a stack can hardly hold a heart.
HEART_MM = 100.0

#: Asks the user to choose: (case name, likely series, best first) -> the chosen one.
Ask = Callable[[str, Sequence[Series]], Series]


def choose_series(
    name: str, candidates: list[Series], wanted: str | None = None, ask: Ask | None = None
) -> tuple[Series, list[str]]:
    """Choose the series to segment: ``wanted`` by number or UID, else the axial CT with most slices.

    ``ask`` is called with the case's ``name`` if several are likely. Returns the series and sentences on the choice for
    the user. Raises :class:`VolumeError` if no series can be used.
    """
    if wanted is not None:
        best, others = _find_wanted(candidates, wanted)
        notes = [f"{_beginning(best)} was taken, not {_titles(others)}."] if others else []
        return best, [*best.notes, *notes]
    usable = sorted((s for s in candidates if s.problem is None), key=_preference)
    if not usable:
        raise VolumeError(_none_usable(candidates))
    best = usable[0]
    _check_fragment(best, candidates)
    rivals = [s for s in usable[1:] if s.axial == best.axial and s.shape[2] >= RIVAL_SHARE * best.shape[2]]
    if rivals and ask:
        best = ask(name, [best, *rivals])
        return best, list(best.notes)
    notes = list(best.notes)
    others = [s for s in candidates if s is not best]
    if others:
        one = best.uid and all(s.uid == best.uid and s.mark for s in others)
        where = "One series holds several stacks of slices:" if one else "Of several series in the folder,"
        notes.append(f"{where} {best.title} was taken, not {_titles(others)}.")
    if rivals:
        notes.append("More than one series could be meant: choose with --series NUMBER.")
    larger = [s for s in candidates if s.problem and s.axial and s.kind != "scout" and s.shape[2] > best.shape[2]]
    notes += [f"Larger, but passed over: series {s.number} {s.problem}." for s in larger]
    return best, notes


def _check_fragment(best: Series, candidates: list[Series]) -> None:
    """Raise :class:`VolumeError` if a CT that cannot be used is much larger than the best that can."""
    for series in candidates:
        if not series.derived and _is_fragment(best, series):
            raise VolumeError(
                f"{_beginning(series)} {series.problem}. {_beginning(best)} is only a fragment: "
                f"choose it with --series {best.number} if it is meant."
            )


def _is_fragment(best: Series, series: Series) -> bool:
    """Return whether ``best`` is a fragment beside a CT that cannot be used for how it is stored or placed."""
    few = best.shape[2] < RIVAL_SHARE * series.shape[2]
    if series.kind == "CT" and series.headers[0].frames > 1:
        return few
    short = series.misplaced and best.length_mm < RIVAL_SHARE * series.length_mm
    return short and (few or best.length_mm < HEART_MM)


def _preference(series: Series) -> tuple[bool, bool, int, bool]:
    """Return the key that sorts the most likely series first: axial, with most slices, not derived."""
    return series.problem is not None, not series.axial, -series.shape[2], series.derived


def _find_wanted(candidates: list[Series], wanted: str) -> tuple[Series, list[Series]]:
    """Return the series with that number or UID, and others with it: a UID may stand for several stacks."""
    matching = [s for s in candidates if wanted.strip() in (s.number, s.uid)]
    if not matching:
        raise VolumeError(f"There is no series {wanted}, only {_titles(candidates)}.")
    best = min(matching, key=_preference)
    if best.problem:
        raise VolumeError(f"Series {best.number} {best.problem}.")
    return best, [s for s in matching if s is not best]


def _none_usable(candidates: list[Series]) -> str:
    if len(candidates) == 1:
        return f"Its only series {candidates[0].problem}."
    problems = "; ".join(f"{series.number} {series.problem}" for series in candidates)
    return f"None of its {len(candidates)} series can be used: {problems}."


def _beginning(series: Series) -> str:
    """Return the title as the beginning of a sentence."""
    return series.title[0].upper() + series.title[1:]


def _titles(candidates: Sequence[Series]) -> str:
    return ", ".join(series.title for series in candidates)

"""Prepare the cases of folders for training: one spacing for a generator, one for each network of a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from CardiacLDMLib import anatomy
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import join_words, plural

from . import store
from .readers.layouts import Reading

#: A note on more cases names the first of them.
_MOST_NAMES = 5


def prepare_cases(
    folders: Sequence[Path], cache: Path | None, spacing_mm: float, workers: int, say: Say, *,
    images_alone: bool = False, whole: bool = False, reading: Reading | None = None,
) -> store.Prepared:  # fmt: skip
    """Prepare the cases of ``folders`` at ``spacing_mm``; report cases in doubt, leave out unusable ones.

    ``images_alone``: images without labels are cases too. ``whole``: only cases whose labels leave nothing unknown can
    be used. Raises DatasetError for a folder without cases.
    """
    files = store.gather(folders, cache, images_alone=images_alone, reading=reading)
    say(f"Preparing {plural(len(files), 'image' if images_alone else 'case')} at {spacing_mm:g} mm.")
    prepared = store.prepare(files, spacing_mm, workers=workers, progress=store.report_tenths(say))
    if whole:
        prepared = whole_cases(prepared)
    _report(prepared.skipped, prepared.cases, say)
    return prepared


def whole_cases(prepared: store.Prepared) -> store.Prepared:
    """Return the cases whose labels leave nothing unknown, which a generator and its measures need."""
    reasons = [
        (case.name, f"Its labels leave {join_words(sorted(case.unknown)) if case.unknown else 'voxels'} unknown.")
        for case in prepared.cases if not case.is_complete
    ]  # fmt: skip
    return store.Prepared([case for case in prepared.cases if case.is_complete], [*prepared.skipped, *reasons])


def prepare_for_networks(
    folders: Sequence[Path], cache: Path | None, spacings: Mapping[str, float], workers: int, say: Say, *,
    reading: Reading | None = None,
) -> dict[str, store.Prepared]:  # fmt: skip
    """Prepare the cases of ``folders`` at the spacing in mm of each network, and return them by network.

    A case is used only if every network can use it; the others are reported and left out. Cases in doubt
    are reported too.
    Raises DatasetError for a folder without cases.
    """
    files = store.gather(folders, cache, reading=reading)
    prepared: dict[str, store.Prepared] = {}
    skipped: dict[str, str] = {}
    for name, spacing in spacings.items():
        say(f"Preparing {plural(len(files), 'case')} at {spacing:g} mm for the {name}.")
        prepared[name] = store.prepare(files, spacing, workers=workers, progress=store.report_tenths(say))
        skipped.update(prepared[name].skipped)
    reasons = sorted(skipped.items())
    usable = {
        name: store.Prepared([case for case in part.cases if case.name not in skipped], reasons)
        for name, part in prepared.items()
    }
    _report(reasons, next(iter(usable.values())).cases, say)
    return usable


def _report(skipped: Sequence[tuple[str, str]], cases: Sequence[store.PreparedCase], say: Say) -> None:
    """Name the skipped cases, and the cases in doubt; a note on many cases is said once."""
    for name, reason in skipped:
        say(f"Skipped {name}: {reason}")
    notes: dict[str, list[str]] = {}
    for case in cases:
        for note in case.notes:
            notes.setdefault(note, []).append(case.name)
    for note, names in notes.items():
        who = names if len(names) <= _MOST_NAMES else [*names[:_MOST_NAMES], f"{len(names) - _MOST_NAMES} more"]
        say(f"{', '.join(who)}: {note}")
    unknown: dict[frozenset[str], list[str]] = {}
    for case in cases:
        if case.unknown:
            unknown.setdefault(case.unknown, []).append(case.name)
    for structures, names in unknown.items():
        what = join_words([name for name in anatomy.NAMES if name in structures])
        say(f"{plural(len(names), 'case')}, {names[0]} for one: {what} unknown, or labelled in part.")

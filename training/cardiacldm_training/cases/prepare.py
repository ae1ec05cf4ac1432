"""Prepare the cases of folders for training: one spacing for a generator, one for each network of a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from CardiacLDMLib import anatomy
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import join_words, plural

from ..errors import DatasetError
from . import store
from .readers.files import ImageFiles
from .readers.layouts import Reading
from .splits import Fold

#: A note on more cases names the first of them.
_MOST_NAMES = 5


def prepare_cases(
    folders: Sequence[Path], cache: Path | None, spacing_mm: float, workers: int, say: Say, *,
    images_alone: bool = False, whole: bool = False, reading: Reading | None = None, fold: Fold | None = None,
) -> store.Prepared:  # fmt: skip
    """Prepare the cases of ``folders`` at ``spacing_mm``; report cases in doubt, leave out unusable ones.

    ``images_alone``: images without labels are cases too. ``whole``: only cases whose labels leave nothing unknown can
    be used. ``fold``: of a stored split; cases that it does not name are left out. Raises DatasetError for a folder
    without cases.
    """
    files = _of_fold(store.gather(folders, cache, images_alone=images_alone, reading=reading), fold, say)
    say(f"Preparing {plural(len(files), 'image' if images_alone else 'case')} at {spacing_mm:g} mm.")
    prepared = store.prepare(files, spacing_mm, workers=workers, progress=store.report_tenths(say))
    if whole:
        prepared = whole_cases(prepared)
    _report(prepared.skipped, prepared.cases, say)
    return replace(prepared, held_out=fold.held_out if fold else None)


def _of_fold(files: list[tuple[ImageFiles, Path]], fold: Fold | None, say: Say) -> list[tuple[ImageFiles, Path]]:
    """Return the cases to train and to validate on; name cases that the split lacks, and those that the data lack."""
    if fold is None:
        return files
    for sentence in fold.differences([each.name for each, _ in files]):
        say(sentence)
    chosen = [each for each in files if fold.part(each[0].name) in ("train", "validation")]
    if not chosen:
        raise DatasetError(f"{fold.title} names none of the cases of the data to train on: split these data first.")
    return chosen


def whole_cases(prepared: store.Prepared) -> store.Prepared:
    """Return the cases whose labels leave nothing unknown, which a generator and its measures need."""
    reasons = [
        (case.name, f"Its labels leave {join_words(sorted(case.unknown)) if case.unknown else 'voxels'} unknown.")
        for case in prepared.cases if not case.is_complete
    ]  # fmt: skip
    return store.Prepared([case for case in prepared.cases if case.is_complete], [*prepared.skipped, *reasons])


def prepare_for_networks(
    folders: Sequence[Path], cache: Path | None, spacings: Mapping[str, float], workers: int, say: Say, *,
    reading: Reading | None = None, fold: Fold | None = None,
) -> dict[str, store.Prepared]:  # fmt: skip
    """Prepare the cases of ``folders`` at the spacing in mm of each network, and return them by network.

    A case is used only if every network can use it; the others are reported and left out. Cases in doubt
    are reported too.
    Raises DatasetError for a folder without cases.
    """
    files = _of_fold(store.gather(folders, cache, reading=reading), fold, say)
    prepared: dict[str, store.Prepared] = {}
    skipped: dict[str, str] = {}
    for name, spacing in spacings.items():
        say(f"Preparing {plural(len(files), 'case')} at {spacing:g} mm for the {name}.")
        prepared[name] = store.prepare(files, spacing, workers=workers, progress=store.report_tenths(say))
        skipped.update(prepared[name].skipped)
    reasons = sorted(skipped.items())
    usable = {
        name: store.Prepared(
            [case for case in part.cases if case.name not in skipped], reasons, fold.held_out if fold else None
        )
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

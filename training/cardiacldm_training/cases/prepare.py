"""Prepare the cases of folders for training: one spacing for a generator, one for each network of a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from . import store


def prepare_cases(
    folders: Sequence[Path], cache: Path | None, spacing_mm: float, workers: int, say: Say, *,
    images_alone: bool = False,
) -> store.Prepared:  # fmt: skip
    """Prepare the cases of ``folders`` at ``spacing_mm``; report cases in doubt, leave out unusable ones.

    ``images_alone``: images without labels are cases too. Raises DatasetError for a folder without cases.
    """
    files = store.gather(folders, cache, images_alone=images_alone)
    say(f"Preparing {plural(len(files), 'image' if images_alone else 'case')} at {spacing_mm:g} mm.")
    prepared = store.prepare(files, spacing_mm, workers=workers, progress=store.report_tenths(say))
    _report(prepared.skipped, prepared.cases, say)
    return prepared


def prepare_for_networks(
    folders: Sequence[Path], cache: Path | None, spacings: Mapping[str, float], workers: int, say: Say
) -> dict[str, store.Prepared]:
    """Prepare the cases of ``folders`` at the spacing in mm of each network, and return them by network.

    A case is used only if every network can use it; the others are reported and left out. Cases in doubt
    are reported too.
    Raises DatasetError for a folder without cases.
    """
    files = store.gather(folders, cache)
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
    for name, reason in skipped:
        say(f"Skipped {name}: {reason}")
    for case in cases:
        for note in case.notes:
            say(f"{case.name}: {note}")

"""Reviewed cases as a training folder: ``NAME/{ct,labels}.nii.gz``, labels as corrected, without anything about people.

Names come from the scan's SHA-256, so they tell nothing to anybody who does not have the scan, stay the same from one
export to the next, and keep a case on its side of the split. Files are written anew: of their headers only the grid is
kept. Readers, reasons and times stay in the journals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..errors import OutputError, UserError, VolumeError, explain
from ..files import replace_folder, sha256, sweep, write_json
from ..image.files import write_volume
from ..image.grid import Volume
from ..results.pairs import IMAGE, LABELS
from ..text import base_name, printable, unique_name
from .journal import FOLDER
from .readers import Version
from .sources import ReviewCase, package_of, read_both
from .study import Study
from .verdicts import Opinion

#: What was exported, beside the cases; training leaves it alone.
RECORD = "review.json"
#: Names that would make an export within a folder under review part of it.
_TAKEN = ("images", "labels", FOLDER)


@dataclass
class Exported:
    """Names of the exported cases by the names under review; the reason for each of the others."""

    names: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def export(study: Study, verdict: Opinion, out: Path, done: Callable[[int], None] = lambda number: None) -> Exported:
    """Write the cases with this verdict to the new folder ``out``; all of them, or none after an error.

    A case that cannot be used is left out, with a reason; one with another verdict is not even named. ``done`` receives
    the number of cases looked at. Raises :class:`OutputError`, also if ``out`` exists, and :class:`UserError` if no
    case has the verdict.
    """
    if out.name.casefold() in _TAKEN:
        raise OutputError(f"{printable(out.name)} is a name of folders that hold cases to review: choose another name.")
    if out.exists():
        raise OutputError(f"{printable(base_name(out))} exists already: choose another name.")
    exported, records = Exported(), dict[str, dict[str, object]]()
    sweep(out.parent)
    with replace_folder(out) as part:
        for number, case in enumerate(study.cases, start=1):
            try:
                _export_case(study, case, verdict, part, exported, records)
            except OutputError:  # the disk is full: nothing can be written for the others either
                raise
            except Exception as error:  # one case must not stop the others
                exported.left_out[case.name] = explain(error).message
            done(number)
        if not records:
            raise UserError(_nothing(verdict, exported))
        content = {"software": __version__, "verdict": verdict, "cases": dict(sorted(records.items()))}
        write_json(part / RECORD, content)
    return exported


def _nothing(verdict: Opinion, exported: Exported) -> str:
    """Return the sentence about an export without cases."""
    first = next(iter(exported.left_out.items()), None)
    return f"No case has the verdict {verdict}{f' ({first[0]}: {first[1]})' if first else ''}."


def _export_case(
    study: Study, case: ReviewCase, verdict: Opinion, part: Path, exported: Exported,
    records: dict[str, dict[str, object]],
) -> None:  # fmt: skip
    """Write a case if it has the verdict. Raises :class:`VolumeError` if it cannot be used."""
    outcome = study.outcome(case)
    if outcome.verdict is None and study.of(case.name):
        exported.left_out[case.name] = outcome.reason
    version = outcome.version
    if outcome.verdict != verdict or version is None:
        return
    labels, image = read_both(case, study.file_of(case, version.labels_sha256))
    if image is None:
        raise VolumeError("It has no scan, which training needs.")
    if not labels.array.any():
        raise VolumeError("Its labels are empty.")
    scan = _scan_hash(study, case, version)
    name = unique_name(f"case_{scan[:12]}", {each.casefold() for each in records})
    write_volume(image, part / name / IMAGE)
    write_volume(Volume(labels.array, image.affine), part / name / LABELS)
    exported.names[case.name] = name
    records[name] = {
        "labels_sha256": sha256(part / name / LABELS),
        "scan_sha256": sha256(part / name / IMAGE),
        "readers": len(version.judgements),
        "settled": version.settled is not None,
        "corrected": study.is_corrected(case, version),
        "package": package_of(case),
    }


def _scan_hash(study: Study, case: ReviewCase, version: Version) -> str:
    """Return the SHA-256 of a case's scan. Raises :class:`VolumeError` if it has changed since its verdicts."""
    now = study.cache.hash_of(*case.scan_files)
    wholes = [each.whole for each in version.judgements.values() if each.whole is not None]
    if any(whole.scan_sha256 and whole.scan_sha256 != now for whole in wholes):
        raise VolumeError("Its scan has changed since the verdict: judge it again.")
    return now

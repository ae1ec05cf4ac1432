"""The files of a segmented case: labels for programs, a segmentation for Slicer, a picture, a report; also DICOM SEG.

They are written to a temporary folder and moved into place once all are whole. The report is moved last, so a case with
a report is complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from ..files import replace_files, sweep, temporary_folder, write_text
from ..image.files import write_volume
from ..image.grid import Volume
from .pictures import draw_planes
from .report import CaseReport
from .segmentation_file import write_segmentation

LABELS, SEGMENTATION, PICTURE, REPORT = ".labels.nii.gz", ".seg.nrrd", ".png", ".report.json"
#: Endings of a case's files, in the order in which they are moved into place.
ENDINGS = (LABELS, SEGMENTATION, PICTURE, REPORT)

#: Ending of a case's DICOM segmentation, which is written on request.
DICOM_SEG = ".seg.dcm"

#: Draws the picture of a case (scan, labels, report) into a file.
Draw = Callable[[Volume, Volume, CaseReport, Path], None]
#: Writes a DICOM segmentation (labels, report) to a file; none for a case without labels.
WriteDicomSeg = Callable[[Volume, CaseReport, Path], None]


def existing_results(out: Path, name: str) -> list[str]:
    """Return the names of the files in ``out`` that the results of case ``name`` would replace."""
    return [name + ending for ending in (*ENDINGS, DICOM_SEG) if (out / (name + ending)).exists()]


def is_complete(out: Path, name: str, *, dicom_seg: bool = False) -> bool:
    """Return whether ``out`` holds all results of case ``name``, and not a part that a killed process left.

    With ``dicom_seg`` a DICOM segmentation belongs to them, unless no heart was found.
    """
    if not all((out / (name + ending)).exists() for ending in ENDINGS):
        return False
    try:  # an earlier version's report counts too
        report = json.loads((out / (name + REPORT)).read_text(encoding="utf-8"))
        needs_seg = dicom_seg and report["heart_found"]
        return report["case"] == name and (not needs_seg or (out / (name + DICOM_SEG)).exists())
    except (OSError, ValueError, TypeError, KeyError):
        return False


def is_unfinished(out: Path, name: str, *, dicom_seg: bool = False) -> bool:
    """Return whether ``out`` holds a part of what :func:`is_complete` asks for, which a killed process left.

    A picture alone is none: it may be the user's.
    """
    picture = [name + PICTURE]
    return existing_results(out, name) not in ([], picture) and not is_complete(out, name, dicom_seg=dicom_seg)


def check_folder(out: Path) -> None:
    """Make the folder for results and try to write to it. Raises :class:`OutputError`."""
    with temporary_folder(out):
        sweep(out)


def write_case_files(
    out: Path,
    volume: Volume,
    labels: Volume,
    report: CaseReport,
    *,
    draw: Draw = draw_planes,
    write_dicom_seg: WriteDicomSeg | None = None,
    aside: Path | None = None,
) -> list[Path]:
    """Write the files of a case to the folder ``out``, replacing earlier ones; all of them, or none.

    ``volume`` and ``labels`` must share one grid. The time of writing is added to the report; :func:`read_report` reads
    the result. ``aside`` names a new folder within ``out`` for the unfinished files, which a caller can remove if this
    process is killed; it is removed at the end. Returns the paths, the report last. Raises ``OutputError`` when the
    folder cannot be written to or the disk is full.
    """
    began = time.perf_counter()
    names, dicom_seg = [report.case + ending for ending in ENDINGS], report.case + DICOM_SEG
    with replace_files(out, names, aside) as folder:
        write_volume(labels, folder / names[0])
        write_segmentation(labels, folder / names[1])
        draw(volume, labels, report, folder / names[2])
        if write_dicom_seg is not None:
            write_dicom_seg(labels, report, folder / dicom_seg)
        if (folder / dicom_seg).exists():
            names.insert(-1, dicom_seg)
        else:
            (out / dicom_seg).unlink(missing_ok=True)  # that of earlier labels
        seconds = {**report.seconds, "write": time.perf_counter() - began}
        report = report.model_copy(update={"seconds": {stage: round(s, 3) for stage, s in seconds.items()}})
        write_text(folder / names[-1], report.model_dump_json(indent=2) + "\n")
    return [out / name for name in names]


def read_report(path: Path) -> CaseReport:
    """Read a report that this version wrote."""
    return CaseReport.model_validate_json(path.read_text(encoding="utf-8"))

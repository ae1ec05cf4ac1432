"""The four files of a segmented case: labels for programs, a segmentation for Slicer, a picture and a report.

They are written to a folder aside and moved into place together once all are whole. The report is moved last, so a
case with a report is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import OutputError
from ..image.files import write_volume
from ..image.grid import Volume
from .pictures import draw_planes
from .report import CaseReport
from .segmentation_file import write_segmentation

LABELS, SEGMENTATION, PICTURE, REPORT = ".labels.nii.gz", ".seg.nrrd", ".png", ".report.json"
#: Endings of a case's files, in the order in which they are moved into place.
ENDINGS = (LABELS, SEGMENTATION, PICTURE, REPORT)

#: Draws the picture of a case (scan, labels, report) into a file.
Draw = Callable[[Volume, Volume, CaseReport, Path], None]


def existing_results(out: Path, name: str) -> list[str]:
    """Return the names of the files in ``out`` that the results of case ``name`` would replace."""
    return [name + ending for ending in ENDINGS if (out / (name + ending)).exists()]


def check_folder(out: Path) -> None:
    """Make the folder for results and try to write to it. Raises :class:`OutputError`."""
    with _folder_aside(out, None):
        pass


def write_case_files(
    out: Path,
    volume: Volume,
    labels: Volume,
    report: CaseReport,
    *,
    draw: Draw = draw_planes,
    aside: Path | None = None,
) -> list[Path]:
    """Write the four files of a case to the folder ``out``, replacing earlier ones; all of them, or none.

    ``volume`` and ``labels`` share one grid. The report gets the seconds of writing; :func:`read_report` gives it back.
    ``aside`` names a new folder within ``out`` for the unfinished files, which a caller can remove if this process is
    killed; it is gone afterwards. Returns the files, the report last. Raises :class:`OutputError` or ``VolumeError``
    when the folder cannot be written to or the disk is full.
    """
    began = time.perf_counter()
    names = [report.case + ending for ending in ENDINGS]
    with _folder_aside(out, aside) as folder:
        write_volume(labels, folder / names[0])
        write_segmentation(labels, folder / names[1])
        draw(volume, labels, report, folder / names[2])
        seconds = {**report.seconds, "write": time.perf_counter() - began}
        report = report.model_copy(update={"seconds": {stage: round(s, 3) for stage, s in seconds.items()}})
        (folder / names[3]).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _move_into_place(folder, out, names)
    return [out / name for name in names]


def read_report(path: Path) -> CaseReport:
    """Read a report that this version wrote."""
    return CaseReport.model_validate_json(path.read_text(encoding="utf-8"))


def _move_into_place(folder: Path, out: Path, names: list[str]) -> None:
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    (out / names[-1]).unlink(missing_ok=True)  # an old report must not vouch for new labels
    for name in names:
        (folder / name).replace(out / name)


@contextlib.contextmanager
def _folder_aside(out: Path, aside: Path | None) -> Iterator[Path]:
    """Make ``out`` and an empty folder within it, which is gone afterwards. Raises :class:`OutputError`."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"The results need a folder, but {out.name} is a file.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if aside is None:
            aside = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
        else:
            aside.mkdir(parents=True)
        yield aside
    except OSError as error:
        where = out.resolve().name
        raise OutputError(f"The results cannot be written to {where}: {error.strerror or error}.") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)

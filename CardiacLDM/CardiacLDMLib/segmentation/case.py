"""Segment one case: read it, label it, write its results. Command line, worker and demo call the same function."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..image.cases import Case, read_case_with_notes
from ..image.grid import Volume
from ..progress import Cancelled, Progress, Quality
from ..results.case_files import Draw, WriteDicomSeg, read_report, write_case_files
from ..results.pictures import draw_planes
from ..results.report import CaseReport, PackageRecord, grid_record, software_versions
from ..text import printable_line, rounded_volume

if TYPE_CHECKING:
    from .segmenter import Prediction, Segmentation, Segmenter


@dataclass(frozen=True)
class SegmentedCase:
    """A case with its results on the disk: the report as written, the paths of the files (the report last)."""

    report: CaseReport
    files: list[Path]
    segmentation: Segmentation


@dataclass(frozen=True)
class PredictedCase:
    """A case that was read, with what the networks say about it, for :func:`finish_case`.

    ``reading_s``: for how long it was waited for. ``began``: when, by ``time.perf_counter``.
    """

    case: Case
    volume: Volume
    prediction: Prediction
    quality: Quality
    reading_s: float
    began: float


def segment_case(
    case: Case,
    segmenter: Segmenter,
    out: Path,
    *,
    quality: Quality = "full",
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    draw: Draw = draw_planes,
    aside: Path | None = None,
) -> SegmentedCase:
    """Read and label a case and write its files to the folder ``out``; all of them, or none.

    ``progress`` is called with every step, including reading and writing. ``cancelled`` is called between steps; if it
    returns True, ``Cancelled`` is raised. ``draw`` draws the picture. ``aside``: see
    :func:`~.results.case_files.write_case_files`. Raises ``VolumeError``, ``SegmenterError`` or ``OutputError``.
    """
    predicted = predict_case(case, segmenter, quality=quality, progress=progress, cancelled=cancelled)
    return finish_case(predicted, segmenter, out, draw=draw, aside=aside)


def predict_case(
    case: Case,
    segmenter: Segmenter,
    *,
    quality: Quality = "full",
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    read: Callable[[Case], tuple[Volume, tuple[str, ...]]] = read_case_with_notes,
) -> PredictedCase:
    """Do the first part of :func:`segment_case`: read the case, and let the networks look at it.

    ``read`` reads the case, or has done so ahead: only what the case waits for it counts as the time of reading.
    ``progress`` and ``cancelled`` are called in the second part too.
    """
    began = time.perf_counter()
    if cancelled is not None and cancelled():
        raise Cancelled
    if progress is not None:
        progress(Progress(0, 100, "read", 0.0))
    volume, notes = read(case)
    case = replace(case, notes=(*case.notes, *notes))
    reading = time.perf_counter() - began
    prediction = segmenter.predict(volume, quality=quality, progress=progress, cancelled=cancelled)
    return PredictedCase(case, volume, prediction, quality, reading, began)


def finish_case(
    predicted: PredictedCase,
    segmenter: Segmenter,
    out: Path,
    *,
    draw: Draw = draw_planes,
    write_dicom_seg: WriteDicomSeg | None = None,
    aside: Path | None = None,
) -> SegmentedCase:
    """Do the second part of :func:`segment_case`: make the labels, and write the files. ``predicted`` is used up.

    ``write_dicom_seg`` writes a DICOM SEG too. A thread may do this while another one predicts the next case.
    """
    volume, run = predicted.volume, predicted.prediction.run
    result = segmenter.finish(predicted.prediction)
    run.stop_if_cancelled()
    if run.progress is not None:
        run.progress(Progress(100, 100, "write", time.perf_counter() - predicted.began))
    report = _report(predicted.case, segmenter, volume, result, predicted.quality, predicted.reading_s)
    files = write_case_files(
        out, volume, result.labels, report, draw=draw, write_dicom_seg=write_dicom_seg, aside=aside
    )
    return SegmentedCase(read_report(files[-1]), files, result)


def _report(
    case: Case, segmenter: Segmenter, volume: Volume, result: Segmentation, quality: Quality, reading_s: float
) -> CaseReport:
    """Return the report of a case; the time of writing is added when its files are written."""
    manifest = segmenter.package.manifest
    return CaseReport(
        case=case.name,
        source=printable_line(os.path.basename(os.path.abspath(case.path))),
        package=PackageRecord(name=manifest.name, version=manifest.version, sha256=segmenter.package.sha256),
        device=result.device,
        quality=quality,
        heart_found=result.heart_found,
        volumes_ml={
            name: round(volume_ml, 2) or rounded_volume(volume_ml) for name, volume_ml in result.volumes_ml.items()
        },
        expected_dice=result.expected_dice,
        warnings=[*case.notes, *result.warnings],
        seconds={"read": reading_s, **result.seconds},
        grid=grid_record(volume),
        software=software_versions(),
    )

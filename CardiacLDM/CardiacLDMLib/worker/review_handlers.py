"""The jobs of a review: read, check, compare and keep labels, report and export. See :mod:`.handlers`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from . import review_messages as messages
from .handlers import RunningJob, handles, release_gpu_memory, single_case

if TYPE_CHECKING:
    from pathlib import Path

    from ..image.grid import Volume
    from ..review.sources import ReviewCase
    from ..review.study import Study
    from ..segmentation.findings import Finding


@handles(messages.OpenReview)
def open_review(request: messages.OpenReview, job: RunningJob) -> messages.OpenedReview:
    """Read the labels and the CT of a case."""
    from ..image.grid import Volume
    from ..review.sources import read_both

    job.step(0, "read")
    case = _case(request)
    labels, image = read_both(case)
    job.step(80, "read")
    return messages.OpenedReview(
        labels=labels,
        image=image or Volume(np.zeros((1, 1, 1), np.int16), labels.affine),
        has_image=image is not None,
        labels_sha256=_hash(request.labels),
        image_sha256=_hash(*case.scan_files),
    )


@handles(messages.CheckReview)
def check_review(request: messages.CheckReview, job: RunningJob) -> messages.CheckedReview:
    """Read and check the labels of a case."""
    from ..review.sources import read_both

    job.step(0, "read")
    labels, image = read_both(_case(request))
    job.step(40, "check")
    return messages.CheckedReview(findings=_check(labels, image), labels_sha256=_hash(request.labels))


@handles(messages.CheckWithPackage)
def check_with_package(request: messages.CheckWithPackage, job: RunningJob) -> messages.CheckedReview:
    """Read the labels of a case and check them, also against those of a package."""
    from ..packages.store import open_package
    from ..review.own import own_labels
    from ..review.sources import read_both

    job.step(0, "read")
    labels, image = read_both(_case(request))
    package = open_package(request.package, check_hashes=False)
    own = None
    if image is not None:
        with release_gpu_memory():
            own = own_labels(
                image, package, lambda: job.models.segmenter(str(request.package), request.device), request.review,
                progress=job.report, cancelled=job.cancelled,
            )  # fmt: skip
    return messages.CheckedReview(
        findings=_check(labels, image, own), labels_sha256=_hash(request.labels), package=package.sha256
    )


@handles(messages.FindScans)
def find_scans(request: messages.FindScans, job: RunningJob) -> messages.FoundScans:
    """Find the scans of a folder."""
    from ..review.sources import ReviewCase, scans_in

    job.step(0, "read")
    return messages.FoundScans(
        scans=[
            messages.FoundScan(
                name=name, source=scan.path, study=scan.study, files=list(ReviewCase(name, scan=scan).scan_files)
            )
            for name, scan in scans_in(request.source).items()
        ]
    )


@handles(messages.CheckLabels)
def check_labels(request: messages.CheckLabels, job: RunningJob) -> messages.CheckedReview:
    """Check labels of the scene."""
    job.step(0, "check")
    return messages.CheckedReview(findings=_check(request.labels, request.image if request.has_image else None))


@handles(messages.CompareFile)
def compare_file(request: messages.CompareFile, job: RunningJob) -> messages.ComparedLabels:
    """Compare labels with those of a file."""
    from ..review.compare import compare, on_grid
    from ..review.sources import read_labels

    job.step(0, "read")
    others = on_grid(read_labels(request.other), request.labels.grid)
    job.step(40, "check")
    return messages.ComparedLabels(others=others, differences=compare(request.labels, others))


@handles(messages.CompareLabels)
def compare_labels(request: messages.CompareLabels, job: RunningJob) -> messages.ComparedLabels:
    """Compare labels of the scene."""
    from ..review.compare import compare

    job.step(0, "check")
    differences = compare(request.labels, request.other)
    return messages.ComparedLabels(others=request.other, differences=differences)


@handles(messages.KeepLabels)
def keep_labels(request: messages.KeepLabels, job: RunningJob) -> messages.KeptLabels:
    """Write corrected labels to the review folder."""
    from ..review.worklist import write_corrected

    job.step(0, "write")
    return messages.KeptLabels(labels_sha256=write_corrected(request.review, request.case, request.labels))


@handles(messages.ReportReview)
def report_review(request: messages.ReportReview, job: RunningJob) -> messages.WrittenReport:
    """Write the report of a review, with what is known of the findings of its cases."""
    from ..review.publish import write_report
    from ..review.report import collect, still_blinded
    from ..text import folder_name

    job.step(0, "write")
    study = _study(request)
    page = write_report(
        study, collect(study, {}), f"Review of {folder_name(request.source)}", study.folder / "report",
        hidden=still_blinded(study) | set(request.hidden),
        done=lambda number, total: job.step(round(100 * number / max(total, 1)), "write"),
    )  # fmt: skip
    return messages.WrittenReport(page=page)


@handles(messages.ExportReview)
def export_review(request: messages.ExportReview, job: RunningJob) -> messages.ExportedCases:
    """Write the accepted cases of a review as a training folder."""
    from ..review.export import export

    job.step(0, "write")
    study = _study(request)
    total = max(len(study.cases), 1)
    exported = export(study, "accept", request.out, lambda number: job.step(round(100 * number / total), "write"))
    return messages.ExportedCases(count=len(exported.names), left_out=exported.left_out)


def _study(request: messages.ReportReview | messages.ExportReview) -> Study:
    from ..review.sources import open_source
    from ..review.study import Study

    return Study(open_source(request.source, request.scans, request.review))


def _case(request: messages.OpenReview | messages.CheckReview | messages.CheckWithPackage) -> ReviewCase:
    from ..review.sources import ReviewCase

    scan = single_case(request.source, request.study) if request.source is not None else None
    return ReviewCase("case", request.labels, request.image, scan)


def _hash(*files: Path | None) -> str:
    """Return the SHA-256 of a file or of the files of a scan; empty without any."""
    from ..review.cache import digest_of

    there = [path for path in files if path is not None]
    return digest_of(there) if there else ""


def _check(labels: Volume, image: Volume | None, own: Volume | None = None) -> list[Finding]:
    """Return the findings, with numbers that a message can hold: those of numpy become Python's."""
    from ..review.checks import check

    return [
        replace(
            each,
            value=None if each.value is None else float(each.value),
            limit=None if each.limit is None else float(each.limit),
            severity=float(each.severity),
        )
        for each in check(labels, image, own=own)
    ]

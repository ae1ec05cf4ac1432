"""The messages of a review: open, check, compare and keep labels, report and export. See :mod:`.messages`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import model_validator

from ..image.grid import Volume
from ..review.compare import Difference
from ..segmentation.findings import Finding
from .message import FilePath, Message, Reply, Request

# --- replies -------------------------------------------------------------------------------------------------------


class OpenedReview(Reply):
    """The labels (uint8) of a case and its CT on the same grid, mapped from deleted files, and the files' SHA-256.

    Without ``has_image`` the case has no CT: ``image`` is one voxel.
    """

    labels: Volume
    image: Volume
    has_image: bool
    labels_sha256: str
    image_sha256: str

    @model_validator(mode="after")
    def _check_shapes(self) -> OpenedReview:
        if self.has_image and self.image.array.shape != self.labels.array.shape:
            raise ValueError("image and labels must have the same shape")
        if self.labels.array.dtype != np.uint8:
            raise ValueError("labels must be uint8")
        return self


class CheckedReview(Reply):
    """The findings of labels, worst first, and the SHA-256 of their file, empty for labels without one.

    ``package``: the SHA-256 of the package whose labels they were compared with, empty if with none.
    """

    findings: list[Finding]
    labels_sha256: str = ""
    package: str = ""


class FoundScan(Message):
    """A scan in a folder, and its files. ``study`` tells a DICOM study from others in the folder ``source``."""

    name: str
    source: FilePath
    study: str
    files: list[FilePath]


class FoundScans(Reply):
    """The scans of a folder; what cannot be read is left out."""

    scans: list[FoundScan]


class ComparedLabels(Reply):
    """The other labels (uint8) on the grid of the first ones, and how much each structure differs, the worst first."""

    others: Volume
    differences: list[Difference]


class KeptLabels(Reply):
    """The SHA-256 of a file of corrected labels that is on the disk."""

    labels_sha256: str


class WrittenReport(Reply):
    """The page of a report that was written."""

    page: FilePath


class ExportedCases(Reply):
    """How many cases were exported, and the reason for each that was left out, by its name."""

    count: int
    left_out: dict[str, str]


# --- requests ------------------------------------------------------------------------------------------------------


class _Files(Message):
    """The files of a case: its labels and its CT, either as the file ``image`` or as the scan ``source``, ``study``."""

    labels: FilePath | None
    image: FilePath | None = None
    source: FilePath | None = None
    study: str = ""


class OpenReview(_Files, Request[OpenedReview]):
    """Read labels and CT of a case."""

    job: ClassVar[str] = "open_review"


class CheckReview(_Files, Request[CheckedReview]):
    """Check the labels of a case, with its CT if it has one."""

    job: ClassVar[str] = "check_review"


class CheckWithPackage(_Files, Request[CheckedReview]):
    """Check the labels of a case, and compare them with those that the model package in a folder makes of its CT.

    These are kept in the review folder ``review``.
    """

    job: ClassVar[str] = "check_with_package"
    package: FilePath
    review: FilePath
    device: str = "auto"


class FindScans(Request[FoundScans]):
    """Find the scans that results were made from in a folder."""

    job: ClassVar[str] = "find_scans"
    source: FilePath


class CheckLabels(Request[CheckedReview]):
    """Check labels (0 to 8) of the scene. Without ``has_image`` there is no CT: ``image`` is not looked at."""

    job: ClassVar[str] = "check_labels"
    labels: Volume
    image: Volume
    has_image: bool


class CompareFile(Request[ComparedLabels]):
    """Compare labels with those of the file ``other``, which are resampled if their grid is another one."""

    job: ClassVar[str] = "compare_file"
    labels: Volume
    other: FilePath


class CompareLabels(Request[ComparedLabels]):
    """Compare labels with ``other`` ones on the same grid."""

    job: ClassVar[str] = "compare_labels"
    labels: Volume
    other: Volume


class KeepLabels(Request[KeptLabels]):
    """Write corrected labels of ``case`` to the review folder ``review``; nothing is written over."""

    job: ClassVar[str] = "keep_labels"
    labels: Volume
    case: str
    review: FilePath


class _Review(Message):
    """A review: the folder or table ``source`` of its cases, and the folder ``review`` of its verdicts.

    ``scans``: the folder of the scans that results were made from, if it is another one.
    """

    source: FilePath
    review: FilePath
    scans: FilePath | None = None


class ReportReview(_Review, Request[WrittenReport]):
    """Write the report of a review into its folder. Verdicts on the cases ``hidden`` are left out."""

    job: ClassVar[str] = "report_review"
    hidden: list[str]


class ExportReview(_Review, Request[ExportedCases]):
    """Write the accepted cases of a review to the new folder ``out``, as training takes them."""

    job: ClassVar[str] = "export_review"
    out: FilePath


REVIEW_REQUESTS: tuple[type[Request[Any]], ...] = (
    OpenReview, CheckReview, CheckWithPackage, FindScans, CheckLabels, CompareFile, CompareLabels, KeepLabels,
    ReportReview, ExportReview,
)  # fmt: skip

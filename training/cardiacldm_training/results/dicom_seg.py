"""Labels as a DICOM segmentation (DICOM SEG), which archives and DICOM viewers read. highdicom writes it.

Unlike all other results it carries the patient's identity, copied from the scan: without it no archive can file the
segmentation with its scan. DICOM PS3.3 A.51 describes the object.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from CardiacLDMLib import __version__, anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import replace_file
from CardiacLDMLib.image.dicom.stacks import Series
from CardiacLDMLib.image.grid import LPS_TO_RAS, Volume
from CardiacLDMLib.results.report import NOTICE, CaseReport

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.dataset import Dataset

#: Attributes that every DICOM image has, perhaps empty (type 2); tools that remove names may remove them altogether.
_PERHAPS_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
#: Distance, in mm, up to which the grids of labels and slices count as the same: headers are rounded.
_SAME_GRID_MM = 0.01


def write_dicom_seg(series: Series, labels: Volume, report: CaseReport, path: Path) -> None:
    """Write ``labels`` (uint8, IJK) as a DICOM SEG with a segment for each structure that is there.

    ``series``: that of the scan. If the labels lie on its slices, every frame refers to its slice; labels on another
    grid, such as those of a resampled scan, get a geometry of their own in the scan's frame of reference. Without
    labels no file is written, since a DICOM SEG needs at least one segment. Raises :class:`OutputError` if the scan's
    headers lack what a DICOM object needs, or the file cannot be written.
    """
    if not labels.array.any():
        return
    try:
        headers = [_read_header(file) for file in series.files]
        _share_axes(headers, series)
        segmentation = _segmentation(headers, series, labels, report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"they lack {error.name}" if isinstance(error, AttributeError) and error.name else str(error)
        raise OutputError(
            f"{path.name} could not be made, since the scan's DICOM headers are incomplete ({reason}): "
            "repeat without --dicom-seg."
        ) from error
    with replace_file(path) as part:
        segmentation.save_as(part)


def _read_header(file: Path) -> Dataset:
    """Read a slice without its pixels; add the attributes that may be empty if they are missing."""
    from pydicom import dcmread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on values that break the standard
        header = dcmread(file, stop_before_pixels=True, force=True)
        for name in _PERHAPS_EMPTY:
            if name not in header or not _is_valid(header[name].VR, header[name].value):
                setattr(header, name, None)
        if header.PatientSex not in ("M", "F", "O"):
            header.PatientSex = None
    return header


def _is_valid(kind: str, value: Any) -> bool:
    """Return whether a value is what its type (DICOM's VR) allows: highdicom takes no malformed dates and times."""
    from pydicom.valuerep import DA, TM

    try:
        return {"DA": DA, "TM": TM}.get(kind, str)(value) is not None
    except (TypeError, ValueError):
        return False


def _segmentation(headers: list[Dataset], series: Series, labels: Volume, report: CaseReport) -> Segmentation:
    from highdicom import UID
    from highdicom import Volume as DicomVolume
    from highdicom.seg import Segmentation

    present = [s for s in anatomy.STRUCTURES if (labels.array == s.value).any()]
    numbers = np.zeros(anatomy.NUM_CLASSES, dtype=np.uint8)  # segments are numbered from 1 without gaps
    numbers[[s.value for s in present]] = np.arange(1, len(present) + 1)
    frames: Any = numbers[labels.array].transpose(2, 1, 0)  # (slice, row, column)
    same_grid = labels.grid.shape[2] == len(headers) and _same_place(labels, series)
    if not same_grid:
        kji_to_lps = (LPS_TO_RAS @ labels.affine)[:, [2, 1, 0, 3]]
        reference = headers[0].FrameOfReferenceUID
        frames = DicomVolume(np.ascontiguousarray(frames), kji_to_lps, "PATIENT", reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Segmentation(
            source_images=headers,
            pixel_array=frames,
            segmentation_type="BINARY",  # what Slicer and most archives read
            segment_descriptions=[_describe(structure, n, report) for n, structure in enumerate(present, start=1)],
            series_instance_uid=UID(),
            series_number=_series_number(headers[0]),
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="CardiacLDM",
            manufacturer_model_name=f"{report.package.name} {report.package.version}",
            software_versions=__version__,
            device_serial_number=report.package.sha256[:16],
            content_label="HEART",
            content_description=f"Heart structures. {NOTICE}",
            series_description="CardiacLDM heart structures (research use)",
        )


def _same_place(labels: Volume, series: Series) -> bool:
    """Return whether labels lie on the slices themselves, voxel by voxel."""
    if series.affine is None or any(series.tilt):
        return False
    return np.allclose(labels.affine, series.affine, atol=_SAME_GRID_MM)


def _share_axes(headers: list[Dataset], series: Series) -> None:
    """Give headers whose directions or pixel spacings differ in the last decimals those of the series."""
    for name in ("ImageOrientationPatient", "PixelSpacing"):
        if all(header[name].value == headers[0][name].value for header in headers) or series.affine is None:
            continue
        axes = (LPS_TO_RAS @ series.affine)[:3, :2] / series.spacing[:2]
        values = axes.T.ravel() if name == "ImageOrientationPatient" else series.spacing[1::-1]
        for header in headers:
            setattr(header, name, [f"{value:.9f}" for value in values])


def _describe(structure: anatomy.Structure, number: int, report: CaseReport) -> SegmentDescription:
    """Return number, name, SNOMED CT codes, colour and algorithm of a segment."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    return SegmentDescription(
        segment_number=number,
        segment_label=structure.title,
        segmented_property_category=CodedConcept(anatomy.CATEGORY_CODE, "SCT", anatomy.CATEGORY_MEANING),
        segmented_property_type=CodedConcept(structure.snomed_code, "SCT", structure.snomed_meaning),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"CardiacLDM {report.package.name}",
            version=report.package.version,
            family=CodedConcept("123110", "DCM", "Artificial Intelligence"),
        ),
        display_color=CIELabColor.from_rgb(*structure.colour),
    )


def _series_number(header: Dataset) -> int:
    """Return a number that lists the segmentation behind its scan and is seldom taken."""
    return int(header.get("SeriesNumber") or 0) % 10**6 * 100 + 88

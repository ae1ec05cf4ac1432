"""DICOM files as scanners write them, for tests: one per slice, with a patient whose name must never be shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT_NAME = "Mustermann^Erika"
PATIENT_ID = "PID-4711-0815"
DESCRIPTION = "Thorax KM Mustermann"
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 2.0),
    origin: tuple[float, float, float] = (-20.0, -30.0, -40.0),
    axes: tuple[tuple[float, float, float], tuple[float, float, float]] = AXIAL,
    step: tuple[float, float, float] | None = None,
    number: int | None = 1,
    modality: str = "CT",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    study: str = "1.2.826.0.1.3680043.8.498.1",
    uid: str | None = None,
    intercept: float = -1024.0,
    slope: float = 1.0,
    skip: tuple[int, ...] = (),
    prefix: str = "IM",
    seed: int = 0,
    change: Callable[[FileDataset, int], None] | None = None,
) -> str:
    """Write ``array`` (i, j, k, in HU) as one series with file names in random order; return its UID.

    ``step``: from slice to slice in LPS mm, along the normal by default; others mean a tilted gantry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    row, column = np.array(axes)
    way = np.array(step) if step is not None else np.cross(row, column) * spacing[2]
    names = np.random.default_rng(seed).permutation(array.shape[2])
    for k in range(array.shape[2]):
        if k in skip:
            continue
        data = _slice(array[:, :, k], spacing, np.array(origin) + k * way, axes, intercept, slope)
        data.SeriesInstanceUID, data.StudyInstanceUID = uid, study
        data.Modality, data.ImageType, data.InstanceNumber = modality, list(image_type), k + 1
        if number is not None:
            data.SeriesNumber = number
        if change:
            change(data, k)
        data.save_as(folder / f"{prefix}{names[k]:04d}", enforce_file_format=True)
    return uid


def _slice(
    values: np.ndarray,
    spacing: tuple[float, float, float],
    position: np.ndarray,
    axes: tuple[tuple[float, float, float], tuple[float, float, float]],
    intercept: float,
    slope: float,
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT_NAME, PATIENT_ID, "19701224"
    data.SeriesDescription, data.InstitutionName = DESCRIPTION, "Klinikum Musterstadt"
    data.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.2"
    data.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    data.SliceThickness = f"{spacing[2]:.10g}"
    data.ImageOrientationPatient = [f"{x:.10g}" for x in np.ravel(axes)]
    data.ImagePositionPatient = [f"{x:.10g}" for x in position]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Columns, data.Rows = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = intercept, slope, "HU"
    stored = np.round((values.astype(np.float64) - intercept) / slope)
    data.PixelData = np.ascontiguousarray(stored.T).astype("<u2").tobytes()
    return data

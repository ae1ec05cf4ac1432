"""A small scan with a block for each structure, on grids of several orientations, and its report."""

from __future__ import annotations

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.report import CaseReport, PackageRecord, grid_record, software_versions

SHAPE = (30, 26, 20)
#: Where the middle of every grid lies, in RAS mm.
MIDDLE = np.array([10.0, -20.0, 30.0])
KINDS = ("RAS", "LPS", "left-handed", "permuted", "oblique")


def affine(kind: str) -> np.ndarray:
    """Return a grid of 4 x 4 x 6 mm around :data:`MIDDLE`."""
    turn = np.radians(25.0)
    axes = {
        "RAS": np.eye(3),
        "LPS": np.diag([-1.0, -1.0, 1.0]),
        "left-handed": np.diag([-1.0, 1.0, 1.0]),
        "permuted": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "oblique": np.array([[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, -1.0]]),
    }[kind]
    out = np.eye(4)
    out[:3, :3] = axes * [4.0, 4.0, 6.0]
    out[:3, 3] = MIDDLE - out[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return out


def blocks(kind: str = "left-handed", values: tuple[int, ...] = tuple(range(1, 9))) -> tuple[Volume, Volume]:
    """Return a scan and labels: a block per structure, from the patient's right to the left, in front and above."""
    labels = Volume(np.zeros(SHAPE, dtype=np.uint8), affine(kind))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    ras = index @ labels.affine[:3, :3].T + labels.affine[:3, 3] - MIDDLE
    for value in values:
        low = (value - 5) * 10.0
        inside = (ras[..., 0] >= low) & (ras[..., 0] < low + 10.0) & (ras[..., 1] > 0) & (ras[..., 2] > 0)
        labels.array[inside & (np.abs(ras) < 45.0).all(-1)] = value
    return Volume(labels.array.astype(np.int16) * 60 - 100, labels.affine), labels


def case_report(labels: Volume, name: str = "case", **changes: object) -> CaseReport:
    """Return a report of ``labels``."""
    volumes = {s.name: float((labels.array == s.value).sum() * labels.grid.voxel_ml) for s in anatomy.STRUCTURES}
    fields = {
        "case": name, "source": "case.nii.gz", "package": PackageRecord(name="tiny", version="1", sha256="0" * 64),
        "device": "cpu", "quality": "full", "heart_found": any(volumes.values()), "volumes_ml": volumes, "warnings": [],
        "seconds": {"read": 0.1, "segment": 2.0}, "grid": grid_record(labels),
        "software": software_versions(),
    }  # fmt: skip
    return CaseReport(**{**fields, **changes})

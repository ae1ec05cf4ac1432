"""The report of a segmented case, and the files that a case leaves behind wherever it was segmented.

The command line adds a segmentation for Slicer and a picture; see ``outputs.py`` in training.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from .. import __version__
from ..files import replace_files, write_text
from ..image.files import write_volume
from ..image.grid import Volume
from ..progress import Quality

LABELS, REPORT = ".labels.nii.gz", ".report.json"
NOTICE = "Research use, not a medical device."


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackageRecord(_Record):
    """The model package used: enough to find the same one again."""

    name: str
    version: str
    sha256: str


class GridRecord(_Record):
    """The scan's voxels: number and size along i, j, k, and towards which side each axis runs (as in ``LPS``)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str


class CaseReport(_Record):
    """``NAME.report.json``. Volumes in millilitres per structure; seconds per stage, reading and writing included.

    ``source`` is the base name of the input. Nothing here tells who the patient is unless that name does.
    """

    schema_version: int = 2
    notice: str = NOTICE
    case: str
    source: str
    package: PackageRecord
    device: str
    quality: Quality
    heart_found: bool
    volumes_ml: dict[str, float]
    warnings: list[str]
    seconds: dict[str, float]
    grid: GridRecord
    software: dict[str, str]


def grid_record(volume: Volume) -> GridRecord:
    """The geometry of ``volume`` as it goes into the report."""
    axes = volume.affine[:3, :3] / volume.spacing
    along = np.abs(axes).argmax(axis=0)
    letters = [("RL", "AP", "SI")[d][int(axes[d, a] < 0)] for a, d in enumerate(along)]
    shape, spacing = volume.grid.shape, volume.spacing.tolist()
    return GridRecord(shape=shape, spacing_mm=(spacing[0], spacing[1], spacing[2]), axes="".join(letters))


def software_versions() -> dict[str, str]:
    """Versions of what the result depends on; what the system does not tell is left out."""
    versions = {"python": platform.python_version(), "cardiacldm": __version__}
    for name in ("torch", "monai", "numpy", "simpleitk"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # Slicer's own are not always installed as distributions
            continue
    return versions


def existing_results(out: Path, name: str, endings: tuple[str, ...] = (LABELS, REPORT)) -> list[str]:
    """Names of the files in ``out`` that the results of case ``name`` would replace."""
    return [name + ending for ending in endings if (out / (name + ending)).exists()]


def write_case(out: Path, aside: Path, labels: Volume, report: CaseReport) -> list[Path]:
    """Write labels and report of a case to the folder ``out``, by way of ``aside`` within it, which is gone afterwards.

    Earlier ones are replaced; a case with a report is complete. Returns the files. Raises
    :class:`OutputError` when the folder cannot be written to or the disk is full.
    """
    names = [report.case + ending for ending in (LABELS, REPORT)]
    with replace_files(out, names, aside) as part:
        write_volume(labels, part / names[0])
        write_text(part / names[1], report.model_dump_json(indent=2) + "\n")
    return [out / name for name in names]

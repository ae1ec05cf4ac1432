"""The report of a segmented case: package, device, volumes, warnings, times and geometry."""

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
    """The model package used, identified by the hash of its files."""

    name: str
    version: str
    sha256: str


class GridRecord(_Record):
    """The scan's voxels: number and size along i, j, k, and the patient's direction of each axis (as in ``LPS``)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str


class CaseReport(_Record):
    """``NAME.report.json``: volumes in millilitres by structure, seconds by stage with reading and writing.

    ``source`` is the base name of the input, and the only field that may identify a patient.
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
    """Return the geometry of ``volume`` for the report."""
    axes = volume.affine[:3, :3] / volume.spacing
    along = np.abs(axes).argmax(axis=0)
    letters = [("RL", "AP", "SI")[d][int(axes[d, a] < 0)] for a, d in enumerate(along)]
    shape, spacing = volume.grid.shape, volume.spacing.tolist()
    return GridRecord(shape=shape, spacing_mm=(spacing[0], spacing[1], spacing[2]), axes="".join(letters))


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the result depends on, as far as they are known."""
    versions = {"python": platform.python_version(), "cardiacldm": __version__}
    for name in ("torch", "monai", "numpy", "simpleitk"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # some of Slicer's libraries have no distribution metadata
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

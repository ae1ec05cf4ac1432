"""The report of a segmented case: package, device, volumes, warnings, times and geometry."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from pydantic import Field

from .. import __version__
from ..image.grid import Volume
from ..packages.fields import Record
from ..progress import Quality
from .trust import ExpectedDice

NOTICE = "Research use, not a medical device."


class PackageRecord(Record):
    """The model package used, identified by the hash of its files."""

    name: str
    version: str
    sha256: str


class GridRecord(Record):
    """The scan's grid: number and size of voxels along i, j, k, and the direction of each axis (as in ``LPS``)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str


class CaseReport(Record):
    """The content of ``NAME.report.json``.

    ``source``: base name of the input, the only field that may identify a patient. ``volumes_ml``: by structure.
    ``expected_dice``: by structure, empty if the package does not foretell it at this quality. ``warnings``: sentences.
    ``seconds``: by stage, reading and writing included. ``software``: versions by name.
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
    expected_dice: dict[str, ExpectedDice] = Field(default_factory=dict)
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
    """Return the versions of this program, of Python and of the installed libraries that the labels depend on."""
    versions = {"python": platform.python_version(), "cardiacldm": __version__}
    for name in ("torch", "monai", "numpy", "simpleitk"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # some of Slicer's libraries have no distribution metadata
            continue
    return versions

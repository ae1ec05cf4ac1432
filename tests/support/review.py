"""Folders of labelled cases for a review: three layouts, of hearts of boxes, some of them with a fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.box_heart import box_heart, box_pair, without


def write_case(image: Path, labels: Path, *, array: np.ndarray | None = None) -> None:
    """Write the heart of boxes, with other labels if given, as two files; their folders are made.

    The CT has bright blood and grey muscle in fat between lungs, so that the checks find nothing in the good labels.
    """
    pair, heart = box_pair(array), box_heart()
    around = np.where(pair.image.array < -500, -900, -90)
    hu = np.where(heart == VALUE["MYO"], 110, np.where(heart > 0, 350, around)).astype(np.int16)
    for path, volume in ((image, Volume(hu, pair.image.affine)), (labels, pair.labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(volume, path)


def pairs_folder(folder: Path, count: int = 3, faulty: tuple[int, ...] = (2,)) -> Path:
    """Write pairs as ``cardiacldm generate`` does; those of the numbers ``faulty`` lack the left atrium."""
    for number in range(1, count + 1):
        place = folder / f"pair_{number:04d}"
        write_case(place / "ct.nii.gz", place / "labels.nii.gz", array=without("LA") if number in faulty else None)
        package = {"name": "pairs", "version": "2.0", "sha256": "0" * 64}
        (place / "provenance.json").write_text(json.dumps({"package": package}))
    return folder


def training_folder(folder: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """Write the layout images/ and labels/."""
    for name in names:
        write_case(folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz")
    return folder


def results_folder(folder: Path, scans: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """Write labels and reports as ``cardiacldm segment`` does, and the scans to another folder."""
    for name in names:
        write_case(scans / f"{name}.nii.gz", folder / f"{name}.labels.nii.gz")
        report = {"case": name, "package": {"name": "hearts", "version": "1.1"}}
        (folder / f"{name}.report.json").write_text(json.dumps(report))
        (folder / f"{name}.png").write_bytes(b"")
        (folder / f"{name}.seg.nrrd").write_bytes(b"")
    return folder


def small_labels(value: int = 1) -> Volume:
    """Return labels of a few voxels."""
    array = np.zeros((6, 6, 6), dtype=np.uint8)
    array[2:4, 2:4, 2:4] = value
    return Volume(array, np.eye(4))

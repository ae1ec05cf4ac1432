"""Small data sets in the layouts of others, made of the same scan and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume

#: Values of MM-WHS by structure.
MMWHS = {"MYO": 205, "LA": 420, "LV": 500, "RA": 550, "RV": 600, "AO": 820, "PA": 850}
#: Names of TotalSegmentator's masks by structure.
MASKS = {
    "LA": "heart_atrium_left", "LV": "heart_ventricle_left", "RA": "heart_atrium_right", "RV": "heart_ventricle_right",
    "MYO": "heart_myocardium", "AO": "aorta", "PA": "pulmonary_artery", "LAA": "atrial_appendage_left",
}  # fmt: skip


def valued(labels: Volume, values: Mapping[str, int]) -> Volume:
    """Return labels with other values (uint16); structures without one are background."""
    table = np.zeros(anatomy.NUM_CLASSES, dtype=np.uint16)
    for name, value in values.items():
        table[anatomy.VALUE[name]] = value
    return Volume(table[labels.array], labels.affine)


def only(labels: Volume, names: Mapping[str, object]) -> np.ndarray:
    """Return the voxels of ``labels`` with the other structures removed."""
    return np.where(np.isin(labels.array, [anatomy.VALUE[name] for name in names]), labels.array, 0)


def write(volume: Volume, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)
    return path


def write_nnunet(
    folder: Path, image: Volume, labels: Volume, names: Mapping[str, object], values: Mapping[str, int],
    cases: tuple[str, ...] = ("heart_001",),
) -> Path:  # fmt: skip
    """Write nnU-Net's raw data: ``names`` are the labels of dataset.json, ``values`` those of structures."""
    for case in cases:
        write(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        write(valued(labels, values), folder / "labelsTr" / f"{case}.nii.gz")
    about = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def write_mmwhs(folder: Path, image: Volume, labels: Volume, case: str = "ct_train_1001") -> Path:
    write(image, folder / f"{case}_image.nii.gz")
    write(valued(labels, MMWHS), folder / f"{case}_label.nii.gz")
    return folder


def write_totalsegmentator(
    folder: Path, image: Volume, labels: Volume, masks: Mapping[str, str] = MASKS, case: str = "s0001"
) -> Path:
    """Write a case with a mask for each of ``masks`` (structure: name), and for an organ that is none of ours."""
    write(image, folder / case / "ct.nii.gz")
    inside = {name: labels.array == anatomy.VALUE[structure] for structure, name in masks.items()}
    for name, mask in {**inside, "liver": labels.array == 99}.items():
        write(Volume(mask.astype(np.uint8), labels.affine), folder / case / "segmentations" / f"{name}.nii.gz")
    return folder

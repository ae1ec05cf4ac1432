"""Read template label maps of whole hearts as models."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from CardiacLDMLib.anatomy import NAMES, NUM_CLASSES, VALUE
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.image.labels import check_labels
from CardiacLDMLib.image.resample import resample

from ...errors import AnatomyError
from ..shapes import Lattice
from .model import HeartModel, make_model

#: Spacing of the models, mm.
MODEL_MM = 1.5
#: Largest and smallest extent of a template's structures, mm: a whole heart with its aorta.
LARGEST_MM, SMALLEST_MM = 500.0, 60.0
#: Least volume of a structure, mL.
LEAST_ML = 0.3
#: Most voxels of a template.
MOST_VOXELS = 700 * 700 * 900


def template_files(folder: Path) -> list[Path]:
    """Return the NIfTI label maps of a folder, sorted. Raises :class:`AnatomyError` if there is none."""
    if not Path(folder).is_dir():
        raise AnatomyError(f"There is no folder {Path(folder).name} with template label maps.")
    files = sorted(p for p in Path(folder).iterdir() if _is_nifti_name(p.name) and p.is_file())
    if not files:
        raise AnatomyError(f"There is no NIfTI label map (*.nii.gz) in the folder {Path(folder).name}.")
    return files


def _is_nifti_name(name: str) -> bool:
    return name.lower().endswith((".nii", ".nii.gz")) and not name.startswith(".")


@lru_cache(maxsize=16)
def read_template(path: Path) -> HeartModel:
    """Read a label map (values 1 to 8 as in the anatomy table) in any orientation.

    Raises :class:`AnatomyError` if it is not the label map of a whole heart.
    """
    try:
        volume = read_volume(path)
    except VolumeError as error:
        message = str(error)
        raise AnatomyError(f"Template {'' if message.startswith(path.name) else path.name + ': '}{message}") from error
    volume = _check_labels(volume, path.name)
    inside = np.argwhere(volume.array > 0)
    world = inside @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = world.min(0) - 8.0, world.max(0) + 8.0
    if (high - low).max() > LARGEST_MM or (high - low).min() < SMALLEST_MM:
        size = " x ".join(f"{s:.0f}" for s in high - low - 16.0)
        raise AnatomyError(f"Template {path.name} is not a human heart in millimetres: its structures span {size} mm.")
    affine = np.diag([MODEL_MM] * 3 + [1.0])
    affine[:3, 3] = low
    target = Grid(tuple(np.ceil((high - low) / MODEL_MM).astype(int) + 1), affine)
    shares = [resample(Volume((volume.array == v).astype(np.uint8), volume.affine), target, float(v == 0)).array
              for v in range(NUM_CLASSES)]  # fmt: skip
    model = make_model(path.name.split(".")[0], np.rint(np.stack(shares) * 255).astype(np.uint8),
                    Lattice(low, MODEL_MM, target.shape))  # fmt: skip
    _check_orientation(model, path.name)
    return model


def _check_labels(volume: Volume, name: str) -> Volume:
    """Return the volume as uint8 labels. Raises AnatomyError unless it has exactly the eight structures."""
    if volume.array.size > MOST_VOXELS:
        shape = " x ".join(map(str, volume.array.shape))
        raise AnatomyError(f"Template {name} is too large ({shape} voxels): crop it to the heart.")
    try:
        check_labels(volume.array)
    except VolumeError as error:
        raise AnatomyError(f"Template {name}: {error}") from error
    values = np.unique(volume.array)
    missing = [n for n in NAMES if VALUE[n] not in values]
    if missing:
        raise AnatomyError(f"Template {name} lacks {', '.join(missing)}: all eight structures are needed.")
    return Volume(volume.array.astype(np.uint8), volume.affine)


def _check_orientation(model: HeartModel, name: str) -> None:
    """Raise AnatomyError for structures that are too small, or a header with the wrong orientation."""
    small = [n for n in NAMES if n not in model.boxes or model.volume_ml(VALUE[n]) < LEAST_ML]
    if small:
        raise AnatomyError(f"Template {name} has structures that are too small: {', '.join(small)}.")
    centre = {n: model.points(n).mean(0) for n in NAMES}
    if not (centre["LV"][0] < centre["RA"][0] and centre["RV"][1] > centre["LA"][1]):
        raise AnatomyError(f"Template {name} has a wrong orientation: correct it in its header.")

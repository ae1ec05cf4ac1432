"""Whole-heart label maps from a folder, as models to bend."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from CardiacLDMLib.anatomy import NAMES, NUM_CLASSES, VALUE
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.image.resample import resample

from ...errors import AnatomyError
from ..shapes import Lattice
from .model import Model, centred

#: Spacing at which templates are kept, mm.
MODEL_MM = 1.5
#: A template's structures may span this much, mm: a whole heart with its aorta, not a body, not a vertebra.
LARGEST_MM, SMALLEST_MM = 500.0, 60.0
#: A structure of less than this many millilitres is a speck.
LEAST_ML = 0.3
#: More voxels than a whole-body scan at half a millimetre has no place here.
MOST_VOXELS = 700 * 700 * 900


def template_files(folder: Path) -> list[Path]:
    """The NIfTI label maps of a folder, sorted; raises :class:`AnatomyError` if there is none."""
    if not Path(folder).is_dir():
        raise AnatomyError(f"There is no folder {Path(folder).name} with template label maps.")
    files = sorted(p for p in Path(folder).glob("*.nii*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise AnatomyError(f"There is no NIfTI label map (*.nii.gz) in the folder {Path(folder).name}.")
    return files


@lru_cache(maxsize=16)
def read_template(path: Path) -> Model:
    """Read one label map (values 1 to 8 as in the anatomy table), any orientation.

    Raises :class:`AnatomyError` with one sentence when it is no such map.
    """
    try:
        volume = read_volume(path)
    except VolumeError as error:
        said = str(error)
        raise AnatomyError(f"Template {'' if said.startswith(path.name) else path.name + ': '}{said}") from error
    volume = _checked(volume, path.name)
    inside = np.argwhere(volume.array > 0)
    world = inside @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = world.min(0) - 8.0, world.max(0) + 8.0
    if (high - low).max() > LARGEST_MM or (high - low).min() < SMALLEST_MM:
        size = " x ".join(f"{s:.0f}" for s in high - low - 16.0)
        raise AnatomyError(f"Template {path.name} is no human heart in millimetres: its structures span {size} mm.")
    affine = np.diag([MODEL_MM] * 3 + [1.0])
    affine[:3, 3] = low
    target = Grid(tuple(np.ceil((high - low) / MODEL_MM).astype(int) + 1), affine)
    shares = [resample(Volume((volume.array == v).astype(np.uint8), volume.affine), target, float(v == 0)).array
              for v in range(NUM_CLASSES)]  # fmt: skip
    model = centred(path.name.split(".")[0], np.rint(np.stack(shares) * 255).astype(np.uint8),
                    Lattice(low, MODEL_MM, target.shape))  # fmt: skip
    _check_places(model, path.name)
    return model


def _checked(volume: Volume, name: str) -> Volume:
    """The volume as uint8 labels, if it holds the eight structures and nothing else."""
    if volume.array.size > MOST_VOXELS:
        shape = " x ".join(map(str, volume.array.shape))
        raise AnatomyError(f"Template {name} is too large ({shape} voxels): crop it to the heart.")
    values = np.unique(volume.array)
    if not np.isfinite(values).all() or not np.isin(values, np.arange(NUM_CLASSES)).all():
        raise AnatomyError(f"Template {name} does not hold the eight structures: values other than 0 to 8 present.")
    missing = [n for n in NAMES if VALUE[n] not in values]
    if missing:
        raise AnatomyError(f"Template {name} does not hold the eight structures: {', '.join(missing)} missing.")
    return Volume(volume.array.astype(np.uint8), volume.affine)


def _check_places(model: Model, name: str) -> None:
    """Refuse a map whose left and right, or front and back, are not where its header says."""
    gone = [n for n in NAMES if n not in model.boxes or model.volume_ml(VALUE[n]) < LEAST_ML]
    if gone:
        raise AnatomyError(f"Template {name} does not hold the eight structures: {', '.join(gone)} too small.")
    centre = {n: model.points(n).mean(0) for n in NAMES}
    if not (centre["LV"][0] < centre["RA"][0] and centre["RV"][1] > centre["LA"][1]):
        raise AnatomyError(f"Template {name} lies the wrong way round: mend the orientation in its header.")

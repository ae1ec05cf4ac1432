"""Leave out copies of DICOM images: files that hold the same voxels at the same place."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence

import numpy as np

from .encoding import gdcm_files
from .headers import Header
from .stacks import SAME_PLACE_MM

#: So many places with several images, none of them copies, show that images of different UIDs are no copies at all.
PLACES_TRIED = 8


def drop_copies(slices: Sequence[Header]) -> tuple[list[Header], int]:
    """Return the slices without copies, and the number of copies."""
    places: dict[tuple[int, ...], list[Header]] = {}
    for header in slices:
        place = tuple(round(x / SAME_PLACE_MM) for x in header.position or ())
        places.setdefault(place, []).append(header)
    copies: set[int] = set()
    without = 0
    for images in places.values():
        if len(images) < 2 or not images[0].position:
            continue
        if without >= PLACES_TRIED and len({header.image for header in images}) == len(images):
            continue
        found = _copies(images)
        copies |= {id(header) for header in found}
        without = 0 if found else without + 1
    return [header for header in slices if id(header) not in copies], len(copies)


def _copies(images: list[Header]) -> list[Header]:
    """Return those of the images at one place that are the same as an earlier one."""
    kept: list[tuple[Header, np.ndarray | None]] = []
    copies = []
    for header in images:
        if any(filecmp.cmp(header.path, other.path, shallow=False) for other, _ in kept):
            copies.append(header)
            continue
        voxels = _voxels(header)
        if voxels is not None and any(np.array_equal(voxels, other) for _, other in kept if other is not None):
            copies.append(header)
        else:
            kept.append((header, voxels))
    return copies


def _voxels(header: Header) -> np.ndarray | None:
    """Return the voxels of one image, or None if they cannot be read: reading the series says why."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with gdcm_files([header.path]) as (name,):
        reader.SetFileName(name)
        try:
            return np.asarray(sitk.GetArrayFromImage(reader.Execute()))
        except RuntimeError:
            return None

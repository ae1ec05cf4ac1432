"""Compare the place that Slicer gave a scan with the one that its NIfTI file gives it.

Slicer's reader takes the voxel size from ``pixdim`` whatever the sform says, and is free to take the place from the
qform. Its volume nodes tell nothing of the other choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..image.headers import UNKNOWN_PLACE
from ..image.nifti import TELLING_VOXELS, is_nifti, locate, read_header
from .volumes import ijk_to_ras

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode


def remarks_on_place(node: vtkMRMLScalarVolumeNode) -> list[str]:
    """Return sentences for the user if a scan lies elsewhere than its NIfTI file says, or the file says nothing.

    A scan without a file, or that was changed since it was read, gets none.
    """
    storage = node.GetStorageNode()
    if storage is None or not storage.GetFileName() or node.GetModifiedSinceRead():
        return []
    path = Path(storage.GetFileName())
    try:
        if not is_nifti(path):
            return []
        header = read_header(path)
        affine, notes = locate(header)
    except (OSError, ValueError):  # the file is gone, or has been replaced
        return []
    if header.shape != tuple(node.GetImageData().GetDimensions()):
        return []
    if UNKNOWN_PLACE in notes:
        return [UNKNOWN_PLACE]
    return _difference(affine, ijk_to_ras(node), np.array(header.shape))


def _difference(file: np.ndarray, slicer: np.ndarray, shape: np.ndarray) -> list[str]:
    """Return a sentence if two affines (4x4, IJK -> RAS mm) differ in voxel size or place."""
    sizes = [np.linalg.norm(each[:3, :3], axis=0) for each in (file, slicer)]
    if not (np.abs(sizes[0] - sizes[1]) * (shape - 1) <= TELLING_VOXELS * sizes[0]).all():
        right, taken = (" x ".join(f"{size:.4g}" for size in each) for each in sizes)
        return [
            f"Slicer took {taken} mm for the voxel size of this scan; by the rules for NIfTI its file says {right} mm. "
            "Check it, since all volumes depend on it."
        ]
    corners = np.array([[*index, 1] for index in np.ndindex(2, 2, 2)]) * [*(shape - 1), 1]
    apart = np.linalg.norm(corners @ (file - slicer)[:3].T, axis=1).max()
    if not apart <= TELLING_VOXELS * sizes[0].min():
        return [f"Slicer shows this scan up to {apart:.3g} mm from where its file puts it by the rules for NIfTI."]
    return []

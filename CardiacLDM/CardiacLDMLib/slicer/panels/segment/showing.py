"""Show a new segmentation: slices at the heart, surfaces in 3D, cameras on the heart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import slicer

from ... import surfaces, volumes
from ..camera import frame_in_3d

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

#: Room for the great vessels around the heart, times its size.
WITH_VESSELS = 1.5


def show_heart_in_steps(segmentation: vtkMRMLSegmentationNode) -> Iterator[None]:
    """Show the heart in all views, one structure per step, while the segmentation exists."""
    bounds = surfaces.heart_bounds(segmentation)
    if bounds is not None:
        volumes.jump_slices(slicer.mrmlScene, bounds.mean(axis=0))
    yield
    for _step in surfaces.surfaces_in_steps(segmentation):
        yield
        if not slicer.mrmlScene.IsNodePresent(segmentation):
            return
    if bounds is not None:
        frame_in_3d(bounds, margin=WITH_VESSELS)

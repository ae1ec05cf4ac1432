"""The cameras of the 3D views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

#: Cameras go this much nearer than the sphere around the structures needs: a heart fills it badly.
CLOSER = 1.4


def frame_in_3d(segmentation: vtkMRMLSegmentationNode) -> None:
    """Frame the 3D views on the structures of ``segmentation``, seen from where the cameras are.

    Slicer itself frames all that is visible, also the box around the scan. Without a main window nothing happens.
    """
    manager = slicer.app.layoutManager()
    bounds = [0.0] * 6
    segmentation.GetRASBounds(bounds)
    if manager is None or bounds[0] > bounds[1]:  # no structure has a voxel
        return
    for index in range(manager.threeDViewCount):
        view = manager.threeDWidget(index).threeDView()
        renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
        renderer.ResetCamera(bounds)
        renderer.GetActiveCamera().Dolly(CLOSER)
        renderer.ResetCameraClippingRange()
        view.scheduleRender()

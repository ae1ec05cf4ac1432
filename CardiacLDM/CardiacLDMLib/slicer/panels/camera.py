"""The cameras of the 3D views."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

import slicer

from ..volumes import numpy_matrix

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

#: Free space around the structures.
MARGIN = 1.05


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
        _frame(view.renderWindow().GetRenderers().GetFirstRenderer(), np.reshape(bounds, (3, 2)))
        view.scheduleRender()


def _frame(renderer: Any, ends: np.ndarray) -> None:
    """Move the camera along its direction until the box between ``ends`` (3 axes, low and high; mm) fills the view."""
    renderer.ResetCamera(ends.ravel().tolist())  # sets the focal point
    camera, (width, height) = renderer.GetActiveCamera(), renderer.GetSize()
    aspect = width / height if height else 1.0
    corners = np.array(list(itertools.product(*ends))) - ends.mean(1)
    right, up, near = numpy_matrix(camera.GetViewTransformMatrix())[:3, :3] @ corners.T
    half = np.maximum(abs(up), abs(right) / aspect)
    distance = MARGIN * float((near + half / np.tan(np.radians(camera.GetViewAngle() / 2))).max())
    camera.SetParallelScale(MARGIN * float(half.max()))
    focus, normal = np.array(camera.GetFocalPoint()), np.array(camera.GetViewPlaneNormal())
    camera.SetPosition(*(focus + distance * normal))
    renderer.ResetCameraClippingRange()

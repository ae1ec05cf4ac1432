"""The cameras of the 3D views."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import slicer

from ..volumes import numpy_matrix


def frame_in_3d(bounds: np.ndarray, margin: float = 1.05) -> None:
    """Frame the 3D views on a box (2, 3; low and high corner in world RAS mm), seen from where the cameras are.

    The box may take up 1 / ``margin`` of a view. Slicer itself frames all that is visible, also the box around the
    scan. Without a main window nothing happens.
    """
    manager = slicer.app.layoutManager()
    for index in range(manager.threeDViewCount) if manager is not None else ():
        view = manager.threeDWidget(index).threeDView()
        _frame(view.renderWindow().GetRenderers().GetFirstRenderer(), bounds.T, margin)
        view.scheduleRender()


def _frame(renderer: Any, ends: np.ndarray, margin: float) -> None:
    """Move the camera along its direction until the box between ``ends`` (3 axes, low and high) fills the view."""
    renderer.ResetCamera(ends.ravel().tolist())  # sets the focal point
    camera, (width, height) = renderer.GetActiveCamera(), renderer.GetSize()
    aspect = width / height if height else 1.0
    corners = np.array(list(itertools.product(*ends))) - ends.mean(1)
    right, up, near = numpy_matrix(camera.GetViewTransformMatrix())[:3, :3] @ corners.T
    half = np.maximum(abs(up), abs(right) / aspect)
    distance = float((near + margin * half / np.tan(np.radians(camera.GetViewAngle() / 2))).max())
    camera.SetParallelScale(margin * float(half.max()))
    focus, normal = np.array(camera.GetFocalPoint()), np.array(camera.GetViewPlaneNormal())
    camera.SetPosition(*(focus + distance * normal))
    renderer.ResetCameraClippingRange()

"""The 3D views are framed on the structures, whatever the shape of the window and the direction of the camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("PySide6")

from tests.support.box_heart import box_pair
from tests.support.host import open_module, start_host


@pytest.mark.parametrize("size", [(300, 900), (900, 300), (500, 500)])
@pytest.mark.parametrize("margin", [1.05, 1.5])
@pytest.mark.parametrize("view", ["front", "oblique"])
def test_the_heart_fills_the_view_and_is_not_cut(size: tuple[int, int], view: str, margin: float) -> None:
    import slicer

    start_host().reset()
    open_module()
    from CardiacLDMLib.slicer import volumes
    from CardiacLDMLib.slicer.panels.camera import frame_in_3d

    labels = box_pair(spacing_mm=2.0).labels
    world = np.argwhere(labels.array) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    window: Any = slicer.app.layoutManager().threeDWidget(0).threeDView().renderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(*size)
    renderer = window.GetRenderers().GetFirstRenderer()
    camera = renderer.GetActiveCamera()
    camera.SetPosition(0, 500, 0)
    camera.SetViewUp(0, 0, 1)
    camera.SetFocalPoint(0, 0, 0)
    if view == "oblique":
        camera.Azimuth(35)
        camera.Elevation(20)
    before = np.array(camera.GetDirectionOfProjection())
    frame_in_3d(np.stack([world.min(0), world.max(0)]), margin)
    np.testing.assert_allclose(camera.GetDirectionOfProjection(), before, atol=1e-6)
    matrix = camera.GetCompositeProjectionTransformMatrix(size[0] / size[1], -1, 1)
    points = np.column_stack([world, np.ones(len(world))]) @ volumes.numpy_matrix(matrix).T
    places = abs(points[:, :2] / points[:, 3:])  # 1 is the edge of the view
    assert 0.7 < margin * places.max() < 1.05
    np.testing.assert_allclose(camera.GetFocalPoint(), (world.min(0) + world.max(0)) / 2)

"""Surfaces lie where the labels lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.slicer import segmentations, surfaces, volumes
from tests.support.scene import KINDS, affine, labels_on, rotation, scan, transform_node


@pytest.mark.parametrize("kind", KINDS)
def test_surfaces_lie_where_the_labels_lie(mrml: Any, kind: str) -> None:
    matrix = rotation(40, 0)
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, matrix).GetID())
    labels = labels_on(volumes.volume_from_node(node), (4,))
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    assert segmentation.CreateClosedSurfaceRepresentation()
    bounds = [0.0] * 6
    segmentation.GetRASBounds(bounds)
    index = np.argwhere(labels.array == 4)
    world = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    expected = (world.min(0) + world.max(0)) / 2
    np.testing.assert_allclose(np.reshape(bounds, (3, 2)).mean(1), expected, atol=1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_surfaces_are_shown_where_the_labels_lie(mrml: Any, kind: str) -> None:
    fine = Volume(np.zeros((60, 50, 40), np.int16), affine(kind) @ np.diag([0.5, 0.5, 0.2, 1.0]))
    node = volumes.volume_to_node(mrml, fine, "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, rotation(40, 0)).GetID())
    labels = labels_on(volumes.volume_from_node(node), ())
    labels.array[10:50, 12:40, 8:30] = 4
    segmentation = segmentations.segmentation_from_labels(mrml, labels, "Heart", node)
    steps = list(surfaces.surfaces_in_steps(segmentation))
    assert len(steps) >= len(anatomy.STRUCTURES)
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert segmentation.GetDisplayNode().GetVisibility3D()
    surface = segmentation.GetSegmentation().GetSegment("RV").GetRepresentation("Closed surface")
    points = np.array([surface.GetPoint(n) for n in range(surface.GetNumberOfPoints())])
    points = points @ volumes.node_to_world(node)[:3, :3].T
    world = np.argwhere(labels.array == 4) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    ends = [world.min(0), world.max(0)]
    np.testing.assert_allclose([points.min(0), points.max(0)], ends, atol=1.5 * surfaces.SURFACE_MM)

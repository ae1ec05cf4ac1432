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


def test_slicer_is_left_no_surface_to_make_at_once(mrml: Any) -> None:
    """It makes all missing surfaces as soon as the first segment in the order of IDs has one."""
    node = volumes.volume_to_node(mrml, scan(), "CT")
    segmentation = segmentations.segmentation_from_labels(mrml, labels_on(scan()), "Heart", node)
    segments = [segmentation.GetSegmentation().GetSegment(name) for name in anatomy.NAMES]
    for _ in surfaces.surfaces_in_steps(segmentation):
        made = [segment.GetName() for segment in segments if segment.GetRepresentation("Closed surface")]
        assert len(made) == len(segments) or not segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert len(made) == len(segments)


@pytest.mark.parametrize("kind", KINDS)
def test_the_heart_has_bounds_without_its_vessels(mrml: Any, kind: str) -> None:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    node.SetAndObserveTransformNodeID(transform_node(mrml, rotation(30, 2)).GetID())
    labels = labels_on(volumes.volume_from_node(node), ())
    assert surfaces.heart_bounds(segmentations.segmentation_from_labels(mrml, labels, "Empty", node)) is None
    labels.array[1:3, 1:3, 1:3] = anatomy.VALUE["AO"]
    labels.array[4:8, 4:8, 4:8] = anatomy.VALUE["LV"]
    labels.array[5:8, 5:8, 8:10] = anatomy.VALUE["LA"]
    bounds = surfaces.heart_bounds(segmentations.segmentation_from_labels(mrml, labels, "Heart", node))
    assert bounds is not None
    index = np.argwhere(np.isin(labels.array, (anatomy.VALUE["LV"], anatomy.VALUE["LA"])))
    world = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    assert (bounds[0] <= world.min(0)).all()
    assert (bounds[1] >= world.max(0)).all()
    np.testing.assert_allclose(bounds.mean(0), (world.min(0) + world.max(0)) / 2, atol=surfaces.SURFACE_MM)
    labels.array[labels.array == anatomy.VALUE["AO"]] = 0
    alone = surfaces.heart_bounds(segmentations.segmentation_from_labels(mrml, labels, "Alone", node))
    np.testing.assert_allclose(alone, bounds, atol=surfaces.SURFACE_MM)

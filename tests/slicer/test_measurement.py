"""Volumes of segments in Slicer's real scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.slicer import segmentations, volumes
from CardiacLDMLib.slicer.measurement import Measurement, measure_in_steps
from tests.support.scene import KINDS, labels_on, rotation, scan, transform_node


def measure(node: Any) -> Measurement:
    steps = measure_in_steps(node)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def heart(mrml: Any, kind: str, labels: Any, matrix: np.ndarray | None = None) -> Any:
    node = volumes.volume_to_node(mrml, scan(kind), "CT")
    if matrix is not None:
        node.SetAndObserveTransformNodeID(transform_node(mrml, matrix).GetID())
    placed = Volume(labels.array, volumes.volume_from_node(node).affine)
    return segmentations.segmentation_from_labels(mrml, placed, "Heart", node)


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_are_counted_on_every_grid(mrml: Any, kind: str) -> None:
    labels = labels_on(scan(kind), (1, 2, 5))
    labels.array[:, :, 0] = 3  # at a side of the scan
    measured = measure(heart(mrml, kind, labels, rotation(20, 2)))
    voxel_ml = 0.8 * 0.9 * 2.5 / 1000
    expected = {name: (labels.array == value).sum() * voxel_ml for name, value in anatomy.VALUE.items()}
    assert measured.volumes_ml == pytest.approx(expected)
    assert measured.at_edge == {anatomy.BY_VALUE[3].name}


def test_a_transform_that_enlarges_counts(mrml: Any) -> None:
    labels = labels_on(scan(), (1,))
    node = heart(mrml, "ras", labels)
    before = measure(node).volumes_ml["LA"]
    node.SetAndObserveTransformNodeID(transform_node(mrml, np.diag([2.0, 1.0, 1.0, 1.0])).GetID())
    assert measure(node).volumes_ml["LA"] == pytest.approx(2 * before)


def test_surfaces_without_voxels_are_measured_too(mrml: Any) -> None:
    import slicer

    labels = labels_on(scan(), ())
    labels.array[1:8, 1:10, 1:12] = 2
    node = heart(mrml, "ras", labels)
    before = measure(node).volumes_ml["LV"]
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    converter = slicer.vtkSegmentationConverter
    node.GetSegmentation().RemoveRepresentation(converter.GetSegmentationBinaryLabelmapRepresentationName())
    measured = measure(node)
    assert measured.volumes_ml["LV"] == pytest.approx(before, rel=0.2)
    assert measured.at_edge is None

"""Closed surfaces of segments, made in steps so that Slicer's window keeps responding, and the place of the heart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .. import anatomy
from ..image.grid import Volume
from .segmentations import crop_to_labels, oriented_image, recognised_segments, segment_labelmap
from .volumes import node_to_world, numpy_matrix, voxels_kji

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData

    from slicer import (
        vtkMRMLSegmentationNode,
        vtkOrientedImageData,
    )

#: Voxel size in mm at which surfaces are made.
SURFACE_MM = 2.0


def surfaces_in_steps(node: vtkMRMLSegmentationNode) -> Iterator[None]:
    """Make the surfaces of the structures and show them in the 3D views, with two pauses for each structure.

    Slicer converts labels that are thinned out to about ``SURFACE_MM``: full ones of half a millimetre look the same,
    but block the window for seconds.
    """
    from slicer import vtkSegmentationConverter

    kind = vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    # Once the first segment in the order of their IDs has a surface, Slicer shows surfaces and makes all that are
    # missing, at full resolution and at once: 80 ms on one thread for two of them. So the first one comes last.
    for segment_id in sorted((segment_id for segment_id, _ in recognised_segments(node)), reverse=True):
        segment = node.GetSegmentation().GetSegment(segment_id)
        image = segment_labelmap(node, segment_id)
        if image is not None and not image.IsEmpty():
            thinned = _thin_out(image, segment.GetLabelValue())
            yield
            segment.AddRepresentation(kind, _surface(node, thinned))
        yield
    node.CreateClosedSurfaceRepresentation()  # segments of other kinds
    display = node.GetDisplayNode()
    if display is not None:
        display.SetPreferredDisplayRepresentationName3D(kind)
        display.SetVisibility3D(True)


def has_surfaces(node: vtkMRMLSegmentationNode) -> bool:
    """Return whether the structures have surfaces already."""
    from slicer import vtkSegmentationConverter

    kind = vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    return bool(node.GetSegmentation().ContainsRepresentation(kind))


def heart_bounds(node: vtkMRMLSegmentationNode) -> np.ndarray | None:
    """Return the box (2, 3; world RAS mm) around chambers, wall and appendage, to about ``SURFACE_MM``; None if empty.

    The great vessels are left out: they reach far beyond the heart.
    """
    corners = []
    for segment_id, structure in recognised_segments(node):
        image = segment_labelmap(node, segment_id) if structure.name in anatomy.HEART else None
        if image is None or image.IsEmpty():
            continue
        thinned = _thin_out(image, node.GetSegmentation().GetSegment(segment_id).GetLabelValue())
        if thinned.array.any():
            low, high = thinned.grid.bounds_ras()
            corners += [np.where(upper, high, low) for upper in np.ndindex(2, 2, 2)]
    if not corners:
        return None
    to_world = node_to_world(node)
    places = np.array(corners) @ to_world[:3, :3].T + to_world[:3, 3]
    return np.stack([places.min(axis=0), places.max(axis=0)])


def _thin_out(image: vtkOrientedImageData, value: int) -> Volume:
    """Return every n-th voxel of one structure (1 inside), cropped to it, in the segmentation's own coordinates."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = numpy_matrix(matrix)
    affine[:3, 3] += affine[:3, :3] @ image.GetExtent()[::2]
    steps = np.maximum(np.rint(SURFACE_MM / np.linalg.norm(affine[:3, :3], axis=0)), 1).astype(int)
    affine[:3, :3] *= steps
    inside = voxels_kji(image).transpose(2, 1, 0)[tuple(slice(None, None, step) for step in steps)] == value
    return crop_to_labels(Volume(inside, affine))


def _surface(node: vtkMRMLSegmentationNode, inside: Volume) -> vtkPolyData:
    """Return the closed surface of one structure, made as Slicer makes that of a segment."""
    from vtkmodules.vtkCommonDataModel import vtkPolyData

    from slicer import vtkSegment, vtkSegmentation, vtkSegmentationConverter

    if not inside.array.any():  # VTK would print an error
        return vtkPolyData()
    labelmap = vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    surface = vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    segmentation, segment = vtkSegmentation(), vtkSegment()
    segmentation.SetSourceRepresentationName(labelmap)
    segmentation.CopyConversionParameters(node.GetSegmentation())
    segment.AddRepresentation(labelmap, oriented_image(inside, np.eye(4)))
    segmentation.AddSegment(segment, "structure")
    segmentation.CreateRepresentation(surface)
    return segment.GetRepresentation(surface)

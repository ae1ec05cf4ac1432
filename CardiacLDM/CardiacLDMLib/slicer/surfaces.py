"""Closed surfaces of segments, made in steps so that the window stays awake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..image.grid import Volume
from .segmentations import _cropped, _labelmap, _oriented_image, _recognised
from .volumes import _kji, _numpy_matrix

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData

    from slicer import (
        vtkMRMLSegmentationNode,
        vtkOrientedImageData,
    )


#: Voxel size in mm at which surfaces are made.
SURFACE_MM = 2.0


def show_surfaces(node: vtkMRMLSegmentationNode) -> None:
    """Make the structures' surfaces and show them in the 3D views."""
    for _ in surfaces_in_steps(node):
        pass


def surfaces_in_steps(node: vtkMRMLSegmentationNode) -> Iterator[None]:
    """:func:`show_surfaces` with two pauses for every structure, so that a window can live on meanwhile.

    Surfaces are Slicer's own, of labels thinned out to about ``SURFACE_MM``: on a scan of half-millimetre voxels the
    full ones hold the window for seconds and look the same.
    """
    from slicer import vtkSegmentationConverter

    kind = vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    for segment_id, _ in _recognised(node):
        segment = node.GetSegmentation().GetSegment(segment_id)
        image = _labelmap(node, segment_id)
        if image is not None and not image.IsEmpty():
            thin = _thinned(image, segment.GetLabelValue())
            yield
            segment.AddRepresentation(kind, _surface(node, thin))
        yield
    node.CreateClosedSurfaceRepresentation()  # segments of other kinds
    display = node.GetDisplayNode()
    if display is not None:
        display.SetPreferredDisplayRepresentationName3D(kind)
        display.SetVisibility3D(True)


def _thinned(image: vtkOrientedImageData, value: int) -> Volume:
    """Every n-th voxel of one structure (1 inside), cropped to it, in the segmentation's own coordinates."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = _numpy_matrix(matrix)
    affine[:3, 3] += affine[:3, :3] @ image.GetExtent()[::2]
    steps = np.maximum(np.rint(SURFACE_MM / np.linalg.norm(affine[:3, :3], axis=0)), 1).astype(int)
    affine[:3, :3] *= steps
    inside = _kji(image).transpose(2, 1, 0)[tuple(slice(None, None, step) for step in steps)] == value
    return _cropped(Volume(inside, affine))


def _surface(node: vtkMRMLSegmentationNode, inside: Volume) -> vtkPolyData:
    """The closed surface of one structure, made as Slicer makes that of a segment."""
    from vtkmodules.vtkCommonDataModel import vtkPolyData

    from slicer import vtkSegment, vtkSegmentation, vtkSegmentationConverter

    if not inside.array.any():  # of nothing VTK makes a complaint
        return vtkPolyData()
    labelmap = vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    surface = vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    alone, segment = vtkSegmentation(), vtkSegment()
    alone.SetSourceRepresentationName(labelmap)
    alone.CopyConversionParameters(node.GetSegmentation())
    segment.AddRepresentation(labelmap, _oriented_image(inside, np.eye(4)))
    alone.AddSegment(segment, "structure")
    alone.CreateRepresentation(surface)
    return segment.GetRepresentation(surface)

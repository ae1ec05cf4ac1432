"""Measure the structures of a segmentation node in steps, so that Slicer's window keeps responding."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VolumeError
from .segmentations import recognised_segments, segment_labelmap
from .volumes import node_to_world, numpy_matrix, voxels_kji

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkOrientedImageData, vtkSegment

#: Voxels that one step counts. A step takes some milliseconds.
VOXELS_PER_STEP = 1_000_000


@dataclass
class Measurement:
    """``volumes_ml`` by structure name, 0 for a missing one. ``at_edge``: structures that touch an edge of the scan.

    ``at_edge`` is None where it is not known: segments lie askew to the scan, are surfaces, or the scan's grid is lost.
    """

    volumes_ml: dict[str, float] = field(default_factory=dict)
    at_edge: set[str] | None = field(default_factory=set)


def measure_in_steps(node: vtkMRMLSegmentationNode) -> Generator[None, None, Measurement]:
    """Measure the structures as they are now: their voxels, or their surfaces where they have no voxels.

    Volumes are those in the world. Below a transform that is not linear they are those of the segments as drawn.
    """
    measured, scale, grid = Measurement(), _volume_scale(node), _scan_grid(node)
    images: dict[Any, dict[str, int]] = {}  # segments may share one
    for segment_id, structure in recognised_segments(node):
        segment, image = node.GetSegmentation().GetSegment(segment_id), segment_labelmap(node, segment_id)
        measured.volumes_ml[structure.name] = 0.0
        if image is None:
            measured.volumes_ml[structure.name] = _surface_ml(segment) * scale
            grid = None
        elif not image.IsEmpty():
            images.setdefault(image, {})[structure.name] = segment.GetLabelValue()
    yield
    at_edge: set[str] = set()
    for image, values in images.items():
        affine = _image_to_local(image)
        counts = yield from _count(voxels_kji(image), list(values.values()))
        voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) * scale / 1000.0
        measured.volumes_ml |= {name: int(counts[value]) * voxel_ml for name, value in values.items()}
        layers = _outermost_layers(image, affine, *grid) if grid is not None else None
        if layers is None:
            grid = None
        for layer in layers or ():
            at_edge |= {name for name, value in values.items() if (layer == value).any()}
            yield
    measured.at_edge = None if grid is None else at_edge
    return measured


def _surface_ml(segment: vtkSegment) -> float:
    """Return the volume within a segment's surface, 0 without one."""
    from vtkmodules.vtkFiltersCore import vtkMassProperties, vtkTriangleFilter

    from slicer import vtkSegmentationConverter

    surface = segment.GetRepresentation(vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName())
    if surface is None or surface.GetNumberOfPolys() == 0:
        return 0.0
    triangles, mass = vtkTriangleFilter(), vtkMassProperties()
    triangles.SetInputData(surface)
    mass.SetInputConnection(triangles.GetOutputPort())
    return float(mass.GetVolume()) / 1000.0


def _count(kji: np.ndarray, values: list[int]) -> Generator[None, None, dict[int, int]]:
    counts = dict.fromkeys(values, 0)
    at_once = max(VOXELS_PER_STEP // max(kji[:1].size, 1), 1)
    for k in range(0, len(kji), at_once):
        slab = kji[k : k + at_once]
        for value in values:
            counts[value] += int(np.count_nonzero(slab == value))
        yield
    return counts


def _volume_scale(node: vtkMRMLSegmentationNode) -> float:
    """Return by how much the node's transform enlarges volumes."""
    try:
        return abs(float(np.linalg.det(node_to_world(node)[:3, :3])))
    except VolumeError:
        return 1.0


def _image_to_local(image: vtkOrientedImageData) -> np.ndarray:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return numpy_matrix(matrix)


def _scan_grid(node: vtkMRMLSegmentationNode) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the affine matrix (4, 4) and the extent (3, 2) of the scan, in the segmentation's own coordinates."""
    from slicer import vtkOrientedImageData, vtkSegmentationConverter

    name = vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    text, image = node.GetSegmentation().GetConversionParameter(name), vtkOrientedImageData()
    if not text or not vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        return None
    return _image_to_local(image), np.array(image.GetExtent()).reshape(3, 2)


def _outermost_layers(
    image: vtkOrientedImageData, affine: np.ndarray, scan_affine: np.ndarray, scan_extent: np.ndarray
) -> list[np.ndarray] | None:
    """Return the voxels of the image at each side of the scan; None if its axes are not those of the scan."""
    to_scan = np.linalg.inv(scan_affine) @ affine
    ijk, starts = voxels_kji(image).transpose(2, 1, 0), image.GetExtent()[::2]
    layers = []
    for axis in range(3):
        along = int(np.abs(to_scan[axis, :3]).argmax())
        others = np.delete(to_scan[axis, :3], along)
        if np.abs(others).max() * max(ijk.shape) > 0.5:
            return None
        index = np.arange(ijk.shape[along]) + starts[along]
        place = to_scan[axis, along] * index + to_scan[axis, 3]
        for outermost in (place < scan_extent[axis, 0] + 0.5, place > scan_extent[axis, 1] - 0.5):
            if outermost.any():
                inside = np.flatnonzero(outermost)
                layers.append(np.moveaxis(ijk, along, 0)[inside[0] : inside[-1] + 1])  # a view: copies take long
    return layers

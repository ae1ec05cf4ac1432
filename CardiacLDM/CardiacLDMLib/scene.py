"""Between Slicer's scene and :class:`~CardiacLDMLib.volume.Volume`: the one place that knows MRML nodes.

MRML keeps voxels in KJI order with an IJK -> RAS matrix on the node and possibly a transform above it; a ``Volume`` is
IJK with one affine to the world. Slicer is imported where it is used, so importing this file needs no Slicer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import anatomy
from .volume import Volume, VolumeError

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode, vtkOrientedImageData, vtkSegment
    from vtkmodules.vtkCommonDataModel import vtkImageData

#: Name of the terminology in Resources/term.json; Slicer finds a segment's codes in its selector by it.
TERMINOLOGY = "Heart structures - CardiacLDM"
#: SNOMED CT category of every structure.
CATEGORY_CODE, CATEGORY_MEANING = "123037004", "Anatomical Structure"


def terminology_entry(structure: anatomy.Structure) -> str:
    """A structure's SNOMED CT codes as Slicer writes them in a segment's terminology tag."""
    category = f"SCT^{CATEGORY_CODE}^{CATEGORY_MEANING}"
    kind = f"SCT^{structure.snomed_code}^{structure.snomed_meaning}"
    return "~".join((TERMINOLOGY, category, kind, "^^", "", "^^", "^^"))  # no modifier, no anatomic region


# --- volumes -------------------------------------------------------------------------------------------------------


def volume_from_node(node: vtkMRMLScalarVolumeNode) -> Volume:
    """The node's voxels (shared, not copied) where they lie in the world, parent transforms applied.

    Raises :class:`VolumeError` for a node without image data, with several values per voxel, under a transform that
    is not linear, or sheared by one.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy

    image = node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise VolumeError(f"The volume '{node.GetName()}' holds no image.")
    if scalars.GetNumberOfComponents() != 1:
        raise VolumeError(f"The volume '{node.GetName()}' is a colour image: one number per voxel is needed.")
    kji = vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])
    return Volume(kji.transpose(2, 1, 0), _to_world(node) @ _ijk_to_ras(node))


def volume_to_node(scene: vtkMRMLScene, volume: Volume, name: str) -> vtkMRMLScalarVolumeNode:
    """A new scalar volume node with a display node; the voxels are copied."""
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    _set_voxels(image, volume.array)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    node.SetIJKToRASMatrix(_vtk_matrix(volume.affine))
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    return node


# --- segmentations -------------------------------------------------------------------------------------------------


def segmentation_from_labels(
    scene: vtkMRMLScene, labels: Volume, name: str, reference: vtkMRMLScalarVolumeNode
) -> vtkMRMLSegmentationNode:
    """A new segmentation node for ``labels`` (values of :mod:`~CardiacLDMLib.anatomy`), made on ``reference``.

    It always has eight segments, their IDs the structures' names (``LA``, ``LV``, ...), with titles, standard colours
    and SNOMED CT terminology, also where a structure is empty. It hangs under the same transform and in the same
    subject hierarchy folder as ``reference`` and takes its geometry, so that export to DICOM works.

    Raises :class:`VolumeError` when ``labels`` holds other values or ``reference`` cannot be placed (see
    :func:`volume_from_node`).
    """
    if labels.array.max(initial=0) >= anatomy.NUM_CLASSES or labels.array.min(initial=0) < 0:
        raise VolumeError(f"The labels hold values other than 0 to {anatomy.NUM_CLASSES - 1}.")
    to_local = np.linalg.inv(_to_world(reference))
    labelmap = _oriented_image(_cropped(labels), to_local)

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    segmentation = node.GetSegmentation()
    node.SetSourceRepresentationToBinaryLabelmap()
    for structure in anatomy.STRUCTURES:
        segmentation.AddSegment(_segment(structure, labelmap), structure.name)
    _place_beside(scene, node, reference)
    return node


def labels_from_segmentation(node: vtkMRMLSegmentationNode, reference: vtkMRMLScalarVolumeNode) -> Volume:
    """The segmentation's eight structures as label values (uint8) on the voxels of ``reference``.

    A segment is recognised by its SNOMED CT code, its ID or its name, so segmentations from elsewhere work too; others
    are left out. Where segments overlap the higher label value wins. Transforms above either node are applied.

    Raises :class:`VolumeError` when no segment is recognised or ``reference`` cannot be placed.
    """
    import vtk
    from slicer import vtkOrientedImageData, vtkSegmentation, vtkSlicerSegmentationsModuleLogic
    from vtkmodules.util.numpy_support import vtk_to_numpy

    volume = volume_from_node(reference)
    _to_world(node)  # refuses a transform that is not linear
    found = {structure.value: segment_id for segment_id, structure in _recognised(node)}
    if not found:
        raise VolumeError(f"The segmentation '{node.GetName()}' has none of the eight structures of the heart.")
    segment_ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for value in sorted(found):  # later ones overwrite earlier ones
        segment_ids.InsertNextValue(found[value])
        values.InsertNextValue(value)
    merged = vtkOrientedImageData()
    vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        node, reference, segment_ids, vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, merged, values
    )
    kji = vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(merged.GetDimensions()[::-1])
    return Volume(np.ascontiguousarray(kji.transpose(2, 1, 0)).astype(np.uint8), volume.affine)


def _recognised(node: vtkMRMLSegmentationNode) -> list[tuple[str, anatomy.Structure]]:
    """The segments that are one of the eight structures, each structure once: (segment ID, structure)."""
    segmentation = node.GetSegmentation()
    found: dict[str, tuple[str, anatomy.Structure]] = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(index)
        structure = _structure_of(segment_id, segmentation.GetSegment(segment_id))
        if structure is not None:
            found.setdefault(structure.name, (segment_id, structure))
    return list(found.values())


def _structure_of(segment_id: str, segment: vtkSegment) -> anatomy.Structure | None:
    code = _type_code(segment)
    names = {segment_id.casefold(), segment.GetName().strip().casefold()}
    for structure in anatomy.STRUCTURES:
        if code == structure.snomed_code:
            return structure
    for structure in anatomy.STRUCTURES:
        if names & {structure.name.casefold(), structure.title.casefold()}:
            return structure
    return None


def _type_code(segment: vtkSegment) -> str:
    """The SNOMED CT code of a segment's type, empty if it has none."""
    import vtk

    entry = vtk.reference("")
    if not segment.GetTag(segment.GetTerminologyEntryTagName(), entry):
        return ""
    fields = str(entry).split("~")
    scheme, _, rest = fields[2].partition("^") if len(fields) > 2 else ("", "", "")
    return rest.partition("^")[0] if scheme == "SCT" else ""


def _segment(structure: anatomy.Structure, labelmap: vtkOrientedImageData) -> vtkSegment:
    """A segment that reads its voxels from the labelmap shared by all eight."""
    from slicer import vtkSegment, vtkSegmentationConverter

    segment = vtkSegment()
    segment.SetName(structure.title)
    segment.SetColor(*(channel / 255 for channel in structure.colour))
    segment.SetTag(segment.GetTerminologyEntryTagName(), terminology_entry(structure))
    segment.SetLabelValue(structure.value)
    segment.AddRepresentation(vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName(), labelmap)
    return segment


def _cropped(labels: Volume) -> Volume:
    """The part with labels in it and one voxel around: surfaces and undo steps then cost what the heart costs."""
    inside = labels.array > 0
    start, stop = np.zeros(3, dtype=int), np.ones(3, dtype=int)
    for axis in range(3):
        occupied = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        if occupied.size:
            start[axis] = max(occupied[0] - 1, 0)
            stop[axis] = min(occupied[-1] + 2, labels.array.shape[axis])
    part = labels.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return Volume(part.astype(np.uint8), labels.grid.crop(start, stop).affine)


def _oriented_image(volume: Volume, to_local: np.ndarray) -> vtkOrientedImageData:
    from slicer import vtkOrientedImageData

    image = vtkOrientedImageData()
    _set_voxels(image, volume.array)
    image.SetGeometryFromImageToWorldMatrix(_vtk_matrix(to_local @ volume.affine))
    return image


def _place_beside(scene: vtkMRMLScene, node: vtkMRMLSegmentationNode, reference: vtkMRMLScalarVolumeNode) -> None:
    """Put ``node`` in the patient, study or folder that holds ``reference``."""
    from slicer import vtkMRMLSubjectHierarchyNode

    hierarchy = vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    beside = hierarchy.GetItemByDataNode(reference)
    if not beside:  # nothing lists the scene's nodes: Slicer's Data module is not running
        return
    parent, item = hierarchy.GetItemParent(beside), hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


# --- matrices and voxels -------------------------------------------------------------------------------------------


def _to_world(node: Any) -> np.ndarray:
    """(4, 4) from the node's own RAS to the world's, identity without a transform above it."""
    import vtk

    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise VolumeError(
            f"'{node.GetName()}' is under a transform that is not linear: "
            "harden it first (right-click the node in the Data module, Harden transform)."
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return _numpy_matrix(matrix)


def _ijk_to_ras(node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return _numpy_matrix(matrix)


def _set_voxels(image: vtkImageData, array: np.ndarray) -> None:
    """Give ``image`` a copy of ``array`` (i, j, k)."""
    from vtkmodules.util.numpy_support import numpy_to_vtk

    array = array.view(np.uint8) if array.dtype == bool else array
    kji = np.ascontiguousarray(array.transpose(2, 1, 0))
    image.SetDimensions(array.shape)
    image.GetPointData().SetScalars(numpy_to_vtk(kji.ravel(), deep=True))


def _numpy_matrix(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _vtk_matrix(matrix: np.ndarray) -> Any:
    import vtk

    out = vtk.vtkMatrix4x4()
    for row, column in np.ndindex(4, 4):
        out.SetElement(row, column, float(matrix[row, column]))
    return out

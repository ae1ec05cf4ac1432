"""Between Slicer's scene and :class:`~CardiacLDMLib.volume.Volume`: the one place that knows MRML nodes.

MRML keeps voxels in KJI order with an IJK -> RAS matrix on the node and possibly a transform above it; a ``Volume`` is
IJK with one affine to the world. Slicer is imported where it is used, so importing this file needs no Slicer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..image.grid import Volume
from ..segmentation.findings import Finding, flag, volume_findings
from .volumes import PREFIX, _kji, _numpy_matrix, _place_beside, _set_voxels, _to_world, _vtk_matrix, volume_from_node

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
        vtkMRMLSegmentationNode,
        vtkMRMLTableNode,
        vtkOrientedImageData,
        vtkSegment,
    )


#: Columns of a table of volumes.
TABLE_COLUMNS = ("Structure", "Volume (mL)", "Flag")


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
    _require_known(labels)
    _to_world(reference)  # refuses a transform that is not linear before there is a node
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    _fill(node, labels, reference)
    _place_beside(scene, node, reference)
    return node


def replace_labels(node: vtkMRMLSegmentationNode, labels: Volume, reference: vtkMRMLScalarVolumeNode) -> None:
    """Give ``node`` the eight structures in ``labels`` in place of those it has; the node itself stays.

    Segments of other kinds, which a user has added, stay too, as does the transform above the node; surfaces go.
    Raises :class:`VolumeError` as :func:`segmentation_from_labels` does, and for a ``node`` under a transform that is
    not linear, before anything is changed.
    """
    _require_known(labels)
    _to_world(reference)
    _to_world(node)
    was = node.StartModify()
    try:
        segmentation = node.GetSegmentation()
        node.SetSourceRepresentationToBinaryLabelmap()
        node.RemoveClosedSurfaceRepresentation()
        for segment_id in list(segmentation.GetSegmentIDs()):
            segment = segmentation.GetSegment(segment_id)
            if _structure_of(segment_id, segment) is not None:
                segment.RemoveAllRepresentations()  # or each would be cut out of the labelmap that they share
                segmentation.RemoveSegment(segment_id)
        _fill(node, labels, reference)
    finally:
        node.EndModify(was)


def structure_centre(node: vtkMRMLSegmentationNode, name: str) -> np.ndarray | None:
    """(3,) the voxel of structure ``name`` nearest to its centre, in the world's RAS mm; ``None`` if it is empty.

    A voxel of the structure, not the mean of all: that of the myocardium lies in the blood.
    """
    import vtk

    segment_id = next((found for found, structure in _recognised(node) if structure.name == name), None)
    image = _labelmap(node, segment_id) if segment_id else None
    if segment_id is None or image is None or image.IsEmpty():
        return None
    inside = np.argwhere(_kji(image) == node.GetSegmentation().GetSegment(segment_id).GetLabelValue())
    if not len(inside):
        return None
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    kji = inside[((inside - inside.mean(0)) ** 2).sum(1).argmin()]
    ijk = kji[::-1] + np.array(image.GetExtent()[::2])
    return (_to_world(node) @ _numpy_matrix(matrix) @ np.append(ijk, 1.0))[:3]


def flags_for(volumes_ml: dict[str, float], touches_edge: set[str]) -> dict[str, str]:
    """Return the words of the table's flag column: structure name -> words, only where there is a remark.

    The volume of a structure in ``touches_edge`` is not compared with the usual limits.
    """
    cut = [Finding("cut off", (name,)) for name in anatomy.HEART if name in touches_edge]
    return {name: flag(found) for found in cut + volume_findings(volumes_ml, touches_edge) for name in found.structures}


def volumes_table(
    scene: vtkMRMLScene, node: vtkMRMLSegmentationNode, volumes_ml: dict[str, float], flags: dict[str, str]
) -> vtkMRMLTableNode:
    """The table node of a segmentation's volumes: structure, mL, flag, a row for each of the eight.

    There is one for each segmentation, which refers to it and lies beside it in the subject hierarchy.
    """
    import vtk

    role = f"{PREFIX}volumes"
    table = node.GetNodeReference(role)
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(f"{node.GetName()} volumes"))
        node.SetNodeReferenceID(role, table.GetID())
    titles, volumes, words = vtk.vtkStringArray(), vtk.vtkDoubleArray(), vtk.vtkStringArray()
    for structure in anatomy.STRUCTURES:
        titles.InsertNextValue(structure.title)
        volumes.InsertNextValue(round(volumes_ml.get(structure.name, 0.0), 3))
        words.InsertNextValue(flags.get(structure.name, ""))
    was = table.StartModify()
    table.RemoveAllColumns()
    for heading, column in zip(TABLE_COLUMNS, (titles, volumes, words), strict=True):
        column.SetName(heading)
        table.AddColumn(column)
    table.SetLocked(True)
    table.EndModify(was)
    _place_beside(scene, table, node)
    return table


def volumes_of(node: vtkMRMLSegmentationNode) -> list[tuple[str, float, str]]:
    """What :func:`volumes_table` wrote: (structure name, mL, flag) in the anatomy's order; empty without a table."""
    table = node.GetNodeReference(f"{PREFIX}volumes")
    if table is None:
        return []
    columns = [table.GetColumnIndex(heading) for heading in TABLE_COLUMNS]
    names = {structure.title: structure.name for structure in anatomy.STRUCTURES}
    rows = [[table.GetCellText(row, column) for column in columns] for row in range(table.GetNumberOfRows())]
    return [(names[title], float(volume), flag) for title, volume, flag in rows if title in names]


def labels_from_segmentation(node: vtkMRMLSegmentationNode, reference: vtkMRMLScalarVolumeNode) -> Volume:
    """The segmentation's eight structures as label values (uint8) on the voxels of ``reference``.

    A segment is recognised by its SNOMED CT code, its ID or its name, so segmentations from elsewhere work too; others
    are left out. Where segments overlap the higher label value wins. Transforms above either node are applied.

    Raises :class:`VolumeError` when no segment is recognised or ``reference`` cannot be placed.
    """
    import vtk

    from slicer import vtkOrientedImageData, vtkSegmentation, vtkSlicerSegmentationsModuleLogic

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
    return Volume(np.ascontiguousarray(_kji(merged).transpose(2, 1, 0)).astype(np.uint8), volume.affine)


def _require_known(labels: Volume) -> None:
    if labels.array.max(initial=0) >= anatomy.NUM_CLASSES or labels.array.min(initial=0) < 0:
        raise VolumeError(f"The labels hold values other than 0 to {anatomy.NUM_CLASSES - 1}.")


def _fill(node: vtkMRMLSegmentationNode, labels: Volume, reference: vtkMRMLScalarVolumeNode) -> None:
    """Add the eight segments, ``reference``'s geometry as theirs."""
    labelmap = _oriented_image(_cropped(labels), np.linalg.inv(_to_world(node)))
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    node.SetSourceRepresentationToBinaryLabelmap()
    for structure in anatomy.STRUCTURES:
        node.GetSegmentation().AddSegment(_segment(structure, labelmap), structure.name)


def _labelmap(node: vtkMRMLSegmentationNode, segment_id: str) -> vtkOrientedImageData | None:
    """A segment's voxels, maybe shared with other segments; ``None`` if it has none."""
    from slicer import vtkSegmentationConverter

    kind = vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return node.GetSegmentation().GetSegment(segment_id).GetRepresentation(kind)


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
    segment.SetTag(segment.GetTerminologyEntryTagName(), anatomy.terminology_entry(structure))
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

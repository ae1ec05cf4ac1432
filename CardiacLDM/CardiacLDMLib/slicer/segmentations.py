"""Convert label maps to Slicer's segmentation nodes and back; write the tables of their volumes.

Slicer is imported inside functions, so that this file can be imported without it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..image.grid import Volume
from ..image.labels import check_labels, foreground_box
from ..results.trust import ExpectedDice, read_text
from ..segmentation.findings import Finding, flag, volume_findings
from ..text import rounded_volume
from .volumes import (
    PREFIX,
    node_to_world,
    numpy_matrix,
    place_beside,
    set_voxels,
    volume_from_node,
    voxels_kji,
    vtk_matrix,
)

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
#: A further column, of automatic labels whose package foretells it.
EXPECTED_COLUMN = "Expected Dice (90 % interval)"
#: Tolerances within which two grids have the same voxels: of the directions (per voxel), and of the place (voxels).
SAME_VOXELS, SAME_PLACE = 1e-5, 1e-2
#: Roles of node references: of a segmentation to its scan and to its table, and of the table to its segmentation.
SCAN_ROLE, TABLE_ROLE, OWNER_ROLE = f"{PREFIX}scan", f"{PREFIX}volumes", f"{PREFIX}segmentation"

# --- labels to segments --------------------------------------------------------------------------------------------


def segmentation_from_labels(
    scene: vtkMRMLScene, labels: Volume, name: str, reference: vtkMRMLScalarVolumeNode
) -> vtkMRMLSegmentationNode:
    """Add a segmentation node for ``labels`` (values of :mod:`~CardiacLDMLib.anatomy`) of the scan ``reference``.

    It always has eight segments, also for empty structures. Their IDs are the names of the structures (``LA``, ``LV``,
    ...); they have titles, standard colours and SNOMED CT terminology. The node has the transform and the subject
    hierarchy folder of ``reference``, and its geometry, so that export to DICOM works.

    Raises :class:`VolumeError` if ``labels`` hold other values or ``reference`` cannot be placed (see
    :func:`volume_from_node`).
    """
    check_labels(labels.array)
    node_to_world(reference)  # refuses a transform that is not linear before there is a node
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    _fill(node, labels, reference)
    place_beside(scene, node, reference)
    return node


def replace_labels(node: vtkMRMLSegmentationNode, labels: Volume, reference: vtkMRMLScalarVolumeNode) -> None:
    """Replace the eight structures of ``node`` by those of ``labels``; the node itself stays.

    Segments that the user has added stay, as does the parent transform; surfaces are removed. Raises
    :class:`VolumeError` as :func:`segmentation_from_labels` does, and for a ``node`` under a transform that is not
    linear; nothing is changed then.
    """
    check_labels(labels.array)
    node_to_world(reference)
    node_to_world(node)
    was = node.StartModify()
    try:
        segmentation = node.GetSegmentation()
        node.SetSourceRepresentationToBinaryLabelmap()
        node.RemoveClosedSurfaceRepresentation()
        for segment_id in list(segmentation.GetSegmentIDs()):
            segment = segmentation.GetSegment(segment_id)
            if _structure_of(segment_id, segment) is not None:
                segment.RemoveAllRepresentations()  # otherwise it would be cut out of the shared labelmap
                segmentation.RemoveSegment(segment_id)
        _fill(node, labels, reference)
    finally:
        node.EndModify(was)


def structure_centre(node: vtkMRMLSegmentationNode, name: str) -> np.ndarray | None:
    """Return the voxel of structure ``name`` nearest to its centroid, (3,) in world RAS mm; None if it is empty.

    The centroid itself may lie outside: that of the myocardium lies in the blood.
    """
    import vtk

    segment_id = next((each for each, structure in recognised_segments(node) if structure.name == name), None)
    image = segment_labelmap(node, segment_id) if segment_id else None
    if segment_id is None or image is None or image.IsEmpty():
        return None
    inside = np.argwhere(voxels_kji(image) == node.GetSegmentation().GetSegment(segment_id).GetLabelValue())
    if not len(inside):
        return None
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    kji = inside[((inside - inside.mean(0)) ** 2).sum(1).argmin()]
    ijk = kji[::-1] + np.array(image.GetExtent()[::2])
    return (node_to_world(node) @ numpy_matrix(matrix) @ np.append(ijk, 1.0))[:3]


def flags_for(volumes_ml: dict[str, float], touches_edge: set[str]) -> dict[str, str]:
    """Return the flags of a table of volumes by structure name, for structures with a remark.

    The volume of a structure in ``touches_edge`` is not compared with the usual limits.
    """
    findings = volume_findings(volumes_ml, unjudged=touches_edge)
    found = [name for name in anatomy.HEART if volumes_ml.get(name, 0.0) > 0.0]
    findings += [Finding("cut off", (name,)) for name in found if name in touches_edge]  # says more than a trace
    return {name: flag(finding) for finding in findings for name in finding.structures}


def table_of(node: vtkMRMLSegmentationNode) -> vtkMRMLTableNode | None:
    """Return the segmentation's own table. A copy of a segmentation refers to that of the original: it has none."""
    table = node.GetNodeReference(TABLE_ROLE)
    owner = table.GetNodeReference(OWNER_ROLE) if table is not None else None
    return table if owner is None or owner is node else None


def volumes_table(
    scene: vtkMRMLScene,
    node: vtkMRMLSegmentationNode,
    volumes_ml: dict[str, float],
    flags: dict[str, str],
    expected_dice: Mapping[str, ExpectedDice] | None = None,
) -> vtkMRMLTableNode:
    """Write structure, volume in mL and flag of the eight structures to the segmentation's table node; return it.

    ``expected_dice`` adds a column; it holds for automatic labels alone. A segmentation has one table; each holds a
    reference to the other. A new table is placed beside it in the subject hierarchy.
    """
    import vtk

    table = table_of(node)
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(f"{node.GetName()} volumes"))
        place_beside(scene, table, node)
    titles, volumes, words = vtk.vtkStringArray(), vtk.vtkDoubleArray(), vtk.vtkStringArray()
    columns = dict(zip(TABLE_COLUMNS, (titles, volumes, words), strict=True))
    for structure in anatomy.STRUCTURES:
        titles.InsertNextValue(structure.title)
        volume = volumes_ml.get(structure.name, 0.0)
        volumes.InsertNextValue(round(volume, 3) or rounded_volume(volume))  # a few voxels are not 0
        words.InsertNextValue(flags.get(structure.name, ""))
    if expected_dice:
        expected = columns[EXPECTED_COLUMN] = vtk.vtkStringArray()
        for name in anatomy.NAMES:
            expected.InsertNextValue(expected_dice[name].text(digits=3) if name in expected_dice else "")
    was = table.StartModify()
    table.RemoveAllColumns()
    for heading, column in columns.items():
        column.SetName(heading)
        table.AddColumn(column)
    table.SetLocked(True)
    table.EndModify(was)
    table.SetNodeReferenceID(OWNER_ROLE, node.GetID())
    node.SetNodeReferenceID(TABLE_ROLE, table.GetID())
    return table


def volumes_of(node: vtkMRMLSegmentationNode) -> list[tuple[str, float, str]]:
    """Return the rows that :func:`volumes_table` wrote: (structure name, mL, flag); empty without a table."""
    table = table_of(node)
    if table is None:
        return []
    columns = [table.GetColumnIndex(heading) for heading in TABLE_COLUMNS]
    names = {structure.title: structure.name for structure in anatomy.STRUCTURES}
    rows = [[table.GetCellText(row, column) for column in columns] for row in range(table.GetNumberOfRows())]
    return [(names[title], float(volume), words) for title, volume, words in rows if title in names]


def expected_dice_of(node: vtkMRMLSegmentationNode) -> dict[str, ExpectedDice]:
    """Return the expected Dice in the segmentation's table, by structure; empty without one, or after corrections."""
    table = table_of(node)
    column = table.GetColumnIndex(EXPECTED_COLUMN) if table is not None else -1
    if table is None or column < 0 or node.GetAttribute(f"{PREFIX}corrected"):
        return {}
    titles = table.GetColumnIndex(TABLE_COLUMNS[0])
    names = {structure.title: structure.name for structure in anatomy.STRUCTURES}
    cells = [(table.GetCellText(row, titles), table.GetCellText(row, column)) for row in range(table.GetNumberOfRows())]
    read = {names[title]: read_text(text) for title, text in cells if title in names}
    return {name: expected for name, expected in read.items() if expected is not None}


def scan_of(node: vtkMRMLSegmentationNode) -> vtkMRMLScalarVolumeNode | None:
    """Return the scan that was segmented. Users may change the reference image, which older scenes have alone."""
    role = SCAN_ROLE if node.GetNodeReferenceID(SCAN_ROLE) else node.GetReferenceImageGeometryReferenceRole()
    return node.GetNodeReference(role)


def results_of(scan: vtkMRMLScalarVolumeNode) -> list[vtkMRMLSegmentationNode]:
    """Return the segmentations in the scene that CardiacLDM made of ``scan``."""
    scene = scan.GetScene()
    kind = "vtkMRMLSegmentationNode"
    nodes = [scene.GetNthNodeByClass(number, kind) for number in range(scene.GetNumberOfNodesByClass(kind))]
    return [node for node in nodes if node.GetNodeReferenceID(TABLE_ROLE) and scan_of(node) is scan]


# --- segments to labels --------------------------------------------------------------------------------------------


def labels_from_segmentation(node: vtkMRMLSegmentationNode, reference: vtkMRMLScalarVolumeNode) -> Volume:
    """Return the eight structures of a segmentation as labels (uint8) on the voxels of ``reference``.

    A segment is recognised by its SNOMED CT code, its ID or its name, so that segmentations from elsewhere work;
    others are ignored. Where segments overlap the higher label value wins. Parent transforms are applied.

    Raises :class:`VolumeError` if no segment is recognised or ``reference`` cannot be placed.
    """
    import vtk

    from slicer import vtkOrientedImageData, vtkSegmentation, vtkSlicerSegmentationsModuleLogic

    volume = volume_from_node(reference)
    node_to_world(node)  # refuses a transform that is not linear
    segment_by_value = {structure.value: segment_id for segment_id, structure in recognised_segments(node)}
    if not segment_by_value:
        raise VolumeError(f"The segmentation '{node.GetName()}' has none of the eight structures of the heart.")
    segment_ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for value in sorted(segment_by_value):  # later ones overwrite earlier ones
        segment_ids.InsertNextValue(segment_by_value[value])
        values.InsertNextValue(value)
    merged = vtkOrientedImageData()
    vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        node, reference, segment_ids, vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, merged, values
    )
    return Volume(np.ascontiguousarray(voxels_kji(merged).transpose(2, 1, 0)).astype(np.uint8), volume.affine)


def labels_in_steps(node: vtkMRMLSegmentationNode, reference: vtkMRMLScalarVolumeNode) -> Generator[None, None, Volume]:
    """Return what :func:`labels_from_segmentation` does, and pause after each structure.

    Segments whose voxels are not those of ``reference`` are resampled at once.
    """
    volume = volume_from_node(reference)
    to_local = np.linalg.inv(node_to_world(node)) @ volume.affine
    out = np.zeros(volume.array.shape, np.uint8, order="F")  # as Slicer stores voxels
    for segment_id, structure in sorted(recognised_segments(node), key=lambda each: each[1].value):
        image = segment_labelmap(node, segment_id)
        start = _start_on_grid(image, to_local) if image is not None else None
        if image is None or start is None:
            return labels_from_segmentation(node, reference)
        if not image.IsEmpty():
            value = node.GetSegmentation().GetSegment(segment_id).GetLabelValue()
            _paint(out, voxels_kji(image).transpose(2, 1, 0) == value, start, structure.value)
        yield
    if not recognised_segments(node):
        return labels_from_segmentation(node, reference)  # says what is wrong
    return Volume(out, volume.affine)


def _start_on_grid(image: vtkOrientedImageData, affine: np.ndarray) -> np.ndarray | None:
    """Return the indices (3,) of an image's first voxel on a grid in the segmentation's own coordinates.

    None if the image has other voxels than the grid.
    """
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    to_grid = np.linalg.inv(affine) @ numpy_matrix(matrix)
    start = to_grid[:3, :3] @ image.GetExtent()[::2] + to_grid[:3, 3]
    is_same = np.abs(to_grid[:3, :3] - np.eye(3)).max() < SAME_VOXELS
    return np.rint(start).astype(int) if is_same and np.abs(start - np.rint(start)).max() < SAME_PLACE else None


def _paint(out: np.ndarray, inside: np.ndarray, start: np.ndarray, label: int) -> None:
    """Write ``label`` to ``out`` (i, j, k) where ``inside`` is true, which begins at ``start`` and may reach beyond."""
    low, high = np.maximum(start, 0), np.minimum(start + inside.shape, out.shape)
    if (low < high).all():
        part = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside[part]] = label


def _fill(node: vtkMRMLSegmentationNode, labels: Volume, reference: vtkMRMLScalarVolumeNode) -> None:
    """Add the eight segments, with the geometry of ``reference``."""
    labelmap = oriented_image(crop_to_labels(labels), np.linalg.inv(node_to_world(node)))
    node.SetNodeReferenceID(SCAN_ROLE, reference.GetID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    node.SetSourceRepresentationToBinaryLabelmap()
    for structure in anatomy.STRUCTURES:
        node.GetSegmentation().AddSegment(_segment(structure, labelmap), structure.name)


def segment_labelmap(node: vtkMRMLSegmentationNode, segment_id: str) -> vtkOrientedImageData | None:
    """Return the voxels of a segment, which other segments may share; None if it has none."""
    from slicer import vtkSegmentationConverter

    kind = vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return node.GetSegmentation().GetSegment(segment_id).GetRepresentation(kind)


def recognised_segments(node: vtkMRMLSegmentationNode) -> list[tuple[str, anatomy.Structure]]:
    """Return (segment ID, structure) of the segments that are one of the eight structures, each structure once."""
    segmentation = node.GetSegmentation()
    recognised: dict[str, tuple[str, anatomy.Structure]] = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(index)
        structure = _structure_of(segment_id, segmentation.GetSegment(segment_id))
        if structure is not None:
            recognised.setdefault(structure.name, (segment_id, structure))
    return list(recognised.values())


def _structure_of(segment_id: str, segment: vtkSegment) -> anatomy.Structure | None:
    code = segment_code(segment)
    names = {segment_id.casefold(), segment.GetName().strip().casefold()}
    for structure in anatomy.STRUCTURES:
        if code == structure.snomed_code:
            return structure
    for structure in anatomy.STRUCTURES:
        if names & {structure.name.casefold(), structure.title.casefold()}:
            return structure
    return None


def segment_code(segment: vtkSegment) -> str:
    """Return the SNOMED CT code of a segment's type; empty if it has none."""
    import vtk

    entry = vtk.reference("")
    if not segment.GetTag(segment.GetTerminologyEntryTagName(), entry):
        return ""
    fields = str(entry).split("~")
    scheme, _, rest = fields[2].partition("^") if len(fields) > 2 else ("", "", "")
    return rest.partition("^")[0] if scheme == "SCT" else ""


def _segment(structure: anatomy.Structure, labelmap: vtkOrientedImageData) -> vtkSegment:
    """Return a segment that reads its voxels from the labelmap shared by all eight."""
    from slicer import vtkSegment, vtkSegmentationConverter

    segment = vtkSegment()
    segment.SetName(structure.title)
    segment.SetColor(*(channel / 255 for channel in structure.colour))
    segment.SetTag(segment.GetTerminologyEntryTagName(), anatomy.terminology_entry(structure))
    segment.SetLabelValue(structure.value)
    segment.AddRepresentation(vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName(), labelmap)
    return segment


def crop_to_labels(labels: Volume) -> Volume:
    """Return the labels (uint8) cropped to a voxel around them: surfaces and undo steps then need less memory.

    Empty labels are cropped to one voxel.
    """
    box = foreground_box(labels.array) or (slice(0, 1),) * 3
    start, stop = np.array([(s.start, s.stop) for s in box]).T
    return Volume(labels.array[box].astype(np.uint8), labels.grid.crop(start, stop).affine)


def oriented_image(volume: Volume, to_local: np.ndarray) -> vtkOrientedImageData:
    """Return ``volume`` as Slicer's image with directions; ``to_local`` (4, 4): world to the node's coordinates."""
    from slicer import vtkOrientedImageData

    image = vtkOrientedImageData()
    set_voxels(image, volume.array)
    image.SetGeometryFromImageToWorldMatrix(vtk_matrix(to_local @ volume.affine))
    return image

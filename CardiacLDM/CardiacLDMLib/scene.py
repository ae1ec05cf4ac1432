"""Between Slicer's scene and :class:`~CardiacLDMLib.volume.Volume`: the one place that knows MRML nodes.

MRML keeps voxels in KJI order with an IJK -> RAS matrix on the node and possibly a transform above it; a ``Volume`` is
IJK with one affine to the world. Slicer is imported where it is used, so importing this file needs no Slicer.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import anatomy
from .volume import Volume, VolumeError

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
        vtkMRMLSegmentationNode,
        vtkMRMLTableNode,
        vtkOrientedImageData,
        vtkSegment,
    )
    from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData

#: Name of the terminology in Resources/term.json; Slicer finds a segment's codes in its selector by it.
TERMINOLOGY = "Heart structures - CardiacLDM"
#: SNOMED CT category of every structure.
CATEGORY_CODE, CATEGORY_MEANING = "123037004", "Anatomical Structure"
#: What our node attributes and references are called begins with it.
PREFIX = "CardiacLDM."
#: Window and level in HU at which contrast-filled chambers and myocardium are told apart.
WINDOW_HU, LEVEL_HU = 800.0, 200.0
#: Voxel size in mm at which surfaces are made.
SURFACE_MM = 2.0
#: As much is copied between two turns of the window.
STEP_BYTES = 2_000_000
#: Columns of a table of volumes.
TABLE_COLUMNS = ("Structure", "Volume (mL)", "Flag")


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
    image = node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise VolumeError(f"The volume '{node.GetName()}' holds no image.")
    if scalars.GetNumberOfComponents() != 1:
        raise VolumeError(f"The volume '{node.GetName()}' is a colour image: one number per voxel is needed.")
    return Volume(_kji(image).transpose(2, 1, 0), _to_world(node) @ _ijk_to_ras(node))


def volume_to_node(scene: vtkMRMLScene, volume: Volume, name: str) -> vtkMRMLScalarVolumeNode:
    """A new scalar volume node with a display node; the voxels are copied."""
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    _set_voxels(image, volume.array)
    return _volume_node(scene, image, volume.affine, name)


def _volume_node(
    scene: vtkMRMLScene, image: vtkImageData, affine: np.ndarray, name: str, heart_window: bool = False
) -> vtkMRMLScalarVolumeNode:
    """With ``heart_window`` Slicer need not look for fitting grey levels: a tenth of a second on ten million voxels."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    node.SetIJKToRASMatrix(_vtk_matrix(affine))
    if heart_window:
        set_heart_window(node)
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
    """What to look at: structure name -> some words, only where there is something.

    A structure that the scan's edge cuts off is said to be so; its volume is then not held against the usual limits.
    Great vessels, which leave every scan, are only ever missing.
    """
    flags = {}
    for structure in anatomy.STRUCTURES:
        volume_ml, limits = volumes_ml.get(structure.name, 0.0), structure.volume_limits_ml
        if volume_ml <= 0.0:
            flags[structure.name] = "not found"
        elif limits is not None and structure.name in touches_edge:
            flags[structure.name] = "cut off by the scan's edge"
        elif limits is not None and not limits[0] <= volume_ml <= limits[1]:
            flags[structure.name] = "unusually small" if volume_ml < limits[0] else "unusually large"
    return flags


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


def set_provenance(node: Any, record: dict[str, str]) -> None:
    """Keep how ``node`` was made (package, device, time, ...) as its attributes, in place of an earlier record."""
    for name in provenance(node):
        node.RemoveAttribute(PREFIX + name)
    for name, value in record.items():
        node.SetAttribute(PREFIX + name, str(value))


def provenance(node: Any) -> dict[str, str]:
    """The record that :func:`set_provenance` kept; empty for a node that was not made here."""
    names = [name for name in node.GetAttributeNames() if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): node.GetAttribute(name) for name in names}


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


def _place_beside(scene: vtkMRMLScene, node: Any, reference: Any) -> None:
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


# --- synthetic pairs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyntheticPair:
    """A generated CT and its labels in the scene."""

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was generated, as the generator wrote it; empty if a hand has spoilt it."""
        try:
            record = json.loads(self.volume.GetAttribute(f"{PREFIX}provenance") or "{}")
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}


def is_synthetic(node: Any) -> bool:
    """Whether the node shows no patient: it was generated, or is a copy of such a node."""
    return node is not None and node.GetAttribute(f"{PREFIX}synthetic") == "true"


def pair_in_steps(
    scene: vtkMRMLScene, image: Volume, labels: Volume, record: dict[str, str], folders: tuple[str, str]
) -> Generator[None, None, SyntheticPair]:
    """A generated pair as a volume and a segmentation node, both with ``record``, in a folder within a folder.

    With pauses, so that a window can live on; nothing is in the scene before the last step, all of it after.

    ``labels`` may be a part of the image's grid. ``folders``: names of the outer one, which is made if it is not there,
    and of the inner one, which always is. Raises :class:`VolumeError` as :func:`segmentation_from_labels` does.
    """
    from vtkmodules.vtkCommonDataModel import vtkImageData

    _require_known(labels)
    outer, inner = folders
    voxels = vtkImageData()
    yield from _set_voxels_in_steps(voxels, image.array)
    volume = _volume_node(scene, voxels, image.affine, f"{inner} CT", heart_window=True)
    _into_folder(scene, volume, outer, inner)
    segmentation = segmentation_from_labels(scene, labels, f"{inner} labels", volume)
    for node in (volume, segmentation):
        set_provenance(node, {**record, "synthetic": "true"})
    return SyntheticPair(volume, segmentation)


def synthetic_pairs(scene: vtkMRMLScene) -> list[SyntheticPair]:
    """The generated pairs of which both parts are still in the scene, in the order in which they came."""
    pairs = []
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode")
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if is_synthetic(node) and is_synthetic(volume):
            pairs.append(SyntheticPair(volume, node))
    return pairs


def unused_folder(scene: vtkMRMLScene, name: str) -> str:
    """``name``, with a number if a folder of that name is there already."""
    hierarchy = _hierarchy(scene)
    taken, number = name, 1
    while hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), taken):
        number += 1
        taken = f"{name} ({number})"
    return taken


def _into_folder(scene: vtkMRMLScene, node: Any, outer: str, inner: str) -> None:
    hierarchy = _hierarchy(scene)
    top = hierarchy.GetSceneItemID()
    parent = hierarchy.GetItemChildWithName(top, outer) or hierarchy.CreateFolderItem(top, outer)
    folder = hierarchy.CreateFolderItem(parent, inner)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)


def _hierarchy(scene: vtkMRMLScene) -> Any:
    from slicer import vtkMRMLSubjectHierarchyNode

    return vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


# --- views ---------------------------------------------------------------------------------------------------------


def set_heart_window(node: vtkMRMLScalarVolumeNode) -> None:
    """Show the scan in grey levels that tell contrast-filled chambers from myocardium."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(WINDOW_HU, LEVEL_HU)


def jump_slices(scene: vtkMRMLScene, ras: np.ndarray) -> None:
    """Centre every slice view on a place (world RAS mm)."""
    from slicer import vtkMRMLSliceNode

    vtkMRMLSliceNode.JumpAllSlices(scene, *(float(x) for x in ras), vtkMRMLSliceNode.CenteredJumpSlice)


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
    from slicer import vtkSegment, vtkSegmentation, vtkSegmentationConverter
    from vtkmodules.vtkCommonDataModel import vtkPolyData

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


def _kji(image: vtkImageData) -> np.ndarray:
    """The image's voxels (shared, not copied) in k, j, i order."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _set_voxels(image: vtkImageData, array: np.ndarray) -> None:
    """Give ``image`` a copy of ``array`` (i, j, k)."""
    for _ in _set_voxels_in_steps(image, array):
        pass


def _set_voxels_in_steps(image: vtkImageData, array: np.ndarray) -> Iterator[None]:
    """:func:`_set_voxels` a few slices at a time: twenty megabytes of fresh memory take a tenth of a second."""
    from vtkmodules.util.numpy_support import get_vtk_array_type, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkDataArray

    kji = (array.view(np.uint8) if array.dtype == bool else array).transpose(2, 1, 0)
    scalars = vtkDataArray.CreateDataArray(get_vtk_array_type(kji.dtype))
    scalars.SetNumberOfTuples(kji.size)
    voxels = vtk_to_numpy(scalars).reshape(kji.shape)
    at_once = max(STEP_BYTES // max(kji[:1].nbytes, 1), 1)
    for k in range(0, len(kji), at_once):
        voxels[k : k + at_once] = kji[k : k + at_once]
        yield
    image.SetDimensions(array.shape)
    image.GetPointData().SetScalars(scalars)


def _numpy_matrix(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _vtk_matrix(matrix: np.ndarray) -> Any:
    import vtk

    out = vtk.vtkMatrix4x4()
    for row, column in np.ndindex(4, 4):
        out.SetElement(row, column, float(matrix[row, column]))
    return out

"""Convert Slicer's volume nodes to :class:`~CardiacLDMLib.image.grid.Volume` and back.

MRML keeps voxels in KJI order with an IJK -> RAS matrix on the node, perhaps below a transform; a ``Volume`` is in IJK
order with one affine to the world. Slicer is imported inside functions, so that this file can be imported without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..image.grid import Volume

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkImageData

    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene

#: Prefix of our node attributes and references.
PREFIX = "CardiacLDM."
#: Bytes that are copied between two pauses for the window.
STEP_BYTES = 2_000_000


# --- volumes -------------------------------------------------------------------------------------------------------


def volume_from_node(node: vtkMRMLScalarVolumeNode) -> Volume:
    """Return the node's voxels (shared, not copied) with their affine to the world, parent transforms applied.

    Raises :class:`VolumeError` for a node without image data, with several values per voxel, or under a transform that
    is not linear or shears it.
    """
    image = node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise VolumeError(f"The volume '{node.GetName()}' holds no image.")
    if scalars.GetNumberOfComponents() != 1:
        raise VolumeError(f"The volume '{node.GetName()}' is a colour image: one number per voxel is needed.")
    return Volume(voxels_kji(image).transpose(2, 1, 0), node_to_world(node) @ ijk_to_ras(node))


def state(node: vtkMRMLScalarVolumeNode) -> tuple[Any, ...]:
    """Return a value that changes with the node's voxels, their place, and its transform."""
    image, transform = node.GetImageData(), node.GetParentTransformNode()
    scalars = image.GetPointData().GetScalars() if image else None
    voxels = (scalars, scalars.GetMTime()) if scalars is not None else None
    return voxels, ijk_to_ras(node).tolist(), transform, transform and transform.GetMTime()


def volume_to_node(scene: vtkMRMLScene, volume: Volume, name: str) -> vtkMRMLScalarVolumeNode:
    """Add a scalar volume node with a display node; the voxels are copied."""
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    set_voxels(image, volume.array)
    return add_volume_node(scene, image, volume.affine, name)


def add_volume_node(
    scene: vtkMRMLScene, image: vtkImageData, affine: np.ndarray, name: str, heart_window: bool = False
) -> vtkMRMLScalarVolumeNode:
    """Add a volume node that shows ``image``.

    With ``heart_window`` Slicer does not search for a window: that takes 0.1 s on ten million voxels.
    """
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    node.SetIJKToRASMatrix(vtk_matrix(affine))
    if heart_window:
        set_heart_window(node)
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    return node


def set_provenance(node: Any, record: dict[str, str]) -> None:
    """Store how ``node`` was made (package, device, time, ...) in its attributes, replacing an earlier record.

    Observers of the node are told once, at the end: each attribute would refresh the panel.
    """
    was_modifying = node.StartModify()
    try:
        for name in provenance(node):
            node.RemoveAttribute(PREFIX + name)
        for name, value in record.items():
            node.SetAttribute(PREFIX + name, str(value))
    finally:
        node.EndModify(was_modifying)


def provenance(node: Any) -> dict[str, str]:
    """Return the record that :func:`set_provenance` stored; empty for a node that was not made here."""
    names = [name for name in node.GetAttributeNames() if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): node.GetAttribute(name) for name in names}


def place_beside(scene: vtkMRMLScene, node: Any, reference: Any) -> None:
    """Move ``node`` to the patient, study or folder that holds ``reference``."""
    hierarchy = subject_hierarchy(scene)
    beside = hierarchy.GetItemByDataNode(reference)
    if beside:  # without Slicer's Data module the hierarchy is empty
        move_into(hierarchy, node, hierarchy.GetItemParent(beside))


def subject_hierarchy(scene: vtkMRMLScene) -> Any:
    """Return the scene's subject hierarchy."""
    from slicer import vtkMRMLSubjectHierarchyNode

    return vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def move_into(hierarchy: Any, node: Any, parent: int) -> None:
    """Move ``node`` below the item ``parent`` of the subject hierarchy."""
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


# --- views ---------------------------------------------------------------------------------------------------------


def set_heart_window(node: vtkMRMLScalarVolumeNode) -> None:
    """Show the scan in :data:`anatomy.HEART_WINDOW`."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(anatomy.HEART_WINDOW.width, anatomy.HEART_WINDOW.level)


def has_heart_window(node: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether the scan is shown as :func:`set_heart_window` shows it."""
    display = node.GetDisplayNode()
    if display is None or display.GetAutoWindowLevel():
        return False
    return (display.GetWindow(), display.GetLevel()) == (anatomy.HEART_WINDOW.width, anatomy.HEART_WINDOW.level)


def jump_slices(scene: vtkMRMLScene, ras: np.ndarray) -> None:
    """Centre every slice view on a point (3,) in world RAS mm."""
    from slicer import vtkMRMLSliceNode

    vtkMRMLSliceNode.JumpAllSlices(scene, *(float(x) for x in ras), vtkMRMLSliceNode.CenteredJumpSlice)


# --- matrices and voxels -------------------------------------------------------------------------------------------


def node_to_world(node: Any) -> np.ndarray:
    """Return the (4, 4) matrix from the node's own RAS to the world's.

    It is the identity without a parent transform. Raises :class:`VolumeError` for a transform that is not linear.
    """
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
    return numpy_matrix(matrix)


def ijk_to_ras(node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """Return the (4, 4) matrix from the node's voxels to its own RAS, mm."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return numpy_matrix(matrix)


def voxels_kji(image: vtkImageData) -> np.ndarray:
    """Return the image's voxels (shared, not copied) in k, j, i order."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def set_voxels(image: vtkImageData, array: np.ndarray) -> None:
    """Give ``image`` a copy of ``array`` (i, j, k)."""
    for _ in set_voxels_in_steps(image, array):
        pass


def set_voxels_in_steps(image: vtkImageData, array: np.ndarray) -> Iterator[None]:
    """Copy as :func:`set_voxels` does, and yield after every ``STEP_BYTES``, since 20 MB at once take 0.1 s."""
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


def numpy_matrix(matrix: Any) -> np.ndarray:
    """Return a ``vtkMatrix4x4`` as an array (4, 4)."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(matrix: np.ndarray) -> Any:
    """Return an array (4, 4) as a ``vtkMatrix4x4``."""
    import vtk

    out = vtk.vtkMatrix4x4()
    for row, column in np.ndindex(4, 4):
        out.SetElement(row, column, float(matrix[row, column]))
    return out

"""Render a labelled heart with Slicer's own views, without a display: three slices, a 3D view and a legend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import replace_file, replace_files
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.report import NOTICE
from CardiacLDMLib.text import volume_text

from ..errors import RenderingError
from .pictures import rgb

if TYPE_CHECKING:
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import SliceView, ThreeDView

    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


#: Pixels of one view; the picture has two by two of them and the legend.
VIEW_SIZE = (720, 600)
LEGEND_WIDTH = 330
#: Least height of a slice view in mm: the heart with its surroundings.
FIELD_MM = 210.0
#: Slicer's layout names and their orientations.
SLICES = (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))
#: Slicer's 3D background, bottom and top.
SKY = ((193, 195, 232), (116, 120, 190))

DARK, GREY = "#1b1b1f", "#b9b9c2"
#: Degrees by which the 3D view turns from the front to the patient's left, so that both ventricles are visible.
VIEW_FROM_LEFT = 25.0

_RENDER_TEST = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.AddRenderer(vtkRenderer())
window.Render()
raise SystemExit(0 if window.SupportsOpenGL() else 1)
"""


def require_rendering() -> None:
    """Render one empty window in a process of its own, since VTK ends its process when OpenGL is missing.

    Raises :class:`RenderingError`, which names the packages to install.
    """
    _prefer_off_screen()
    if subprocess.run([sys.executable, "-c", _RENDER_TEST], capture_output=True, timeout=120, check=False).returncode:
        raise RenderingError(
            "Slicer's views need OpenGL: install it with 'sudo apt install libegl1 libgl1-mesa-dri' "
            "(Debian, Ubuntu) and run the command again."
        )


def _prefer_off_screen() -> None:
    """Have VTK render without a display server; by default it looks for one first and prints an error."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")


def slicer_app() -> SlicerApp:
    """Return Slicer's scene and module logics without its windows. VTK prints errors only, to stderr."""
    _prefer_off_screen()
    from trame_slicer.core import SlicerApp
    from vtkmodules.util.misc import calldata_type
    from vtkmodules.util.vtkConstants import VTK_STRING
    from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow

    def show(_window: Any, _event: str, text: str) -> None:
        print(text.strip(), file=sys.stderr)

    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    app = SlicerApp()
    window: Any = vtkOutputWindow.GetInstance()
    window.SetDisplayModeToNever()
    window.AddObserver("ErrorEvent", calldata_type(VTK_STRING)(show))
    return app


def save_scene(app: SlicerApp, path: Path) -> None:
    """Save the scene with all its data as ``path`` (``NAME.mrb``), whole or not at all. Raises ``OutputError``."""
    from vtkmodules.vtkCommonCore import vtkObject

    with replace_files(path.parent, [path.name]) as folder:
        part = folder / path.name  # Slicer names the folder inside the archive after the file
        vtkObject.GlobalWarningDisplayOff()  # it lists every file it packs
        try:
            saved = app.io_manager.save_scene(part)
        finally:
            vtkObject.GlobalWarningDisplayOn()
        if not saved:
            raise OutputError(f"{path.name} could not be written: is the disk full or read-only?")


def open_slices(app: SlicerApp, volume_node: vtkMRMLScalarVolumeNode) -> list[SliceView]:
    """Open Slicer's axial, coronal and sagittal view of a volume, in the heart's HU window.

    Call this before the segmentation is made: nodes are rendered in the order of entry, and the scan belongs below.
    """
    from trame_slicer.views import SliceView
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    display = volume_node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(anatomy.HEART_WINDOW.width, anatomy.HEART_WINDOW.level)
    views = []
    for layout, orientation in SLICES:
        # Rendered on request only: automatic rendering can hang when the scene is closed.
        view = SliceView(app.scene, app.app_logic, layout, NoScheduleRendering())
        view.render_window().SetSize(*VIEW_SIZE)
        view.set_orientation(orientation)
        view.set_background_volume_id(volume_node.GetID())
        view.fit_view_to_content()
        views.append(view)
    return views


def render_picture(
    app: SlicerApp,
    slices: list[SliceView],
    segmentation_node: vtkMRMLSegmentationNode,
    labels: Volume,
    path: Path,
    *,
    title: str,
) -> None:
    """Render the slice views, Slicer's 3D view and a legend with volumes into one PNG.

    ``labels`` are those of ``segmentation_node`` in world space; they decide which slices are shown. The views stay in
    ``app``'s scene, so a scene saved afterwards opens on the same slices.
    """
    show_like_slicer(segmentation_node)
    index = np.argwhere(labels.array)
    points = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    structure = labels.array[tuple(index.T)]
    pictures = []
    for view in slices:
        _look_at(view, points, structure, float(labels.spacing.max()))
        pictures.append(_pixels(view))
    letters = [_edge_letters(view) for view in slices]
    solid = _solid_picture(app, points[structure != anatomy.VALUE["AO"]])
    volumes = np.bincount(structure, minlength=anatomy.NUM_CLASSES) * labels.grid.voxel_ml
    with replace_file(path) as part:
        _compose([*pictures, solid], [*letters, ""], part, title, volumes)


def show_like_slicer(segmentation_node: vtkMRMLSegmentationNode) -> None:
    """Show filled and outlined segments, closed surfaces, and the myocardium translucent around the ventricle."""
    segmentation_node.CreateClosedSurfaceRepresentation()
    display = segmentation_node.GetDisplayNode()
    display.SetOpacity2DFill(0.35)
    display.SetOpacity2DOutline(1.0)
    display.SetSliceIntersectionThickness(2)
    display.SetSegmentOpacity3D("MYO", 0.4)


def _slice_axes(view: SliceView) -> np.ndarray:
    """Return (3, 3): the RAS directions to the right, up and out of the screen, as columns."""
    matrix = view.get_view_node().GetSliceToRAS()
    return np.array([[matrix.GetElement(row, column) for column in range(3)] for row in range(3)])


def _look_at(view: SliceView, points: np.ndarray, structure: np.ndarray, step_mm: float) -> None:
    """Go to the slice with most structures and zoom to the heart; without labels stay in the middle of the scan.

    ``points`` (N, 3) are the labelled voxels in RAS mm, ``structure`` (N,) their label values.
    """
    if not len(points):
        return
    heart = np.isin(structure, [anatomy.VALUE[name] for name in anatomy.HEART])
    target = points[heart] if heart.any() else points
    centre = (target.min(0) + target.max(0)) / 2

    across = int(np.abs(_slice_axes(view)[:, 2]).argmax())
    slot = np.round((points[:, across] - points[:, across].min()) / step_mm).astype(int)
    area = np.zeros((slot.max() + 1, anatomy.NUM_CLASSES))
    np.add.at(area, (slot, structure), 1.0)
    best = int(np.sqrt(area).sum(1).argmax())  # the root prefers many structures of medium size to a large one
    centre[across] = points[slot == best, across].mean()

    height = max(FIELD_MM, 1.3 * float(np.ptp(target, axis=0).max()))
    node = view.get_view_node()
    node.SetFieldOfView(height * VIEW_SIZE[0] / VIEW_SIZE[1], height, node.GetFieldOfView()[2])
    node.JumpSliceByCentering(*centre)


def _edge_letters(view: SliceView) -> str:
    """Return the letters of the patient's directions at the left, right, top and bottom edge of a slice view."""
    right, up = _slice_axes(view)[:, :2].T
    return "".join(_letter(direction) for direction in (-right, right, up, -up))


def _letter(direction: np.ndarray) -> str:
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "IS")[axis][int(direction[axis] > 0)]


def _solid_picture(app: SlicerApp, points: np.ndarray) -> np.ndarray:
    """Render Slicer's 3D view from the front and slightly from the left, zoomed to ``points`` (N, 3; RAS mm)."""
    from trame_slicer.views import ThreeDView
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    from slicer import vtkMRMLAbstractViewNode

    view = ThreeDView(app.scene, app.app_logic, "1", NoScheduleRendering())
    view.render_window().SetSize(*VIEW_SIZE)
    view.renderer().SetUseDepthPeeling(False)  # it loses translucent surfaces with Mesa's software OpenGL
    view.set_box_visible(False)
    view.set_background_gradient_color(*SKY)
    view.set_orientation_marker(
        vtkMRMLAbstractViewNode.OrientationMarkerTypeCube, vtkMRMLAbstractViewNode.OrientationMarkerSizeSmall
    )
    view.fit_view_to_content()
    camera = view.renderer().GetActiveCamera()
    camera.Azimuth(VIEW_FROM_LEFT)
    if len(points):
        view.renderer().ResetCamera(np.stack([points.min(0), points.max(0)], axis=1).ravel().tolist())
        camera.Zoom(1.4)
    view.renderer().ResetCameraClippingRange()
    return _pixels(view)


def _pixels(view: SliceView | ThreeDView) -> np.ndarray:
    """Render a view; return (height, width, 3) uint8, the top row first."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

    grab = vtkWindowToImageFilter()
    grab.SetInput(view.render_window())
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _ = image.GetDimensions()
    return np.array(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1])


# --- the picture ---------------------------------------------------------------------------------------------------


def _compose(pictures: list[np.ndarray], letters: list[str], path: Path, title: str, volumes_ml: np.ndarray) -> None:
    """Write Slicer's four-up layout (axial, 3D; coronal, sagittal) with letters at the edges and the legend beside."""
    from matplotlib.figure import Figure

    (width, height), gap, dpi = VIEW_SIZE, 4, 100
    size = (2 * width + gap + LEGEND_WIDTH, 2 * height + gap)
    figure = Figure((size[0] / dpi, size[1] / dpi), dpi=dpi, facecolor=DARK)
    corners = ((0, height + gap), (0, 0), (width + gap, 0), (width + gap, height + gap))
    edges = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.965), (0.5, 0.035))
    for pixels, letter_row, (left, bottom) in zip(pictures, letters, corners, strict=True):
        figure.figimage(pixels, left, bottom, origin="upper")
        for letter, (x, y) in zip(letter_row, edges, strict=False):
            place = (left + x * width) / size[0], (bottom + y * height) / size[1]
            figure.text(*place, letter, color="white", fontsize=15, ha="center", va="center")
    _legend(figure, (2 * width + gap) / size[0], title, volumes_ml)
    figure.savefig(path, dpi=dpi)


def _legend(figure: Any, left: float, title: str, volumes_ml: np.ndarray) -> None:
    """Write colour, name and volume of each structure into the strip from ``left`` (fraction of the width) on."""
    from matplotlib.patches import Rectangle

    axes = figure.add_axes((left, 0.0, 1.0 - left, 1.0))
    axes.set_axis_off()
    axes.text(0.07, 0.965, title, color="white", fontsize=13, weight="bold", va="top", linespacing=1.5)
    for row, structure in enumerate(anatomy.STRUCTURES):
        y = 0.85 - 0.062 * row
        axes.add_patch(Rectangle((0.07, y - 0.016), 0.09, 0.032, color=rgb(structure)))
        axes.text(0.21, y + 0.009, structure.title, color="white", fontsize=11, va="center")
        volume = volumes_ml[structure.value]
        note = volume_text(volume) if volume > 0 else "not found"
        axes.text(0.21, y - 0.013, note, color=GREY, fontsize=10, va="center")
    axes.text(0.07, 0.035, NOTICE.replace(", ", ",\n"), color=GREY, fontsize=10, va="bottom", linespacing=1.4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)

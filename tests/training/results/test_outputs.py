"""The four files of a case: right places, names and codes; whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import nrrd
import numpy as np
import pytest
import slicerio
from matplotlib.image import imread

from cardiacldm_training.errors import OutputError
from cardiacldm_training.results import outputs
from cardiacldm_training.results.outputs import write_results, write_segmentation
from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.report import CaseReport, PackageRecord, grid_record, software_versions
from CardiacLDMLib.slicer import segmentations, volumes

SHAPE = (30, 26, 20)


def affine(kind: str) -> np.ndarray:
    """Grids of 4 x 4 x 6 mm whose middle lies at RAS (10, -20, 30)."""
    turn = np.radians(25.0)
    axes = {
        "RAS": np.eye(3),
        "LPS": np.diag([-1.0, -1.0, 1.0]),
        "left-handed": np.diag([-1.0, 1.0, 1.0]),
        "permuted": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "oblique": np.array([[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, -1.0]]),
    }[kind]
    out = np.eye(4)
    out[:3, :3] = axes * [4.0, 4.0, 6.0]
    out[:3, 3] = [10.0, -20.0, 30.0] - out[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return out


def places(labels: Volume) -> np.ndarray:
    """(I, J, K, 3): where every voxel lies in RAS mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in labels.array.shape), indexing="ij"), axis=-1)
    return index @ labels.affine[:3, :3].T + labels.affine[:3, 3]


def pair(kind: str = "left-handed", values: tuple[int, ...] = tuple(range(1, 9))) -> tuple[Volume, Volume]:
    """A scan and labels: a block per structure, one after the other from right to left, in front and above."""
    labels = Volume(np.zeros(SHAPE, dtype=np.uint8), affine(kind))
    ras = places(labels) - [10.0, -20.0, 30.0]
    for value in values:
        low = (value - 5) * 10.0
        inside = (ras[..., 0] >= low) & (ras[..., 0] < low + 10.0) & (ras[..., 1] > 0) & (ras[..., 2] > 0)
        labels.array[inside & (np.abs(ras) < 45.0).all(-1)] = value
    scan = Volume((labels.array.astype(np.int16) * 60 - 100), labels.affine)
    return scan, labels


def report(labels: Volume, name: str = "case", **changes: object) -> CaseReport:
    volumes = {s.name: float((labels.array == s.value).sum() * labels.grid.voxel_ml) for s in anatomy.STRUCTURES}
    fields = {
        "case": name, "source": "case.nii.gz", "package": PackageRecord(name="tiny", version="1", sha256="0" * 64),
        "device": "cpu", "quality": "full", "heart_found": any(volumes.values()), "volumes_ml": volumes, "warnings": [],
        "seconds": {"read": 0.1, "segment": 2.0}, "grid": grid_record(labels),
        "software": software_versions(),
    }  # fmt: skip
    return CaseReport(**{**fields, **changes})


@pytest.mark.parametrize("kind", ["RAS", "LPS", "left-handed", "permuted", "oblique"])
def test_labels_and_segmentation_lie_where_the_scan_lies(tmp_path: Path, kind: str) -> None:
    _, labels = pair(kind)
    write_volume(labels, tmp_path / "case.labels.nii.gz")
    write_segmentation(labels, tmp_path / "case.seg.nrrd")
    nifti = read_volume(tmp_path / "case.labels.nii.gz")
    assert nifti.grid.same_as(labels.grid)
    assert nifti.array.dtype == np.uint8
    assert np.array_equal(nifti.array, labels.array)
    segmentation = slicerio.read_segmentation(str(tmp_path / "case.seg.nrrd"))
    assert segmentation["voxels"].dtype == np.uint8
    assert np.array_equal(segmentation["voxels"], labels.array)
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ segmentation["ijkToLPS"], labels.affine, atol=1e-9)


@pytest.mark.parametrize("values", [tuple(range(1, 9)), (2, 5), ()])
def test_segmentation_has_all_eight_segments_with_codes_and_colours(tmp_path: Path, values: tuple[int, ...]) -> None:
    _, labels = pair(values=values)
    write_segmentation(labels, tmp_path / "case.seg.nrrd")
    segments = slicerio.read_segmentation(str(tmp_path / "case.seg.nrrd"))["segments"]
    assert len(segments) == len(anatomy.STRUCTURES)
    for segment, structure in zip(segments, anatomy.STRUCTURES, strict=True):
        assert (segment["id"], segment["name"]) == (structure.name, structure.title)
        assert (segment["labelValue"], segment["layer"]) == (structure.value, 0)
        assert np.allclose(np.array(segment["color"]) * 255, structure.colour, atol=1e-3)
        assert segment["terminology"]["category"] == ["SCT", "123037004", "Anatomical Structure"]
        assert segment["terminology"]["type"] == ["SCT", structure.snomed_code, structure.snomed_meaning]


def test_segmentation_header_reads_as_slicer_writes_it(tmp_path: Path) -> None:
    _, labels = pair()
    write_segmentation(labels, tmp_path / "case.seg.nrrd")
    header = nrrd.read_header(str(tmp_path / "case.seg.nrrd"))
    assert header["type"] in ("uint8", "unsigned char")
    assert (header["dimension"], header["space"]) == (3, "left-posterior-superior")
    assert header["kinds"] == ["domain"] * 3
    assert header["sizes"].tolist() == list(SHAPE)
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segment1_Extent"] == "0 29 0 25 0 19"
    assert segmentations.terminology_entry(anatomy.BY_VALUE[2]) in header["Segment1_Tags"]


def test_slicer_itself_reads_the_same_labels(tmp_path: Path) -> None:
    slicer = pytest.importorskip("slicer")
    scan, labels = pair("left-handed", values=(1, 2, 4, 5, 8))
    write_segmentation(labels, tmp_path / "case.seg.nrrd")
    mrml = slicer.vtkMRMLScene()
    node = mrml.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = mrml.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "case.seg.nrrd"))
    assert storage.ReadData(node)
    reference = volumes.volume_to_node(mrml, scan, "scan")
    assert node.GetSegmentation().GetNumberOfSegments() == 8
    assert np.array_equal(segmentations.labels_from_segmentation(node, reference).array, labels.array)


def test_report_is_complete_and_names_the_notice(tmp_path: Path) -> None:
    scan, labels = pair("permuted")
    written = write_results(tmp_path, scan, labels, report(labels, warnings=["LA was not found."], quality="flips"))
    data = json.loads((tmp_path / "case.report.json").read_text(encoding="utf-8"))
    assert CaseReport.model_validate(data) == written
    assert data["notice"] == "Research use, not a medical device."
    assert data["grid"] == {"shape": list(SHAPE), "spacing_mm": [4.0, 4.0, 6.0], "axes": "PSR"}
    assert set(data["seconds"]) == {"read", "segment", "write"}
    assert set(data["volumes_ml"]) == set(anatomy.NAMES)
    assert {"python", "cardiacldm", "torch", "monai", "numpy", "simpleitk"} == set(data["software"])


# --- the picture ---------------------------------------------------------------------------------------------------


def sampled(kind: str, plane: int) -> np.ndarray:
    """Label values of one plane as shown on the screen, top row first."""
    _, labels = pair(kind)
    field = outputs._Field(np.array([10.0, -20.0, 30.0]) + 5.0, 120.0)
    return outputs._sampled(labels, outputs._PLANES[plane], field, linear=False)[::-1]


@pytest.mark.parametrize("kind", ["RAS", "LPS", "left-handed", "permuted", "oblique"])
def test_planes_are_shown_as_radiologists_look(kind: str) -> None:
    axial, coronal, sagittal = (sampled(kind, plane) for plane in range(3))
    for image in (axial, coronal):  # the patient's right, with value 8, on the left of the screen
        columns = [np.flatnonzero((image == value).any(axis=0)).mean() for value in (7, 5, 4, 2)]
        assert columns == sorted(columns)
    middle = outputs.PLANE_PIXELS / 2
    rows, columns = np.nonzero(axial)
    assert rows.mean() < middle  # in front: at the top
    rows, _ = np.nonzero(coronal)
    assert rows.mean() < middle  # above: at the top
    rows, columns = np.nonzero(sagittal)
    assert rows.mean() < middle
    assert columns.mean() < middle  # in front: on the left


def test_planes_keep_the_true_proportions() -> None:
    image = sampled("left-handed", 1)  # voxels of 4 x 6 mm
    rows, columns = np.nonzero((image >= 2) & (image <= 7))
    pixel = 120.0 / outputs.PLANE_PIXELS
    assert (np.ptp(columns) + 1) * pixel == pytest.approx(60.0, abs=4.1)
    assert (np.ptp(rows) + 1) * pixel == pytest.approx(45.0, abs=6.1)


def test_picture_shows_every_colour_or_says_that_there_is_no_heart(tmp_path: Path) -> None:
    scan, labels = pair("oblique")
    write_results(tmp_path, scan, labels, report(labels, "heart"))
    picture = imread(tmp_path / "heart.png")
    for structure in anatomy.STRUCTURES:
        swatch = np.abs(picture[..., :3] - np.array(structure.colour) / 255).max(axis=2) < 0.01
        assert swatch.sum() > 20, structure.name
    empty = Volume(np.zeros_like(labels.array), labels.affine)
    texts = [text.get_text() for text in outputs._figure(scan, empty, report(empty)).texts]
    assert "No heart was found in this scan." in texts


def test_names_and_values_that_trouble_drawing(tmp_path: Path) -> None:
    scan, labels = pair()
    scan = Volume(np.where(labels.array == 1, np.nan, scan.array).astype(np.float32), scan.affine)
    name = "$x^{[bold] 心"
    write_results(tmp_path, scan, labels, report(labels, name, warnings=["50 % of $nothing$"] * 20))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(name + ending for ending in outputs.ENDINGS)


# --- whole or not at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["write_volume", "write_segmentation", "draw_planes"])
def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    scan, labels = pair()
    write_results(tmp_path, scan, labels, report(labels))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, step, full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_results(tmp_path, scan, labels, report(labels))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is a file"):
        outputs.check_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written to out"):
        outputs.check_folder(tmp_path / "file" / "out")

"""The four files of a case: right places, names and codes; all of them, or none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results import case_files
from CardiacLDMLib.results.case_files import (
    ENDINGS,
    existing_results,
    is_complete,
    is_unfinished,
    read_report,
    write_case_files,
)
from CardiacLDMLib.results.report import NOTICE, CaseReport
from CardiacLDMLib.results.segmentation_file import write_segmentation
from CardiacLDMLib.slicer import segmentations, volumes
from tests.support.blocks import KINDS, SHAPE, blocks, case_report


def write_with_slicerio(labels: Volume, path: Path) -> None:
    """Write the same segments with Slicer's own library."""
    from slicerio.segmentation import terminology_entry_from_string

    segments = [
        {
            "id": structure.name,
            "name": structure.title,
            "color": [round(channel / 255, 6) for channel in structure.colour],
            "labelValue": structure.value,
            "layer": 0,
            "status": "inprogress",
            "terminology": terminology_entry_from_string(anatomy.terminology_entry(structure)),
        }
        for structure in anatomy.STRUCTURES
    ]
    segmentation = {
        "voxels": labels.array,
        "ijkToLPS": np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.affine,
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": segments,
    }
    slicerio.write_segmentation(str(path), segmentation)


# --- DICOM SEG ---------------------------------------------------------------------------------------------------


def test_a_dicom_seg_never_belongs_to_other_labels(tmp_path: Path) -> None:
    """It is written before the report; labels that replace earlier ones without it take it away."""
    scan, labels = blocks()
    report = case_report(labels)

    def write(labels: Volume, report: CaseReport, path: Path) -> None:
        path.write_bytes(labels.array.tobytes())

    files = write_case_files(tmp_path, scan, labels, report, write_dicom_seg=write)
    assert [path.name for path in files[-2:]] == ["case.seg.dcm", "case.report.json"]
    assert is_complete(tmp_path, "case", dicom_seg=True)
    assert "case.seg.dcm" in existing_results(tmp_path, "case")
    write_case_files(tmp_path, scan, labels, report)
    assert not (tmp_path / "case.seg.dcm").exists()
    assert is_complete(tmp_path, "case")
    assert not is_complete(tmp_path, "case", dicom_seg=True)


# --- the segmentation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_segmentation_reads_as_one_that_slicerio_wrote(tmp_path: Path, kind: str) -> None:
    _, labels = blocks(kind)
    write_segmentation(labels, tmp_path / "own.seg.nrrd")
    write_with_slicerio(labels, tmp_path / "theirs.seg.nrrd")
    own, theirs = (slicerio.read_segmentation(str(tmp_path / f"{name}.seg.nrrd")) for name in ("own", "theirs"))
    assert own["segments"] == theirs["segments"]
    assert {key: own[key] for key in own if "epresentation" in key} == {
        key: theirs[key] for key in theirs if "epresentation" in key
    }
    assert own["voxels"].dtype == np.uint8
    assert np.array_equal(own["voxels"], labels.array)
    assert np.allclose(own["ijkToLPS"], theirs["ijkToLPS"], atol=1e-9)


@pytest.mark.parametrize("values", [tuple(range(1, 9)), (2, 5), ()])
def test_segmentation_has_all_eight_segments_with_codes_and_colours(tmp_path: Path, values: tuple[int, ...]) -> None:
    _, labels = blocks(values=values)
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
    _, labels = blocks()
    write_segmentation(labels, tmp_path / "case.seg.nrrd")
    header = nrrd.read_header(str(tmp_path / "case.seg.nrrd"))
    assert header["type"] in ("uint8", "unsigned char")
    assert header["encoding"] == "gzip"
    assert (header["dimension"], header["space"]) == (3, "left-posterior-superior")
    assert header["kinds"] == ["domain"] * 3
    assert header["sizes"].tolist() == list(SHAPE)
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segment1_Extent"] == "0 29 0 25 0 19"
    assert anatomy.terminology_entry(anatomy.BY_VALUE[2]) in header["Segment1_Tags"]
    assert b"Segment0_ID:=LA\n" in (tmp_path / "case.seg.nrrd").read_bytes()


def test_slicer_itself_reads_the_same_labels(tmp_path: Path) -> None:
    slicer = pytest.importorskip("slicer")
    scan, labels = blocks("left-handed", values=(1, 2, 4, 5, 8))
    write_segmentation(labels, tmp_path / "case.seg.nrrd")
    mrml = slicer.vtkMRMLScene()
    node = mrml.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = mrml.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "case.seg.nrrd"))
    assert storage.ReadData(node)
    reference = volumes.volume_to_node(mrml, scan, "scan")
    assert list(node.GetSegmentation().GetSegmentIDs()) == list(anatomy.NAMES)
    segment = node.GetSegmentation().GetSegment("MYO")
    assert segment.GetName() == anatomy.BY_VALUE[5].title
    assert np.allclose(np.array(segment.GetColor()) * 255, anatomy.BY_VALUE[5].colour, atol=1e-3)
    assert np.array_equal(segmentations.labels_from_segmentation(node, reference).array, labels.array)


def test_segmentation_cut_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels = blocks()
    path = tmp_path / "case.seg.nrrd"
    write_segmentation(labels, path)
    whole, write = path.read_bytes(), sitk.WriteImage
    with pytest.raises(OutputError, match=r"case\.seg\.nrrd"):
        write_segmentation(labels, path / "case.seg.nrrd")

    def write_in_part(image: sitk.Image, name: str, *options: int) -> None:
        write(image, name, *options)
        Path(name).write_bytes(Path(name).read_bytes()[:-10])

    monkeypatch.setattr(sitk, "WriteImage", write_in_part)
    with pytest.raises(OutputError, match=r"case\.seg\.nrrd"):
        write_segmentation(labels, path)
    assert path.read_bytes() == whole


# --- all four ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_labels_lie_where_the_scan_lies(tmp_path: Path, kind: str) -> None:
    scan, labels = blocks(kind)
    files = write_case_files(tmp_path / "out", scan, labels, case_report(labels))
    assert files == [tmp_path / "out" / f"case{ending}" for ending in ENDINGS]
    nifti = read_volume(files[0])
    assert nifti.grid.same_as(labels.grid)
    assert nifti.array.dtype == np.uint8
    assert np.array_equal(nifti.array, labels.array)


def test_report_is_complete(tmp_path: Path) -> None:
    scan, labels = blocks("permuted")
    report = case_report(labels, warnings=["LA was not found."], quality="flips")
    *_, path = write_case_files(tmp_path, scan, labels, report)
    data = json.loads(path.read_text(encoding="utf-8"))
    written = read_report(path)
    assert written == report.model_copy(update={"seconds": written.seconds})
    assert data["notice"] == NOTICE
    assert data["grid"] == {"shape": list(SHAPE), "spacing_mm": [4.0, 4.0, 6.0], "axes": "PSR"}
    assert set(data["seconds"]) == {"read", "segment", "write"}
    assert set(data["volumes_ml"]) == set(anatomy.NAMES)
    assert {"python", "cardiacldm", "torch", "monai", "numpy", "simpleitk"} == set(data["software"])


def test_existing_results_are_named_and_replaced(tmp_path: Path) -> None:
    scan, labels = blocks()
    assert existing_results(tmp_path, "case") == []
    write_case_files(tmp_path, scan, labels, case_report(labels), aside=tmp_path / ".part-1")
    assert existing_results(tmp_path, "case") == [f"case{ending}" for ending in ENDINGS]
    empty = Volume(np.zeros_like(labels.array), labels.affine)
    write_case_files(tmp_path, scan, empty, case_report(empty))
    assert not read_volume(tmp_path / "case.labels.nii.gz").array.any()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"case{ending}" for ending in ENDINGS)


@pytest.mark.parametrize("missing", [*ENDINGS, "damaged"])
def test_only_a_whole_set_of_results_is_complete(tmp_path: Path, missing: str) -> None:
    scan, labels = blocks()
    *_, report = write_case_files(tmp_path, scan, labels, case_report(labels))
    assert is_complete(tmp_path, "case")
    assert not is_complete(tmp_path, "other")
    assert not is_unfinished(tmp_path, "other")
    assert not is_unfinished(tmp_path, "case")
    (tmp_path / "mine.png").write_bytes(b"a picture of the user's")
    assert not is_unfinished(tmp_path, "mine")
    if missing == "damaged":
        report.write_bytes(report.read_bytes()[:100])
    else:
        (tmp_path / f"case{missing}").unlink()
    assert not is_complete(tmp_path, "case")
    assert is_unfinished(tmp_path, "case")


@pytest.mark.parametrize("step", ["write_volume", "write_segmentation", "draw"])
def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    scan, labels = blocks()
    write_case_files(tmp_path, scan, labels, case_report(labels))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step != "draw":
        monkeypatch.setattr(case_files, step, full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_case_files(tmp_path, scan, labels, case_report(labels), draw=full)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"\bfile\b"):
        case_files.check_folder(tmp_path / "file")
    with pytest.raises(OutputError, match=r"\bout\b"):
        case_files.check_folder(tmp_path / "file" / "out")


def test_only_numpy_and_simpleitk_are_needed(tmp_path: Path) -> None:
    """Slicer's Python has neither slicerio nor matplotlib nor scipy."""
    code = f"""
import sys
for name in ("slicerio", "nrrd", "matplotlib", "scipy", "torch", "monai", "cc3d", "nibabel"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.case_files import write_case_files
from CardiacLDMLib.results.report import CaseReport, PackageRecord, grid_record
labels = Volume(np.ones((8, 9, 10), np.uint8), np.eye(4))
report = CaseReport(
    case="case", source="case", package=PackageRecord(name="p", version="1", sha256=""), device="cpu", quality="full",
    heart_found=True, volumes_ml=dict.fromkeys({anatomy.NAMES!r}, 1.0), warnings=[], seconds={{}},
    grid=grid_record(labels), software={{}},
)
print(len(write_case_files(Path({str(tmp_path)!r}), labels, labels, report)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["4"], result.stderr

"""Inputs that cannot be segmented, one of every kind, with a fact that its error must name."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import FileDataset

from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from tests.support.dicom import CORONAL, write_series

_SPACING = (4.0, 4.0, 5.0)


def write_bad_inputs(folder: Path, scan: Volume) -> dict[str, str]:
    """Make every bad input in ``folder`` from the good ``scan`` (int16); return file name -> part of the error."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "missing.nii.gz": "missing.nii.gz",
        **_broken_files(folder, scan),
        **_wrong_images(folder, scan),
        **_wrong_values(folder, scan),
        **_bad_folders(folder, scan.array),
    }


def _broken_files(folder: Path, scan: Volume) -> dict[str, str]:
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "empty.nrrd").write_bytes(b"")
    (folder / "text.nii.gz").write_text("Dear colleague, please find attached the scan.\n" * 20)
    (folder / "text.nrrd").write_text("Dear colleague, please find attached the scan.\n" * 20)
    (folder / "letter.txt").write_text("Dear colleague, please find attached the scan.\n")
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha"):
        whole = folder / f"cut{ending}"
        write_volume(scan, whole)
        data = whole.read_bytes()
        whole.unlink()
        (folder / f"cut_{ending[1:].replace('.', '_')}{ending}").write_bytes(data[: len(data) // 2])
    write_volume(scan, folder / "whole.nii")
    data = (folder / "whole.nii").read_bytes()
    (folder / "whole.nii").unlink()
    (folder / "header_only.nii").write_bytes(data[:352])
    (folder / "header_only.nii.gz").write_bytes(gzip.compress(data[:352]))
    (folder / "stub.nii.gz").write_bytes(gzip.compress(data)[:40])
    (folder / "lost.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_SHORT\nElementDataFile = lost.raw\n"
    )
    return {
        "empty.nii.gz": "empty",
        "empty.nrrd": "empty",
        "text.nii.gz": "NIfTI",
        "text.nrrd": "NIfTI",
        "letter.txt": "NIfTI",
        "cut_nii.nii": "damaged",
        "cut_nii_gz.nii.gz": "damaged",
        "cut_nrrd.nrrd": "damaged",
        "cut_mha.mha": "damaged",
        "header_only.nii": "damaged",
        "header_only.nii.gz": "damaged",
        "stub.nii.gz": "NIfTI",
        "lost.mhd": "damaged",
    }


def _wrong_images(folder: Path, scan: Volume) -> dict[str, str]:
    kji = np.ascontiguousarray(scan.array.transpose(2, 1, 0))
    sitk.WriteImage(sitk.GetImageFromArray(kji[0]), str(folder / "flat.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([kji] * 3), isVector=False), str(folder / "film.nii.gz"))
    sitk.WriteImage(
        sitk.GetImageFromArray(np.stack([kji.astype(np.uint8)] * 3, -1), isVector=True), str(folder / "rgb.nrrd")
    )
    (folder / "sheared.nrrd").write_bytes(_sheared_nrrd(scan.array))
    few = scan.grid.crop(np.zeros(3), np.array([*scan.grid.shape[:2], 3]))
    write_volume(Volume(scan.array[:, :, :3], few.affine), folder / "three_slices.nii.gz")
    return {
        "flat.nii.gz": "3D",
        "film.nii.gz": "3D",
        "rgb.nrrd": "colour",
        "sheared.nrrd": "sheared",
        "three_slices.nii.gz": "only 3 slices",
    }


def _sheared_nrrd(array: np.ndarray) -> bytes:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, array.shape))}\nspace directions: (4,0,0) (0,4,0) (0,1.5,4)\n"
        "kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    return header.encode() + array.astype("<i2").tobytes(order="F")


def _wrong_values(folder: Path, scan: Volume) -> dict[str, str]:
    shape = scan.array.shape
    rng = np.random.default_rng(0)
    write_volume(Volume(np.full(shape, np.nan, dtype=np.float32), scan.affine), folder / "nan.nrrd")
    write_volume(Volume(np.zeros(shape, dtype=np.int16), scan.affine), folder / "blank.nii.gz")
    write_volume(Volume(rng.integers(0, 1000, shape).astype(np.int16), scan.affine), folder / "mr.nii.gz")
    tiny = Grid(shape, np.diag([0.1, 0.1, 0.1, 1.0]))
    write_volume(Volume(scan.array, tiny.affine), folder / "mouse.nii.gz")
    return {
        "nan.nrrd": "no numbers",
        "blank.nii.gz": "same value",
        "mr.nii.gz": "Hounsfield",
        "mouse.nii.gz": "mm thick",
    }


def _bad_folders(folder: Path, array: np.ndarray) -> dict[str, str]:
    def colour(data: FileDataset, _: int) -> None:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = bytes(3 * data.Rows * data.Columns)

    def placeless(data: FileDataset, _: int) -> None:
        del data.ImagePositionPatient

    (folder / "nothing").mkdir()
    (folder / "letters" / "sub").mkdir(parents=True)
    (folder / "letters" / "sub" / "letter.txt").write_text("Dear colleague")
    write_series(folder / "dicom_mr", array, spacing=_SPACING, modality="MR")
    write_series(folder / "dicom_scout", array[:, :, :1], image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), axes=CORONAL)
    write_series(folder / "dicom_gap", array, spacing=_SPACING, skip=(7, 8))
    write_series(folder / "dicom_colour", array, spacing=_SPACING, change=colour)
    write_series(folder / "dicom_placeless", array, spacing=_SPACING, change=placeless)
    for phase in range(3):
        write_series(folder / "dicom_4d", array + phase, spacing=_SPACING, uid="1.2.3.4", prefix=f"P{phase}")
    write_series(folder / "dicom_cut", array, spacing=_SPACING)
    for path in sorted((folder / "dicom_cut").iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:1500])
    write_series(folder / "dicom_single", array[:, :, :1], spacing=_SPACING)
    write_series(folder / "dicom_slices", array, spacing=_SPACING)
    single = next((folder / "dicom_slices").iterdir()).rename(folder / "slice.dcm")
    return {
        "nothing": "NIfTI",
        "letters": "NIfTI",
        "dicom_mr": "MR",
        "dicom_scout": "scout",
        "dicom_gap": "lacks 2 slices",
        "dicom_colour": "colour",
        "dicom_placeless": "where",
        "dicom_4d": "3 images",
        "dicom_cut": "lacks",
        "dicom_single": "single slice",
        single.name: "single DICOM slice",
    }

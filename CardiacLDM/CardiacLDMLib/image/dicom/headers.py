"""Find DICOM files, and read from their headers what tells images apart and where they lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM object, by its ending or by the mark ``DICM``, which old files may lack."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files in ``folder`` and its sub-folders."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(p for p in files if p.is_file() and is_dicom(p))


@dataclass(frozen=True)
class Header:
    """Place and kind of one DICOM image."""

    path: Path
    study: str
    uid: str
    number: str
    kind: str  # modality, or "scout"
    derived: bool
    size: tuple[int, int]
    colour: bool
    frames: int
    axes: tuple[float, ...] | None  # direction cosines of a row and of a column, LPS
    position: tuple[float, ...] | None  # centre of the first voxel, LPS mm
    spacing: tuple[float, ...] | None  # between rows, between columns, mm

    @property
    def key(self) -> tuple[object, ...]:
        """A key that slices which can form one volume share."""
        axes = tuple(round(x, 3) + 0.0 for x in self.axes) if self.axes else None
        spacing = tuple(round(x, 4) for x in self.spacing) if self.spacing else None
        kind = (self.kind, self.derived, self.size, self.colour, self.frames > 1)
        return (self.uid, self.number, *kind, axes, spacing)


def read_header(path: Path) -> Header | None:
    """Read the header of a DICOM image; None if the file is damaged or no image (a report, a presentation state)."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def text(tag: str) -> str:
        return str(reader.GetMetaData(tag)).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(x) for x in text(tag).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and np.isfinite(values).all() else None

    image_type = text("0008|0008").upper().split("\\")
    return Header(
        path=path,
        study=text("0020|000d"),
        uid=text("0020|000e"),
        number=text("0020|0011"),
        kind="scout" if "LOCALIZER" in image_type else text("0008|0060") or "of unknown kind",
        derived="DERIVED" in image_type,
        size=(int(reader.GetSize()[0]), int(reader.GetSize()[1])),
        colour=reader.GetNumberOfComponents() != 1,
        frames=int(reader.GetSize()[2]) if reader.GetDimension() > 2 else 1,
        axes=numbers("0020|0037", 6),
        position=numbers("0020|0032", 3),
        spacing=numbers("0028|0030", 2),
    )


def study_of(path: Path) -> str:
    """Return the study UID of a DICOM file; a file that cannot be read gets a study of its own."""
    header = read_header(path)
    return header.study if header else str(path)

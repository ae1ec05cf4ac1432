"""Label maps as ``.seg.nrrd`` files, which Slicer opens as segmentations. SimpleITK writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import anatomy
from ..errors import OutputError
from ..files import replace_file
from ..image.files import to_sitk
from ..image.grid import Volume

#: Level of zlib: on labels half the time of level 9 for a tenth more bytes, and a third of the bytes of level 3.
COMPRESSION = 6


def write_segmentation(labels: Volume, path: Path) -> None:
    """Write labels (uint8, IJK): eight segments, empty ones too, with names, colours and SNOMED CT codes.

    The file is whole or not there. Raises :class:`OutputError` when it cannot be written.
    """
    import SimpleITK as sitk

    array = labels.array.astype(np.uint8, copy=False)
    image = to_sitk(Volume(array, labels.affine))
    for key, value in segmentation_header(labels.grid.shape).items():
        image.SetMetaData(key, value)
    with replace_file(path) as part:
        try:
            sitk.WriteImage(image, str(part), True, COMPRESSION)
        except RuntimeError as error:
            raise OutputError(f"{path.name} could not be written: is the disk full or read-only?") from error
        _check_length(part, path.name, array.nbytes)


def segmentation_header(shape: tuple[int, int, int]) -> dict[str, str]:
    """Return the header's keys for a label map of ``shape``: what Slicer knows of the segmentation and its segments.

    https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html names the keys.
    """
    header = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segmentation_MasterRepresentation": "Binary labelmap",
    }
    for number, structure in enumerate(anatomy.STRUCTURES):
        tags = {"Segmentation.Status": "inprogress", "TerminologyEntry": anatomy.terminology_entry(structure)}
        fields = {
            "ID": structure.name,
            "Name": structure.title,
            "Color": " ".join(str(round(channel / 255, 6)) for channel in structure.colour),
            "LabelValue": str(structure.value),
            "Layer": "0",
            "Extent": " ".join(f"0 {n - 1}" for n in shape),
            "Tags": "".join(f"{name}:{value}|" for name, value in tags.items()),
        }
        header |= {f"Segment{number}_{field}": value for field, value in fields.items()}
    return header


def _check_length(path: Path, name: str, voxel_bytes: int) -> None:
    """Refuse a file that ends too early, as on a full disk: gzip ends with the length of its data, modulo 2^32."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        if int.from_bytes(file.read(), "little") != voxel_bytes % 2**32:
            raise OutputError(f"{name} could not be written: is the disk full or read-only?")

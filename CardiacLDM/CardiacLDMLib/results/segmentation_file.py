"""Label maps as ``.seg.nrrd`` files, which Slicer opens as segmentations. SimpleITK writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import anatomy
from ..errors import VolumeError
from ..files import replace_file
from ..image.files import itk_errors, to_sitk, write_image
from ..image.grid import Volume
from ..image.nifti import gzip_length

#: Compression level of zlib. On labels, 6 takes half the time of 9 for a tenth more bytes, and a third of 3's bytes.
COMPRESSION = 6


def write_segmentation(labels: Volume, path: Path) -> None:
    """Write labels (uint8, IJK) as eight segments, also empty ones, with names, colours and SNOMED CT codes.

    An old file is replaced only by a whole one. Raises :class:`OutputError` when it cannot be written.
    """
    array = labels.array.astype(np.uint8, copy=False)
    image = to_sitk(Volume(array, labels.affine))
    for key, value in segmentation_header(labels.grid.shape).items():
        image.SetMetaData(key, value)
    with replace_file(path) as part, itk_errors(path.name):
        write_image(image, part, True, COMPRESSION)
        if gzip_length(part) != array.nbytes % 2**32:  # ITK's writer does not notice a full disk
            raise VolumeError(f"{path.name} is cut short.")


def segmentation_header(shape: tuple[int, int, int]) -> dict[str, str]:
    """Return the header entries from which Slicer makes a segmentation of a label map of ``shape`` (i, j, k).

    https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html describes the keys.
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

"""Any files, listed in a table: a CSV file with the columns case, image and labels, and if wanted patient and sex.

Paths are relative to the table. ``image`` may be a folder of DICOM slices; ``labels`` may be of any kind, or empty.
Further columns can group cases when they are split.
"""

from __future__ import annotations

from pathlib import Path

from CardiacLDMLib import anatomy
from CardiacLDMLib.text import printable

from ...errors import DatasetError
from .files import ENDINGS, SEGMENTATION, ImageFiles, stem
from .label_map import OWN, read_table

NAME = "table"
ABOUT = "cases.csv (or any CSV file) with the columns case, image and labels"
FILE = "cases.csv"
_COLUMNS = ("case", "image", "labels", "patient", "sex")
_SEXES: dict[str, anatomy.Sex] = {"m": "male", "male": "male", "f": "female", "female": "female"}


def recognises(folder: Path) -> bool:
    """Return whether ``folder`` is a table, or holds one."""
    return folder.is_file() or (folder / FILE).is_file()


def find(folder: Path) -> list[ImageFiles]:
    """Return the cases in the order of the table. Raises :class:`DatasetError` for a wrong table."""
    path = folder if folder.is_file() else folder / FILE
    rows = read_table(path, needed=("case", "image", "labels"))
    lines: dict[str, int] = {}
    for row in rows:
        lines[row["case"]] = lines.get(row["case"], 0) + 1
    return [_case(row, path, repeated=lines[row["case"]] > 1) for row in rows]


def _case(row: dict[str, str], path: Path, *, repeated: bool) -> ImageFiles:
    image, labels = (path.parent / row[column] if row[column] else None for column in ("image", "labels"))
    name = row["case"] or (stem(image, (SEGMENTATION, *ENDINGS)) if image else "")
    sex = row.get("sex", "").casefold()
    if sex and sex not in _SEXES:
        raise DatasetError(f"{printable(path.name)}, case {printable(name)}: sex is {sex!r}, not female or male.")
    problem = ""
    if repeated:
        problem = f"{printable(path.name)} has several rows for it: keep one."
    elif image is None:
        problem = f"{printable(path.name)} names no image for it."
    return ImageFiles(
        name, image or path, labels, OWN, patient=row.get("patient", ""), sex=_SEXES.get(sex), problem=problem,
        columns={column: cell for column, cell in row.items() if column not in _COLUMNS},
    )  # fmt: skip

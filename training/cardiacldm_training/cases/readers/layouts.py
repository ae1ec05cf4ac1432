"""The layouts of data sets: the one list of them, how a folder's is recognised, and the cases that it holds."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from CardiacLDMLib.text import printable, printable_line

from ...errors import ConfigError, DatasetError
from . import dicom, folders, imagecas, mmwhs, nnunet, slicer, table, totalsegmentator
from .files import CaseFiles, ImageFiles, named, sub_folders
from .label_map import LabelMap, overridden


class Layout(Protocol):
    """A layout of a data set, a module of this package. ``find`` returns cases with labels and without."""

    @property
    def NAME(self) -> str: ...  # noqa: N802 - the name in the module

    @property
    def ABOUT(self) -> str: ...  # noqa: N802 - the name in the module

    def recognises(self, folder: Path) -> bool: ...

    def find(self, folder: Path) -> list[ImageFiles]: ...


#: The first that recognises a folder reads it: layouts with marks of their own come before those that search files.
LAYOUTS: tuple[Layout, ...] = (table, nnunet, totalsegmentator, mmwhs, imagecas, folders, slicer, dicom)
NAMES = tuple(layout.NAME for layout in LAYOUTS)


@dataclass(frozen=True)
class Reading:
    """How folders of cases are read: the name of their layout, and a table of labels; None: as they tell."""

    layout: str | None = None
    table: LabelMap | None = None


def layout_of(folder: Path, name: str | None = None) -> Layout:
    """Return the layout of ``folder``, or the one called ``name``. Raises :class:`ConfigError`, :class:`DatasetError`.

    A folder that no layout recognises may still hold images without labels, which this project's layout finds.
    """
    if name is not None and name not in NAMES:
        raise ConfigError(f"There is no layout {name!r}: choose one of {', '.join(NAMES)}.")
    if not folder.exists():
        raise DatasetError(f"There is no folder {folder}.")
    if folder.is_file() and folder.suffix.lower() != ".csv":
        raise DatasetError(f"{printable_line(str(folder))} is no folder, and no table of cases (CSV).")
    if name is not None:
        return LAYOUTS[NAMES.index(name)]
    return next((layout for layout in LAYOUTS if layout.recognises(folder)), folders)


def other_layouts(folder: Path, chosen: Layout) -> list[str]:
    """Return the names of further layouts that recognise ``folder``; the cases that they would find are not read."""
    if folder.is_file():  # a table
        return []
    return [layout.NAME for layout in LAYOUTS if layout is not chosen and layout.recognises(folder)]


def find_images(folder: Path, reading: Reading | None = None) -> list[ImageFiles]:
    """Return the images of ``folder``, with their labels where these exist, ordered by name.

    Raises :class:`DatasetError` if there are no images, and for a folder that cannot be opened.
    """
    found = _find(folder, reading or Reading())
    if not found:
        raise DatasetError(f"{folder} holds no images: it needs .nii.gz, .nii, .nrrd or .mha files.{_advice(folder)}")
    return found


def find_cases(folder: Path, reading: Reading | None = None) -> list[CaseFiles]:
    """Return the cases of ``folder``, ordered by name; one without labels has a ``problem``.

    Test cases of a data set that have no labels are left out. Raises :class:`DatasetError` if no case has labels.
    """
    found = [case for case in _find(folder, reading or Reading()) if case.labels is not None or case.part != "test"]
    if not found:
        raise DatasetError(f"{folder} holds no cases.{_advice(folder)}")
    if all(case.labels is None for case in found):
        raise DatasetError(f"None of the cases of {folder} has labels, {found[0].name} for one.{_advice(folder)}")
    return [_with_labels(case) for case in found]


def _find(folder: Path, reading: Reading) -> list[ImageFiles]:
    try:
        found = named(layout_of(folder, reading.layout).find(folder))
    except OSError as error:
        raise DatasetError(f"{error.filename or folder} cannot be opened: {error.strerror or error}.") from error
    return [replace(case, label_map=overridden(case.label_map, reading.table)) for case in found]


def _with_labels(case: ImageFiles) -> CaseFiles:
    values = {each.name: getattr(case, each.name) for each in fields(case)}
    if case.labels is None:
        missing = case.image.with_name("no labels")
        values |= {"labels": missing, "problem": case.problem or f"{case.image.name} has no labels."}
    return CaseFiles(**values)


def _advice(folder: Path) -> str:
    """Return where cases are, if a sub-folder has a layout; otherwise which layouts there are."""
    for path in sub_folders(folder) if folder.is_dir() else ():
        for layout in LAYOUTS:
            if layout.recognises(path):
                return f" Its folder {printable(path.name)} has the layout {layout.NAME}: name that one."
    return " Layouts: " + "; ".join(f"{layout.NAME} ({layout.ABOUT})" for layout in LAYOUTS) + "."

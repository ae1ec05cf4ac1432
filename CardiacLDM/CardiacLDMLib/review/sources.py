"""Where the cases of a review lie: a folder of results, of pairs or of training cases, or a table of files.

Finding cases reads names of files only, so that a folder of hundreds is open at once. Only the standard library; what
reads voxels is imported inside functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VolumeError
from ..image.case_names import case_name
from ..tables import read_rows
from ..text import base_name, printable, unique_name
from .journal import FOLDER

if TYPE_CHECKING:
    from ..image.cases import Case
    from ..image.grid import Volume

#: Endings of volumes, of a segmentation of Slicer's, and of the label maps of a segmented case.
VOLUMES, SEGMENTATION = (".nii.gz", ".nii", ".nrrd", ".mha"), ".seg.nrrd"
RESULTS = (".labels.nii.gz", ".labels.nii")
#: Files of a pair or a virtual case, and what names the model package that made the labels.
CT, LABELS, PROVENANCE, REPORT = "ct.nii.gz", "labels.nii.gz", "provenance.json", ".report.json"
#: Tolerance within which a scan and its labels have the same grid.
SAME_GRID_MM = 0.01


@dataclass(frozen=True)
class ReviewCase:
    """Labels to review, and the scan that they belong to; either may be missing. ``name`` tells it from the others.

    ``image``: a file, or a folder of DICOM slices. ``scan``: instead, a scan that was found in another folder;
    ``parts``: its files, where it does not tell them. ``about``: the JSON file that names the model package. A case of
    the scene has no files.
    """

    name: str
    labels: Path | None = field(default=None, repr=False)
    image: Path | None = field(default=None, repr=False)
    scan: Case | None = field(default=None, repr=False)
    about: Path | None = field(default=None, repr=False)
    parts: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def scan_files(self) -> tuple[Path, ...]:
        """The files of the scan; a folder stands for the files in it."""
        if self.parts or self.scan is None:
            return self.parts or (() if self.image is None else (self.image,))
        return (self.scan.path,) if self.scan.series is None else self.scan.series.files


@dataclass(frozen=True)
class Source:
    """The cases of a review, in their order, and the folder of its journals."""

    cases: list[ReviewCase]
    review: Path


# --- finding -------------------------------------------------------------------------------------------------------


def open_source(path: Path, scans: Path | None = None, review: Path | None = None) -> Source:
    """Return the cases of a folder or of a table (CSV). ``scans``: folder of the scans that results were made from.

    Journals lie in ``review``; without it in the folder of that name within a folder, or in ``NAME-review`` beside a
    table. Raises :class:`VolumeError` if there are no cases.
    """
    if path.is_dir():
        try:
            return Source(cases_of_folder(path, scans), review or path / FOLDER)
        except OSError as error:
            raise VolumeError(f"The folder {_shown(path)} cannot be opened: {error.strerror}.") from error
    if not path.is_file():
        raise VolumeError(f"There is no file or folder {_shown(path)}.")
    return Source(cases_of_table(path), review or path.parent / f"{path.stem}-{FOLDER}")


def cases_of_scene(names: Iterable[str]) -> list[ReviewCase]:
    """Return cases without files, named after the segmentations of a scene; equal names get numbers."""
    taken: set[str] = set()
    return [ReviewCase(unique_name(case_name(name), taken)) for name in names]


def cases_of_folder(folder: Path, scans: Path | None = None) -> list[ReviewCase]:
    """Return the cases of ``folder``, ordered by name.

    Layouts, also mixed: ``NAME.labels.nii.gz`` (results), ``NAME/{ct,labels}.nii.gz`` (pairs and virtual cases),
    ``{images,labels}/NAME.nii.gz``. Raises :class:`VolumeError` if there are none, ``OSError`` if it cannot be read.
    """
    names = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")}
    images, labels = names.get("images"), names.get("labels")
    cases = _results(folder, list(names.values()))
    if cases and scans is not None:
        cases = with_scans(cases, {name: ReviewCase(name, scan=scan) for name, scan in scans_in(scans).items()})
    if labels is not None and labels.is_dir():
        cases += _paired(images if images is not None and images.is_dir() else None, labels)
    for entry in names.values():
        if entry not in (images, labels) and entry.name != FOLDER and entry.is_dir():
            cases += _pair(entry)
    if not cases:
        raise VolumeError(
            f"{_shown(folder)} holds no labels to review: it needs NAME.labels.nii.gz, NAME/labels.nii.gz, or images/ "
            "and labels/ folders."
        )
    return _unique(sorted(cases, key=lambda case: case.name.casefold()))


def with_scans(cases: Sequence[ReviewCase], scans: Mapping[str, ReviewCase]) -> list[ReviewCase]:
    """Return cases, of which results get the ``scan`` of their name instead of one that lies near them."""
    found = []
    for case in cases:
        scan = scans.get(stem(case.labels, RESULTS)) if case.labels is not None else None
        found.append(case if scan is None else replace(case, image=None, scan=scan.scan, parts=scan.parts))
    return found


def _unique(cases: Iterable[ReviewCase]) -> list[ReviewCase]:
    taken: set[str] = set()
    return [replace(case, name=unique_name(case_name(case.name), taken)) for case in cases]


def _shown(path: Path) -> str:
    return printable(base_name(path))


def stem(path: Path, endings: Sequence[str] = VOLUMES) -> str:
    """Return a file's name without its ending; empty for hidden files and other endings."""
    ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
    return path.name[: -len(ending)] if ending and not path.name.startswith(".") else ""


def _results(folder: Path, entries: Sequence[Path]) -> list[ReviewCase]:
    """Return the segmented cases among the files of a folder."""
    found = {name: path for path in entries if (name := stem(path, RESULTS))}
    if not found:
        return []
    beside = _scans_beside(folder)
    return [ReviewCase(name, path, beside.get(name), about=folder / (name + REPORT)) for name, path in found.items()]


def _scans_beside(folder: Path) -> dict[str, Path]:
    """Return the volume files in the folder above results and beside them, by the name of the case that each is."""
    found: dict[str, Path] = {}
    for place in (folder.absolute().parent, folder):
        try:
            entries = sorted(place.iterdir())
        except OSError:
            continue
        for path in entries:
            if not path.name.lower().endswith((*RESULTS, SEGMENTATION)) and stem(path):
                found[case_name(stem(path))] = path
    return found


def scans_in(folder: Path) -> dict[str, Case]:
    """Return the scans of a folder by their names, which are those of the results made from it.

    Raises :class:`VolumeError` if there are none.
    """
    from ..image.cases import Refused, find_cases

    found = {case.name: case for case in find_cases([folder]) if not isinstance(case, Refused)}
    if not found:
        raise VolumeError(f"{_shown(folder)} holds no scans.")
    return found


def _paired(images: Path | None, labels: Path) -> list[ReviewCase]:
    """Return the cases of the layout ``images/`` and ``labels/``, also those that lack one of the two."""
    scans = {stem(path): path for path in sorted(images.iterdir()) if stem(path)} if images else {}
    maps = {name: path for path in sorted(labels.iterdir()) if (name := stem(path, (SEGMENTATION, *VOLUMES)))}
    return [ReviewCase(name, maps.get(name), scans.get(name)) for name in sorted({*scans, *maps})]


def _pair(folder: Path) -> list[ReviewCase]:
    """Return the case of a folder with a CT, labels or both; none of any other folder."""
    try:
        files = {path.name.lower(): path for path in sorted(folder.iterdir())}
    except OSError:
        return [ReviewCase(folder.name, folder / LABELS)]  # which reading refuses
    if CT not in files and LABELS not in files:
        return []
    return [ReviewCase(folder.name, files.get(LABELS), files.get(CT), about=folder / PROVENANCE)]


# --- tables --------------------------------------------------------------------------------------------------------


def cases_of_table(path: Path) -> list[ReviewCase]:
    """Return the cases of a CSV file with the columns case, image and labels, in its order.

    Commas, semicolons or tabs separate; paths are relative to the table. Raises :class:`VolumeError`.
    """
    rows = read_rows(path, VolumeError, ("case", "labels"), "case, image and labels")
    cases = [_row(row, path.absolute().parent) for row in rows]
    if not cases:
        raise VolumeError(f"{_shown(path)} holds no cases.")
    return _unique(cases)


def _row(row: dict[str, str], folder: Path) -> ReviewCase:
    image, labels = (folder / row[column] if row.get(column) else None for column in ("image", "labels"))
    name = row.get("case") or (stem(labels) if labels else "")
    return ReviewCase(name, labels, image)


# --- reading -------------------------------------------------------------------------------------------------------


def package_of(case: ReviewCase) -> str:
    """Return name and version of the model package that made the labels; empty if it is not known."""
    if case.about is None:
        return ""
    try:
        package = json.loads(case.about.read_text(encoding="utf-8"))["package"]
        return printable(f"{package['name']} {package['version']}")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_labels(path: Path | None) -> Volume:
    """Read a label map: uint8, values 0 to 8, all 0 for one without labels. Raises :class:`VolumeError`."""
    import numpy as np

    from ..image.files import read_volume
    from ..image.grid import Volume
    from ..image.headers import is_segmentation
    from ..image.labels import check_labels

    if path is None:
        raise VolumeError("It has a scan, but no labels.")
    if path.is_file() and is_segmentation(path):
        raise VolumeError(
            f"{_shown(path)} is a segmentation of 3D Slicer, whose values may mean anything: export it as a labelmap "
            "(LA 1, LV 2, RA 3, RV 4, MYO 5, AO 6, PA 7, LAA 8)."
        )
    labels = read_volume(path)
    check_labels(labels.array)
    return Volume(np.asarray(labels.array).astype(np.uint8), labels.affine)


def read_image(case: ReviewCase) -> Volume | None:
    """Read the scan of a case, HU; None if it has none. Raises :class:`VolumeError`."""
    from ..image.cases import Case, Refused, find_cases, read_case

    scan: Case | Refused | None = case.scan
    if case.image is not None and scan is None:
        scan = find_cases([case.image])[0] if case.image.is_dir() else Case(case.name, case.image)
    if isinstance(scan, Refused):
        raise VolumeError(scan.reason)
    return read_case(scan) if scan is not None else None


def read_both(case: ReviewCase, labels: Path | None = None) -> tuple[Volume, Volume | None]:
    """Read labels and scan of a case, on one grid. ``labels``: a file of corrected labels to read instead.

    Raises :class:`VolumeError`, also for labels on another grid than the scan's.
    """
    found = read_labels(labels or case.labels)
    image = read_image(case)
    if image is not None and not image.grid.same_as(found.grid, tolerance_mm=SAME_GRID_MM):
        raise VolumeError(f"Its labels have another grid than its scan{_sizes(found, image)}: resample them first.")
    return found, image


def _sizes(labels: Volume, image: Volume) -> str:
    """Return the numbers of voxels of two volumes in brackets; nothing if they are the same."""
    sizes = [" x ".join(map(str, volume.array.shape)) for volume in (labels, image)]
    return "" if sizes[0] == sizes[1] else f" ({sizes[0]} and {sizes[1]} voxels)"

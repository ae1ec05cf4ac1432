"""Open a review: the reader's name, the cases of a folder, a table or the scene, and the folder of the verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

import slicer

from ....errors import UserError, VolumeError
from ....image.cases import Case
from ....review.journal import FOLDER, Journal
from ....review.sources import ReviewCase, Source, cases_of_scene, open_source, with_scans
from ....review.worklist import Worklist
from ... import segmentations
from .nodes import REVIEW

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

    from ....worker.review_messages import FoundScan

#: The reader's name in the user's settings of Slicer.
READER_KEY = "CardiacLDM/reviewReader"


@dataclass
class Opened:
    """A list of cases, and the segmentations of those that lie in the scene. ``notes``: sentences on damage.

    ``source``: the folder or table of the cases, None for those of the scene; ``scans``: another folder of its scans.
    """

    worklist: Worklist
    in_scene: dict[str, vtkMRMLSegmentationNode]
    notes: list[str]
    source: Path | None = None
    scans: Path | None = None


def stored_reader() -> str:
    """Return the reader's name that was given before; empty if there is none."""
    return str(slicer.app.userSettings().value(READER_KEY) or "")


def store_reader(name: str) -> None:
    """Keep the reader's name for the next review."""
    slicer.app.userSettings().setValue(READER_KEY, name)


def open_files(path: str, reader: str, verdicts: str, folder: str, scans: list[FoundScan]) -> Opened:
    """Open a folder or a table. ``verdicts``: folder of the verdicts, empty for the usual one.

    ``scans``: those in ``folder``, from which results were made; none if it is empty. Raises :class:`UserError`.
    """
    place = Path(path).absolute()
    source = open_source(place, None, Path(verdicts).absolute() if verdicts else None)
    known = {
        each.name: ReviewCase(each.name, scan=Case(each.name, each.source, study=each.study), parts=tuple(each.files))
        for each in scans
    }
    opened = _open(with_scans(source.cases, known), source.review, reader, {})
    count = sum(not case.scan_files for case in opened.worklist.cases)
    if count:
        opened.notes.append(
            _("Cases without a CT: {n} of {total}. If it lies elsewhere, choose its folder under Scans and open again.")
            .format(n=count, total=len(opened.worklist.cases))
        )  # fmt: skip
    return replace(opened, source=place, scans=Path(folder).absolute() if folder else None)


def open_scene(reader: str, verdicts: str) -> Opened:
    """Open the segmentations of the scene that have a structure of the heart and a scan. Raises :class:`UserError`."""
    nodes = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if _can_be_reviewed(node)]
    if not nodes:
        raise VolumeError(_("The scene has no segmentation of a heart together with its scan."))
    folder = Path(verdicts) if verdicts else scene_folder()
    if folder is None:
        raise UserError(_("This scene is not saved: choose a folder for the verdicts."))
    cases = cases_of_scene(node.GetName() for node in nodes)
    names = [case.name for case in cases]
    return _open(cases, folder, reader, dict(zip(names, nodes, strict=True)))


def scene_folder() -> Path | None:
    """Return the folder of the verdicts beside the saved scene; None if it is not saved."""
    url = slicer.mrmlScene.GetURL()
    return Path(url).absolute().parent / FOLDER if url and Path(url).is_file() else None


def _open(
    cases: list[Any], folder: Path, reader: str, in_scene: dict[str, vtkMRMLSegmentationNode]
) -> Opened:  # fmt: skip
    journal = Journal(folder, reader)
    return Opened(Worklist(Source(cases, folder), journal), in_scene, list(journal.notes))


def _can_be_reviewed(node: vtkMRMLSegmentationNode) -> bool:
    if node.GetAttribute(REVIEW) or node.GetHideFromEditors():
        return False
    return segmentations.scan_of(node) is not None and bool(segmentations.recognised_segments(node))

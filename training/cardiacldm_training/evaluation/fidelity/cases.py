"""Labelled cases of any origin on one grid: what a generator makes, and references brought to the same view."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import AIR_HU, Volume

from ...cases import store
from ...cases.augment import box
from ...cases.pairs import heart_centre
from ...cases.readers.folders import CaseFiles
from ...errors import EvaluationError


@dataclass(frozen=True)
class View:
    """The grid on which everything is compared: voxels along R, A, S and their size in mm."""

    grid: tuple[int, int, int]
    spacing_mm: float

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): the grid around the origin, as generated pairs have it."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -self.spacing_mm * (np.array(self.grid) - 1) / 2
        return affine


#: What pairs of different grids are compared on: the demo preset's grid.
USUAL_VIEW = View((64, 64, 48), 3.0)


@dataclass(frozen=True)
class Pair:
    """One case on the common grid."""

    name: str
    hu: np.ndarray = field(repr=False)  # (I, J, K) int16
    labels: np.ndarray = field(repr=False)  # (I, J, K) uint8
    view: View

    @property
    def image_volume(self) -> Volume:
        return Volume(self.hu, self.view.affine)

    @property
    def labels_volume(self) -> Volume:
        return Volume(self.labels, self.view.affine)


@dataclass(frozen=True)
class Source:
    """Cases on disk, opened one by one; ``skipped`` names those that cannot be used, with the reason.

    Cases of several folders have the folder in their names.
    """

    name: str
    cases: Sequence[store.PreparedCase]
    skipped: dict[str, str]
    view: View

    @property
    def names(self) -> list[str]:
        return [case.name for case in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Pair:
        case = self.cases[index]
        hu, labels = on_grid(case, self.view.grid)
        return Pair(self.names[index], hu, labels, self.view)


def open_source(
    folders: Sequence[Path], view: View, cache: Path | None, say: Callable[[str], None] = lambda line: None
) -> Source:
    """The cases of all ``folders`` on ``view``; prepared once, in ``cache`` or each folder's ``.prepared``.

    Raises DatasetError where a folder holds no cases, :class:`EvaluationError` where none can be used.
    """
    found = store.gather(folders, cache)
    name = ", ".join(folder.resolve().name for folder in folders)
    say(f"Preparing {len(found)} cases of {name} at {view.spacing_mm:g} mm.")
    prepared = store.prepare(found, view.spacing_mm)
    short = len(f"{name}/") if len(folders) == 1 else 0
    skipped = {case[short:]: why for case, why in prepared.skipped}
    if not prepared.cases:
        case, why = next(iter(skipped.items()))
        raise EvaluationError(f"No case of {', '.join(map(str, folders))} can be used; {case}: {why}")
    return Source(name, [replace(case, name=case.name[short:]) for case in prepared.cases], skipped, view)


def textured(folder: Path) -> bool:
    """Whether tone or texture was put on pairs of ``folder`` when they were drawn, as far as provenance says."""
    for path in folder.glob("*/provenance.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("tone") or record.get("texture"):
                return True
    return False


def view_of(cases: Sequence[CaseFiles]) -> View:
    """The grid that all images share, if it is one of cubes along R, A and S; the usual one otherwise."""
    views = set()
    for files in cases:
        try:
            grid = read_volume(files.image).grid
        except VolumeError:
            continue
        if not np.allclose(grid.affine[:3, :3], np.eye(3) * grid.affine[0, 0], atol=1e-4) or grid.affine[0, 0] <= 0:
            return USUAL_VIEW
        views.add(View(grid.shape, round(float(grid.affine[0, 0]), 4)))
    return views.pop() if len(views) == 1 else USUAL_VIEW


def on_grid(case: store.PreparedCase, grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The box of ``grid`` voxels around the heart, as generators are trained on it: HU int16 (air outside the scan),
    labels uint8. What has that shape already is taken as it is."""
    hu, labels = case.image, case.labels
    if hu.shape == tuple(grid):
        return np.array(hu), np.array(labels)
    start = np.round(heart_centre(case) - (np.array(grid) - 1) / 2).astype(int)
    return box(hu, start, start + grid, AIR_HU), box(labels, start, start + grid, anatomy.BACKGROUND)

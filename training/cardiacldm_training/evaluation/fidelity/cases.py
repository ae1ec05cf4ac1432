"""Labelled cases on a common grid: generated pairs, held-out cases and training cases."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import AIR_HU, Volume
from CardiacLDMLib.text import folder_name, plural

from ...cases import store
from ...cases.augment import box
from ...cases.conditions import Conditions, read_conditions
from ...cases.pairs import heart_centre
from ...cases.prepare import whole_cases
from ...cases.readers.files import CaseFiles
from ...cases.readers.layouts import Reading
from ...errors import EvaluationError


@dataclass(frozen=True)
class View:
    """The grid of a comparison: voxels along R, A, S and their size in mm."""

    grid: tuple[int, int, int]
    spacing_mm: float

    @property
    def affine(self) -> np.ndarray:
        """Affine (4, 4) that centres the grid at the origin, as in generated pairs."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -self.spacing_mm * (np.array(self.grid) - 1) / 2
        return affine


#: View for pairs of different grids: the grid of the demo preset.
DEFAULT_VIEW = View((64, 64, 48), 3.0)


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
class CaseSet:
    """Cases on disk, opened one at a time.

    ``skipped``: reason by name of each case that cannot be used. Names include the folder if there are several.
    ``conditions``: those that are known, by name.
    """

    name: str
    cases: Sequence[store.PreparedCase]
    skipped: dict[str, str]
    view: View
    conditions: Mapping[str, Conditions] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> list[str]:
        return [case.name for case in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Pair:
        case = self.cases[index]
        hu, labels = crop_to_grid(case, self.view.grid)
        return Pair(self.names[index], hu, labels, self.view)


def open_case_set(
    folders: Sequence[Path], view: View, cache: Path | None, say: Callable[[str], None] = lambda line: None,
    reading: Reading | None = None,
) -> CaseSet:  # fmt: skip
    """Prepare the cases of all ``folders`` for ``view``, in ``cache`` or each folder's ``.prepared``.

    ``reading``: how the folders are to be read; recognised by itself if None.

    Raises DatasetError if a folder has no cases, :class:`EvaluationError` if no case can be used.
    """
    files = store.gather(folders, cache, reading=reading)
    name = ", ".join(folder_name(folder) for folder in folders)
    say(f"Preparing {plural(len(files), 'case')} of {name} at {view.spacing_mm:g} mm.")
    prepared = whole_cases(store.prepare(files, view.spacing_mm))
    short = len(f"{name}/") if len(folders) == 1 else 0
    skipped = {case[short:]: why for case, why in prepared.skipped}
    if not prepared.cases:
        case, why = next(iter(skipped.items()))
        raise EvaluationError(f"No case of {', '.join(map(str, folders))} can be used; {case}: {why}")
    cases = [replace(case, name=case.name[short:]) for case in prepared.cases]
    known = {case[short:]: values for case, values in _conditions(folders, reading).items()}
    return CaseSet(name, cases, skipped, view, known)


def _conditions(folders: Sequence[Path], reading: Reading | None) -> dict[str, Conditions]:
    """Return the conditions of each case, by its name with its folder; those of a generated pair are in its record."""
    known = read_conditions(folders, reading)
    for folder in folders:
        for path in folder.glob("*/provenance.json"):
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                record = json.loads(path.read_text(encoding="utf-8"))
                asked = {**(record.get("drawn_conditions") or {}), **(record.get("conditions") or {})}
                known[f"{folder_name(folder)}/{path.parent.name}"] = asked
    return known


def has_texture(folder: Path) -> bool:
    """Return whether the provenance of a pair in ``folder`` records tone or texture correction."""
    for path in folder.glob("*/provenance.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("tone") or record.get("texture"):
                return True
    return False


def common_view(cases: Sequence[CaseFiles]) -> View:
    """Return the grid that all images share, if its voxels are cubes along R, A and S; else the default view."""
    views = set()
    for files in cases:
        try:
            grid = read_volume(files.image).grid
        except VolumeError:
            continue
        if not np.allclose(grid.affine[:3, :3], np.eye(3) * grid.affine[0, 0], atol=1e-4) or grid.affine[0, 0] <= 0:
            return DEFAULT_VIEW
        views.add(View(grid.shape, round(float(grid.affine[0, 0]), 4)))
    return views.pop() if len(views) == 1 else DEFAULT_VIEW


def crop_to_grid(case: store.PreparedCase, grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return HU (int16, air outside the scan) and labels (uint8) of the box of ``grid`` voxels around the heart.

    A case that already has this shape is returned unchanged.
    """
    hu, labels = case.image, case.labels
    if hu.shape == tuple(grid):
        return np.array(hu), np.array(labels)
    start = np.round(heart_centre(case) - (np.array(grid) - 1) / 2).astype(int)
    return box(hu, start, start + grid, AIR_HU), box(labels, start, start + grid, anatomy.BACKGROUND)

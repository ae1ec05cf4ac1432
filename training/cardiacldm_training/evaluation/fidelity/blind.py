"""A blind test: slices of real, virtual and generated cases, shuffled, for a person to tell apart."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from CardiacLDMLib.anatomy import FULL_WINDOW, PICTURE_WINDOW
from CardiacLDMLib.image.grid import AIR_HU
from CardiacLDMLib.results.pictures import PLANES, Field, Plane, sample_plane, to_grey, write_png

from ...errors import EvaluationError
from .blind_page import blind_page
from .cases import CaseSet, Pair, View

#: Side of a slice in pixels.
PIXELS = 384
#: Least share of a slice that is neither air nor lung: others show little to judge.
LEAST_BODY, BODY_HU = 0.25, -500.0
#: Slices of a case that are tried before another case is.
TRIES = 20
#: The kinds of slices, in the order of their buttons.
KINDS = ("real", "virtual", "generated")
#: Share of the slices in the wide window, which shows the lungs; the others show soft tissue.
WIDE_SHARE = 0.5


def make_blind_test(sets: Mapping[str, CaseSet], count: int, seed: int) -> str:
    """Return the page with ``count`` slices of each of the ``sets``, which are named by their kind.

    The cases of a set take turns. All slices have the grid of the sets, the same two windows and the same size; nothing
    of a case but its voxels is in the page. Raises :class:`EvaluationError` for a set without a slice to show.
    """
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS if kind in sets]
    windows = [FULL_WINDOW if n < WIDE_SHARE * count else PICTURE_WINDOW for n in range(count)]
    shown = []
    for kind in kinds:
        order = rng.permutation(len(sets[kind]))
        for n in range(count):
            pixels = _draw_slice(sets[kind], order, n, rng)
            shown.append((kind, _png(to_grey(pixels, windows[n]).astype(np.uint8))))
    shuffled = [shown[n] for n in rng.permutation(len(shown))]
    view = sets[kinds[0]].view
    note = f"All slices have voxels of {view.spacing_mm:g} mm and show {_side_mm(view):.0f} mm across."
    return blind_page([data for _, data in shuffled], [kind for kind, _ in shuffled], kinds, note)


def _side_mm(view: View) -> float:
    return max(view.grid) * view.spacing_mm


def _draw_slice(cases: CaseSet, order: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return slice ``number`` of a set (PIXELS, PIXELS; HU), of the next case in ``order`` that has one to show."""
    for step in range(len(order)):
        pair = cases[int(order[(number + step) % len(order)])]
        for _ in range(TRIES):
            plane = PLANES[int(rng.integers(len(PLANES)))]
            hu = _slice(pair, plane, float(rng.uniform(0.05, 0.95)))
            if (hu > BODY_HU).mean() >= LEAST_BODY:
                return hu
    raise EvaluationError(f"No case of {cases.name} has a slice that shows more than air.")


def _slice(pair: Pair, plane: Plane, share: float) -> np.ndarray:
    """Return the slice in ``plane`` at a share of the grid's depth, whole and in the middle of the picture."""
    affine, shape = pair.view.affine, np.array(pair.view.grid)
    normal = np.cross(plane.right, plane.up)
    index = (shape - 1) / 2
    axis = int(np.abs(normal).argmax())
    index[axis] = np.floor(share * shape[axis])
    field = Field(affine[:3, :3] @ index + affine[:3, 3], _side_mm(pair.view))
    return sample_plane(pair.image_volume, plane, field, PIXELS, linear=True, outside=AIR_HU)


def _png(pixels: np.ndarray) -> bytes:
    """Return (rows, columns) uint8 as PNG."""
    with tempfile.TemporaryDirectory(prefix="cardiacldm-") as folder:
        path = Path(folder, "slice.png")
        write_png(pixels, path)
        return path.read_bytes()

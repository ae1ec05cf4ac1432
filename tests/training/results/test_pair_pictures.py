"""Pictures of synthetic pairs: the right way round, labels in place, changed voxels marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cardiacldm_training.results import pair_pictures
from cardiacldm_training.results.pair_pictures import draw_cleaning, draw_overview, draw_sheet, view, write_figure
from CardiacLDMLib import anatomy
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.pictures import AXIAL, COLOURS, CORONAL, SAGITTAL, Plane
from tests.support.blocks import blocks

PIXELS = 90  # three for each voxel of the longest side
PROVENANCE = {
    "volumes_ml": dict.fromkeys(anatomy.NAMES, 12.0), "conditions": {"sex": "female"},
    "drawn_conditions": {"age": 60.0}, "notice": "Synthetic.", "package": {"name": "tiny", "version": "1"},
    "seed": 1, "index": 2, "attempt": 0, "solver": "euler", "steps": 4, "guidance": 1.0,
}  # fmt: skip


def pair(raw: np.ndarray | None = None) -> Pair:
    """Return a pair on a RAS grid of 4 mm: right atrium, left atrium and left ventricle one after another."""
    scan, labels = blocks("RAS", values=(1, 2, 3))
    grid = np.diag([4.0, 4.0, 4.0, 1.0])
    decoded = None if raw is None else Volume(raw, grid)
    return Pair(Volume(scan.array, grid), Volume(labels.array, grid), PROVENANCE, raw_labels=decoded)


def label_colour_places(plane: Plane, value: int) -> tuple[float, float]:
    """Return row and column of the middle of a label's outline."""
    rows, columns = np.nonzero((view(pair(), plane, PIXELS, labelled=True) == COLOURS[value]).all(-1))
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize("plane", [AXIAL, CORONAL])
def test_views_are_seen_as_radiologists_look(plane: Plane) -> None:
    _, labels = blocks("RAS", values=(1, 2, 3))
    places = {value: label_colour_places(plane, value) for value in (1, 2, 3)}
    centres = {value: np.argwhere(labels.array == value).mean(0) for value in (1, 2, 3)}
    order = sorted(places, key=lambda value: places[value][1])
    assert order == sorted(centres, key=lambda value: -centres[value][0])  # the patient's right on the left
    assert all(row < PIXELS / 2 for row, _ in places.values())  # in front or above: at the top


def test_views_without_labels_are_grey_and_fill_the_square() -> None:
    picture = view(pair(), AXIAL, PIXELS, labelled=False)
    assert picture.shape == (PIXELS, PIXELS, 3)
    assert (picture == picture[..., :1]).all()
    middle = int(np.argwhere(pair().labels.array > 0).mean(0)[2])
    low, high = anatomy.PICTURE_WINDOW
    expected = ((pair().image.array[::-1, ::-1, middle].T - low) / (high - low) * 255).clip(0, 255)
    margin = (PIXELS - 3 * expected.shape[0]) // 2
    assert np.abs(picture[margin + 1 : PIXELS - margin : 3, 1::3, 0] - expected).max() <= 1  # voxel centres
    assert not picture[:margin].any()


def test_marked_voxels_are_framed_in_white() -> None:
    marked = np.zeros(pair().labels.array.shape, bool)
    marked[10:14, 10:14, 5] = True
    picture = view(pair(), SAGITTAL, PIXELS, labelled=True, index=12, marked=marked)
    rows, columns = np.nonzero((picture == 255).all(-1))
    side = 3 * 4 + 4  # the voxels and two pixels on either side
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (side, 3 + 4)
    assert not (view(pair(), SAGITTAL, PIXELS, labelled=True, index=20, marked=marked) == 255).all(-1).any()


def test_pictures_have_the_planned_sizes_and_equal_bytes(tmp_path: Path) -> None:
    gap = pair_pictures.GAP_PIXELS
    three, four = 3 * pair_pictures.VIEW_PIXELS + 2 * gap, 4 * pair_pictures.SMALL_PIXELS + gap
    raw = pair().labels.array.copy()
    raw[5:8, 5:8, 5:8] = anatomy.VALUE["AO"]
    for name, figure, width in (
        ("overview", lambda: draw_overview(pair(), "pair_0002"), three),
        ("cleaning", lambda: draw_cleaning(pair(raw), "pair_0002"), three),
        ("sheet", lambda: draw_sheet([("pair_0002", pair())]), four),
    ):
        for number in (1, 2):
            write_figure(figure(), tmp_path / f"{name}{number}.png")
        assert (tmp_path / f"{name}1.png").read_bytes() == (tmp_path / f"{name}2.png").read_bytes()
        assert sitk.ReadImage(str(tmp_path / f"{name}1.png")).GetWidth() == width


def test_cleaning_counts_the_voxels_that_changed() -> None:
    raw = pair().labels.array.copy()
    raw[raw == 0] = np.where(np.arange((raw == 0).sum()) < 27, anatomy.VALUE["AO"], 0)
    texts = " ".join(text.get_text() for text in draw_cleaning(pair(raw), "pair_0002").texts)
    assert "pair_0002: 27 voxels" in texts
    assert "AO -27 +0" in texts

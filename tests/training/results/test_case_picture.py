"""The command line's picture of a case: every colour, the right words, names that trouble drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from cardiacldm_training.results import case_picture
from cardiacldm_training.results.case_picture import draw_case
from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.case_files import ENDINGS, read_report, write_case_files
from tests.support.blocks import blocks, case_report


def test_picture_shows_every_colour_or_says_that_there_is_no_heart(tmp_path: Path) -> None:
    scan, labels = blocks("oblique")
    draw_case(scan, labels, case_report(labels), tmp_path / "heart.png")
    picture = imread(tmp_path / "heart.png")
    for structure in anatomy.STRUCTURES:
        swatch = np.abs(picture[..., :3] - np.array(structure.colour) / 255).max(axis=2) < 0.01
        assert swatch.sum() > 20, structure.name
    empty = Volume(np.zeros_like(labels.array), labels.affine)
    (finding,) = set(legend_texts(scan, empty)) - set(legend_texts(scan, labels)) - {"none"}
    assert "heart" in finding


def legend_texts(scan: Volume, labels: Volume) -> list[str]:
    return [text.get_text() for text in case_picture._figure(scan, labels, case_report(labels)).texts]


def test_names_and_values_that_trouble_drawing(tmp_path: Path) -> None:
    scan, labels = blocks()
    scan = Volume(np.where(labels.array == 1, np.nan, scan.array).astype(np.float32), scan.affine)
    name = "$x^{[bold] 心"
    report = case_report(labels, name, warnings=["50 % of $nothing$"] * 20)
    files = write_case_files(tmp_path, scan, labels, report, draw=draw_case)
    assert read_report(files[-1]).case == name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(name + ending for ending in ENDINGS)

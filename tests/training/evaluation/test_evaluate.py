"""Figures against values worked out by hand; misses and extras counted; the command end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation.segmenter import (
    CaseScore,
    StructureScore,
    bootstrap,
    compare_masks,
    read_evaluation,
    score_labels,
    summarise,
)
from CardiacLDMLib.anatomy import VALUE
from tests.support.phantom_package import write_phantom_package
from tests.support.training import write_cases


def block(start: tuple[int, int, int], size: tuple[int, int, int], shape: int = 40) -> np.ndarray:
    mask = np.zeros((shape,) * 3, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def test_equal_masks_are_perfect() -> None:
    mask = block((5, 6, 7), (10, 12, 9))
    assert compare_masks(mask, mask, np.array([0.7, 0.7, 2.5])) == (1.0, 0.0, 1.0)


def test_a_cube_moved_by_two_slices() -> None:
    """1000 voxels of 1 x 1 x 1.5 mm moved by two along k: 800 in common; a fifth of each surface is 3 mm off."""
    spacing = np.array([1.0, 1.0, 1.5])
    dice, hd95, nsd = compare_masks(block((10, 10, 10), (10,) * 3), block((10, 10, 12), (10,) * 3), spacing)
    assert dice == pytest.approx(0.8)
    assert hd95 == pytest.approx(3.0)
    assert 0.6 < nsd < 1.0


def test_spacing_counts_along_its_own_axis() -> None:
    """A plate one voxel thick moved by 4 voxels across it: every distance is 4 times the spacing of that axis."""
    for axis, spacing in enumerate((0.5, 1.0, 2.0)):
        size, moved = [30, 30, 30], [5, 5, 5]
        size[axis], moved[axis] = 1, 9
        _, hd95, nsd = compare_masks(
            block((5, 5, 5), tuple(size)), block(tuple(moved), tuple(size)), np.array([0.5, 1.0, 2.0])
        )
        assert hd95 == pytest.approx(4 * spacing)
        assert nsd == (1.0 if 4 * spacing <= 2.0 else 0.0)


def test_the_box_around_the_masks_changes_nothing() -> None:
    """MONAI on the whole arrays gives what it gives on the cropped ones."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(0)
    one, two = block((8, 9, 10), (14, 9, 11)), block((10, 8, 9), (13, 12, 11))
    one &= rng.random(one.shape) < 0.9
    spacing = [0.8, 0.9, 1.5]
    pair = [torch.from_numpy(mask)[None, None] for mask in (one, two)]
    _, hd95, nsd = compare_masks(one, two, np.array(spacing))
    assert hd95 == pytest.approx(
        float(compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing))
    )
    assert nsd == pytest.approx(
        float(compute_surface_dice(*pair, [2.0], include_background=True, spacing=spacing, use_subvoxels=True))
    )


def test_misses_and_extras_count_and_what_neither_has_does_not() -> None:
    reference, prediction = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    reference[2:8, 2:8, 2:8] = VALUE["LA"]
    reference[10:15, 2:8, 2:8] = VALUE["LV"]
    prediction[2:8, 2:8, 2:8] = VALUE["LA"]
    prediction[2:8, 12:16, 2:8] = VALUE["PA"]
    scores = {s.structure: s for s in score_labels(prediction, reference, np.array([1.0, 2.0, 2.0]))}
    assert {name: s.outcome for name, s in scores.items()} == {"LA": "found", "LV": "missed", "PA": "extra"}
    assert scores["LA"].dice == 1.0
    for name in ("LV", "PA"):
        assert (scores[name].dice, scores[name].nsd) == (0.0, 0.0)
        assert scores[name].hd95_mm == pytest.approx(60.0)  # 20 x 40 x 40 mm


def case(name: str, **dice: float) -> CaseScore:
    scores = [
        StructureScore(structure=s, dice=d, hd95_mm=10 * (1 - d), nsd=d, outcome="missed" if d == 0 else "found")
        for s, d in dice.items()
    ]
    return CaseScore(case=name, structures=scores, warnings=[], seconds=1.0)


def test_summary_against_hand_counts() -> None:
    rows = {row.structure: row for row in summarise([case("a", LA=0.9, LV=0.5), case("b", LA=0.7), case("c", LA=0.0)])}
    assert list(rows) == ["LA", "LV", "mean"]
    assert (rows["LA"].cases, rows["LA"].missed, rows["LV"].cases) == (3, 1, 1)
    assert rows["LA"].dice.mean == pytest.approx(1.6 / 3)
    assert rows["LV"].dice.mean == rows["LV"].dice.low == rows["LV"].dice.high == 0.5
    assert rows["mean"].dice.mean == pytest.approx((0.7 + 0.7 + 0.0) / 3)
    assert rows["mean"].missed == 1
    assert rows["LA"].hd95_mm.mean == pytest.approx(10 - 16 / 3)
    assert summarise([]) == []


def test_bootstrap_intervals_are_reproducible_and_about_right() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 100)
    interval = bootstrap(values)
    assert interval == bootstrap(values)
    error = values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.004)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.004)


def test_the_command_from_package_to_tables(tmp_path: Path) -> None:
    package = write_phantom_package(tmp_path / "phantom-by-hand")
    data = write_cases(tmp_path / "phantoms", 3)
    scan = data / "case_0001" / "ct.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "figures"
    result = CliRunner().invoke(
        app, ["evaluate", "--package", str(package), "--data", str(data), "--out", str(out), "--device", "cpu"]
    )
    assert result.exit_code == 1, result.output
    assert "case_0001" in result.output.splitlines()[-1]
    evaluation = read_evaluation(out)
    assert [case.case for case in evaluation.cases] == ["case_0000", "case_0002"]
    assert "damaged" in evaluation.failed["case_0001"]
    means = {row.structure: row.dice.mean for row in evaluation.summary}
    assert means["mean"] > 0.8
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    assert len(rows) == 16
    assert {row["outcome"] for row in rows} == {"found"}
    text = (out / "evaluation.md").read_text()
    assert text.startswith("# phantom-by-hand")
    assert "| mean | 2 | 0 | 0 |" in text
    assert str(tmp_path) not in text + (out / "evaluation.json").read_text()


def test_wrong_options_are_one_sentence(tmp_path: Path) -> None:
    arguments = ["evaluate", "--package", str(tmp_path / "none"), "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    with pytest.raises(EvaluationError, match="no readable"):
        read_evaluation(tmp_path)

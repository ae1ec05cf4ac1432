"""The expected Dice, from probabilities that are so few that it can be computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from CardiacLDMLib.anatomy import NAMES, VALUE
from CardiacLDMLib.image.cases import Case
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.packages.expected_dice import DiceLine
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.results.case_files import REPORT, read_report
from CardiacLDMLib.segmentation.case import segment_case
from CardiacLDMLib.segmentation.promise import expected_dice, promised_dice, total_shares
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package

LINE = DiceLine(slope=2.0, constants={**dict.fromkeys(NAMES, 0.0), "RA": 1.0}, low=-1.0, high=1.0)


def test_the_promise_by_hand() -> None:
    """Four voxels: two of LA (0.9, 0.6), one of LV (0.8) with 0.2 of LA, one of background with 0.3 of LV."""
    shares = torch.zeros(9, 2, 2, 1)
    shares[VALUE["LA"], 0, 0], shares[0, 0, 0] = 0.9, 0.1
    shares[VALUE["LA"], 0, 1], shares[0, 0, 1] = 0.6, 0.4
    shares[VALUE["LV"], 1, 0], shares[VALUE["LA"], 1, 0] = 0.8, 0.2
    shares[0, 1, 1], shares[VALUE["LV"], 1, 1] = 0.7, 0.3
    probability, values = (part.numpy() for part in shares.max(0))
    promised = promised_dice(values, probability, total_shares(shares))
    assert set(promised) == {"LA", "LV"}  # nothing is foretold of what is not there
    assert promised["LA"] == pytest.approx(2 * 1.5 / (2 + 1.7))
    assert promised["LV"] == pytest.approx(2 * 0.8 / (1 + 1.1))


def test_the_expectation_by_hand() -> None:
    """A promise of 0.8 has the odds 4: squared by the slope 2 they are 16, and e times more for a constant of 1."""
    expected = expected_dice(LINE, {"LA": 0.8, "RA": 0.8, "LV": 0.0, "RV": 1.0})
    assert expected["LA"].dice == pytest.approx(16 / 17, abs=5e-4)
    assert expected["LA"].low == pytest.approx(16 / np.e / (16 / np.e + 1), abs=5e-4)
    assert expected["LA"].high == pytest.approx(16 * np.e / (16 * np.e + 1), abs=5e-4)
    assert expected["RA"].dice == expected["LA"].high
    assert 0.0 <= expected["LV"].low <= expected["LV"].dice < 0.01  # no infinite logits
    assert 0.99 < expected["RV"].dice <= expected["RV"].high <= 1.0


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter(open_package(write_phantom_package(tmp_path_factory.mktemp("packages") / "phantom")), "cpu")


def _scan() -> Volume:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -88.0
    return phantom(Grid((44, 44, 44), affine))[0]


def test_a_report_has_it_at_the_qualities_of_the_package(segmenter: Segmenter, tmp_path: Path) -> None:
    write_volume(_scan(), tmp_path / "ct.nii.gz")
    case = Case("ct", tmp_path / "ct.nii.gz")
    done = segment_case(case, segmenter, tmp_path / "full")
    report = read_report(tmp_path / "full" / f"ct{REPORT}")
    assert report.expected_dice == done.segmentation.expected_dice
    assert set(report.expected_dice) == {name for name, ml in report.volumes_ml.items() if ml > 0.0} == set(NAMES)
    assert all(0.0 <= e.low <= e.dice <= e.high <= 1.0 for e in report.expected_dice.values())
    assert report.expected_dice["LAA"].dice < 0.5 < report.expected_dice["LV"].dice
    segment_case(case, segmenter, tmp_path / "fast", quality="fast")
    assert read_report(tmp_path / "fast" / f"ct{REPORT}").expected_dice == {}


def test_nothing_is_foretold_of_a_scan_without_a_heart(segmenter: Segmenter) -> None:
    scan = _scan()
    scan.array[scan.array > 100] = 40
    result = segmenter.segment(scan)
    assert not result.heart_found
    assert result.expected_dice == {}

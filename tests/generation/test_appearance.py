"""Checks of a pair's image away from its labels: plates, seams, lattice, tissues, lungs."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.generation import appearance
from CardiacLDMLib.generation.acceptance import Judge
from CardiacLDMLib.generation.appearance import image_findings
from CardiacLDMLib.generation.generator import Pair
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.findings import Finding
from tests.support.box_heart import box_pair

SHAPE = (64, 64, 48)


def chest(spacing_mm: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """HU and labels of a body with fat, two lungs with vessels, a spine, and a heart with contrast medium."""
    rng = np.random.default_rng(0)
    hu = rng.normal(50.0, 15.0, SHAPE)
    hu[:, 56:] = rng.normal(-100.0, 15.0, (SHAPE[0], 8, SHAPE[2]))  # fat before the chest
    hu[28:36, :6] = rng.normal(350.0, 30.0, (8, 6, SHAPE[2]))  # spine
    for side in (slice(0, 18), slice(46, 64)):
        lung = rng.normal(-850.0, 30.0, (18, 40, 36))
        lung[rng.random(lung.shape) < 0.05] = 0.0  # vessels
        hu[side, 10:50, 12:] = lung
    labels = np.zeros(SHAPE, np.uint8)
    labels[22:42, 20:44, 14:40] = VALUE["LV"]
    hu[labels > 0] = 400.0
    return hu, labels


def found(hu: np.ndarray, labels: np.ndarray, spacing_mm: float = 3.0) -> tuple[dict[str, Finding], dict[str, Finding]]:
    """The faults and the remarks by rule."""
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (np.array(hu.shape) - 1) / 2
    sides = image_findings(Volume(np.rint(hu).astype(np.int16), affine), Volume(labels, affine))
    faults, remarks = ({finding.rule: finding for finding in side} for side in sides)
    return faults, remarks


@pytest.mark.parametrize("spacing_mm", [1.5, 2.0, 3.0])
def test_a_chest_has_no_finding(spacing_mm: float) -> None:
    assert found(*chest(), spacing_mm) == ({}, {})


def test_a_bright_plate_is_a_fault_with_its_place() -> None:
    hu, labels = chest()
    hu[:20, :40, 2] = 400.0
    (plate,) = (fault for rule, fault in found(hu, labels)[0].items() if rule == "plate")
    assert plate.value == pytest.approx(800 / 4096 + 48 / 4096, abs=0.002)
    assert plate.limit == appearance.LARGEST_PLATE
    assert plate.place == (0.0, 0.0, pytest.approx(-64.5))
    hu[:20, :33, 2] = 50.0  # a tenth of the slice and the spine are not there any more
    assert "plate" not in found(hu, labels)[0]


def test_contrast_medium_in_the_heart_is_no_plate() -> None:
    hu, labels = chest()
    labels[:] = VALUE["LV"]
    hu[:] = 500.0
    assert found(hu, labels) == ({}, {})


@pytest.mark.parametrize(("shift", "fault", "remark"), [(20, False, False), (-60, False, True), (-150, True, False)])
def test_a_slice_apart_is_a_seam(shift: float, fault: bool, remark: bool) -> None:
    hu, labels = chest()
    hu[..., :3] += shift
    faults, remarks = found(hu, labels)
    assert ("seam" in faults, "seam" in remarks) == (fault, remark)
    if fault:
        assert faults["seam"].value == pytest.approx(abs(shift), abs=5)
        assert faults["seam"].place == (0.0, 0.0, pytest.approx(-64.5))


def test_blocks_of_latent_voxels_are_remarked_on() -> None:
    hu, labels = chest()
    values = np.random.default_rng(1).normal(0.0, 15.0, [side // 4 for side in SHAPE])
    hu += np.kron(values, np.ones((4, 4, 4)))
    faults, remarks = found(hu, labels)
    assert faults == {}
    assert list(remarks) == ["lattice"]


def test_lungs_without_vessels_are_remarked_on() -> None:
    hu, labels = chest()
    hu[(hu < -300) | ((np.abs(hu) < 1e-9) & (labels == 0))] = -850.0
    assert list(found(hu, labels)[1]) == ["lung vessels"]


def test_a_body_without_fat_is_remarked_on() -> None:
    hu, labels = chest()
    hu[:, 56:] += 150.0
    assert list(found(hu, labels)[1]) == ["fat"]


@pytest.mark.parametrize(
    ("low", "high", "shift", "rule", "where"),
    [
        (-1000, -700, 150, "surroundings", "lung"),
        (-20, 120, 60, "surroundings", "soft tissue"),
        (-130, -60, 500, "bone", ""),
    ],
)
def test_tissues_of_unusual_hu_are_found(low: float, high: float, shift: float, rule: str, where: str) -> None:
    hu, labels = chest()
    hu[(labels == 0) & (hu > low) & (hu < high)] += shift
    faults, remarks = found(hu, labels)
    finding = (faults | remarks)[rule]
    assert (rule in faults) == (rule == "bone")
    assert finding.where == where
    assert finding.value is not None
    assert finding.limit is not None
    assert finding.value > finding.limit


def test_air_alone_has_no_finding() -> None:
    assert found(np.full(SHAPE, -1000.0), np.zeros(SHAPE, np.uint8)) == ({}, {})


def test_a_judge_rejects_by_the_image_and_then_asks_no_segmenter() -> None:
    pair = box_pair()
    hu = pair.image.array.copy()
    hu[..., :2] = 400
    verdict = Judge(None).verdict(Pair(Volume(hu, pair.image.affine), pair.labels, {}))
    assert "plate" in {fault.rule for fault in verdict.faults}
    assert verdict.agreement is None

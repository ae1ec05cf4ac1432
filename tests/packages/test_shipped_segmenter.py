"""The shipped segmenter is complete, small, and labels unseen scans as well as its figures say."""

from __future__ import annotations

import numpy as np
import pytest

from cardiacldm_training.virtual.cohort import Case, CohortSettings, make_case
from CardiacLDMLib.anatomy import NAMES, VALUE
from CardiacLDMLib.image.grid import AIR_HU, Grid, Volume
from CardiacLDMLib.image.resample import resample
from CardiacLDMLib.packages.store import find_package
from CardiacLDMLib.packages.weights import verify_package
from CardiacLDMLib.segmentation.segmenter import Segmentation, Segmenter

UNSEEN = CohortSettings(seed=987, spacing_mm=2.0)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(find_package(None), "cpu")


def test_it_is_complete_and_small() -> None:
    package = verify_package(find_package(None).folder)
    assert package.size_bytes < 20e6
    assert "not a medical device" in package.manifest.intended_use.lower()
    figures = {figure.name for figure in package.manifest.figures}
    assert {f"Dice {name}" for name in (*NAMES, "mean")} <= figures


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(UNSEEN, 8)  # a whole heart with room around it


@pytest.fixture(scope="module")
def result(segmenter: Segmenter, case: Case) -> Segmentation:
    return segmenter.segment(case.image)


def test_it_labels_an_unseen_virtual_scan(case: Case, result: Segmentation) -> None:
    """The limit is far below the measured mean, so that other rounding passes, and far above chance."""
    assert result.heart_found
    assert _mean_dice(result.labels.array, case.labels.array) > 0.7
    assert result.volumes_ml["LV"] == pytest.approx(case.record["volumes_ml"]["LV"], rel=0.3)


@pytest.mark.parametrize(("axis", "first", "last"), [(0, 7, 0), (2, 0, 8)])
def test_a_crop_far_from_the_heart_keeps_the_labels(
    segmenter: Segmenter, case: Case, result: Segmentation, axis: int, first: int, last: int
) -> None:
    inside = tuple(slice(first, n - last) if a == axis else slice(None) for a, n in enumerate(case.image.array.shape))
    affine = case.image.affine.copy()
    affine[:3, 3] += affine[:3, axis] * first
    cropped = segmenter.segment(Volume(case.image.array[inside].copy(), affine)).labels.array
    whole = result.labels.array[inside]
    labelled = (cropped > 0) | (whole > 0)
    assert np.mean(cropped[labelled] == whole[labelled]) >= 0.99


def test_a_heart_whose_scan_is_much_wider_than_the_body_is_found(segmenter: Segmenter) -> None:
    """Coarse windows that reach far beyond a scan made the locator see hearts at its edges."""
    wide = make_case(CohortSettings(seed=2027, spacing_mm=2.0), 4)
    assert _mean_dice(segmenter.segment(wide.image).labels.array, wide.labels.array) > 0.7


def test_it_labels_a_heart_between_consolidated_lungs_with_a_warning(segmenter: Segmenter, case: Case) -> None:
    image, rng = case.image.array.copy(), np.random.default_rng(0)
    lung = image < -400
    image[lung] = rng.normal(25, 25, np.count_nonzero(lung))
    image[:, :2] = AIR_HU  # outside the body
    result = segmenter.segment(Volume(image, case.image.affine))
    assert result.heart_found
    assert "lung" in result.warnings[0]
    assert _mean_dice(result.labels.array, case.labels.array) > 0.6


def test_it_labels_nothing_where_there_is_no_heart(segmenter: Segmenter) -> None:
    """Nothing is labelled in noise, in a bare block of tissue, or in a scan that ends above the heart."""
    case = make_case(CohortSettings(seed=987, spacing_mm=3.0), 1)
    heart = np.argwhere(case.labels.array > 0)
    rng = np.random.default_rng(0)
    noise = Volume(rng.normal(-200, 300, (60, 60, 60)).astype(np.int16), np.diag([3.0, 3.0, 3.0, 1.0]))
    air = np.full((60, 60, 60), AIR_HU, np.int16)
    air[20:40, 20:40] = 50
    column = Volume(air, noise.affine)
    shoulder = resample(case.image, Grid((70, 70, 40), _shifted(case.image, heart.max(0)[2] + 60)), AIR_HU)
    for volume in (noise, column, shoulder):
        try:
            result = segmenter.segment(volume)
        except ValueError:
            continue  # refused, since it is no chest CT
        assert not result.heart_found
        assert not result.labels.array.any()


def _mean_dice(labels: np.ndarray, reference: np.ndarray) -> float:
    pairs = [(labels == VALUE[name], reference == VALUE[name]) for name in NAMES]
    return float(np.mean([2.0 * (found & wanted).sum() / (found.sum() + wanted.sum()) for found, wanted in pairs]))


def _shifted(volume: Volume, k: int) -> np.ndarray:
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ np.array([0, 0, k]) + volume.affine[:3, 3]
    return affine

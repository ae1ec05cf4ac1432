"""Planted faults on real labels: good ones raise no alarm, and kinds that the labels or a plain CT show are found.

How many of each kind are found on unseen cases is measured by tests/benchmarks/bench_checks.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.review.checks import check
from CardiacLDMLib.review.scene import cropped
from tests.support.faults import KINDS, plant

REFERENCE = Path(__file__).parents[1] / "data" / "chest_contrast_reference.nii.gz"
BY_LABELS = (
    "removed", "left and right swapped", "LA and LAA swapped", "island", "hole", "missing slices", "boundary speckle",
)  # fmt: skip
BY_CT = ("shifted 6 mm", "wall 3 mm thicker or thinner", "vein taken for the appendage")


@pytest.fixture(scope="module")
def labels() -> Volume:
    """Hand-made labels of a real patient, along the RAS axes, on voxels of 1.4 x 1.4 x 2.5 mm."""
    volume, _ = cropped(read_volume(REFERENCE), ())
    flip = volume.affine[0, 0] < 0
    array = np.flip(volume.array, 0) if flip else volume.array
    return Volume(np.ascontiguousarray(array[::2, ::2]), np.diag([*(volume.spacing * [2, 2, 1]), 1.0]))


@pytest.fixture(scope="module")
def image(labels: Volume) -> Volume:
    """A CT with one HU for blood, muscle and fat, and noise; there are no vessels but those with labels."""
    hu = np.full(labels.array.shape, -90.0, dtype=np.float32)
    hu[labels.array > 0] = 350.0
    hu[labels.array == VALUE["MYO"]] = 110.0
    return Volume(hu + np.random.default_rng(0).normal(scale=15.0, size=hu.shape).astype(np.float32), labels.affine)


def in_doubt(volume: Volume, image: Volume | None = None) -> set[tuple[str, tuple[str, ...], str]]:
    return {(f.rule, f.structures, f.where) for f in check(volume, image) if f.rule != "cut off"}


def test_good_labels_raise_no_alarm(labels: Volume) -> None:
    assert in_doubt(labels) == set()


@pytest.mark.parametrize("kind", BY_LABELS)
def test_labels_alone_show_the_fault(kind: str, labels: Volume, image: Volume) -> None:
    for seed in range(2):
        bad = plant(kind, labels, image, np.random.default_rng(seed))
        assert bad is not None
        assert in_doubt(bad), seed


@pytest.mark.parametrize("kind", BY_CT)
def test_the_ct_shows_the_fault(kind: str, labels: Volume, image: Volume) -> None:
    good = in_doubt(labels, image)
    for seed in range(2):
        bad = plant(kind, labels, image, np.random.default_rng(seed))
        assert bad is not None
        assert in_doubt(bad, image) - good, seed


def test_the_other_kinds_change_labels_where_they_say(labels: Volume, image: Volume) -> None:
    assert {*KINDS} - {*BY_LABELS, *BY_CT} == {"leak of 3 mL or more", "cut tip"}
    leak = plant("leak of 3 mL or more", labels, image, np.random.default_rng(1))
    cut = plant("cut tip", labels, image, np.random.default_rng(1))
    assert leak is not None
    assert cut is not None
    assert ((leak.array != labels.array) <= (labels.array == 0)).all()
    assert np.count_nonzero(leak.array != labels.array) * labels.grid.voxel_ml > 2.0
    assert (cut.array[cut.array != labels.array] == 0).all()

"""Rules of plausibility, on a heart of boxes that keeps them all and on copies that break one each."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.findings import Finding
from tests.support.box_heart import box_heart as heart
from tests.support.box_heart import box_volume as volume
from tests.support.box_heart import without


def rules(array: np.ndarray) -> set[str]:
    return {finding.rule for finding in plausibility.check(plausibility.as_labels(volume(array)))}


def test_a_plausible_heart_breaks_no_rule_however_it_is_stored() -> None:
    array = heart()
    assert rules(array) == set()
    turned = Volume(
        array[::-1].transpose(2, 0, 1), np.array([[0, -2.0, 0, 118], [0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    )
    labels = plausibility.as_labels(turned)
    assert plausibility.check(labels) == []
    assert labels.volumes_ml() == plausibility.as_labels(volume(array)).volumes_ml()


def painted(name: str, low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    array = heart()
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = VALUE.get(name, 0)
    return array


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (without("LAA"), "missing"),
        (painted("PA", (2, 2, 2), (5, 5, 5)), "pieces"),
        (painted("background", (40, 40, 14), (42, 42, 16)), "holes"),
        (painted("background", (22, 20, 25), (36, 50, 30)), "contact"),
        (painted("RV", (24, 34, 14), (34, 38, 18)), "forbidden contact"),
        (painted("background", (12, 28, 8), (15, 46, 28)), "LV open"),
        (heart()[::-1], "order"),
    ],
)  # fmt: skip
def test_each_rule_finds_what_breaks_it(array: np.ndarray, rule: str) -> None:
    assert rule in rules(array)


def test_islands_are_counted() -> None:
    array = heart()
    for n in range(plausibility.MOST_ISLANDS + 1):  # a diagonal: each voxel touches the next at an edge
        array[48 + n, 34 + n, 29] = VALUE["RA"]
    (finding,) = plausibility.check(plausibility.as_labels(volume(array)))
    assert finding == Finding("islands", ("RA",), plausibility.MOST_ISLANDS + 1, plausibility.MOST_ISLANDS, "11 in RA")


def test_nothing_is_excused_where_no_scan_cuts() -> None:
    labels = plausibility.uncut_labels(heart()[:, :, :40], 2.0)
    assert labels.cut == frozenset()
    assert plausibility.check(labels) == []
    with pytest.raises(VolumeError):
        plausibility.uncut_labels(heart() * 0, 2.0)


def test_what_the_scan_cuts_is_excused() -> None:
    array = heart()
    cropped = array[:, :, :40]  # through aorta and pulmonary artery
    assert plausibility.as_labels(volume(cropped)).cut == {"AO", "PA"}
    assert rules(cropped) == set()
    above_heart = array[:, :, 26:]  # neither LV nor RV: their neighbours are cut
    assert "missing" not in rules(above_heart)
    cropped[40:44, 4:8, :] = VALUE["AO"]  # its descending part, without the arch
    assert rules(cropped) == set()
    cropped[40:44, 4:8, 38:] = 0
    cropped[40:44, 4:8, :2] = 0
    assert rules(cropped) == {"pieces"}


def test_lv_facing_the_scans_edge_is_not_open() -> None:
    array = heart()[17:]
    assert "LV open" not in rules(array)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 4)), np.full((4, 4, 4), 9), np.full((4, 4, 4), 1.5)])
def test_no_label_map(array: np.ndarray) -> None:
    with pytest.raises(VolumeError):
        plausibility.as_labels(volume(array))


@pytest.mark.parametrize("voxels", [1, 2, 7])
def test_labels_of_few_voxels_have_boxes(voxels: int) -> None:
    array = np.zeros((9, 9, 9), dtype=np.uint8)
    array[0, 0, :voxels] = VALUE["LAA"]
    labels = plausibility.as_labels(volume(array))
    assert list(labels.boxes) == ["LAA"]
    assert labels.boxes["LAA"] == (slice(0, 1), slice(0, 1), slice(0, voxels))

"""Whether labels are a heart: each sign, and what they say together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Grid
from CardiacLDMLib.segmentation.gate import (
    MAX_FAULTS,
    MIN_CERTAINTY,
    MIN_LUNG_SHARE,
    MIN_WALL_SHARE,
    Signs,
    cut_off_at,
    faults,
    read_signs,
    wall_share,
)
from tests.support.box_heart import box_heart, box_volume, without

HEART = Signs(lung=0.4, certainty=0.93, wall=0.85, faults=0, faultless=True, cut={})
ABSENT = {"lung": 0.0, "certainty": 0.7, "wall": 0.3, "faults": 5}


def signs(*absent: str, **others: object) -> Signs:
    return dataclasses.replace(HEART, **{name: ABSENT[name] for name in absent}, **others)


def test_sure_labels_between_lungs_are_a_heart() -> None:
    for absent in ((), ("wall",), ("wall", "faults")):
        assert signs(*absent).verdict() == "heart"
        assert signs(*absent).doubts() == []
    assert Signs(MIN_LUNG_SHARE, MIN_CERTAINTY, MIN_WALL_SHARE, MAX_FAULTS).verdict() == "heart"
    assert signs("certainty").verdict() == "heart"


@pytest.mark.parametrize(
    "absent", [("lung",), ("faults",), ("lung", "wall"), ("lung", "certainty"), ("certainty", "wall")]
)
def test_a_whole_heart_without_some_signs_is_in_doubt(absent: tuple[str, ...]) -> None:
    (doubt,) = signs(*absent).doubts()
    assert doubt.rule == "doubt"
    words = {name: signs(name).absent()[0] for name in ABSENT}
    assert [word in doubt.where for word in words.values()] == [name in absent for name in words]


@pytest.mark.parametrize(
    "other",
    [
        signs("lung", "certainty", faultless=False),
        signs("lung", "wall", faultless=False),
        signs("certainty", "wall", "faults"),
        signs("lung", "certainty", "wall"),
        signs(*ABSENT),
        Signs(),
    ],
)
def test_other_organs_are_no_heart(other: Signs) -> None:
    assert other.verdict() == "none"
    assert other.doubts() == []


def test_a_part_of_a_heart_without_lung_is_in_doubt() -> None:
    assert signs("lung", faultless=False).verdict() == "doubt"
    assert signs("certainty", faultless=False).verdict() == "doubt"


def test_the_signs_of_a_plausible_heart() -> None:
    labels = box_volume(box_heart())
    image = np.where(labels.array > 0, 300.0, -850.0)
    probability = np.where(labels.array > 0, 0.9, 0.99)
    found = read_signs(image, labels, probability, labels.grid)
    assert found.lung > 0.6  # vessels lie beside it
    assert found.certainty == pytest.approx(0.9)
    assert (found.faults, found.faultless, found.cut) == (0, True, {})
    assert found.wall > 0.7
    assert found.verdict() == "heart"
    assert read_signs(np.full_like(image, 40.0), labels, probability, labels.grid).verdict() == "doubt"


def test_the_end_of_the_scan_excuses_faults_but_leaves_no_faultless_heart() -> None:
    labels = box_volume(box_heart()[:, :, :27])  # below the pulmonary artery's trunk
    found = read_signs(np.full(labels.array.shape, 40.0), labels, np.full(labels.array.shape, 0.9), labels.grid)
    assert found.faults < len(faults(labels, {}))
    assert not found.faultless
    assert {"LA", "RV"} <= {*found.cut["superior"]}


def test_wall_around_the_ventricle() -> None:
    cube = np.zeros((9, 9, 9), dtype=np.uint8)
    cube[2:7, 2:7, 2:7] = anatomy.VALUE["MYO"]
    cube[3:6, 3:6, 3:6] = anatomy.VALUE["LV"]
    assert wall_share(cube) == 1.0
    cube[:3] = 0
    assert wall_share(cube) == pytest.approx(5 / 6)
    assert wall_share(np.zeros_like(cube)) == 0.0


def test_faults_are_absent_structures_contacts_and_wrong_orders() -> None:
    def found(array: np.ndarray) -> set[tuple[str, tuple[str, ...]]]:
        return {(fault.rule, fault.structures) for fault in faults(box_volume(array), {})}

    assert found(box_heart()) == set()
    assert found(without("LAA")) == set()
    assert found(without("RA")) == {("missing", ("RA",))}
    upside_down = found(box_heart()[:, :, ::-1])
    assert upside_down == {("order", ("PA", "RV")), ("order", ("LA", "LV"))}
    assert len(upside_down) > MAX_FAULTS
    apart = box_heart()
    artery = np.argwhere(apart == anatomy.VALUE["PA"])
    apart[apart == anatomy.VALUE["PA"]] = 0
    apart[tuple((artery + [0, 0, 14]).T)] = anatomy.VALUE["PA"]
    assert ("contact", ("RV", "PA")) in found(apart)


def test_the_end_of_the_scan_excuses_faults_of_structures_at_it_and_beyond() -> None:
    labels = without("PA")
    assert [fault.structures for fault in faults(box_volume(labels), {})] == [("PA",)]
    assert faults(box_volume(labels), {"superior": ["RV"]}) == []
    assert [fault.structures for fault in faults(box_volume(labels), {"left": ["LA"]})] == [("PA",)]


@pytest.mark.parametrize("turn_deg", [0.0, 30.0])
def test_edges_are_those_of_the_scan_whatever_its_axes(turn_deg: float) -> None:
    labels = box_volume(box_heart())
    whole = labels.grid
    assert cut_off_at(labels, whole) == {}
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", turn_deg, degrees=True).as_matrix() @ np.diag([-4.0, 4.0, -5.0])
    affine[:3, 3] = whole.bounds_ras().mean(0) - affine[:3, :3] @ np.full(3, 39.5)
    affine[2, 3] = 60.0 - 2.5  # the scan ends 60 mm above the lowest voxel
    cut = cut_off_at(labels, Grid((80, 80, 80), affine))
    assert cut == {"superior": ["LA", "RA", "LAA"]}

"""Checks of a case: what they find, where they point to, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.review.checks import check
from CardiacLDMLib.segmentation.findings import Finding
from tests.support.box_heart import box_heart, box_volume, without


def index_of(finding: Finding, volume: Volume) -> tuple[int, ...]:
    """The voxel at the place of a finding."""
    assert finding.place is not None
    index = np.linalg.inv(volume.affine) @ [*finding.place, 1.0]
    return tuple(np.rint(index[:3]).astype(int).tolist())


def test_an_absent_structure_is_in_doubt_as_a_whole() -> None:
    findings = check(box_volume(without("PA")))
    assert findings[0] == Finding("missing", ("PA",))
    assert findings[0].severity == 1.0
    assert check(box_volume(without("PA") * 0)) == [Finding("missing")]


def test_a_piece_is_found_where_it_lies() -> None:
    array = box_heart()
    array[2:5, 2:5, 2:5] = VALUE["RA"]
    turned = Volume(array[::-1, :, ::-1], np.array([[-2.0, 0, 0, 7], [0, 2, 0, -3], [0, 0, -2, 40], [0, 0, 0, 1]]))
    (piece,) = [f for f in check(turned) if f.rule == "pieces"]
    assert piece == Finding("pieces", ("RA",), 2, 1)
    assert index_of(piece, turned) == (60 - 1 - 3, 3, 60 - 1 - 3)
    assert 0.0 < piece.severity < 0.05


def test_wrong_and_absent_contacts_are_shown_where_they_are() -> None:
    array = box_heart()
    array[24:34, 34:38, 14:18] = VALUE["RV"]
    volume = box_volume(array)
    (contact,) = [f for f in check(volume) if f.rule == "forbidden contact" and f.structures == ("LV", "RV")]
    x, y, z = index_of(contact, volume)
    assert array[x, y, z] == VALUE["LV"]
    assert VALUE["RV"] in array[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
    array[22:36, 20:50, 25:30] = 0
    (apart,) = [f for f in check(volume) if f.rule == "contact" and f.structures == ("LV", "AO")]
    assert array[index_of(apart, volume)] == VALUE["LV"]


def test_the_worst_comes_first_and_the_mirrored_heart_is_wrong_as_a_whole() -> None:
    findings = check(box_volume(box_heart()[::-1]))
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, reverse=True)
    assert findings[0].rule == "order"


def test_the_scans_edge_silences_volumes_and_is_shown() -> None:
    cropped = box_volume(box_heart()[:, :, 10:])
    findings = check(cropped)
    assert [f.rule for f in findings if f.rule in ("volume", "trace")] == []
    (cut,) = [f for f in findings if f.rule == "cut off"]
    assert (cut.where, cut.severity, index_of(cut, cropped)[2]) == ("inferior", 0.0, 0)


def test_volumes_are_judged_by_the_patients_sex() -> None:
    array = np.zeros((100, 100, 100), dtype=np.uint8)
    array[10:79, 10:79, 10:79] = VALUE["LV"]  # 329 mL
    volume = box_volume(array, 1.0)
    assert [f for f in check(volume, sex="male") if f.rule == "volume"] == []
    (large,) = [f for f in check(volume, sex="female") if f.rule == "volume"]
    assert (large.value, large.limit) == (pytest.approx(328.5, abs=0.1), pytest.approx(350 * 98 / 113))


@pytest.mark.parametrize("name", ["image", "own", "mirrored"])
def test_another_grid_is_refused(name: str) -> None:
    labels = box_volume(box_heart())
    with pytest.raises(VolumeError, match="60 x 66 x 60"):
        check(labels, **{name: box_volume(box_heart()[:, :, 1:])})


def test_values_that_are_no_labels_are_refused() -> None:
    with pytest.raises(VolumeError, match="9"):
        check(box_volume(np.full((4, 4, 4), 9)))

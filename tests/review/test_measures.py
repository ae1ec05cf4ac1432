"""Measures of shape, CT and agreement: that each grows with the fault that it is for, and what limits do with it."""

from __future__ import annotations

import numpy as np
import pytest

from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.review import checks
from CardiacLDMLib.review.checks import check, measured
from CardiacLDMLib.review.limits import LIMITS
from CardiacLDMLib.review.scene import grown, shrunk
from tests.support.box_heart import box_heart, box_volume

#: HU of blood, muscle, fat and lung in the CT of the box heart.
BLOOD, MUSCLE, FAT, LUNG = 350, 110, -90, -850


def ct(plain: bool = False) -> Volume:
    """A CT of the box heart: bright blood, fat for 10 mm around it, then lung; some noise."""
    heart = box_heart()
    hu = np.full(heart.shape, LUNG, dtype=np.float32)
    near = heart > 0
    for _ in range(5):
        near = near | np.roll(near, 1, 0) | np.roll(near, -1, 0) | np.roll(near, 1, 1) | np.roll(near, -1, 1)
    hu[near] = FAT
    hu[heart > 0] = 45 if plain else BLOOD
    hu[heart == VALUE["MYO"]] = 50 if plain else MUSCLE
    return box_volume(hu + np.random.default_rng(0).normal(scale=8.0, size=hu.shape).astype(np.float32))


def values(labels: np.ndarray, image: Volume | None = None, own: np.ndarray | None = None) -> dict[str, float]:
    """Rule and key -> value of every measure."""
    second = None if own is None else box_volume(own)
    parts = measured(box_volume(labels), image, second, None)
    return {f"{m.rule} {m.key}": m.value for _, measures in parts for m in measures}


def painted(name: str, low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    array = box_heart()
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = VALUE.get(name, 0)
    return array


def test_slices_that_are_absent_make_the_area_jump() -> None:
    gap = painted("background", (24, 28, 44), (30, 40, 46))  # of the aorta, whose pieces the scan may cut
    assert values(box_heart())["jump AO"] < 0.1
    assert values(gap)["jump AO"] == pytest.approx(0.5)
    sheared = box_heart()
    sheared[:, :, 16] = np.roll(sheared[:, :, 16], 4, axis=0)
    assert values(sheared)["shift RV"] == pytest.approx(8.0)


def test_a_ragged_border_has_loose_voxels() -> None:
    array = box_heart()
    rng = np.random.default_rng(1)
    rim = np.zeros(array.shape, dtype=bool)
    rim[48, 20:34, 14:30] = True
    array[rim & (rng.random(array.shape) < 0.3)] = VALUE["RA"]
    assert values(box_heart())["ragged RA"] == 0.0
    assert values(array)["ragged RA"] > 0.02


def test_an_appendage_behind_the_atrium_is_measured() -> None:
    before = values(box_heart())["appendage LAA"]
    array = box_heart()
    array[array == VALUE["LAA"]] = 0
    array[8:12, 8:14, 26:32] = VALUE["LAA"]
    assert values(array)["appendage LAA"] == pytest.approx(before + 24.0)


def test_a_leak_into_the_lung_is_measured_in_ml() -> None:
    leak = painted("RA", (48, 20, 14), (60, 34, 24))
    assert values(box_heart(), ct())["tissue RA lung"] == 0.0
    assert values(leak, ct())["tissue RA lung"] > 4.0


def test_a_border_at_the_wrong_place_is_seen_from_both_sides() -> None:
    image = ct()
    good = values(box_heart(), image)
    small, large = box_heart(), box_heart()
    small[44:48, 20:34, 14:30] = 0
    large[48:52, 20:34, 14:30] = VALUE["RA"]
    assert good["border RA outside 2"] < 0.02
    assert values(small, image)["border RA outside 2"] > 0.1
    assert values(small, image)["unlabelled RA"] > 1.0
    assert values(large, image)["border RA inside 3"] > good["border RA inside 3"] + 0.1


def test_blood_and_muscle_that_are_swapped_are_measured_in_hu() -> None:
    array = box_heart()
    array[box_heart() == VALUE["LV"]] = VALUE["MYO"]
    array[box_heart() == VALUE["MYO"]] = VALUE["LV"]
    assert values(array, ct())["blood LV"] == pytest.approx(BLOOD - MUSCLE, abs=60)
    assert values(box_heart(), ct())["blood LV"] < 0
    assert values(box_heart(), ct())["pools LV"] == pytest.approx(0.0, abs=0.05)


def test_structures_without_contrast_have_limits_of_their_own() -> None:
    assert "border RA outside 2 faint" in values(box_heart(), ct(plain=True))
    assert "border RA outside 2" not in values(box_heart(), ct(plain=True))


def test_what_lies_outside_the_scanners_field_is_not_judged() -> None:
    image = ct()
    leak = painted("RA", (48, 20, 14), (60, 34, 24))
    image.array[48:] = -1024.0
    assert values(leak, image)["tissue RA lung"] == 0.0


def test_differences_with_the_packages_labels_are_measured_against_background_only() -> None:
    leak = painted("RA", (48, 20, 14), (58, 34, 24))
    found = values(leak, ct(), box_heart())
    assert found["difference RA beyond odd"] == pytest.approx(7 * 14 * 10 * 0.008)  # 2.5 to 15 mm from its border
    assert found["difference RA short of alike"] == 0.0
    assert values(box_heart(), ct(), leak)["difference RA short of alike"] == 0.0  # the CT speaks against the package
    cut = painted("background", (44, 20, 14), (48, 34, 30))
    assert values(cut, ct(), box_heart())["difference RA short of alike"] > 3.0
    assert found["own labels RA"] > 0.05


def test_a_vessel_that_is_followed_further_than_by_the_package_is_no_difference() -> None:
    short = box_heart()
    short[:, :, 44:][short[:, :, 44:] == VALUE["AO"]] = 0
    assert values(box_heart(), ct(), short)["difference AO beyond"] == 0.0
    aside = painted("AO", (18, 30, 46), (24, 40, 52))
    assert values(aside, ct(), box_heart())["difference AO beyond"] > 0.9


def test_a_structure_that_lies_off_the_packages_is_measured_in_mm() -> None:
    array = box_heart()
    places = np.argwhere(box_heart() == VALUE["RA"]) + [2, 0, 2]
    array[box_heart() == VALUE["RA"]] = 0
    array[tuple(places.T)] = VALUE["RA"]
    found = values(array, None, box_heart())
    assert found["moved RA"] == pytest.approx(np.hypot(4.0, 4.0), abs=0.5)
    assert found["surface RA outside"] == pytest.approx(0.0, abs=0.5)
    assert max(value for key, value in found.items() if key.startswith("moved") and key != "moved RA") < 0.5


@pytest.mark.parametrize("voxels", [2, -2])
def test_a_wall_that_is_too_thick_or_thin_is_measured_at_its_outer_surface(voxels: int) -> None:
    ventricle = np.isin(box_heart(), [VALUE["LV"], VALUE["MYO"]])
    changed = grown(ventricle, voxels) if voxels > 0 else shrunk(ventricle, -voxels)
    array = box_heart()
    array[ventricle & ~changed] = 0
    array[changed & (array == 0)] = VALUE["MYO"]
    found = values(array, None, box_heart())
    side, other = ("outside", "inside") if voxels > 0 else ("inside", "outside")
    assert found[f"surface MYO {side}"] == pytest.approx(4.0, abs=1.2)  # but where it meets the atrium and the aorta
    assert found[f"surface MYO {other}"] < 0.0
    assert found["moved LV"] < 0.5


def test_a_leak_does_not_move_the_whole_surface() -> None:
    found = values(painted("RA", (48, 20, 14), (58, 34, 24)), None, box_heart())
    assert found["moved RA"] < 1.0
    assert found["surface RA outside"] < 1.0


def test_mirrored_passes_are_compared() -> None:
    labels = box_volume(box_heart())
    other = box_volume(painted("background", (44, 20, 14), (48, 34, 30)))
    ((_, _), (_, measures)) = measured(labels, None, labels, other)
    (mirrored,) = [m.value for m in measures if m.rule == "mirrored" and m.name == "RA"]
    assert mirrored == pytest.approx(1 - 2 * 8 / (12 + 8), abs=0.05)


def test_only_measures_beyond_their_limit_are_findings_and_lie_in_the_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    leak, image = painted("RA", (48, 20, 14), (60, 34, 24)), ct()
    monkeypatch.setattr(checks, "LIMITS", {"tissue": {"RA lung": 1.0}})
    (finding,) = [f for f in check(box_volume(leak), image) if f.rule == "tissue"]
    assert (finding.structures, finding.limit, finding.where) == (("RA",), 1.0, "lung")
    assert finding.place is not None
    assert finding.place[0] > 2.0 * 50
    assert 0.0 < finding.severity < 1.0
    monkeypatch.setattr(checks, "LIMITS", {"tissue": {"RA lung": 1000.0}})
    assert not [f for f in check(box_volume(leak), image) if f.rule == "tissue"]


def test_every_limit_belongs_to_a_measure_of_a_structure() -> None:
    for rule, row in LIMITS.items():
        assert row, rule
        assert all(key.split()[0] in VALUE for key in row)

"""HU around the heart: where a curve works, what it does, and how fidelity finds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardiacldm_training.evaluation.fidelity import tone as brightness
from cardiacldm_training.evaluation.fidelity.cases import Pair, View
from CardiacLDMLib.image.grid import AIR_HU
from CardiacLDMLib.postprocess import tone

SHAPE = (28, 28, 20)


def labelled(corner: int = 4, side: int = 6) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[corner : corner + side, corner : corner + side, corner : corner + side] = 2
    return labels


@pytest.mark.parametrize(
    ("spacing_mm", "distances"), [(3.0, [0, 0, 1 / 3, 2 / 3, 1]), (4.5, [0, 0, 0.5, 1]), (20, [0, 0, 0.5, 1])]
)
def test_the_curve_begins_a_voxel_away_from_labels(spacing_mm: float, distances: list[float]) -> None:
    """By voxels from the block's last one along one axis, and along the diagonal the same."""
    share = tone.distance_share(labelled(), spacing_mm)
    for line in (share[9:, 6, 6], share[range(9, 20), range(9, 20), range(9, 20)]):
        assert line[: len(distances)] == pytest.approx(distances, abs=1e-6)
        assert (line[len(distances) :] == 1).all()
    assert (share[labelled() > 0] == 0).all()


def test_without_labels_the_curve_works_everywhere() -> None:
    assert (tone.distance_share(np.zeros(SHAPE, np.uint8), 3.0) == 1).all()


#: Whole HU: float32 holds them exactly, so that a steep curve does not enlarge a rounding error.
knots = st.lists(
    st.tuples(st.integers(-1000, 1500).map(float), st.floats(-1000, 1500)),
    max_size=12,
    unique_by=lambda k: k[0],
).map(lambda pairs: list(zip(sorted(a for a, _ in pairs), sorted(b for _, b in pairs), strict=True)))


@settings(max_examples=60, deadline=None)
@given(curve=knots, seed=st.integers(0, 999))
def test_order_and_labels_are_kept(curve: list[tuple[float, float]], seed: int) -> None:
    """What is brighter stays at least as bright, knots are met, labels keep their HU, nothing is darker than air."""
    labels = labelled()
    hu = np.random.default_rng(seed).uniform(-1100, 1600, SHAPE).astype(np.float32)
    free = np.argwhere(tone.distance_share(labels, 3.0) == 1)[: len(curve)]
    for place, (drawn, _) in zip(free, curve, strict=True):
        hu[tuple(place)] = drawn
    out = tone.apply_tone(hu, labels, 3.0, curve)
    assert out.dtype == np.float32
    assert np.array_equal(out[labels > 0], hu[labels > 0])
    assert (out >= np.minimum(hu, AIR_HU) - 0.01).all()
    for place, (_, wanted) in zip(free, curve, strict=True):
        assert out[tuple(place)] == pytest.approx(wanted, abs=0.01)
    away = tone.distance_share(labels, 3.0) == 1
    order = np.argsort(hu[away])
    assert (np.diff(out[away][order]) >= -0.01).all()


def test_beyond_its_ends_the_curve_moves_as_at_them() -> None:
    hu = np.full(SHAPE, 600.0, np.float32)
    hu[:, :, 10:] = -500.0
    out = tone.apply_tone(hu, np.zeros(SHAPE, np.uint8), 3.0, [(0.0, -20.0), (300.0, 420.0)])
    assert (out[:, :, :10] == 720).all()
    assert (out[:, :, 10:] == -520).all()


@pytest.mark.parametrize(
    "curve", [[(0.0, 0.0), (0.0, 1.0)], [(0.0, 5.0), (1.0, 4.0)], [(float("nan"), 0.0)], [(0.0, 6000.0)]]
)
def test_unsound_curves_are_refused(curve: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="a tone"):
        tone.apply_tone(np.zeros(SHAPE), labelled(), 3.0, curve)


# --- how it is found -----------------------------------------------------------------------------------------------


def chest(seed: int, pale: bool) -> Pair:
    """Lung, muscle and a column of bone (300 to 600 HU; halfway to muscle if ``pale``) beside a heart."""
    rng = np.random.default_rng(seed)
    hu = np.full(SHAPE, -850.0)
    hu[12:] = 50.0
    bone = rng.uniform(300, 600, (6, 6, SHAPE[2]))
    hu[20:26, 20:26] = 50 + (bone - 50) * (0.5 if pale else 1.0)
    hu += rng.normal(0, 8, SHAPE)
    labels = labelled()
    hu[labels > 0] = 200.0
    return Pair(str(seed), hu.astype(np.int16), labels, View(SHAPE, 3.0))


def test_the_remedy_brightens_pale_bone_and_leaves_the_rest() -> None:
    drawn, scans = ([chest(seed + 10 * pale, pale) for seed in range(4)] for pale in (True, False))
    found = [[brightness.measure(pair) for pair in side] for side in (drawn, scans)]
    curve = brightness.tone_curve(*found)
    tone.check_curve(curve)
    corrected = [tone.apply_tone(pair.hu, pair.labels, 3.0, curve).astype(np.int16) for pair in drawn]
    mended = [Pair(p.name, hu, p.labels, p.view) for p, hu in zip(drawn, corrected, strict=True)]
    after = [brightness.measure(pair) for pair in mended]
    bright = [np.mean([row[-1] for row in side]) for side in (*found, after)]
    assert bright[0] < 0.5 * bright[1]
    assert bright[2] == pytest.approx(bright[1], rel=0.1)
    distances = [brightness.distance_hu(np.array(side), np.array(found[1])) for side in (found[0], after)]
    assert distances[1] < 0.2 * distances[0]
    for before, pair in zip(drawn, mended, strict=True):
        assert np.array_equal(before.hu[before.labels > 0], pair.hu[pair.labels > 0])


def test_where_nothing_lies_around_the_heart_nothing_is_measured() -> None:
    full = np.full(SHAPE, 1, dtype=np.uint8)
    row = brightness.measure(Pair("full", np.zeros(SHAPE, np.int16), full, View(SHAPE, 3.0)))
    assert np.isnan(row).all()
    assert brightness.tone_curve([row], [brightness.measure(chest(0, False))]) == ()
    assert brightness.tone_curve([], []) == ()

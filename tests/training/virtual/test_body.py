"""The body around a virtual heart: sound labels, organs where they belong, the same bytes for the same seed."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from cardiacldm_training.virtual.body.body import paint_body, place_labels
from cardiacldm_training.virtual.body.canvas import Canvas, capsule_mask, interpolation_weights
from cardiacldm_training.virtual.body.catheters import draw_catheter
from cardiacldm_training.virtual.body.frame import BodyFrame, Landmarks, draw_frame, extend_aorta
from cardiacldm_training.virtual.body.implants import draw_calcium
from cardiacldm_training.virtual.body.lungs import grow_tree, paint_beside_heart
from cardiacldm_training.virtual.body.surface import draw_sac
from cardiacldm_training.virtual.heart.anatomy import Heart, HeartSources, draw_heart
from cardiacldm_training.virtual.protocol import ScanProtocol
from cardiacldm_training.virtual.shapes import Lattice
from cardiacldm_training.virtual.tissue import Body, Tissue
from CardiacLDMLib.anatomy import HEART, VALUE

SPACING = 4.0
BLOOD = {name: value for name, value in VALUE.items() if name != "MYO"}


@lru_cache
def drawn(seed: int) -> tuple[Heart, BodyFrame]:
    rng = np.random.default_rng(seed)
    heart = draw_heart(rng, SPACING, HeartSources(), partial(extend_aorta, rng=rng))
    return heart, draw_frame(heart, rng)


def lattice_around(heart: Heart, half: tuple[float, float], below: float, above: float) -> Lattice:
    """A scan range around the heart, on the heart's own voxels."""
    start = np.rint((np.array([-half[0], -half[1], -below]) - heart.lattice.origin) / SPACING)
    shape = tuple(int(n / SPACING) for n in (2 * half[0], 2 * half[1], below + above))
    return Lattice(heart.lattice.origin + start * SPACING, SPACING, shape)


@pytest.fixture(scope="module", params=[0, 1])
def whole(request: pytest.FixtureRequest) -> tuple[Heart, BodyFrame, Lattice, Body]:
    """A whole chest with much of the abdomen."""
    heart, frame = drawn(request.param)
    lattice = lattice_around(heart, (235.0, 200.0), 220.0, 230.0)
    return heart, frame, lattice, paint_body(heart, lattice, frame, np.random.default_rng(request.param))


def test_the_hearts_labels_are_never_overwritten(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    heart, frame, lattice, body = whole
    expected = place_labels(heart, lattice, frame)
    assert (body.labels == expected).all()
    differs = (body.tissue != body.labels) & (body.labels > 0)
    within = {Tissue.PAPILLARY, Tissue.VALVE, Tissue.FALSE_LUMEN, Tissue.THROMBUS, Tissue.FLAP}
    assert set(np.unique(body.tissue[differs])) <= within
    for name, value in BLOOD.items():
        inside = body.labels == value
        assert (body.tissue[inside] == value).mean() > 0.5, name
    assert (body.tissue[body.labels == VALUE["MYO"]] == Tissue.MYO).all()


def test_labels_have_no_stray_voxels_and_the_aorta_leaves_below(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    body = whole[3]
    for name, value in VALUE.items():
        _, pieces = cc3d.connected_components(body.labels == value, connectivity=26, return_N=True)
        assert pieces == 1, name
    assert (body.labels[:, :, 0] == VALUE["AO"]).any()
    assert not (body.labels[:, :, -1] > 0).any()


def test_every_organ_is_there(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    """Millilitres within wide adult limits."""
    body = whole[3]
    ml = np.bincount(body.tissue.ravel(), minlength=len(Tissue)) * SPACING**3 / 1000.0
    limits = {
        "LUNG": (1200, 8000), "LIVER": (400, 2800), "SPLEEN": (20, 450), "MARROW": (100, 1200), "BONE": (150, 1500),
        "LUNG_VESSEL": (20, 400), "PULMONARY_VEIN": (20, 350), "AIRWAY": (10, 200), "CORD": (15, 150),
        "CAVA": (10, 150), "INFERIOR_CAVA": (10, 220), "OESOPHAGUS": (5, 120), "CARTILAGE": (15, 400),
        "PAPILLARY": (2, 60), "VALVE": (0.3, 20), "CORONARY_ARTERY": (0.3, 20), "KIDNEY": (60, 450),
        "DISC": (20, 300), "PERICARDIUM": (0.3, 120), "FAT": (1000, 25000), "MUSCLE": (1500, 15000),
    }  # fmt: skip
    for name, (least, most) in limits.items():
        assert least < ml[Tissue[name]] < most, (name, ml[Tissue[name]])


def test_the_heart_rests_on_the_diaphragm(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    """Right beneath the left ventricle's lower wall lie fat, diaphragm, liver, stomach, bowel: hardly any lung."""
    _, _, _, body = whole
    column = np.isin(body.labels, [VALUE[n] for n in HEART])
    first = column.argmax(2)
    low = np.argwhere(column.any(2) & (first <= np.quantile(first[column.any(2)], 0.1)))
    beneath = np.array([body.tissue[x, y, max(first[x, y] - 4, 0) : first[x, y]] for x, y in low])
    assert np.isin(beneath, [Tissue.LUNG, Tissue.AIRWAY, Tissue.OUTSIDE]).mean() < 0.1
    under = np.array([body.tissue[x, y, max(first[x, y] - 12, 0) : first[x, y]] for x, y in low])
    assert np.isin(under, [Tissue.LIVER, Tissue.SOFT, Tissue.STOMACH, Tissue.BOWEL, Tissue.GAS, Tissue.SPLEEN]).any()


def test_right_and_left_are_where_they_belong(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    lattice, body = whole[2], whole[3]

    def middle(tissue: Tissue) -> np.ndarray:
        return lattice.origin + lattice.spacing * np.argwhere(body.tissue == tissue).mean(0)

    assert middle(Tissue.LIVER)[0] > middle(Tissue.SPLEEN)[0]
    assert middle(Tissue.CAVA)[0] > middle(Tissue.CORD)[0] - 10
    assert middle(Tissue.CORD)[1] < middle(Tissue.OESOPHAGUS)[1] < middle(Tissue.CARTILAGE)[1]
    assert middle(Tissue.LUNG)[2] > middle(Tissue.LIVER)[2] > middle(Tissue.KIDNEY)[2]


def test_veins_reach_the_atria_and_are_not_labelled(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    body = whole[3]
    for vein, atrium in (("PULMONARY_VEIN", "LA"), ("CAVA", "RA"), ("INFERIOR_CAVA", "RA")):
        blood = np.isin(body.tissue, [Tissue[vein], Tissue[atrium]])
        joined = cc3d.connected_components(blood, connectivity=6)
        chamber = np.bincount(joined[body.labels == VALUE[atrium]]).argmax()
        assert ((joined == chamber) & (body.tissue == Tissue[vein])).sum() * SPACING**3 > 2000.0, vein
    assert not (body.labels[body.tissue == Tissue.PULMONARY_VEIN] > 0).any()


def test_the_pericardium_has_room_for_the_fat_of_patients() -> None:
    """It holds 104 +- 51 mL of fat (computed tomography of 30 patients, PMC5537129), walls and vessels."""
    ml, beside_lung = [], []
    for seed in range(4):
        heart, frame = drawn(seed)
        rng = np.random.default_rng(seed)
        sac = draw_sac(Landmarks(heart), frame, rng)
        lattice = lattice_around(heart, (100.0, 100.0), 90.0, 90.0)
        body = paint_body(heart, lattice, frame, np.random.default_rng(seed))
        empty = sac.inside[sac.labels == 0]
        ml.append((empty > 0).sum() * sac.lattice.spacing**3 / 1000.0)
        artery = ndimage.binary_dilation(body.tissue == Tissue.CORONARY_ARTERY) & (body.labels == 0)
        beside_lung.append((body.tissue[artery] == Tissue.LUNG).mean())
    assert all(90 < n < 480 for n in ml), ml  # wide bounds: walls, vessels and pericardium take a third of the room
    assert np.mean(beside_lung) < 0.15, beside_lung  # in voxels of 4 mm, more than the fat around an artery


@pytest.mark.parametrize(
    ("finding", "parts"),
    [
        ("dissection", {"AO": 0.15, "FALSE_LUMEN": 0.02, "FLAP": 0.02}),
        ("mural thrombus", {"AO": 0.4, "THROMBUS": 0.02}),
    ],
)
def test_a_diseased_aorta_is_labelled_whole(finding: str, parts: dict[str, float]) -> None:
    """Shares of the labelled aorta: a lumen always stays open; the labels are those of a healthy one."""
    heart, frame = drawn(1)
    lattice = lattice_around(heart, (90.0, 110.0), 80.0, 100.0)
    healthy = paint_body(heart, lattice, frame, np.random.default_rng(3))
    body = paint_body(replace(heart, findings=(finding,)), lattice, frame, np.random.default_rng(3))
    assert (body.labels == healthy.labels).all()
    aorta = body.tissue[body.labels == VALUE["AO"]]
    for name, least in parts.items():
        assert (aorta == Tissue[name]).mean() > least, name
    assert not np.isin(body.tissue[body.labels != VALUE["AO"]], [Tissue[n] for n in set(parts) - {"AO"}]).any()


def voxels_beside(body: Body, name: str, tissue: Tissue) -> int:
    """Voxels of a labelled structure that share a face with a tissue."""
    return int((ndimage.binary_dilation(body.tissue == tissue) & (body.labels == VALUE[name])).sum())


def test_veins_touch_the_structures_that_they_resemble() -> None:
    """Left upper pulmonary vein against the appendage, left lower one and superior vena cava against the aorta."""
    appendage, aorta, crossed = [], [], []
    for seed in range(4):
        heart, frame = drawn(seed)
        lattice = lattice_around(heart, (90.0, 90.0), 20.0, 100.0)
        body = paint_body(heart, lattice, frame, np.random.default_rng(seed))
        appendage.append(voxels_beside(body, "LAA", Tissue.PULMONARY_VEIN))
        aorta.append(voxels_beside(body, "AO", Tissue.CAVA))
        crossed.append(voxels_beside(body, "AO", Tissue.PULMONARY_VEIN))
    assert sum(n > 0 for n in appendage) >= 3, appendage
    assert sum(n > 0 for n in aorta) >= 3, aorta
    assert sum(n > 0 for n in crossed) >= 2, crossed


def test_consolidated_lung_lies_against_the_heart_around_open_airways() -> None:
    _, frame = drawn(0)
    canvas = Canvas(Lattice(np.array([-100.0, -100.0, frame.seat - 20.0]), SPACING, (50, 50, 40)))
    away = np.sqrt(canvas.x**2 + canvas.y**2 + np.square(canvas.z - frame.seat - 45.0)) - 50.0  # from a round heart
    canvas.fill(away.astype(np.float32), Tissue.LUNG)
    canvas.tissue[40] = Tissue.AIRWAY
    paint_beside_heart(canvas, frame, away, np.random.default_rng(0))
    dense = canvas.tissue == Tissue.COLLAPSED_LUNG
    assert 20.0 < dense.sum() * SPACING**3 / 1000.0 < 900.0
    assert canvas.upsample(away)[dense].min() < SPACING
    assert (canvas.tissue[40] == Tissue.AIRWAY).all()


def test_a_ports_reservoir_lies_under_the_skin_and_its_catheter_in_the_cava(
    whole: tuple[Heart, BodyFrame, Lattice, Body],
) -> None:  # fmt: skip
    _, frame, lattice, body = whole
    soft = [Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE, Tissue.BREAST]
    beneath = ndimage.distance_transform_edt(np.isin(body.tissue, [Tissue.OUTSIDE, Tissue.TABLE]), sampling=SPACING)
    beneath = ndimage.distance_transform_edt(beneath == 0, sampling=SPACING)
    sides = []
    for seed in range(12):
        catheter, *port = draw_catheter(body, lattice, "port", np.random.default_rng(seed))
        assert (body.tissue[tuple(catheter.where.T)] == Tissue.CAVA).any()
        if not port:
            continue
        where = np.vstack([part.where for part in port])
        assert np.isin(body.tissue[tuple(where.T)], soft).all()
        assert np.median(beneath[tuple(where.T)]) < 20.0
        assert 1.0 < len(where) * SPACING**3 / 1000.0 < 15.0
        assert np.linalg.norm(where[:, None] - catheter.where[None], axis=-1).min() * SPACING < 12.0
        sides.append(lattice.origin[0] + SPACING * where[:, 0].mean() > frame.middle[0])
    assert len(sides) >= 8
    assert np.mean(sides) > 0.5  # most on the right
    assert len(draw_catheter(body, lattice, "central", np.random.default_rng(0))) == 1


def test_a_calcified_arch_has_plaques_on_the_aortic_wall(whole: tuple[Heart, BodyFrame, Lattice, Body]) -> None:
    _, _, lattice, body = whole
    plain = ScanProtocol(calcium=False)
    assert not draw_calcium(body, lattice, plain, np.random.default_rng(0))
    grains = draw_calcium(body, lattice, replace(plain, calcified_arch=True), np.random.default_rng(0))
    where = np.vstack([grain.where for grain in grains])
    aorta = body.labels == VALUE["AO"]
    assert len(where) > 20
    assert ndimage.binary_dilation(aorta, iterations=1)[tuple(where.T)].mean() > 0.9
    assert where[:, 2].min() > np.argwhere(aorta)[:, 2].max() - 70.0 / SPACING


@pytest.mark.parametrize("half", [(90.0, 90.0), (250.0, 190.0)])
def test_the_same_seed_gives_the_same_body_whatever_the_range(half: tuple[float, float]) -> None:
    heart, frame = drawn(0)
    lattice = lattice_around(heart, half, 60.0, 60.0)
    first, second = (paint_body(heart, lattice, frame, np.random.default_rng(1)) for _ in range(2))
    assert (first.tissue == second.tissue).all()
    assert first.tissue.dtype == first.labels.dtype == np.uint8
    assert (first.labels == place_labels(heart, lattice, frame)).all()


def test_without_surroundings_there_is_but_heart_lung_and_soft_tissue() -> None:
    heart, frame = drawn(1)
    lattice = lattice_around(heart, (200.0, 160.0), 120.0, 120.0)
    body = paint_body(heart, lattice, frame, np.random.default_rng(0), surroundings=False)
    bare = {Tissue.OUTSIDE, Tissue.MUSCLE, Tissue.LUNG, Tissue.FAT, Tissue.WALL, Tissue.PERICARDIUM, Tissue.FLUID,
            Tissue.PAPILLARY, Tissue.VALVE, Tissue.CORONARY_ARTERY, Tissue.CORONARY_VEIN}  # fmt: skip
    assert set(np.unique(body.tissue)) <= {int(t) for t in bare} | set(VALUE.values())
    assert (body.tissue == Tissue.LUNG).sum() * SPACING**3 > 1e6
    assert (body.labels == place_labels(heart, lattice, frame)).all()


# --- brushes -------------------------------------------------------------------------------------------------------


def test_a_capsule_has_its_volume() -> None:
    lattice = Lattice(np.array([-20.0, -20.0, -20.0]), 0.5, (80, 80, 80))
    box, mask = capsule_mask(lattice, np.array([0, 0, -5.0]), np.array([0, 0, 5.0]), 4.0, 4.0)
    expected = np.pi * 16 * 10 + 4 / 3 * np.pi * 64
    assert mask.sum() * 0.125 == pytest.approx(expected, rel=0.02)
    assert all(s.stop <= 80 for s in box)
    _, outside = capsule_mask(lattice, np.array([0, 0, 90.0]), np.array([0, 0, 95.0]), 4.0, 4.0)
    assert not outside.size


def test_smooth_fields_are_interpolated_to_third_order() -> None:
    at = np.linspace(2, 6, 17)
    assert np.allclose(interpolation_weights(at, 10) @ np.arange(10.0) ** 2, at**2, atol=1e-4)
    canvas = Canvas(Lattice(np.array([3.0, -8.0, 1.0]), 1.5, (30, 20, 25)))
    field = canvas.x + 2.0 * canvas.y - 0.5 * canvas.z
    expected = sum(k * canvas.lattice.axis(a) for a, k in enumerate((1.0, 2.0, -0.5)))
    assert np.allclose(canvas.upsample(field), expected, atol=1e-3)
    box = (slice(3, 9), slice(0, 20), slice(5, 6))
    assert np.allclose(canvas.upsample(field, box=box), expected[box], atol=1e-3)


def test_trees_reach_every_point_and_thin_out() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (60, 3))
    tree = grow_tree(points, np.zeros(3), 0.8, 6.0, rng)
    ends = np.array([b.end for b in tree])
    assert all(np.linalg.norm(ends - p, axis=1).min() < 1e-9 for p in points)
    assert max(b.r0 for b in tree) <= 6.0
    assert tree[0].r0 == max(b.r0 for b in tree)

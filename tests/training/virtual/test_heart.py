"""Virtual hearts: plausible, of published size, varied, reproducible; unusable templates are named."""

from __future__ import annotations

from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cardiacldm_training.errors import AnatomyError
from cardiacldm_training.virtual.heart.anatomy import Heart, HeartSources, deform_labels, draw_heart
from cardiacldm_training.virtual.heart.appendage import APPENDAGES, draw_appendage, replace_appendage
from cardiacldm_training.virtual.heart.arch import elongate_arch
from cardiacldm_training.virtual.heart.deform import (
    COARSE,
    Deformation,
    compose,
    draw_deformation,
    exponential,
    potential_flow,
    smallest_jacobian,
)
from cardiacldm_training.virtual.heart.grooves import cut_grooves
from cardiacldm_training.virtual.heart.measures import draw_measures
from cardiacldm_training.virtual.heart.parametric import parametric_model
from cardiacldm_training.virtual.heart.templates import read_template, template_files
from cardiacldm_training.virtual.heart.topology import faults, repair
from cardiacldm_training.virtual.shapes import Lattice, smooth_field, smooth_path
from CardiacLDMLib.anatomy import FORBIDDEN_CONTACTS, NAMES, PUBLISHED, REQUIRED_CONTACTS, SMALLEST_ML, VALUE, Sex
from CardiacLDMLib.segmentation.findings import Finding


@pytest.fixture(scope="module")
def heart() -> Heart:
    return draw_heart(np.random.default_rng(3), 2.5, HeartSources(deformation=0.4))


@pytest.fixture(scope="module")
def template_folder(tmp_path_factory: pytest.TempPathFactory, heart: Heart) -> Path:
    """A folder with one template: a built-in heart saved as a label map."""
    folder = tmp_path_factory.mktemp("templates")
    nib.save(nib.Nifti1Image(heart.labels, affine_of(heart)), folder / "one.nii.gz")
    return folder


def affine_of(heart: Heart) -> np.ndarray:
    affine = np.diag([heart.lattice.spacing] * 3 + [1.0])
    affine[:3, 3] = heart.lattice.origin + [40.0, -20.0, 300.0]
    return affine


def distance(labels: np.ndarray, first: str, second: str, spacing: float) -> float:
    """Millimetres between the nearest voxels of two structures."""
    from_first = ndimage.distance_transform_edt(labels != VALUE[first], sampling=spacing)
    return float(from_first[labels == VALUE[second]].min())


def check(labels: np.ndarray, spacing: float) -> None:
    """Assert the anatomical rules, independently of the product's check."""
    centre = {n: np.argwhere(labels == VALUE[n]).mean(0) for n in NAMES}
    for name in NAMES:
        mask = labels == VALUE[name]
        assert mask.sum() * spacing**3 / 1000 >= SMALLEST_ML[name], name
        assert cc3d.connected_components(mask, connectivity=26).max() == 1, name
        assert (ndimage.binary_fill_holes(mask) == mask).all(), name
    for first, second in REQUIRED_CONTACTS:
        assert distance(labels, first, second, spacing) <= max(2.0, spacing) + 0.1, (first, second)
    for first, second in FORBIDDEN_CONTACTS:
        assert distance(labels, first, second, spacing) > max(2.0, spacing), (first, second)
    around = ndimage.binary_dilation(labels == VALUE["LV"]) & (labels != VALUE["LV"])
    assert (labels[around] == 0).mean() < 0.03
    assert centre["LV"][0] < centre["RA"][0]  # in RAS the first axis runs from left to right
    assert centre["LAA"][0] < centre["RA"][0]
    assert centre["RV"][1] > max(centre["LA"][1], centre["LV"][1])


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.0, 1.5))
def test_every_parametric_heart_is_plausible(seed: int, strength: float) -> None:
    check(draw_heart(np.random.default_rng(seed), 3.0, HeartSources(deformation=strength)).labels, 3.0)


def test_deformed_templates_are_plausible_and_differ(template_folder: Path) -> None:
    anatomies = HeartSources(template_files(template_folder), template_share=1.0)
    drawn = [draw_heart(np.random.default_rng(seed), 3.0, anatomies) for seed in range(2)]
    for h in drawn:
        check(h.labels, 3.0)
        assert h.source == "one"
    assert len({h.measures["LV_ml"] for h in drawn}) == 2


def test_the_share_of_templates_may_be_none(template_folder: Path) -> None:
    none = HeartSources(template_files(template_folder), template_share=0.0)
    assert draw_heart(np.random.default_rng(0), 4.0, none).source == "parametric"


def test_the_same_draws_give_the_same_heart(heart: Heart) -> None:
    again = draw_heart(np.random.default_rng(3), 2.5, HeartSources(deformation=0.4))
    assert np.array_equal(heart.labels, again.labels)
    assert heart.measures == again.measures


def test_a_heart_has_its_target_measures(heart: Heart) -> None:
    """Chambers within a tenth of what was drawn for this person and phase, the wall as thick as walls are."""
    m = heart.measures
    rest = m["LV_diastole_ml"]
    assert 0.25 * rest < m["LV_ml"] < 1.1 * rest
    assert m["LA_ml"] == pytest.approx(m["LA_systole_ml"] * (0.62 + 0.38 * m["systole"]), rel=0.1)
    assert 5.0 < m["wall_mm"] < 16.0
    assert heart.sex in ("female", "male")


def test_measures_follow_the_published_distributions() -> None:
    drawn = [draw_measures(np.random.default_rng(seed)) for seed in range(1500)]
    sexes: tuple[Sex, ...] = ("male", "female")
    for sex in sexes:
        healthy = [m for m in drawn if m.sex == sex and not set(m.findings) - {"systole"}]
        for name in ("LV", "RV", "MYO"):
            mean, sd = PUBLISHED[name, sex][:2]
            values = [m.at_rest[name] for m in healthy]
            assert np.mean(values) == pytest.approx(mean, rel=0.05), (sex, name)
            assert np.std(values) == pytest.approx(sd, rel=0.15), (sex, name)
        assert np.mean([m.at_rest["LA"] / m.body_surface for m in healthy]) == pytest.approx(50.6, rel=0.05)
    assert {f for m in drawn for f in m.findings} >= {
        "enlarged LA", "enlarged RA", "hypertrophy", "septal hypertrophy", "dilated LV", "dilated aorta", "dissection",
        "mural thrombus", "systole"
    }  # fmt: skip
    assert 0.06 < np.mean(["elongated aorta" in m.findings for m in drawn]) < 0.14


@pytest.mark.parametrize("seed", range(3))
def test_an_elongated_arch_is_higher_and_wider_and_the_chambers_stay(seed: int) -> None:
    model, lattice = parametric_model(np.random.default_rng(seed)), Lattice(np.full(3, -114.0), 4.0, (58, 58, 62))
    plain = Deformation(np.zeros((3, *COARSE.shape), np.float32), np.eye(3))
    long = elongate_arch(plain, model, 126.0, np.random.default_rng(seed))
    assert smallest_jacobian(long.displacement) > 0
    before, after = (deform_labels(model, d, lattice) for d in (plain, long))
    arches = [np.argwhere(labels == VALUE["AO"]) for labels in (before, after)]
    tops = [lattice.origin[2] + lattice.spacing * arch[:, 2].max() for arch in arches]
    assert tops[0] + 4.0 <= tops[1] <= 128.0
    spans = [np.ptp(arch[:, 1]) for arch in arches]
    assert spans[1] >= spans[0]
    for name in ("LV", "RV", "MYO", "LA", "RA", "LAA"):
        assert (after == VALUE[name]).sum() == pytest.approx((before == VALUE[name]).sum(), rel=0.04, abs=4), name


def test_appendages_come_as_often_as_published() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_appendage(rng) for _ in range(3000)]
    for kind, share in APPENDAGES.items():
        assert drawn.count(kind) / 3000 == pytest.approx(share, abs=0.03)


def test_appendages_differ_in_shape() -> None:
    """A windsock reaches furthest from its neck, a cauliflower least; all are one piece."""
    model = parametric_model(np.random.default_rng(1))
    reach = {}
    for kind in APPENDAGES:
        far = []
        for seed in range(4):
            drawn = replace_appendage(model, kind, np.random.default_rng(seed))
            points = drawn.points("LAA")
            far.append(np.quantile(np.linalg.norm(points - model.appendage_neck[0], axis=1), 0.99))
        reach[kind] = np.mean(far)
    assert reach["windsock"] > reach["chicken wing"] > reach["cauliflower"]
    assert reach["windsock"] > reach["cactus"] > reach["cauliflower"]


def test_faults_are_seen(heart: Heart) -> None:
    labels = heart.labels
    assert faults(labels, 2.5) == []

    def where(name: str) -> np.ndarray:
        return labels == VALUE[name]

    def broken(labels: np.ndarray) -> set[tuple[str, tuple[str, ...]]]:
        return {(fault.rule, fault.structures) for fault in faults(labels, 2.5)}

    def changed(mask: np.ndarray, value: int) -> set[tuple[str, tuple[str, ...]]]:
        new = labels.copy()
        new[mask] = value
        return broken(new)

    corner = np.zeros_like(labels, dtype=bool)
    corner[:2, :2, :2] = True
    assert ("too small", ("LAA",)) in changed(where("LAA"), 0)
    assert ("pieces", ("LV",)) in changed(corner, VALUE["LV"])
    inner = np.argwhere(ndimage.binary_erosion(where("RV"), iterations=3))[0]
    hole = np.zeros_like(corner)
    hole[tuple(inner)] = True
    assert ("holes", ("RV",)) in changed(hole, 0)
    septum = np.argwhere(where("MYO") & ndimage.binary_dilation(where("RV")))
    middle = septum[np.linalg.norm(septum - septum.mean(0), axis=1).argmin()]
    window = np.linalg.norm(np.moveaxis(np.indices(labels.shape), 0, -1) - middle, axis=-1) < 8
    assert ("forbidden contact", ("LV", "RV")) in changed(where("MYO") & window, VALUE["RV"])
    left = np.argwhere(ndimage.binary_dilation(where("LV")) & where("MYO"))
    window = np.zeros_like(corner)
    window[tuple(left[left[:, 0] < np.quantile(left[:, 0], 0.15)].T)] = True
    assert ("LV open", ("LV",)) in changed(window, 0)
    assert {("order", ("RA", "LV")), ("order", ("RA", "LAA"))} <= broken(labels[::-1].copy())
    assert ("order", ("RV", "LA")) in broken(labels[:, ::-1].copy())
    assert Finding("order", ("RV", "LA"), where="before") in faults(labels[:, ::-1].copy(), 2.5)
    assert faults(np.zeros_like(labels), 2.5) == [Finding("missing")]
    split = labels.copy()
    split[corner] = VALUE["LV"]
    split[hole] = 0
    assert faults(repair(split, 2.5), 2.5) == []


# --- maps ----------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), strength=st.floats(1.0, 8.0))
def test_deformations_never_fold_space(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice(np.zeros(3), 8.0, (24, 24, 24))
    velocity = np.stack([strength * smooth_field(rng, lattice.shape, 4.0) for _ in range(3)])
    assert smallest_jacobian(exponential(velocity, lattice), 8.0) > 0


def test_even_the_strongest_heart_map_does_not_fold() -> None:
    for seed in range(3):
        drawn = draw_deformation(np.random.default_rng(seed), 3.0, 1.0, -50.0)
        assert smallest_jacobian(drawn.displacement) > 0


def test_no_strength_leaves_the_shape_alone() -> None:
    drawn = draw_deformation(np.random.default_rng(0), 0.0, 1.0, -50.0)
    points = Lattice(np.full(3, -40.0), 10.0, (9, 9, 9)).points()
    assert np.allclose(drawn(points), points, atol=1e-3)


def test_deformation_follows_its_velocity() -> None:
    """A constant velocity moves everything by itself in unit time, whatever the number of steps."""
    lattice = Lattice(np.zeros(3), 4.0, (10, 10, 10))
    velocity = np.broadcast_to(np.array([3.0, -2.0, 1.0], np.float32).reshape(3, 1, 1, 1), (3, 10, 10, 10)).copy()
    assert np.allclose(exponential(velocity, lattice), velocity, atol=1e-4)
    assert np.allclose(compose(velocity, velocity, lattice), 2 * velocity, atol=1e-4)


def test_growth_is_where_the_source_is() -> None:
    """A ball with a rate of a tenth grows by a tenth; a ball beside it keeps its volume."""
    points = COARSE.points()
    ball = (np.linalg.norm(points, axis=-1) < 30).astype(np.float32)
    beside = (np.linalg.norm(points - np.array([60, 0, 0], np.float32), axis=-1) < 22).astype(np.float32)
    step = Deformation(np.zeros((3, *COARSE.shape), np.float32), np.eye(3)).advance(potential_flow(0.1 * ball))
    places = step.map_coarse_points()
    grown = (np.linalg.norm(places, axis=-1) < 30).sum() / ball.sum()
    kept = (np.linalg.norm(places - np.array([60, 0, 0], np.float32), axis=-1) < 22).sum() / beside.sum()
    assert np.log(grown) == pytest.approx(0.1, abs=0.03)
    assert kept == pytest.approx(1.0, abs=0.02)


# --- template folders ----------------------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def bad_template(kind: str, path: Path, heart: Heart) -> None:
    """Write one unusable template."""
    labels, affine = heart.labels, affine_of(heart)
    sheared = affine.copy()
    sheared[0, 2] += 0.8
    speck = np.where(labels == VALUE["LAA"], 0, labels)
    speck[2, 2, 2] = VALUE["LAA"]
    files = {"text": b"this is no image", "nothing": b""}
    images = {
        "damaged": (labels, affine),
        "missing": (np.where(labels > 3, 0, labels), affine),
        "values": (np.where(labels == 8, 420, labels).astype(np.int16), affine),
        "fractions": (labels * np.float32(0.5), affine),
        "blank": (np.zeros_like(labels), affine),
        "4D": (np.stack([labels, labels], axis=-1), affine),
        "sheared": (labels, sheared),
        "metres": (labels, np.diag([0.1, 0.1, 0.1, 1.0])),
        "giant": (labels, np.diag([12.0, 12.0, 12.0, 1.0])),
        "mirrored": (labels[::-1].copy(), affine),
        "speck": (speck, affine),
    }
    if kind in files:
        path.write_bytes(files[kind])
        return
    save(path, *images[kind])
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("damaged", ()),
        ("text", ("NIfTI",)),
        ("nothing", ("empty",)),
        ("missing", ("RV, MYO, AO, PA, LAA",)),
        ("values", ("0 to 8",)),
        ("fractions", ("0 to 8",)),
        ("blank", ("LA, LV, RA, RV",)),
        ("4D", ("4",)),
        ("sheared", ("sheared",)),
        ("metres", ("mm",)),
        ("giant", ("mm",)),
        ("mirrored", ("orientation",)),
        ("speck", ("LAA",)),
    ],
)
def test_unusable_templates_are_named(tmp_path: Path, heart: Heart, kind: str, facts: tuple[str, ...]) -> None:
    path = tmp_path / "x.nii.gz"
    bad_template(kind, path, heart)
    with pytest.raises(AnatomyError) as caught:
        read_template(path)
    message = str(caught.value)
    assert all(fact in message for fact in ("x.nii.gz", *facts)), message
    assert "\n" not in message
    assert str(tmp_path) not in message


def test_an_oblique_template_is_read_in_its_orientation(tmp_path: Path, heart: Heart) -> None:
    """Turned by ten degrees about z, in other axes, it is the same heart."""
    turn = np.eye(4)
    c, s = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
    turn[:2, :2] = [[c, -s], [s, c]]
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = heart.labels.shape[2] - 1
    save(tmp_path / "turned.nii.gz", heart.labels[:, :, ::-1].copy(), turn @ affine_of(heart) @ flip)
    model = read_template(tmp_path / "turned.nii.gz")
    for name in ("LV", "RA", "AO"):
        assert model.volumes_ml[VALUE[name]] == pytest.approx(
            (heart.labels == VALUE[name]).sum() * 2.5**3 / 1000, rel=0.03
        )


def test_folders_without_templates(tmp_path: Path) -> None:
    with pytest.raises(AnatomyError, match="absent"):
        template_files(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"")
    with pytest.raises(AnatomyError, match=tmp_path.name):
        template_files(tmp_path)


def test_a_path_ignores_repeated_points() -> None:
    once = smooth_path([[0, 0, 0], [5, 0, 0], [9, 2, 0], [12, 5, 1]], [2, 2, 1, 1])
    twice = smooth_path([[0, 0, 0], [5, 0, 0], [5, 0, 0], [9, 2, 0], [12, 5, 1]], [2, 2, 2, 1, 1])
    np.testing.assert_allclose(once, twice)
    assert np.isfinite(smooth_path([[1, 2, 3]] * 4, [1] * 4)).all()


def test_grooves_are_wedges_at_the_surface_between_chambers() -> None:
    """Atrium and ventricle stay joined below a wedge of some millimetres; the left ventricle's wall is whole."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:20, 6:34, 6:34] = VALUE["RA"]
    labels[20:30, 6:34, 6:34] = VALUE["RV"]
    labels[30:36, 6:34, 6:34] = VALUE["MYO"]
    cut = cut_grooves(labels, 1.5, np.random.default_rng(0))
    gone = (labels > 0) & (cut == 0)
    assert set(np.unique(cut[gone == 0])) == {0, VALUE["RA"], VALUE["RV"], VALUE["MYO"]}
    assert ((cut == VALUE["MYO"]) == (labels == VALUE["MYO"])).all()
    assert gone[19:21, 6, 6:34].all()  # the groove is open to the surface
    depth = ndimage.distance_transform_edt(labels > 0, sampling=1.5)[gone]
    assert 3.0 < depth.max() < 15.0
    assert (cut[19, 16:24, 16:24] == VALUE["RA"]).all()
    assert (cut[20, 16:24, 16:24] == VALUE["RV"]).all()
    assert not gone[4:12, 16:24, 16:24].any()

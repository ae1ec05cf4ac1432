"""Figures of generated pairs: each measure by itself, then whole reports on sets whose answer is known.

Cases are phantoms of varied size, place and brightness with correlated noise; a hand-made network labels them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation import ablation
from cardiacldm_training.evaluation.fidelity import (
    case_record,
    compare,
    conditions,
    corruptions,
    distances,
    diversity,
    examiner,
    features,
    labels,
    markdown,
    measures,
    memorisation,
    record,
    report,
    solvers,
    utility,
)
from cardiacldm_training.evaluation.fidelity import texture as noise
from cardiacldm_training.evaluation.fidelity.cases import CaseSet, Pair, View, common_view, open_case_set
from cardiacldm_training.virtual import cohort
from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.generation.generator import Pair as GeneratedPair
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.postprocess import texture
from CardiacLDMLib.segmentation.findings import sentence
from tests.support.generator_package import write_tiny_generator
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package

VIEW = View((36, 36, 36), 3.0)


# --- sets whose answer is known ------------------------------------------------------------------------------------


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A phantom on the view's grid, stretched up to 6 %, moved and noisy: int16 HU and labels."""
    rng = np.random.default_rng(seed)
    affine = VIEW.affine.copy()
    affine[:3] *= rng.uniform(0.94, 1.06, (3, 1))
    image, names = phantom(Grid(VIEW.grid, affine), heart=tuple(rng.uniform(-5.0, 5.0, 3)))
    grain = ndimage.gaussian_filter(rng.normal(size=VIEW.grid), 0.5)
    hu = image.array + rng.uniform(-6, 6) + grain * rng.uniform(5.0, 9.0) / grain.std()
    return hu.astype(np.int16), names.array


def write_pair(folder: Path, hu: np.ndarray, names: np.ndarray) -> None:
    folder.mkdir(parents=True)
    write_volume(Volume(hu.astype(np.int16), VIEW.affine), folder / "ct.nii.gz")
    write_volume(Volume(names, VIEW.affine), folder / "labels.nii.gz")


@pytest.fixture(scope="module", autouse=True)
def few_comparisons() -> Iterator[None]:
    """For speed: MS-SSIM of a few pairs only, and each case is looked at once, however many reports it is in."""
    look, seen = examiner.Examiner.examine, dict[tuple[object, ...], examiner.CaseMeasures]()

    def once(self: examiner.Examiner, pair: Pair, segment: bool = True, corrupt: bool = False) -> examiner.CaseMeasures:
        key = (self.package.sha256, self.features.folder, pair.hu.tobytes(), pair.labels.tobytes(), segment, corrupt)
        if key not in seen:
            seen[key] = look(self, pair, segment, corrupt)
        return replace(seen[key], name=pair.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diversity, "MOST_PAIRS", 5)
        patch.setattr(examiner.Examiner, "examine", once)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders held-out, train, other, smooth, copies and shuffled."""
    root = tmp_path_factory.mktemp("sets")
    cases = {name: [scan(first + n) for n in range(6)] for name, first in (("held", 0), ("train", 20), ("other", 40))}
    others = cases["other"]
    cases["smooth"] = [(ndimage.gaussian_filter(hu.astype(float), 0.7), names) for hu, names in others]
    cases["shuffled"] = [(hu, others[n - 1][1][::-1]) for n, (hu, _) in enumerate(others)]
    cases["copies"] = [(np.roll(hu, 1, 0) + 5, np.roll(names, 1, 0)) for hu, names in cases["train"][:3]]
    cases["copies"] += [(hu[:, ::-1], names[:, ::-1]) for hu, names in cases["train"][3:]]
    for name, pairs in cases.items():
        for n, (hu, names) in enumerate(pairs):
            write_pair(root / name / f"pair_{n:04d}", hu, names)
    return root


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_package(tmp_path_factory.mktemp("packages") / "phantom")


@pytest.fixture(scope="module")
def reports(sets: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, record.Report]:
    out = tmp_path_factory.mktemp("out")
    reader = examiner.Examiner(open_package(package), "cpu")
    held, train = (open_case_set([sets / name], VIEW, None) for name in ("held", "train"))
    return {
        name: measures.measure_fidelity(
            open_case_set([sets / name], VIEW, None), held, source, reader, budget=None, out=out
        )[0]
        for name, source in (("other", train), ("smooth", None), ("copies", train), ("shuffled", None))
    }


def figure(found: record.Report, section: str, name: str, kind: str = "") -> compare.Comparison:
    return next(m for m in found.measured[section] if m.name == name and kind in m.kind)


def excess(measured: compare.Comparison) -> float:
    """How many standard deviations of the reference's own distance a distance lies above it."""
    return (measured.generated.mean - measured.reference.mean) / max(measured.reference.sd, 1e-9)


def test_other_cases_are_as_near_as_references(reports: dict[str, record.Report]) -> None:
    found = reports["other"]
    few = ("KID", "Frechet distance, slices")  # say nothing of three cases
    for m in (*found.measured["features"], *found.measured["texture"]):
        if m.kind == "distance" and not m.name.startswith(few):
            assert excess(m) < 3.0, m
    assert figure(found, "agreement", "mean").generated.mean > 0.7
    diverse = found.measured["diversity"][0]
    assert diverse.generated.mean == pytest.approx(diverse.reference.mean, abs=0.1)
    assert found.replicas is not None
    assert found.replicas.rate.generated.mean <= 0.25
    assert all(row.whole == (6, 6) for row in found.volumes)
    for row in found.volumes:
        assert row.distance is not None
        assert excess(row.distance) < 4.0


def test_smoothed_pairs_differ_in_texture(reports: dict[str, record.Report]) -> None:
    found, usual = reports["smooth"], reports["other"]
    for section, name, kind in (("texture", "noise spectrum, blood", "dist"), ("texture", "SD, AO", "dist")):
        assert excess(figure(found, section, name, kind)) > 3.0
        assert excess(figure(usual, section, name, kind)) < 3.0
    sd = figure(found, "texture", "SD, blood", "mean")
    assert sd.generated.mean < 0.6 * sd.reference.mean
    assert sum(found.remedy["blood"]) > 2 * sum(usual.remedy["blood"])


def test_memorised_training_cases_are_found(reports: dict[str, record.Report]) -> None:
    found = reports["copies"].replicas
    assert found is not None
    assert found.rate.generated.mean == 1.0
    assert [(r.pair, r.case) for r in found.found] == [(f"pair_{n:04d}", f"pair_{n:04d}") for n in range(6)]
    assert found.rate.reference.mean < 0.3
    assert found.training_cases == 6


def test_a_model_card_names_no_case(reports: dict[str, record.Report]) -> None:
    found = reports["copies"]
    assert found.replicas is not None
    named = found.model_copy(update={"skipped": {"train": {"Doe, Jane": "it is MR"}}})
    for name in (found.replicas.found[0].case, "Doe, Jane"):
        assert name in markdown.markdown(named)
        assert name not in markdown.card_section(named)
    assert f"{found.replicas.threshold:.3f}" in markdown.card_section(named)


def test_the_check_rejects_memorised_pairs_only(sets: Path) -> None:
    train, copies, other = (open_case_set([sets / name], VIEW, None) for name in ("train", "copies", "other"))
    cases = memorisation.TrainingCases(train)
    check = memorisation.MemorisationCheck(cases)
    assert check.record() == {"replicas": {"training_cases": 6, "threshold": cases.threshold}}
    for source, is_copy in ((copies, True), (other, False)):
        pair = source[0]
        faults = check(GeneratedPair(pair.image_volume, pair.labels_volume, {}))
        assert [fault.rule for fault in faults] == (["replica"] if is_copy else [])
        assert not any("pair_" in sentence(fault) for fault in faults)  # no name of a training case gets out
    twice = CaseSet("twice", [train.cases[0]] * 6, {}, VIEW)
    with pytest.raises(EvaluationError, match=f"twice.*{memorisation.FEWEST_CASES}"):
        memorisation.TrainingCases(twice)


def test_few_candidates_find_the_same_copies(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, copies = (open_case_set([sets / name], VIEW, None) for name in ("train", "copies"))
    monkeypatch.setattr(memorisation, "NEIGHBOURS", 2)
    every = memorisation.TrainingCases(train)
    monkeypatch.setattr(memorisation, "CANDIDATES", 4)
    few = memorisation.TrainingCases(train)
    near, again = every.nearest_to_each(copies), few.nearest_to_each(copies)
    assert again.case.tolist() == near.case.tolist() == list(range(6))
    assert again.distance.max() < few.threshold
    assert np.isfinite(few.threshold)


def test_a_pair_near_many_cases_is_not_memorised(sets: Path) -> None:
    cases = memorisation.TrainingCases(open_case_set([sets / "train"], VIEW, None))
    assert cases._relative_distance(np.array([0.1, 0.1, 0.1, 0.1, 0.1, np.inf])) == pytest.approx(1.0)
    assert cases._relative_distance(np.array([0.3, 0.01, 0.2, 0.4, 0.3, np.inf])) == pytest.approx(0.01 / 0.3)


def test_shuffled_labels_disagree_with_their_images(reports: dict[str, record.Report]) -> None:
    found = figure(reports["shuffled"], "agreement", "mean")
    assert found.generated.mean < 0.3
    assert found.reference.mean > 0.7
    assert found.cases == found.reference_cases == 6
    unsound = figure(reports["shuffled"], "anatomy", "label maps with a broken rule")
    assert unsound.kind == "rate"
    rejected = figure(reports["shuffled"], "acceptance", "rejected: agreement")
    assert rejected.generated.mean == 1.0
    assert rejected.reference.mean < 0.5


def test_the_remedy_restores_the_texture(sets: Path, reports: dict[str, record.Report]) -> None:
    """Noise by the report's own spectra on the smoothed images: SD within 15 %, spectrum nearly as the reference's."""
    smooth, held = (open_case_set([sets / name], VIEW, None) for name in ("smooth", "held"))
    spectra = reports["smooth"].remedy
    mended, reference = [], [noise.measure(held[n]) for n in range(len(held))]
    for n in range(len(smooth)):
        pair = smooth[n]
        hu = texture.add_noise(
            pair.hu, texture.tissue_map(pair.hu, pair.labels), spectra, np.random.default_rng([3, n])
        )
        mended.append(noise.measure(Pair(pair.name, hu.round().astype(np.int16), pair.labels, VIEW)))
    sd = [np.mean([t.sd_hu["blood"] for t in side]) for side in (mended, reference)]
    assert sd[0] == pytest.approx(sd[1], rel=0.15)
    tables = [np.array([t.spectra["blood"] for t in side]) for side in (mended, reference)]
    assert noise.spectrum_distance_db(*tables) < 1.0


def test_strengths_are_how_noise_varies_from_case_to_case() -> None:
    def with_noise(power: float) -> noise.Texture:
        return noise.Texture({}, {name: np.full(texture.BINS, power) for name in ("blood", "soft")})

    generated, references = [with_noise(100.0)] * 4, [with_noise(100.0 + 100.0 * n) for n in range(1, 8, 2)]
    strengths = noise.noise_strengths(generated, references)
    assert len(strengths) == noise.STRENGTHS
    assert np.mean(np.square(strengths)) == pytest.approx(1.0, abs=0.01)
    assert (strengths[0], strengths[-1]) == pytest.approx((np.sqrt(1 / 4), np.sqrt(7 / 4)), rel=0.1)
    assert noise.noise_strengths(references, generated) == ()


# --- one by one ----------------------------------------------------------------------------------------------------


def test_distances_compare_sets_of_one_size() -> None:
    rng = np.random.default_rng(0)
    sizes = []

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        sizes.append((len(first), len(second)))
        return abs(float(first.mean() - second.mean()))

    found = compare.compare_distances("x", distance, rng.normal(5, 1, 9), rng.normal(0, 1, 40))
    assert found is not None
    assert set(sizes) == {(9, 9)}
    assert found.cases == 9
    assert found.generated.mean == pytest.approx(5, abs=0.6)
    assert found.reference.mean < 1
    assert compare.compare_distances("x", distance, rng.normal(size=1), rng.normal(size=40)) is None
    assert compare.compare_distances("x", distance, rng.normal(size=9), rng.normal(size=3)) is None


def test_frechet_distance_is_monais() -> None:
    from monai.metrics import FIDMetric

    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(60, 5)), rng.normal(1.0, 2.0, (50, 5)) @ rng.normal(size=(5, 5))
    expected = float(FIDMetric()(torch.from_numpy(first), torch.from_numpy(second)))
    assert distances.frechet_of_normals(first, second) == pytest.approx(expected, rel=1e-6)
    assert distances.frechet_of_normals(first, first) == pytest.approx(0.0, abs=1e-9)


def features_of_cases(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """300 features that six properties of a case and some noise decide."""
    rng = np.random.default_rng(seed)
    properties = rng.normal(size=(count, 6))
    properties[:, 0] += shift
    return properties @ np.random.default_rng(99).normal(size=(6, 300)) + rng.normal(0.0, 0.3, (count, 300))


SETS = {
    "true": features_of_cases(40, 1), "shifted": features_of_cases(40, 2, 1.5),
    "repeated": np.tile(features_of_cases(3, 3), (14, 1))[:40],
}  # fmt: skip


@pytest.mark.parametrize("name", ["frechet", "mmd", "kid", "told_apart", "precision", "recall"])
def test_figures_of_sets_tell_faults(name: str) -> None:
    """Precision cannot see that three cases are repeated, nor recall a shift to typical cases: they go together."""
    reference = features_of_cases(40, 0)
    standardise = distances.standardiser(np.concatenate([reference, SETS["true"]]))
    rows, reference = {key: standardise(values) for key, values in SETS.items()}, standardise(reference)
    kernels = {"mmd": distances.mmd(distances.median_distance(reference)), "kid": distances.kid()}
    figure_of = kernels.get(name) or getattr(distances, name)
    found = {key: figure_of(values, reference) for key, values in rows.items()}
    sign = -1 if name in ("precision", "recall") else 1
    seen = {"precision": ("shifted",), "recall": ("repeated",)}.get(name, ("shifted", "repeated"))
    for key in seen:
        assert sign * (found[key] - found["true"]) > 0.05, found


def test_precision_and_recall_of_a_set_with_itself_are_one() -> None:
    rows = SETS["true"]
    assert distances.precision(rows, rows) == distances.recall(rows, rows) == 1.0
    assert distances.recall(rows[:1].repeat(4, axis=0), rows) < 0.2
    assert distances.told_apart(rows, rows + 100.0) == 1.0


def test_a_feature_that_hardly_varies_does_not_outweigh_the_others() -> None:
    reference = np.random.default_rng(0).normal(size=(50, 10))
    reference[:, 0] *= 1e-6
    changed = reference.copy()
    changed[:, 0] += 0.01
    standardise = distances.standardiser(reference)
    assert np.abs(standardise(changed) - standardise(reference)).max() < 0.05


def test_comparisons_hold_the_figure_of_each_corruption() -> None:
    rows = features_of_cases(60, 5)
    found = compare.compare_distances(
        "x", distances.mmd(distances.median_distance(rows)), features_of_cases(30, 6), rows,
        corrupted={"shift": rows + 5.0, "none": rows},
    )  # fmt: skip
    assert found is not None
    assert set(found.corrupted) == {"shift", "none", corruptions.REPEATED}
    assert found.tells("shift")
    assert found.tells(corruptions.REPEATED)
    assert not found.tells("none")
    assert found.corrupted["none"].mean == pytest.approx(found.reference.mean)


def test_corruptions_are_what_they_say() -> None:
    hu, _ = scan(1)
    assert np.array_equal(corruptions.corrupt(hu, "mirrored", 3.0), hu[::-1])
    noisy = corruptions.corrupt(hu, "white noise", 3.0).astype(float) - hu
    assert noisy.std() == pytest.approx(corruptions.NOISE_HU, rel=0.02)
    assert np.array_equal(corruptions.corrupt(hu, "white noise", 3.0), corruptions.corrupt(hu, "white noise", 3.0))
    point = np.zeros((21, 21, 21), np.int16)
    point[10, 10, 10] = 30000
    wide = corruptions.corrupt(point, "3 mm blur", 1.5).astype(float)
    offsets = np.arange(21) - 10
    assert np.sqrt((wide.sum((1, 2)) * offsets**2).sum() / wide.sum()) == pytest.approx(2.0, rel=0.02)  # 3 mm


def test_features_of_slices_see_edges_and_lungs() -> None:
    hu = np.full((32, 32, 24), 40.0)
    plate, vessels = hu.copy(), hu.copy()
    plate[..., 0] = 400.0
    vessels[::4, ::4] = -500.0
    plain = features.slice_features(hu)
    for changed in (plate, vessels):
        assert np.abs(features.slice_features(changed) - plain).max() > 0.05
    assert plain.shape == features.slice_features(np.full((70, 50, 41), 40.0)).shape


def test_features_are_kept(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = features.FeatureReader(open_package(package), "cpu", tmp_path / "kept")
    hu, _ = scan(1)
    first = reader.read(Volume(hu, VIEW.affine))
    assert len(list((tmp_path / "kept").iterdir())) == 1
    monkeypatch.setattr(features, "slice_features", lambda hu: pytest.fail("read again"))
    again = reader.read(Volume(hu, VIEW.affine))
    for kind in (features.HEART, features.SLICES):
        np.testing.assert_array_equal(first[kind], again[kind])


# --- conditions ----------------------------------------------------------------------------------------------------


def case_of(hu: float, ml: float) -> case_record.CaseRecord:
    return case_record.CaseRecord(
        case="a", volumes_ml={"LV": ml}, cut=[], broken=[], speckle=0.0, sd_hu={}, dice=None, blood_hu={"LV": hu}
    )


def test_pairs_that_ignore_a_condition_are_seen() -> None:
    rng = np.random.default_rng(0)
    phases, level = ["arterial", "none"] * 10, {"arterial": 300.0, "none": 50.0}
    follow = [case_of(level[phase] + rng.normal(0, 20), rng.normal(120, 10)) for phase in phases]
    ignore = [case_of(rng.normal(200, 20), rng.normal(120, 10)) for _ in phases]
    known = [{"contrast_phase": phase, "sex": "male"} for phase in phases]
    (row,) = (r for r in conditions.condition_rows(ignore, follow, known, known) if r.measure == "contrast, LV")
    assert row.explained[0] is not None
    assert row.explained[1] is not None
    assert row.explained[0] < 0.2
    assert row.explained[1] > 0.9
    assert {v.value: v.cases for v in row.values} == {"arterial": (10, 10), "none": (10, 10)}
    assert conditions.condition_rows(ignore, follow, [{}] * 20, known) == []
    assert conditions.explained({"male": [1.0, 2.0]}) is None  # one value only


def test_conditions_come_from_cases_and_pairs(tmp_path: Path) -> None:
    hu, names = scan(1)
    for n, sex in enumerate(("female", "male")):
        write_pair(tmp_path / "cases" / f"case_{n}", hu, names)
        content = json.dumps({"conditions": {"sex": sex}})
        (tmp_path / "cases" / f"case_{n}" / "case.json").write_text(content)
    write_pair(tmp_path / "pairs" / "pair_0000", hu, names)
    content = json.dumps({"conditions": {"sex": "male"}, "drawn_conditions": {"implant": "leads"}})
    (tmp_path / "pairs" / "pair_0000" / "provenance.json").write_text(content)
    cases, pairs = (open_case_set([tmp_path / name], VIEW, None) for name in ("cases", "pairs"))
    assert [cases.conditions[name]["sex"] for name in cases.names] == ["female", "male"]
    assert pairs.conditions["pair_0000"] == {"sex": "male", "implant": "leads"}


def test_features_come_from_the_deepest_level(package: Path) -> None:
    network = build_network("unet", {"channels": [4, 8, 12], "strides": [2, 2], "norm": "instance"})
    values = []
    features.deepest(network, torch.zeros(1, 1, 16, 16, 16)).register_forward_hook(lambda m, i, o: values.append(o))
    network(torch.zeros(1, 1, 16, 16, 16))
    assert values[0].shape[2:] == (4, 4, 4)
    reader = features.Features(open_package(package))
    hu, _ = scan(1)
    bright = reader(Volume(hu + np.int16(100), VIEW.affine))
    assert bright.shape == reader(Volume(hu, VIEW.affine)).shape
    assert not np.allclose(bright, reader(Volume(hu, VIEW.affine)))


def test_white_noise_has_a_flat_spectrum_and_a_trend_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    view = View((40, 40, 40), 2.0)
    names = np.zeros(view.grid, np.uint8)
    names[4:36, 4:36, 4:36] = VALUE["LV"]
    ramp = np.arange(40.0)[:, None, None] * 4
    hu = (300 + ramp + rng.normal(0, 20, view.grid)).round().astype(np.int16)
    found = noise.measure(Pair("x", hu, names, view))
    assert set(found.sd_hu) == {"LV", "blood"}
    assert found.sd_hu["LV"] == pytest.approx(20, rel=0.05)
    assert found.spectra["blood"][2:] == pytest.approx(np.full(texture.BINS - 2, 400.0), rel=0.25)
    white = noise.mean_spectra([found, found])
    assert set(white) == {"blood"}


def test_volumes_of_cut_structures_are_told_apart() -> None:
    hu, names = scan(3)
    whole = labels.examine(Pair("a", hu, names, VIEW))
    rolled = np.zeros_like(names)
    rolled[:, :, :-10] = names[:, :, 10:]
    cut = labels.examine(Pair("b", hu, rolled, VIEW))
    assert not whole.cut
    assert cut.cut
    rows = {row.structure: row for row in labels.volume_rows([whole, cut], [whole] * 4)}
    for name in cut.cut:
        assert rows[name].whole == (1, 4)
        assert rows[name].cut == (1, 0)
        assert rows[name].distance is None
    untouched = next(name for name in cut.volumes_ml if name not in cut.cut)
    assert rows[untouched].distance is not None
    assert rows[untouched].distance.generated.mean == pytest.approx(0.0)


def test_speckle_is_what_the_clean_up_changes() -> None:
    hu, names = scan(3)
    assert labels.examine(Pair("a", hu, names, VIEW)).speckle == 0.0
    speckled = names.copy()
    speckled[1, 1, 1] = VALUE["PA"]
    assert labels.examine(Pair("a", hu, speckled, VIEW)).speckle == pytest.approx(1 / (speckled > 0).sum())


def test_ms_ssim_is_one_between_copies(sets: Path) -> None:
    held = open_case_set([sets / "held"], VIEW, None)
    alike = CaseSet("alike", [held.cases[0]] * 3, {}, VIEW)
    assert diversity.ms_ssim(alike) == pytest.approx(np.ones(3), abs=1e-4)
    assert diversity.ms_ssim(held).max() < 0.999
    assert [diversity.scales((n, n, n)) for n in (8, 16, 48, 64, 256)] == [1, 2, 4, 4, 5]


def test_a_threshold_lies_below_what_unseen_cases_reach() -> None:
    near = np.exp(np.random.default_rng(0).normal(-1.0, 0.2, 2000))
    assert (near < memorisation.threshold(near)).mean() == pytest.approx(0.01, abs=0.006)


def test_a_network_is_trained_on_pairs_and_on_cases(sets: Path, tmp_path: Path) -> None:
    other, held = (open_case_set([sets / name], VIEW, None) for name in ("other", "held"))
    train = open_case_set([sets / "train", sets / "other"], VIEW, None)  # names have their folder in them then
    budget = ablation.Budget(steps=2, patch=16, channels=(4, 8))
    found = utility.compare_training(
        other, train, CaseSet("held", held.cases[:2], {}, VIEW), budget, tmp_path, lambda s: None
    )
    assert found.dice.cases == 6
    assert found.held_out == 2
    assert 0 <= found.dice.generated.mean <= 1
    assert not list(tmp_path.iterdir())


# --- the command ---------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["fidelity", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_command_judges_a_folder(sets: Path, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, output = run("--generated", sets / "other", "--data", sets / "held", "--segmenter", package, "--out", out)
    assert code == 0, output
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "volumes.png", "spectra.png"}
    found = record.Report.model_validate_json((out / report.JSON_FILE).read_text())
    assert found.grid == VIEW.grid
    assert found.sizes == {"generated": 6, "data": 6}
    assert found.replicas is None
    assert len(found.left_out) == 1
    text = (out / report.MARKDOWN_FILE).read_text()
    assert found.left_out[0] in text
    assert str(tmp_path) not in text + (out / report.JSON_FILE).read_text()


def test_the_command_makes_virtual_references(
    sets: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies stand for the virtual cases, which take seconds each."""
    made = []

    def copy_cases(settings: cohort.CohortSettings, cases: int, out: Path, workers: int, done: object) -> list[str]:
        made.append((settings.spacing_mm, settings.appearance, cases))
        shutil.copytree(sets / "held", out, ignore=shutil.ignore_patterns(".prepared"))
        return []

    monkeypatch.setattr(cohort, "write_cohort", copy_cases)
    out = tmp_path / "report"
    code, output = run("--generated", sets / "other", "--virtual", 6, "--segmenter", package, "--out", out)
    assert code == 0, output
    assert made == [(3.0, "realistic", 6)]
    found = record.Report.model_validate_json((out / report.JSON_FILE).read_text())
    assert found.sizes == {"generated": 6, "data": 6}
    figures = {m.name: m for m in found.measured["features"]}
    assert set(figures) == {
        f"{name}, {kind}" for kind in ("slices", "heart")
        for name in ("MMD^2", "KID", "Frechet distance", "precision", "recall", "told apart by a classifier")
    }  # fmt: skip
    assert set(figures["KID, slices"].corrupted) == {*corruptions.CORRUPTIONS, corruptions.REPEATED}
    assert figures["MMD^2, slices"].tells("3 mm blur")
    assert "3 mm blur" in (out / report.MARKDOWN_FILE).read_text()
    assert len(list((out / "references" / ".prepared" / "features").iterdir())) == 6 * 4 + 6


def test_the_command_draws_pairs_and_a_curve(
    sets: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solvers, "BUDGETS", (2, 4))
    generator, out = write_tiny_generator(tmp_path / "tiny-generator"), tmp_path / "report"
    arguments = ("--package", generator, "--count", 2, "--data", sets / "held", "--segmenter", package, "--curve", 2)
    code, output = run(*arguments, "--out", out, "--cache", tmp_path / "cache")
    assert code == 0, output
    assert (out / "pairs" / "pair_0001" / "provenance.json").is_file()
    records = [json.loads(path.read_text()) for path in out.glob("pairs/*/provenance.json")]
    changed = {f"pair_{r['index']:04d}": r["repaired_voxels"] for r in records}
    found = json.loads((out / report.JSON_FILE).read_text())
    assert [(p["solver"], p["evaluations"], p["steps"]) for p in found["curve"]] == [
        ("euler", 2, 2), ("euler", 4, 4), ("heun", 2, 1), ("heun", 4, 2),
    ]  # fmt: skip
    assert all(p["seconds"] > 0 for p in found["curve"])
    assert found["package"].startswith("tiny-generator 1.0")
    assert found["repair"]["pair"] == max(changed, key=lambda name: changed[name])
    assert found["repair"]["voxels"] == max(changed.values()) > 0
    assert (out / markdown.REPAIR_FILE).is_file()
    assert found["textured"] is False
    assert (out / markdown.QUALITY_FILE).is_file()
    assert "euler" in (out / report.MARKDOWN_FILE).read_text()


def test_few_evaluations_leave_out_restarts() -> None:
    restarts = (0.8, 0.7, 0.6, 0.5, 0.4)
    assert solvers.split_budget(5, "euler", restarts) == (3, (0.8,))
    assert solvers.split_budget(10, "euler", restarts) == (6, (0.8, 0.4))
    assert solvers.split_budget(20, "euler", restarts) == (10, restarts)
    assert solvers.split_budget(20, "heun", restarts) == (5, restarts)
    assert solvers.split_budget(5, "heun", ()) == (2, ())
    assert solvers.split_budget(1, "heun", restarts) == (1, ())  # a step is taken at least


def test_unusable_pairs_are_listed(sets: Path, package: Path, tmp_path: Path) -> None:
    for n in range(2):
        write_pair(tmp_path / "some" / f"pair_{n:04d}", *scan(60 + n))
    write_pair(tmp_path / "some" / "pair_0002", *(array * 0 for array in scan(1)))
    arguments = ("--data", sets / "held", "--segmenter", package, "--out", tmp_path / "out")
    code, output = run("--generated", tmp_path / "some", *arguments)
    assert code == 0, output
    assert "pair_0002" in output
    found = record.Report.model_validate_json((tmp_path / "out" / report.JSON_FILE).read_text())
    assert list(found.skipped["generated"]) == ["pair_0002"]
    assert "generated/pair_0002" in (tmp_path / "out" / report.MARKDOWN_FILE).read_text()


@pytest.mark.parametrize("option", ["--data", "--train"])
def test_a_missing_folder_is_refused_before_pairs_are_generated(
    sets: Path, package: Path, tmp_path: Path, option: str
) -> None:
    generator = write_tiny_generator(tmp_path / "tiny-generator")
    folders = {"--data": sets / "held", option: tmp_path / "none"}
    named = [argument for pair in folders.items() for argument in pair]
    code, output = run(*named, "--package", generator, "--segmenter", package, "--out", tmp_path / "out")
    assert code == 2, output
    assert "none" in output
    assert not (tmp_path / "out").exists()


def test_bad_requests_name_what_is_wrong(sets: Path, package: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    write_pair(few / "pair_0000", *scan(1))
    common = ("--data", sets / "held", "--segmenter", package, "--out", tmp_path / "out")
    generator = write_tiny_generator(tmp_path / "tiny-generator")
    for arguments, facts in (
        (common, ("--package", "--generated")),
        (("--generated", few, "--data", sets / "held"), ("--out",)),
        (("--generated", few, "--out", tmp_path / "out"), ("--data", "--virtual")),
        (("--generated", few, "--virtual", 4, *common), ("--data", "--virtual")),
        (("--generated", few, "--curve", 2, *common), ("--curve", "--package")),
        (("--generated", few, *common), (" 2 ", " 4 ", " 1 ")),
        (("--generated", tmp_path / "none", *common), ("none",)),
        (("--package", package, *common), ("phantom", "segmenter")),
        (("--generated", few, *common, "--segmenter", generator), ("tiny-generator", "generator")),
    ):
        code, output = run(*arguments)
        assert code == 2, output
        assert all(fact in output for fact in facts), output
        assert "Traceback" not in output


def test_training_cases_may_lie_in_several_folders(sets: Path) -> None:
    folders = [sets / "train", sets / "other"]
    apart = [open_case_set([folder], VIEW, None) for folder in folders]
    both = open_case_set(folders, VIEW, None)
    assert both.names == [f"{source.name}/{name}" for source in apart for name in source.names]
    np.testing.assert_array_equal(both[len(apart[0])].hu, apart[1][0].hu)


def test_pairs_of_one_grid_are_judged_on_it(sets: Path, tmp_path: Path) -> None:
    from cardiacldm_training.cases.readers.layouts import find_cases
    from cardiacldm_training.evaluation.fidelity.cases import DEFAULT_VIEW

    assert common_view(find_cases(sets / "other")) == VIEW
    hu, names = scan(1)
    write_pair(tmp_path / "a", hu, names)
    write_pair(tmp_path / "b", hu[:20], names[:20])
    assert common_view(find_cases(tmp_path)) == DEFAULT_VIEW
    source = open_case_set([tmp_path], VIEW, None)
    assert source[1].hu.shape == VIEW.grid
    write_pair(tmp_path / "empty" / "a", hu, names * 0)
    with pytest.raises(EvaluationError, match="empty"):
        open_case_set([tmp_path / "empty"], VIEW, None)

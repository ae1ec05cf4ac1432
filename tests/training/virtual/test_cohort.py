"""The virtual cohort: plausible hearts, scans that agree with their records, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.virtual.body.frame import draw_frame, extend_aorta
from cardiacldm_training.virtual.cohort import FORMAT, Case, CohortSettings, make_case
from cardiacldm_training.virtual.heart.anatomy import HeartSources, draw_heart
from CardiacLDMLib.anatomy import HEART, NAMES, VALUE

COARSE = CohortSettings(seed=7, spacing_mm=3.0)


@pytest.fixture(scope="module")
def template_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one template: a built-in heart saved as a label map."""
    folder = tmp_path_factory.mktemp("templates")
    heart = draw_heart(np.random.default_rng(3), 2.5, HeartSources(deformation=0.4))
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = heart.lattice.origin + [40.0, -20.0, 300.0]
    nib.save(nib.Nifti1Image(heart.labels, affine), folder / "one.nii.gz")
    return folder


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [make_case(COARSE, index) for index in range(2)]


def test_a_case_is_a_ct_with_labels(cases: list[Case]) -> None:
    """The right types on one grid, air and bone where a chest has them, blood as bright as the record says."""
    for case in cases:
        image, labels = case.image.array, case.labels.array
        assert image.dtype == np.int16
        assert labels.dtype == np.uint8
        assert case.image.grid.same_as(case.labels.grid)
        assert set(np.unique(labels)) == set(range(9))
        assert image.min() < -900
        assert np.quantile(image, 0.995) > 150
        blood = np.quantile(image[ndimage.binary_erosion(labels == VALUE["LV"], iterations=2)], 0.6)  # muscle is darker
        assert blood == pytest.approx(case.record["scan"]["left_hu"], rel=0.15, abs=25)
        assert set(case.record["tissues_ml"]) == {"fluid", "collapsed_lung", "false_lumen", "thrombus"}
        assert (case.record["tissues_ml"]["false_lumen"] > 0) <= ("dissection" in case.record["findings"])
        assert case.record["volumes_ml"]["LV"] == pytest.approx((labels == VALUE["LV"]).sum() * 0.027, abs=0.01)


def test_chambers_lie_inside_the_scan_and_the_patient_the_right_way_round(cases: list[Case]) -> None:
    for case in cases:
        labels = case.labels
        where = {n: labels.affine[:3, :3] @ np.argwhere(labels.array == VALUE[n]).mean(0) for n in NAMES}
        assert where["LV"][0] < where["RA"][0]  # +x is the patient's right to left in RAS: left ventricle on the left
        assert where["RV"][1] > where["LA"][1]  # right ventricle in front of the left atrium
        heart = np.argwhere(np.isin(labels.array, [VALUE[n] for n in HEART]))
        if "cut" not in case.record["view"]:
            assert (heart.min(0) > 0).all()
            assert (heart.max(0) < np.array(labels.array.shape) - 1).all()


def test_the_spine_lies_behind_the_heart() -> None:
    """Bone before and behind, never within: no labelled voxel takes the place of a vertebra."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        heart = draw_heart(rng, 3.0, HeartSources(), partial(extend_aorta, rng=rng))
        frame = draw_frame(heart, rng)
        inside = np.argwhere(np.isin(heart.labels, [VALUE[n] for n in (*HEART, "PA")]))
        points = heart.lattice.origin + heart.lattice.spacing * inside
        assert np.hypot(*(points[:, :2] - frame.spine).T).min() > 20.0


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    runner = CliRunner()
    base = ["cohort", "--spacing", "4.0", "--seed", "5"]
    assert runner.invoke(app, [*base, "--cases", "1", "--out", str(tmp_path / "a"), "--workers", "1"]).exit_code == 0
    assert runner.invoke(app, [*base, "--cases", "2", "--out", str(tmp_path / "a"), "--workers", "1"]).exit_code == 0
    assert runner.invoke(app, [*base, "--cases", "2", "--out", str(tmp_path / "b"), "--workers", "2"]).exit_code == 0
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert first == second
    assert len(first) == 7
    record = json.loads((tmp_path / "a/case_0001/case.json").read_text())
    assert record["synthetic"] is True
    assert record["conditions"]["spacing_mm"] == 4.0
    assert set(record["conditions"]) == {"sex", "contrast_phase", "scan_location", "implant", "spacing_mm"}
    other = runner.invoke(app, ["cohort", "--cases", "1", "--seed", "6", "--out", str(tmp_path / "a")])
    assert other.exit_code == 2
    assert str(tmp_path / "a") in "".join(other.output.split("\n"))


def test_templates_are_deformed_not_copied(template_folder: Path) -> None:
    wanted = CohortSettings(seed=1, spacing_mm=4.0, anatomies=template_folder, template_share=1.0, surroundings=False)
    records = [make_case(wanted, index).record for index in range(2)]
    assert {record["anatomy"] for record in records} == {"one"}
    assert len({record["volumes_ml"]["LV"] for record in records}) == len(records)
    assert make_case(replace(wanted, template_share=0.0), 0).record["anatomy"] == "parametric"


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "templates"),
        ({1, 2, 3}, "RV, MYO, AO, PA, LAA"),
        (set(range(1, 10)), "0 to 8"),
        ("damaged", "x.nii"),
    ],
)
def test_unusable_template_folders_are_named(tmp_path: Path, content: object, fact: str) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    if content == "damaged":
        nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.uint8), np.eye(4)), folder / "x.nii")
        (folder / "x.nii").write_bytes((folder / "x.nii").read_bytes()[:1000])
    elif isinstance(content, set):
        array = np.zeros((20, 20, 20), np.uint8)
        for value in content:
            array[value] = value
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "x.nii.gz")
    result = CliRunner().invoke(
        app, ["cohort", "--cases", "1", "--out", str(tmp_path / "out"), "--anatomies", str(folder), "--workers", "1"]
    )
    assert result.exit_code == 2
    assert fact in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("out/case*"))


def test_presets_and_plain_surroundings_give_other_cases(tmp_path: Path) -> None:
    runner, base = CliRunner(), ["cohort", "--spacing", "4.0", "--cases", "1", "--workers", "1", "--out"]
    assert runner.invoke(app, [*base, str(tmp_path), "--preset", "randomised", "--no-surroundings"]).exit_code == 0
    records = [CohortSettings().record(), json.loads((tmp_path / "cohort.json").read_text())]
    assert [record["appearance"] for record in records] == ["realistic", "randomised"]
    assert [record["deformation"] for record in records] == [1.0, 1.4]
    assert [record["surroundings"] for record in records] == [True, False]
    assert {record["format"] for record in records} == {FORMAT}


@pytest.mark.parametrize(
    ("trouble", "fact"),
    [("file", "out"), ("damaged", "cohort.json"), ("full", "GB"), ("nothing", "absent")],
)
def test_unusable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, fact: str) -> None:
    out = tmp_path / "out"
    options = []
    if trouble == "file":
        out.write_text("")
    elif trouble == "damaged":
        out.mkdir()
        (out / "cohort.json").write_text("{")
    elif trouble == "full":
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    else:
        options = ["--anatomies", str(tmp_path / "absent")]
    result = CliRunner().invoke(app, ["cohort", "--cases", "2", "--out", str(out), "--workers", "1", *options])
    assert result.exit_code == 2
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert fact in " ".join(result.output.split())
    assert not list(tmp_path.glob("out/case*"))

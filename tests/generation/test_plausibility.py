"""Rules of a sound label map, on a heart of boxes that keeps them all and on copies that break one each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.virtual.report import contact_sheet, diversity
from cardiacldm_training.virtual.report import plausibility as plausibility_report
from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.box_heart import box_heart as heart

SPACING = 2.0


def volume(array: np.ndarray) -> Volume:
    return Volume(array, np.diag([SPACING] * 3 + [1.0]))


def rules(array: np.ndarray) -> set[str]:
    return {finding.rule for finding in plausibility.check(plausibility.as_labels(volume(array)))}


def test_a_sound_heart_breaks_no_rule_however_it_is_stored() -> None:
    array = heart()
    assert rules(array) == set()
    turned = Volume(
        array[::-1].transpose(2, 0, 1), np.array([[0, -2.0, 0, 118], [0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    )
    labels = plausibility.as_labels(turned)
    assert plausibility.check(labels) == []
    assert labels.volumes_ml() == plausibility.as_labels(volume(array)).volumes_ml()


def without(name: str) -> np.ndarray:
    array = heart()
    array[array == VALUE[name]] = 0
    return array


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
    for n in range(plausibility.MOST_ISLANDS + 1):  # a diagonal: every voxel hangs on the last by an edge
        array[48 + n, 34 + n, 29] = VALUE["RA"]
    assert rules(array) == {"islands"}


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


def test_aorta_is_measured_where_it_ascends() -> None:
    width = diversity.aorta_width_mm(plausibility.as_labels(volume(heart())))
    assert width == pytest.approx(2 * np.sqrt(12 * 24 / np.pi))
    assert diversity.aorta_width_mm(plausibility.as_labels(volume(without("PA")))) is None


def test_dice_of_pairs_is_that_of_aligned_hearts() -> None:
    array = heart()
    moved = np.pad(array, ((9, 0), (0, 0), (4, 0)))
    shapes = [diversity.shape_around_centre(plausibility.as_labels(volume(a))) for a in (array, moved, without("PA"))]
    table = diversity.pairwise_dice(np.stack([s for s in shapes if s is not None]))
    assert table[:, 0, 1] == pytest.approx(1.0)
    assert table[VALUE["PA"] - 1, 0, 2] == 0
    assert table[VALUE["LV"] - 1, 0, 2] == 1
    assert diversity.shape_around_centre(plausibility.as_labels(volume(array[17:]))) is None


def test_flags_are_no_rules() -> None:
    labels = plausibility.as_labels(volume(heart()))
    assert any(flag.startswith("LV ") for flag in diversity.outside_limits(labels))  # 17 mL


def write_cohort(folder: Path, count: int) -> Path:
    for n in range(count):
        labels = volume(heart())
        write_volume(labels, folder / f"case_{n:04d}" / "labels.nii.gz")
        write_volume(Volume(labels.array * np.int16(50), labels.affine), folder / f"case_{n:04d}" / "ct.nii.gz")
        record = {"anatomy": "boxes", "findings": ["systole"] if n else [], "conditions": {"sex": "male"}}
        (folder / f"case_{n:04d}" / "case.json").write_text(json.dumps(record))
    return folder


def test_command_reports_and_fails_for_unsound_cases(tmp_path: Path) -> None:
    data = write_cohort(tmp_path / "cohort", 3)
    write_volume(volume(without("LAA")), data / "case_0002" / "labels.nii.gz")
    done = CliRunner().invoke(app, ["soundness", str(data), "--out", str(tmp_path / "report")])
    assert done.exit_code == 1
    assert "missing: 1" in done.output
    report = plausibility_report.Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert report.broken["missing"] == 1
    assert {case.state for case in report.cases} == {"diastole", "systole"}
    assert [row.published_mean for row in report.distributions if row.structure == "LV"] == [113, None]
    assert "case_0002: LAA" in (tmp_path / "report" / "report.md").read_text()
    for name in (plausibility_report.VOLUMES_FILE, plausibility_report.DIVERSITY_FILE):
        assert (tmp_path / "report" / name).stat().st_size > 1000


def test_command_draws_hearts(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["soundness", "--draw", "2", "--spacing", "4", "--out", str(tmp_path / "report")])
    report = plausibility_report.Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert done.exit_code in (0, 1), done.output
    assert report.sources == {"parametric": 2}
    assert report.compared == 2


@pytest.mark.parametrize("arguments", [[], ["somewhere", "--draw", "3"], ["nowhere"]])
def test_command_says_what_it_needs(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["soundness", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "Error: " in done.output
    assert "Traceback" not in done.output


def test_contact_sheets_hide_and_tell(tmp_path: Path) -> None:
    data = write_cohort(tmp_path / "cohort", 2)
    done = CliRunner().invoke(app, ["contact-sheet", str(data), "--out", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sheet.png").stat().st_size < (tmp_path / "sheet_marked.png").stat().st_size
    image = Volume(heart() * np.int16(50), np.diag([SPACING] * 3 + [1.0]))
    write_volume(image, tmp_path / "scan.nii.gz")
    tile = contact_sheet.real_tile(tmp_path / "scan.nii.gz", 1, lambda scan: volume(heart()))
    assert tile.caption == "REAL scan 1"
    assert tile.planes.shape == (contact_sheet.PLANE_PIXELS, 3 * contact_sheet.PLANE_PIXELS)
    assert tile.planes[contact_sheet.PLANE_PIXELS // 2].max() > 100

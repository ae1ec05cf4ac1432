"""Reports on label maps and contact sheets: figures, files and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from cardiacldm_training.cases.readers.layouts import find_cases
from cardiacldm_training.cli import app
from cardiacldm_training.virtual.report import contact_sheet, diversity, files
from cardiacldm_training.virtual.report import plausibility as report
from CardiacLDMLib.anatomy import VALUE
from CardiacLDMLib.generation import plausibility
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.box_heart import box_heart as heart
from tests.support.box_heart import box_volume as volume
from tests.support.box_heart import without


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


def test_unusual_volumes_are_findings_but_break_no_rule() -> None:
    labels = plausibility.as_labels(volume(heart()))
    found = {finding.structures: finding for finding in diversity.unusual_volumes(labels)}
    assert found["LV",].value == pytest.approx(16.8)
    assert found["LV",].limit == 40.0
    assert plausibility.check(labels) == []


def test_published_measures_by_sex() -> None:
    published = report.published
    assert [published("aorta width", sex) and published("aorta width", sex).mean for sex in ("male", "female")] == [
        35,
        33,
    ]
    assert [published("LA", sex).mean for sex in ("male", "female")] == [98.7, 86.0]
    assert published("LA", "male").when == "systole"
    assert published("PA", "male") is None  # a volume; only its width is published
    assert published("LV", "unknown") is None


def write_cohort(folder: Path, count: int) -> Path:
    for n in range(count):
        labels = volume(heart())
        write_volume(labels, folder / f"case_{n:04d}" / "labels.nii.gz")
        write_volume(Volume(labels.array * np.int16(50), labels.affine), folder / f"case_{n:04d}" / "ct.nii.gz")
        record = {"anatomy": "boxes", "findings": ["systole"] if n else [], "conditions": {"sex": "male"}}
        (folder / f"case_{n:04d}" / "case.json").write_text(json.dumps(record))
    return folder


def test_command_reports_and_fails_for_implausible_cases(tmp_path: Path) -> None:
    data = write_cohort(tmp_path / "cohort", 3)
    write_volume(volume(without("LAA")), data / "case_0002" / "labels.nii.gz")
    done = CliRunner().invoke(app, ["soundness", str(data), "--out", str(tmp_path / "report")])
    assert done.exit_code == 1
    assert "missing: 1" in done.output
    found = report.Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert found.broken["missing"] == 1
    assert {case.state for case in found.cases} == {"diastole", "systole"}
    assert [row.published_mean for row in found.distributions if row.structure == "LV"] == [113, None]
    assert "case_0002: LAA" in (tmp_path / "report" / "report.md").read_text()
    for name in (files.VOLUMES_FILE, files.DIVERSITY_FILE):
        assert (tmp_path / "report" / name).stat().st_size > 1000


def test_command_draws_hearts(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["soundness", "--draw", "2", "--spacing", "4", "--out", str(tmp_path / "report")])
    found = report.Report.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert done.exit_code in (0, 1), done.output
    assert found.sources == {"parametric": 2}
    assert found.compared == 2


@pytest.mark.parametrize("arguments", [[], ["somewhere", "--draw", "3"], ["nowhere"]])
def test_command_refuses_unclear_arguments(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["soundness", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "Error: " in done.output
    assert "Traceback" not in done.output


def test_contact_sheets_with_and_without_captions(tmp_path: Path) -> None:
    data = write_cohort(tmp_path / "cohort", 2)
    done = CliRunner().invoke(app, ["contact-sheet", str(data), "--out", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sheet.png").stat().st_size < (tmp_path / "sheet_marked.png").stat().st_size
    alone = sitk.ReadImage(str(tmp_path / "sheet.png")).GetSize()
    more = ["contact-sheet", str(data), "--pairs", str(data), "--cases", "3", "--out", str(tmp_path / "more.png")]
    assert CliRunner().invoke(app, more).exit_code == 0
    assert sitk.ReadImage(str(tmp_path / "more.png")).GetSize() == (alone[0], alone[1])  # four tiles in a row
    (case, _) = find_cases(data)
    assert contact_sheet.pair_tile(case).caption == f"GENERATED {case.name}"
    image = Volume(heart() * np.int16(50), np.diag([2.0] * 3 + [1.0]))
    write_volume(image, tmp_path / "scan.nii.gz")
    tile = contact_sheet.real_tile(tmp_path / "scan.nii.gz", 1, lambda scan: volume(heart()))
    assert tile.caption == "REAL scan 1"
    assert tile.planes.shape == (contact_sheet.PLANE_PIXELS, 3 * contact_sheet.PLANE_PIXELS)
    assert tile.planes[contact_sheet.PLANE_PIXELS // 2].max() > 100

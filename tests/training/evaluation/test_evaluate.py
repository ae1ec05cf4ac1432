"""Summaries against values worked out by hand; the command from package to tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation.metrics import StructureScore
from cardiacldm_training.evaluation.segmenter import (
    CaseScore,
    read_evaluation,
    summarise,
)
from CardiacLDMLib.errors import explain
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support import datasets
from tests.support.phantom_package import write_phantom_package
from tests.support.training import write_cases


def case(name: str, **dice: float) -> CaseScore:
    scores = [
        StructureScore(structure=s, dice=d, hd95_mm=10 * (1 - d), nsd=d, outcome="missed" if d == 0 else "found")
        for s, d in dice.items()
    ]
    return CaseScore(case=name, structures=scores, warnings=[], seconds=1.0)


def test_summary_against_hand_counts() -> None:
    rows = {row.structure: row for row in summarise([case("a", LA=0.9, LV=0.5), case("b", LA=0.7), case("c", LA=0.0)])}
    assert list(rows) == ["LA", "LV", "mean"]
    assert (rows["LA"].cases, rows["LA"].missed, rows["LV"].cases) == (3, 1, 1)
    assert rows["LA"].dice.mean == pytest.approx(1.6 / 3)
    assert rows["LV"].dice.mean == rows["LV"].dice.low == rows["LV"].dice.high == 0.5
    assert rows["mean"].dice.mean == pytest.approx((0.7 + 0.7 + 0.0) / 3)
    assert rows["mean"].missed == 1
    assert rows["LA"].hd95_mm.mean == pytest.approx(10 - 16 / 3)
    assert summarise([]) == []


def test_the_command_from_package_to_tables(tmp_path: Path) -> None:
    package = write_phantom_package(tmp_path / "phantom-by-hand")
    data = write_cases(tmp_path / "phantoms", 3)
    scan = data / "case_0001" / "ct.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "figures"
    result = CliRunner().invoke(
        app, ["evaluate", "--package", str(package), "--data", str(data), "--out", str(out), "--device", "cpu"]
    )
    assert result.exit_code == 1, result.output
    assert "case_0001" in result.output.splitlines()[-1]
    evaluation = read_evaluation(out)
    assert [case.case for case in evaluation.cases] == ["case_0000", "case_0002"]
    assert "damaged" in evaluation.failed["case_0001"]
    means = {row.structure: row.dice.mean for row in evaluation.summary}
    assert means["mean"] > 0.75  # the phantom's network labels voxels of 3 mm, the scans have 4 mm
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    assert len(rows) == 16
    assert {row["outcome"] for row in rows} == {"found"}
    text = (out / "evaluation.md").read_text()
    assert text.startswith("# phantom-by-hand")
    assert "| mean | 2 | 0 | 0 |" in text
    assert str(tmp_path) not in text + (out / "evaluation.json").read_text()


def test_structures_that_a_data_set_does_not_label_are_not_scored(tmp_path: Path) -> None:
    package = write_phantom_package(tmp_path / "phantom-by-hand")
    case = write_cases(tmp_path / "phantoms", 1) / "case_0000"
    image, labels = (read_volume(case / f"{name}.nii.gz") for name in ("ct", "labels"))
    data, out = datasets.write_mmwhs(tmp_path / "whs", image, labels), tmp_path / "figures"
    result = CliRunner().invoke(
        app, ["evaluate", "--package", str(package), "--data", str(data), "--out", str(out), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    (score,) = read_evaluation(out).cases
    assert score.unknown == ("AO", "PA", "LAA")
    assert [each.structure for each in score.structures] == ["LA", "LV", "RA", "RV", "MYO"]
    assert {each.outcome for each in score.structures} == {"found"}
    assert "LAA in 1 case" in (out / "evaluation.md").read_text()


def test_a_case_that_does_not_fit_in_memory_is_named_and_the_others_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, calls = Segmenter.segment, []

    def sometimes(self: Segmenter, volume: Volume, **options: Any) -> Any:
        calls.append(volume)
        if len(calls) == 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return segment(self, volume, **options)

    monkeypatch.setattr(Segmenter, "segment", sometimes)
    package, data = write_phantom_package(tmp_path / "phantom"), write_cases(tmp_path / "phantoms", 2)
    arguments = ["--package", package, "--data", data, "--out", tmp_path / "figures", "--device", "cpu"]
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    evaluation = read_evaluation(tmp_path / "figures")
    assert [case.case for case in evaluation.cases] == ["case_0001"]
    assert evaluation.failed == {"case_0000": explain(MemoryError()).message}


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    arguments = ["evaluate", "--package", str(tmp_path / "none"), "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    with pytest.raises(EvaluationError, match=r"evaluation\.json"):
        read_evaluation(tmp_path)

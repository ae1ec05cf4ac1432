"""The check of a GPU (tests/benchmarks/gpu_check.py), tried with tiny networks on the CPU."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu_check
from tests.benchmarks.figures import write_figures
from tests.benchmarks.gpu import inference, report, training
from tests.benchmarks.gpu.parts import Part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the parts share: the virtual case in it is made once."""
    return tmp_path_factory.mktemp("parts")


def part(folder: Path, name: str, seconds: float = 100.0) -> Part:
    return Part(name, "cpu", folder, True, seconds)


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_succeeds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_parts_run_and_are_reported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on one device, by the whole program."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--device", "cpu", "--tiny", "--parts", "two-processes", "--out", str(tmp_path)]
    assert gpu_check.main(options) == 0
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert written["problems"] == []
    (row,) = written["rows"]["two-processes"]
    assert (row["processes"], row["steps"]) == (2, 4)
    assert "two processes on one device" in (tmp_path / "gpu-check.md").read_text()


@pytest.mark.parametrize(
    ("preset", "stage"), [("demo", "locator"), ("gpu", "autoencoder"), ("gpu", "diffusion"), ("gpu", "decoder")]
)
def test_a_network_is_trained(folder: Path, preset: str, stage: str) -> None:
    own = part(folder, f"training-{preset}")
    figures = training._train(own, training.stages(preset)[stage](own, preset))
    assert figures["steps"] > 0
    assert 0 <= figures["waiting"] <= 1
    assert figures["peak_gb"] > 0


def test_every_stage_of_a_preset_is_built(folder: Path) -> None:
    own = part(folder, "built")
    for preset in ("demo", "gpu", "paper"):
        for prepare in training.stages(preset).values():
            work = prepare(own, preset)
            assert work.stage.example(0)
            assert sum(p.numel() for p in work.build().parameters()) > 0


def test_pairs_of_a_preset_are_drawn(folder: Path) -> None:
    figures = inference._generate_preset(part(folder, "generation"), "gpu", 1)
    assert figures["decoded"] == "whole"
    assert "problem" not in figures


def test_the_preset_network_segments_one_window(folder: Path) -> None:
    own = part(folder, "segmentation")
    figures = inference._compare_window(own, inference.open_package(inference._segmenter_package(own)))
    assert figures["same_labels"] == 1.0


def test_a_failing_row_is_recorded_and_the_others_go_on(folder: Path) -> None:
    def fail() -> dict:
        raise RuntimeError("CUDA error: device-side assert\nmore")

    own = part(folder, "failing")
    own.measure("bad", fail)
    own.measure("good", lambda: {"seconds": 1.0})
    own.seconds = 0.0
    own.measure("late", lambda: {"seconds": 1.0})
    bad, good, late = rows(folder, "failing")
    assert "device-side assert" in bad["problem"]
    assert "\n" not in bad["problem"]
    assert good["seconds"] == 1.0
    assert "time" in late["problem"]


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "GRACE_SECONDS", 0.0)
    options = gpu_check.parse_arguments(["--device", "cpu", "--tiny", "--parts", "memory", "--seconds", "0.5"])
    outcome = gpu_check.run_all(sys.executable, options, tmp_path, None)
    assert outcome["seconds"] < 30
    assert "ended" in outcome["rows"]["memory"][-1]["problem"]


@pytest.mark.skipif(os.name == "nt", reason="the system's false")
def test_a_part_that_crashes_is_told(tmp_path: Path) -> None:
    options = gpu_check.parse_arguments(["--device", "cpu", "--parts", "memory", "generation"])
    outcome = gpu_check.run_all("false", options, tmp_path, None)
    assert ["exit code 1" in own[-1]["problem"] for own in outcome["rows"].values()] == [True, True]


def test_the_tables_name_what_failed_and_go_into_the_document(tmp_path: Path) -> None:
    result = {
        "date": "2026-01-02", "device": "cuda:0", "tiny": False, "processor": "a CPU, 16 cores", "seconds": 321.0,
        "rows": {
            "segmentation": [
                {"row": "versions", "gpu": "NVIDIA H100", "torch": "2.13", "cuda": "13.0"},
                {"row": "segment, shipped", "seconds": 1.234, "same_labels": 0.99951, "warnings": ["A warning."]},
            ],
            "training-gpu": [
                {"row": "gpu segmenter", "steps_per_second": 3.5, "waiting": 0.25, "batch": 2, "peak_gb": 9.0},
                {"row": "gpu diffusion", "problem": "MemoryShortage: The GPU's memory is too small."},
            ],
        },
    }  # fmt: skip
    result["problems"] = report.problems_of(result["rows"])  # type: ignore[arg-type]
    assert len(result["problems"]) == 1  # type: ignore[arg-type]
    text = report.markdown(result)
    for fact in ("NVIDIA H100", "321 s", "0.99951", "A warning.", "25%", "9.00 GB", "gpu diffusion: MemoryShortage"):
        assert fact in text
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n<!-- end of figures -->\nafter\n")
    write_figures(report.BEGIN, text, document)
    assert text in document.read_text()
    assert "old" not in document.read_text()


def test_the_document_has_a_place_for_the_figures() -> None:
    from tests.benchmarks.figures import DOCUMENT

    assert report.BEGIN in DOCUMENT.read_text(encoding="utf-8")


def test_carried_wheels_are_used_without_the_internet(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / "carried-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carried.py", "number = 7\n")
        archive.writestr("carried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        archive.writestr("carried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any")
        archive.writestr("carried-1.0.dist-info/RECORD", "")
    site = tmp_path / "site"
    gpu_check.install(wheel.parent, site)
    assert (site / "carried.py").is_file()
    assert gpu_check.environment(site)["PYTHONPATH"].split(os.pathsep)[0] == str(site)
    with pytest.raises(SystemExit):
        gpu_check.install(tmp_path, site)


def test_what_a_python_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "NEEDED", {"json": "there", "no_such_module_here": "a-package"})
    assert gpu_check.missing(sys.executable, None) == ["a-package"]
